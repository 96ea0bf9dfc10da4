/* One answer as it grows: ids, text, log-probabilities, and where it ends.
 *
 * Text comes out in pieces that never end within a UTF-8 sequence nor within what might become a
 * stop string. Owns its arrays; borrows tokenizer and stop strings. */
#ifndef CHOIR_LAUNCH_ANSWER_H
#define CHOIR_LAUNCH_ANSWER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/run/engine.h"
#include "engine/text/tokenizer.h"
#include "launch/args.h"

typedef enum answer_end {
    ANSWER_GROWS,
    ANSWER_STOP,
    ANSWER_LENGTH,
    ANSWER_INTERRUPTED
} answer_end_t;

typedef struct answer {
    const tokenizer_t *tokenizer; /* NULL: ids only */
    const args_strings_t *stops;
    args_strings_t *own_stops;  /* taken; what stops points to where they are this answer's alone */
    tokenizer_ids_t prompt_ids; /* taken */
    int32_t *ids;               /* [n_ids] with the token that ended it */
    sampler_choice_t *choices;  /* [n_ids] when wanted, else NULL */
    size_t n_ids, capacity;
    bool keep_choices;
    detokenizer_t detokenizer;
    text_buffer_t text;
    bool cut;      /* a stop string was found */
    size_t n_sent; /* bytes of text that were given out */
    answer_end_t end;
    uint64_t begin_ns, first_ns, end_ns; /* submitted, first token, last token */
} answer_t;

void answer_clear(answer_t *answer);

/* Adds a token. *stopped: a stop string is complete (the text ends before it), so the request
 * should be cancelled. */
int answer_push(answer_t *answer, const sampler_choice_t *choice, bool *stopped, fail_t *fail);

/* The answer has ended; what was held back of its text is text now. */
int answer_end(answer_t *answer, answer_end_t end, fail_t *fail);

/* What can be shown and was not yet; *bytes may be 0. Marks it as sent. */
const char *answer_take(answer_t *answer, size_t *bytes);

/* Which limit ended an answer of end ANSWER_LENGTH. max_tokens: of the request; max_context: tokens
 * that a sequence may have. */
void answer_describe_limit(
    const answer_t *answer, size_t max_tokens, size_t max_context, char *text, size_t bytes);

/* The object of --json. A new reference, or NULL when out of memory. */
json_t *answer_json(const answer_t *answer);

#endif
