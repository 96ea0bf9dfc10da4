/* Output of a finished answer: the object of --json, and which limit ended it. */
#ifndef CHOIR_LAUNCH_ANSWER_JSON_H
#define CHOIR_LAUNCH_ANSWER_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/run/fleet.h"
#include "engine/text/tokenizer.h"

/* Which limit ended an answer of ENGINE_LENGTH. n_prompt: its prompt's tokens; max_tokens: of the
 * request; max_context: tokens that a sequence may have. */
void answer_describe_limit(const fleet_result_t *result, size_t n_prompt, size_t max_tokens,
    size_t max_context, char *text, size_t bytes);

/* tokenizer: NULL without text. logprobs: they were asked for. A new reference, or NULL when out of
 * memory. */
json_t *answer_json(const fleet_result_t *result, const tokenizer_ids_t *prompt_ids,
    const tokenizer_t *tokenizer, bool logprobs);

#endif
