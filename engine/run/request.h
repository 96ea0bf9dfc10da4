/* What is asked of a model: one struct from front ends to the scheduler. Plain data; everything that
 * it points to is copied where it is taken. */
#ifndef CHOIR_RUN_REQUEST_H
#define CHOIR_RUN_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/run/sampler.h"

typedef struct request {
    const int32_t *prompt_ids; /* [n_prompt] */
    size_t n_prompt;
    /* 0: a continuation of the prompt, as generate() gives it. Else log-probabilities of the last
     * n_scored ids, each given all before it, as one plain forward gives them; less than n_prompt.
     * Fleets only. */
    size_t n_scored;
    size_t max_tokens;       /* to generate, cut to what the context leaves; 0: prefill only */
    const int32_t *stop_ids; /* [n_stop_ids] drawing one ends the answer */
    size_t n_stop_ids;
    const char *const *stops; /* [n_stops] texts that end the answer before them; fleets only */
    size_t n_stops;
    sampler_params_t sampling;  /* of a continuation */
    const sampler_bias_t *bias; /* [n_bias] added to the scores of tokens, -100 to 100 */
    size_t n_bias;
    bool want_prompt_logits;    /* logits of prompt positions, as a plain forward gives them */
    size_t first_prompt_logits; /* the position from which they are wanted; 0: all */
    bool streams; /* events report tokens one by one, before the result; fleets only */
} request_t;

#endif
