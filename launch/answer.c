#include "launch/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/size.h"

void answer_clear(answer_t *answer)
{
    tokenizer_ids_clear(&answer->prompt_ids);
    free(answer->own_stops);
    free(answer->ids);
    free(answer->choices);
    text_buffer_clear(&answer->text);
    *answer = (answer_t){0};
}

static int grow(answer_t *answer, fail_t *fail)
{
    if (answer->n_ids < answer->capacity)
        return 0;
    size_t capacity = size_max(64, 2 * answer->capacity);
    int32_t *ids = realloc(answer->ids, capacity * sizeof *ids);
    if (ids != NULL)
        answer->ids = ids;
    sampler_choice_t *choices = NULL;
    if (answer->keep_choices) {
        choices = realloc(answer->choices, capacity * sizeof *choices);
        if (choices != NULL)
            answer->choices = choices;
    }
    if (ids == NULL || (answer->keep_choices && choices == NULL))
        return fail_set(fail, FAIL_MEMORY, "answer: out of memory for %zu tokens", capacity);
    answer->capacity = capacity;
    return 0;
}

static size_t longest_stop(const answer_t *answer)
{
    size_t longest = 0;
    for (size_t i = 0; i < answer->stops->count; i++)
        longest = size_max(longest, strlen(answer->stops->items[i]));
    return longest;
}

/* Cuts the text before the first stop string that begins at or after `from`. */
static bool cut_at_stop(answer_t *answer, size_t from)
{
    char *first = NULL;
    for (size_t i = 0; i < answer->stops->count; i++) {
        const char *stop = answer->stops->items[i];
        char *found =
            memmem(answer->text.text + from, answer->text.bytes - from, stop, strlen(stop));
        if (found != NULL && (first == NULL || found < first))
            first = found;
    }
    if (first == NULL)
        return false;
    answer->text.bytes = (size_t)(first - answer->text.text);
    *first = 0;
    return true;
}

int answer_push(answer_t *answer, const sampler_choice_t *choice, bool *stopped, fail_t *fail)
{
    *stopped = false;
    if (grow(answer, fail) != 0)
        return fail->status;
    answer->end_ns = clock_ns();
    if (answer->n_ids == 0)
        answer->first_ns = answer->end_ns;
    if (answer->keep_choices)
        answer->choices[answer->n_ids] = *choice;
    answer->ids[answer->n_ids++] = choice->token;
    size_t bytes;
    /* Rows that pad a model's vocabulary are no tokens. */
    if (answer->tokenizer == NULL ||
        tokenizer_bytes(answer->tokenizer, choice->token, &bytes) == NULL)
        return 0;
    size_t before = answer->text.bytes;
    if (detokenizer_push(
            &answer->detokenizer, answer->tokenizer, choice->token, true, &answer->text, fail) != 0)
        return fail->status;
    size_t longest = longest_stop(answer);
    if (longest > 0 && answer->text.bytes > before)
        answer->cut = cut_at_stop(answer, before - size_min(before, longest - 1));
    *stopped = answer->cut;
    return 0;
}

int answer_end(answer_t *answer, answer_end_t end, fail_t *fail)
{
    answer->end = end;
    if (answer->tokenizer == NULL || answer->cut)
        return 0;
    return detokenizer_flush(&answer->detokenizer, &answer->text, fail);
}

/* Bytes at the end of the text that a stop string might begin with. */
static size_t held_back(const answer_t *answer)
{
    size_t held = 0;
    for (size_t i = 0; i < answer->stops->count; i++) {
        const char *stop = answer->stops->items[i];
        size_t most = size_min(strlen(stop) - 1, answer->text.bytes);
        for (size_t n = most; n > held; n--)
            if (memcmp(answer->text.text + answer->text.bytes - n, stop, n) == 0)
                held = n;
    }
    return held;
}

