/* Requests of /v1/completions and /v1/chat/completions: a JSON text to plain data, or to what is
 * wrong with it. docs/serve.md has the fields. Pure functions; a request owns its document, into
 * which its texts point. */
#ifndef CHOIR_SERVE_API_REQUEST_H
#define CHOIR_SERVE_API_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/run/sampler.h"
#include "engine/serve/api_error.h"

#define API_MAX_STOPS 64
#define API_MAX_CHOICES 128 /* of all prompts of a request */

typedef enum api_kind { API_COMPLETION, API_CHAT } api_kind_t;

/* What requests are read by. */
typedef struct api_rules {
    const char *model;         /* the name that requests give; any other is an error */
    sampler_params_t sampling; /* of requests that do not say */
} api_rules_t;

typedef struct api_request {
    api_kind_t kind;
    json_t *document;
    size_t n_prompts; /* completions: api_request_prompt gives each; chat: 1 */
    size_t n;         /* answers to each prompt */
    size_t max_tokens;
    bool has_max_tokens;
    sampler_params_t sampling;
    bool has_seed;
    sampler_bias_t bias[SAMPLER_MAX_BIAS];
    size_t n_bias;
    const char *stops[API_MAX_STOPS];
    size_t n_stops;
    bool stream, include_usage, echo, ignore_eos;
    bool logprobs;        /* of an answer's tokens, with sampling.n_logprobs alternatives */
    bool prompt_logprobs; /* of the prompt's tokens, with n_prompt_logprobs alternatives */
    uint32_t n_prompt_logprobs;
    bool tells_prompt; /* the answer lists them apart from those of its tokens */
    bool want_digest;  /* of the logits, for comparisons */
    double timeout_s;  /* 0: none */
    json_t *tools;     /* an array, in document; NULL: none that may be called */
    bool one_call;
} api_request_t;

/* Reads text (bytes long). On an error *request is empty. */
int api_request_read(api_request_t *request, api_kind_t kind, const char *text, size_t bytes,
    const api_rules_t *rules, api_error_t *error);
void api_request_clear(api_request_t *request);

/* Prompt i of a completion: a string, or an array of ids, which are integers of at least 0. Borrowed. */
const json_t *api_request_prompt(const api_request_t *request, size_t i);

/* A JSON object of a request, checked for its keys: [n_keys]; others are errors. A new value, or NULL. */
json_t *api_object_read(
    const char *text, size_t bytes, const char *const *keys, size_t n_keys, api_error_t *error);

#endif
