#include "launch/request_fields.h"

#include <stdint.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/run/logit_bias.h"

#define LINE_BYTES ((size_t)8 << 20)
#define TOKEN_BYTES 64

const char *const request_field_names[REQUEST_FIELDS] = {"max_tokens", "stop", "until",
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "logit_bias", "seed", "ignore_eos"};

static int add_stop(
    json_t *stop, const char *name, const char *key, args_strings_t *stops, fail_t *fail)
{
    const char *text = json_string_value(stop);
    if (text == NULL || text[0] == 0 || strlen(text) != json_string_length(stop))
        return fail_set(fail, FAIL_FORMAT,
            "%s: %s: expected texts, none of them empty, found something else at index %zu", name,
            key, stops->count);
    stops->items[stops->count++] = text;
    return 0;
}

/* A text, or an array of texts. */
static int read_stops(json_t *object, const char *name, args_strings_t *stops, fail_t *fail)
{
    json_t *stop = json_object_get(object, "stop"), *until = json_object_get(object, "until"), *one;
    const char *key = until != NULL ? "until" : "stop";
    json_t *value = until != NULL ? until : stop;
    size_t i;
    if (stop != NULL && until != NULL)
        return fail_set(
            fail, FAIL_FORMAT, "%s: expected stop or until, which are the same, found both", name);
    if (value == NULL || json_is_null(value))
        return 0;
    stops->count = 0;
    if (json_is_string(value))
        return add_stop(value, name, key, stops, fail);
    if (!json_is_array(value) || json_array_size(value) > ARGS_MAX_STRINGS)
        return fail_set(fail, FAIL_FORMAT, "%s: %s: expected a text or an array of at most %d",
            name, key, ARGS_MAX_STRINGS);
    json_array_foreach (value, i, one) {
        if (add_stop(one, name, key, stops, fail) != 0)
            return fail->status;
    }
    return 0;
}

int request_flags_check(const answer_flags_t *flags, fail_t *fail)
{
    for (size_t i = 0; i < flags->stop.count; i++)
        if (flags->stop.items[i][0] == 0)
            return fail_set(fail, FAIL_USAGE, "--stop: expected a text, found an empty one");
    return 0;
}

/* --sample: what no flag gives, the checkpoint does. */
static void use_recommended(const args_given_t *given, const config_generation_t *generation,
    sampler_params_t *params, fail_t *fail)
{
    size_t top_k = params->top_k;
    if (!args_was_given(given, "--temperature"))
        config_use_temperature(generation, &params->temperature, fail);
    if (!args_was_given(given, "--top-p"))
        config_use_top_p(generation, &params->top_p, fail);
    if (!args_was_given(given, "--min-p"))
        config_use_min_p(generation, &params->min_p, fail);
    if (!args_was_given(given, "--top-k"))
        config_use_top_k(generation, &top_k, fail);
    if (!args_was_given(given, "--repetition-penalty"))
        config_use_penalty(generation, &params->repetition_penalty, fail);
    params->top_k = (uint32_t)top_k;
}

int request_fields_of_flags(const answer_flags_t *flags, const args_given_t *given,
    const config_generation_t *generation, uint64_t number, request_fields_t *fields, fail_t *fail)
{
    *fields = (request_fields_t){.sampling = {.temperature = flags->temperature,
                                     .top_p = flags->top_p,
                                     .min_p = flags->min_p,
                                     .repetition_penalty = flags->repetition_penalty,
                                     .presence_penalty = flags->presence_penalty,
                                     .frequency_penalty = flags->frequency_penalty,
                                     .top_k = (uint32_t)flags->top_k,
                                     .seed = flags->seed,
                                     .request = number},
        .max_tokens = flags->max_tokens,
        .ignore_eos = flags->ignore_eos,
        .stops = flags->stop};
    if (flags->sample)
        use_recommended(given, generation, &fields->sampling, fail);
    return fail->status;
}

int request_fields_read(json_t *object, const char *name, request_fields_t *fields, fail_t *fail)
{
    sampler_params_t *sampling = &fields->sampling;
    size_t top_k = sampling->top_k, seed = SIZE_MAX;
    fail_t wrong = {0};
    json_opt_size(object, name, "max_tokens", 0, UINT32_MAX, &fields->max_tokens, fail);
    json_opt_size(object, name, "top_k", 0, UINT32_MAX, &top_k, fail);
    json_opt_size(object, name, "seed", 0, SIZE_MAX >> 1, &seed, fail);
    json_opt_double(object, name, "temperature", 0, 1e4, &sampling->temperature, fail);
    json_opt_double(object, name, "top_p", 0, 1, &sampling->top_p, fail);
    json_opt_double(object, name, "min_p", 0, 1, &sampling->min_p, fail);
    json_opt_double(
        object, name, "repetition_penalty", 0.01, 100, &sampling->repetition_penalty, fail);
    json_opt_double(object, name, "presence_penalty", -2, 2, &sampling->presence_penalty, fail);
    json_opt_double(object, name, "frequency_penalty", -2, 2, &sampling->frequency_penalty, fail);
    if (fail->status == 0)
        logit_bias_read(object, name, fields->bias, &fields->n_bias, fail);
    json_opt_bool(object, name, "ignore_eos", &fields->ignore_eos, fail);
    if (fail->status != 0 || read_stops(object, name, &fields->stops, fail) != 0)
        return fail->status;
    sampling->top_k = (uint32_t)top_k;
    if (seed != SIZE_MAX) {
        sampling->seed = seed;
        sampling->request = 0;
    }
    if (sampler_check(sampling, &wrong) != 0)
        fail_set(fail, wrong.status, "%s: %s", name, wrong.message);
    return fail->status;
}

size_t request_line_bytes(size_t n_tokens)
{
    return LINE_BYTES + TOKEN_BYTES * n_tokens;
}

request_t request_of_fields(const request_fields_t *fields, const tokenizer_ids_t *prompt,
    const engine_t *engine, int32_t chat_end, int32_t *stop_ids)
{
    size_t n_stop_ids = engine_stop_ids(engine, chat_end, stop_ids);
    return (request_t){.prompt_ids = prompt->ids,
        .n_prompt = prompt->count,
        .max_tokens = fields->max_tokens,
        .stop_ids = stop_ids,
        .n_stop_ids = fields->ignore_eos ? 0 : n_stop_ids,
        .stops = fields->stops.items,
        .n_stops = fields->stops.count,
        .sampling = fields->sampling,
        .bias = fields->bias,
        .n_bias = fields->n_bias};
}
