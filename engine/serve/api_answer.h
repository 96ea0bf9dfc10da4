/* Answers of /v1/completions and /v1/chat/completions as JSON: whole, and piece by piece.
 *
 * Pure functions of what the fleet has found; every value is new. */
#ifndef CHOIR_SERVE_API_ANSWER_H
#define CHOIR_SERVE_API_ANSWER_H

#include <jansson.h>
#include <stdint.h>

#include "engine/run/fleet.h"
#include "engine/serve/api_request.h"

/* What all objects of an answer have. Borrows everything. */
typedef struct api_answer {
    const api_request_t *request;
    const char *id, *model, *fingerprint;
    int64_t created; /* seconds since 1970 */
    const tokenizer_t *tokenizer;
} api_answer_t;

/* What a chat's answer says, apart from its text (split.h). */
typedef struct api_message {
    text_buffer_t content, reasoning;
    json_t *calls; /* array of {"name", "arguments"}; NULL: none */
} api_message_t;

/* One of an answer's choices. */
typedef struct api_choice {
    size_t index;
    const tokenizer_ids_t *prompt;
    const fleet_result_t *result; /* NULL: nothing is answered yet */
    const api_message_t *message; /* of chats */
    const fleet_result_t *scores; /* of the prompt's tokens from the second one on; NULL: none */
} api_choice_t;

/* Tokens of a piece. */
typedef struct api_tokens {
    const int32_t *tokens;
    const double *logprobs;
    const sampler_choice_t *choices; /* NULL: no alternatives */
    size_t n;
} api_tokens_t;

/* The whole answer. choices: [n_choices] */
json_t *api_answer_json(const api_answer_t *answer, const api_choice_t *choices, size_t n_choices);

/* A piece of the answer `index`. text: [bytes]. tokens: NULL: without log-probabilities. offset: characters of
 * the answer's tokens before, advanced. finish: NULL until the end. */
json_t *api_piece_json(const api_answer_t *answer, size_t index, const char *text, size_t bytes,
    const api_tokens_t *tokens, size_t *offset, const char *finish);
/* A piece of reasoning, or a call, of which it is number `number`. */
json_t *api_reasoning_json(
    const api_answer_t *answer, size_t index, const char *text, size_t bytes);
json_t *api_call_json(const api_answer_t *answer, size_t index, const json_t *call, size_t number);
/* What comes before an answer's first token: a chat's role; the prompt where it is echoed, with log-probabilities where they
 * are asked for; prompt_logprobs. NULL: nothing. choice: without its result; offset: as of api_piece_json. */
json_t *api_first_json(const api_answer_t *answer, const api_choice_t *choice, size_t *offset);

/* The last piece of a stream that was asked for its usage. */
json_t *api_usage_piece_json(const api_answer_t *answer, size_t n_prompt, size_t n_completion);

/* "stop", "length", "tool_calls" */
const char *api_finish_name(engine_finish_t finish, bool has_calls);

#endif