const char *answer_take(answer_t *answer, size_t *bytes)
{
    size_t end = answer->text.bytes;
    if (answer->end == ANSWER_GROWS && end > 0)
        end -= held_back(answer);
    const char *text = answer->text.text == NULL ? "" : answer->text.text + answer->n_sent;
    *bytes = end > answer->n_sent ? end - answer->n_sent : 0;
    answer->n_sent += *bytes;
    return text;
}

void answer_describe_limit(
    const answer_t *answer, size_t max_tokens, size_t max_context, char *text, size_t bytes)
{
    if (answer->n_ids >= max_tokens)
        snprintf(text, bytes, "--max-tokens %zu", max_tokens);
    else
        snprintf(text, bytes,
            "%zu tokens of prompt and %zu of answer are the %zu that a sequence may have here",
            answer->prompt_ids.count, answer->n_ids, max_context);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *token_json(const answer_t *answer, int32_t id, double logprob)
{
    json_t *object = json_object();
    json_object_set_new(object, "id", json_integer(id));
    json_object_set_new(object, "logprob", json_from_double(logprob));
    size_t bytes = 0;
    const char *raw =
        answer->tokenizer == NULL ? NULL : tokenizer_bytes(answer->tokenizer, id, &bytes);
    /* A token may be part of a character: then there is no text to give. */
    json_t *text = raw == NULL ? NULL : json_stringn(raw, bytes);
    json_object_set_new(object, "text", text == NULL ? json_null() : text);
    return object;
}

static json_t *logprobs_json(const answer_t *answer)
{
    json_t *array = json_array();
    for (size_t i = 0; i < answer->n_ids; i++) {
        const sampler_choice_t *choice = &answer->choices[i];
        json_t *token = token_json(answer, choice->token, choice->logprob);
        json_t *top = json_array();
        for (uint32_t j = 0; j < choice->n_top; j++)
            json_array_append_new(
                top, token_json(answer, choice->top_tokens[j], choice->top_logprobs[j]));
        json_object_set_new(token, "top", top);
        json_array_append_new(array, token);
    }
    return array;
}

static const char *end_name(answer_end_t end)
{
    switch (end) {
    case ANSWER_STOP:
        return "stop";
    case ANSWER_LENGTH:
        return "length";
    default:
        return "interrupted";
    }
}

static json_t *timings_json(const answer_t *answer)
{
    json_t *timings = json_object();
    bool any = answer->n_ids > 0;
    double first = any ? (double)(answer->first_ns - answer->begin_ns) * 1e-9 : 0;
    double decode = any ? (double)(answer->end_ns - answer->first_ns) * 1e-9 : 0;
    json_object_set_new(timings, "first_token_s", any ? json_real(first) : json_null());
    json_object_set_new(timings, "decode_s", json_real(decode));
    json_object_set_new(timings, "decode_tokens_per_s",
        decode > 0 ? json_real((double)(answer->n_ids - 1) / decode) : json_null());
    return timings;
}

json_t *answer_json(const answer_t *answer)
{
    json_t *object = json_object();
    json_t *usage = json_object();
    size_t n_prompt = answer->prompt_ids.count;
    json_object_set_new(object, "text",
        answer->tokenizer == NULL
            ? json_null()
            : json_stringn(answer->text.text == NULL ? "" : answer->text.text, answer->text.bytes));
    json_object_set_new(object, "prompt_ids", json_from_ids(answer->prompt_ids.ids, n_prompt));
    json_object_set_new(object, "output_ids", json_from_ids(answer->ids, answer->n_ids));
    json_object_set_new(object, "finish_reason", json_string(end_name(answer->end)));
    json_object_set_new(usage, "prompt_tokens", json_integer((json_int_t)n_prompt));
    json_object_set_new(usage, "completion_tokens", json_integer((json_int_t)answer->n_ids));
    json_object_set_new(
        usage, "total_tokens", json_integer((json_int_t)(n_prompt + answer->n_ids)));
    json_object_set_new(object, "usage", usage);
    json_object_set_new(object, "timings", timings_json(answer));
    if (answer->keep_choices)
        json_object_set_new(object, "logprobs", logprobs_json(answer));
    return object;
}
