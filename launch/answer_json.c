#include "launch/answer_json.h"

#include <stdio.h>

#include "engine/base/json.h"

void answer_describe_limit(const fleet_result_t *result, size_t n_prompt, size_t max_tokens,
    size_t max_context, char *text, size_t bytes)
{
    if (result->n_tokens >= max_tokens)
        snprintf(text, bytes, "--max-tokens %zu", max_tokens);
    else
        snprintf(text, bytes,
            "%zu tokens of prompt and %zu of answer are the %zu that a sequence may have here",
            n_prompt, result->n_tokens, max_context);
}

static json_t *token_json(const tokenizer_t *tokenizer, int32_t id, double logprob)
{
    json_t *object = json_object();
    json_object_set_new(object, "id", json_integer(id));
    json_object_set_new(object, "logprob", json_from_double(logprob));
    size_t bytes = 0;
    const char *raw = tokenizer == NULL ? NULL : tokenizer_bytes(tokenizer, id, &bytes);
    /* A token may be part of a character: then there is no text to give. */
    json_t *text = raw == NULL ? NULL : json_stringn(raw, bytes);
    json_object_set_new(object, "text", text == NULL ? json_null() : text);
    return object;
}

static json_t *logprobs_json(const fleet_result_t *result, const tokenizer_t *tokenizer)
{
    json_t *array = json_array();
    for (size_t i = 0; i < result->n_tokens; i++) {
        const sampler_choice_t *choice = result->choices == NULL ? NULL : &result->choices[i];
        json_t *token = token_json(tokenizer, result->tokens[i], result->logprobs[i]);
        json_t *top = json_array();
        for (uint32_t k = 0; choice != NULL && k < choice->n_top; k++)
            json_array_append_new(
                top, token_json(tokenizer, choice->top_tokens[k], choice->top_logprobs[k]));
        json_object_set_new(token, "top", top);
        json_array_append_new(array, token);
    }
    return array;
}

static const char *end_name(engine_finish_t finish)
{
    switch (finish) {
    case ENGINE_STOP:
        return "stop";
    case ENGINE_LENGTH:
        return "length";
    default:
        return "interrupted";
    }
}

static json_t *timings_json(const fleet_result_t *result)
{
    json_t *timings = json_object();
    bool any = result->n_tokens > 0;
    double first = any ? (double)result->first_ns * 1e-9 : 0;
    double decode = any ? (double)(result->total_ns - result->first_ns) * 1e-9 : 0;
    json_object_set_new(timings, "first_token_s", any ? json_real(first) : json_null());
    json_object_set_new(timings, "decode_s", json_real(decode));
    json_object_set_new(timings, "decode_tokens_per_s",
        decode > 0 ? json_real((double)(result->n_tokens - 1) / decode) : json_null());
    json_object_set_new(timings, "passes", json_integer((json_int_t)result->n_passes));
    json_object_set_new(timings, "drafted_tokens", json_integer((json_int_t)result->n_drafted));
    return timings;
}

json_t *answer_json(const fleet_result_t *result, const tokenizer_ids_t *prompt_ids,
    const tokenizer_t *tokenizer, bool logprobs)
{
    json_t *object = json_object();
    json_t *usage = json_object();
    size_t n_prompt = prompt_ids->count, n = result->n_tokens;
    json_object_set_new(object, "text",
        result->text == NULL ? json_null() : json_stringn(result->text, result->text_bytes));
    json_object_set_new(object, "prompt_ids", json_from_ids(prompt_ids->ids, n_prompt));
    json_object_set_new(object, "output_ids", json_from_ids(result->tokens, n));
    json_object_set_new(object, "finish_reason", json_string(end_name(result->finish)));
    json_object_set_new(usage, "prompt_tokens", json_integer((json_int_t)n_prompt));
    json_object_set_new(usage, "completion_tokens", json_integer((json_int_t)n));
    json_object_set_new(usage, "total_tokens", json_integer((json_int_t)(n_prompt + n)));
    json_object_set_new(object, "usage", usage);
    json_object_set_new(object, "timings", timings_json(result));
    if (logprobs)
        json_object_set_new(object, "logprobs", logprobs_json(result, tokenizer));
    return object;
}
