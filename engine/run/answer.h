/* The answer to a request as it grows, on the leader of its replica: tokens, log-probabilities, the
 * digest of their logits, text, and the stop string that ends it.
 *
 * Text comes out in pieces that never end within a UTF-8 sequence nor within what might become a
 * stop string. Owns its arrays; borrows the tokenizer. */
#ifndef CHOIR_RUN_ANSWER_H
#define CHOIR_RUN_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/run/sampler.h"
#include "engine/text/tokenizer.h"

typedef struct answer {
    const tokenizer_t *tokenizer; /* NULL: no text */
    char *stops;                  /* [n_stops] texts one after another with their zeros */
    size_t n_stops, longest_stop;
    int32_t *tokens;           /* [n_tokens] with the one that ended it */
    double *logprobs;          /* [n_tokens] */
    sampler_choice_t *choices; /* [n_tokens] when keep_choices */
    bool keep_choices;
    size_t n_tokens, capacity;
    uint64_t digest;
    detokenizer_t detokenizer;
    text_buffer_t text;
    bool cut;      /* a stop string was found */
    bool ended;    /* nothing is held back any more */
    size_t n_sent; /* bytes of text that were given out */
} answer_t;

/* stops: [n_stops] texts one after another with their zeros, copied. FAIL_MEMORY. */
int answer_set_stops(answer_t *answer, const char *stops, size_t n_stops, fail_t *fail);
void answer_clear(answer_t *answer);

/* Adds a token without its text. FAIL_MEMORY. */
int answer_add(answer_t *answer, const sampler_choice_t *choice, double logprob, fail_t *fail);

/* Adds a token that was drawn. *stopped: a stop string is complete (the text ends before it), so the
 * request should be cancelled. FAIL_MEMORY. */
int answer_push(answer_t *answer, const sampler_choice_t *choice, bool *stopped, fail_t *fail);

/* The answer has ended; what was held back of its text is text now. FAIL_MEMORY. */
int answer_end(answer_t *answer, fail_t *fail);

/* What can be shown and was not yet, borrowed until the next call; *bytes may be 0. */
const char *answer_take(answer_t *answer, size_t *bytes);

#endif
