/* From logits to the next token, exactly as with all logits in one place, at any rank count.
 *
 * Each rank reduces its vocabulary rows to a summary: the best candidates, and per granule of
 * PLAN_VOCAB_GRANULE rows the largest logit and the sum of exp(logit - largest). The coordinator
 * merges the summaries in vocabulary order, so that no bit of the result depends on how the rows
 * are split. Where the summary cannot decide (a nucleus wider than the candidates), sampler_pick
 * says so and is called again with all logits.
 *
 * Processing order is that of transformers' generate(): repetition penalty, temperature, top-k,
 * top-p, min-p, softmax, draw. What transformers does not have stands between the first two: the
 * token's bias is added, its count among the generated tokens times the frequency penalty
 * subtracted, then the presence penalty where that count is not 0. Each of these operations rounds
 * to f32 when logits are f32, so that the same logits tie. Equal scores rank by id, lowest first; the draw walks the kept
 * tokens in that order. A logit that is not a number counts as -infinity. Random numbers are
 * Philox4x32-10 (Salmon et al. 2011) keyed by (seed, request, position). Pure functions but for the
 * caller's memory; thread safe. */
#ifndef CHOIR_RUN_SAMPLER_H
#define CHOIR_RUN_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/kernels/kernels.h"

#define SAMPLER_CANDIDATES 256 /* of one rank and sequence */
#define SAMPLER_MAX_LOGPROBS 20
#define SAMPLER_MAX_BIAS 512 /* tokens of a request that have a bias */

/* Sent to ranks in the step's payload: fixed-size, no pointers. */
typedef struct sampler_params {
    double temperature;                         /* 0: greedy */
    double top_p;                               /* 1: off */
    double min_p;                               /* 0: off */
    double repetition_penalty;                  /* 1: off */
    double presence_penalty, frequency_penalty; /* 0: off */
    uint32_t top_k;                             /* 0: off */
    uint32_t n_logprobs; /* most likely tokens to report with their log-probabilities */
    uint64_t seed;
    uint64_t request;     /* number of the request in the run's input, not of the slot it got */
    uint8_t want_logprob; /* of the token drawn; n_logprobs > 0 asks for it too */
    uint8_t want_digest;  /* of the raw logits */
    uint8_t reserved[2];
    uint32_t n_bias; /* biases of the request; the scheduler sets it */
} sampler_params_t;

typedef struct sampler_bias {
    int32_t token;
    float bias;
} sampler_bias_t;

/* A token whose score is not its logit's alone. */
typedef struct sampler_adjust {
    int32_t token;
    uint32_t count; /* how often it was generated */
    float bias;
} sampler_adjust_t;

/* What a sequence's tokens so far do to scores. */
typedef struct sampler_tokens {
    /* Bit i of seen[i / 8] is set when the token of row i of these logits occurs in the sequence;
     * NULL when the repetition penalty is off. */
    const uint8_t *seen;
    const sampler_adjust_t *adjusted; /* [n_adjusted] by ascending token, of the whole vocabulary */
    size_t n_adjusted;
} sampler_tokens_t;

/* Adds a generated token. adjusted: room for one more; *n_adjusted grows when it is new. */
void sampler_count(sampler_adjust_t *adjusted, size_t *n_adjusted, int32_t token);
/* Adds to a token's bias, likewise. */
void sampler_add_bias(sampler_adjust_t *adjusted, size_t *n_adjusted, const sampler_bias_t *bias);

/* FAIL_USAGE naming the parameter, its range and the value. */
int sampler_check(const sampler_params_t *params, fail_t *fail);

/* Bytes of one rank's summary of n_rows vocabulary rows, a multiple of 8; a pure function. A greedy
 * choice without log-probabilities takes one candidate, so a step exchanges next to nothing. */
size_t sampler_summary_bytes(const sampler_params_t *params, size_t n_rows);

/* Whether all tokens so far have an effect (repetition penalty). */
static inline bool sampler_needs_seen(const sampler_params_t *params)
{
    return params->repetition_penalty != 1;
}

/* Whether the generated ones have. */
static inline bool sampler_needs_counts(const sampler_params_t *params)
{
    return params->presence_penalty != 0 || params->frequency_penalty != 0;
}

/* Local. Summarises this rank's rows of one sequence's logits.
 * kernels: of any mode, for exponentials
 * logits: [n_rows] f64 when is_f64, else f32 (bf16 logits widened): the vocabulary's rows from
 *         first_row, a multiple of PLAN_VOCAB_GRANULE
 * tokens: NULL when none have an effect
 * summary: [sampler_summary_bytes(params, n_rows)] written, aligned to 8 bytes */
void sampler_summarise(const kernels_t *kernels, const sampler_params_t *params, const void *logits,
    bool is_f64, size_t first_row, size_t n_rows, const sampler_tokens_t *tokens, void *summary);

typedef struct sampler_choice {
    int32_t token;
    double logprob;  /* log softmax of the raw logits at temperature 1, before any processing */
    uint64_t digest; /* when asked for: XXH3 of each PLAN_VOCAB_GRANULE raw logits, seeded with the
                      * granule's number, added up; the same however the vocabulary is split */
    uint32_t n_top;
    int32_t top_tokens[SAMPLER_MAX_LOGPROBS];
    double top_logprobs[SAMPLER_MAX_LOGPROBS];
} sampler_choice_t;

/* On the coordinator. summaries: n_ranks pointers, in rank order, made with n_rows[r] rows each.
 * Returns true and fills *choice, or false when all logits are needed. position: index of the token
 * to be drawn. */
bool sampler_pick(const sampler_params_t *params, const void *const *summaries,
    const size_t *n_rows, size_t n_ranks, uint64_t position, sampler_choice_t *choice);

/* On the coordinator, with all logits: logits [vocab] f32 or f64, tokens of the whole vocabulary or
 * NULL. FAIL_MEMORY. */
int sampler_pick_full(const kernels_t *kernels, const sampler_params_t *params, const void *logits,
    bool is_f64, size_t vocab_size, const sampler_tokens_t *tokens, uint64_t position,
    sampler_choice_t *choice, fail_t *fail);

#endif
