/* What a summary is made of, for the files that write and read them. Internal to engine/run. */
#ifndef CHOIR_RUN_SAMPLER_INTERNAL_H
#define CHOIR_RUN_SAMPLER_INTERNAL_H

#include <sleef.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/run/sampler.h"

typedef struct entry {
    double key;   /* what candidates are ordered by: processed score, or raw logit */
    double logit; /* raw */
    int64_t token;
} entry_t;

/* PLAN_VOCAB_GRANULE rows: the largest value and the sum of exp(value - max) over the rows in
 * ascending order. */
typedef struct granule {
    double max, sum;
} granule_t;

typedef struct layout {
    size_t n_candidates, n_alternatives, n_score_granules, n_logit_granules, n_digests;
} layout_t;

typedef struct view {
    layout_t layout;
    entry_t *candidates, *alternatives;
    granule_t *score_granules, *logit_granules;
    uint64_t *digest;
} view_t;

static inline bool sampler_is_greedy(const sampler_params_t *params)
{
    return params->temperature == 0;
}

static inline bool sampler_reports_logprob(const sampler_params_t *params)
{
    return params->want_logprob || params->n_logprobs > 0;
}

/* exp(value - max), where equal infinities count as equal. */
static inline double sampler_weight_of(double value, double max)
{
    return value == max ? 1 : Sleef_cinz_expd1_u10purec(value - max);
}

/* The order of candidates. */
static inline bool sampler_ranks_before(const entry_t *a, const entry_t *b)
{
    return a->key > b->key || (a->key == b->key && a->token < b->token);
}

/* The same for qsort. */
int sampler_compare_entries(const void *a, const void *b);

view_t sampler_view_of(const sampler_params_t *params, size_t n_rows, void *summary);

/* A token by its score, to be sorted. */
typedef struct sampler_place {
    uint64_t key; /* ascending where scores descend */
    uint32_t token;
} sampler_place_t;

sampler_place_t sampler_place_of(double score, size_t token);
double sampler_place_score(const sampler_place_t *place);
/* Sorts [n] places, equal ones in the order they have; spare: [n]. The result is one of the two. */
const sampler_place_t *sampler_sort(sampler_place_t *places, sampler_place_t *spare, size_t n);

/* The whole vocabulary in the order of candidates. Arguments as for sampler_pick_full; places:
 * [2 * vocab_size] in which to sort; entries: [vocab_size] written. */
void sampler_rank_all(const sampler_params_t *params, const void *logits, bool is_f64,
    size_t vocab_size, const sampler_tokens_t *tokens, sampler_place_t *places, entry_t *entries);

#endif
