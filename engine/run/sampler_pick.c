/* The token that summaries of all ranks, or all logits, decide. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/philox.h"
#include "engine/run/sampler_internal.h"

/* ---- The decision ---------------------------------------------------------------------------- */

/* The largest value of the vocabulary and the sum of exp(value - max). */
typedef struct normaliser {
    double max, sum;
} normaliser_t;

/* Ranked entries: the first n of the vocabulary's order, or all of it when complete. */
typedef struct ranking {
    const entry_t *entries;
    size_t n;
    bool complete;
    const double *weights; /* of the entries, or NULL: to be computed */
} ranking_t;

static double entry_weight(const ranking_t *ranking, size_t i)
{
    if (ranking->weights != NULL)
        return ranking->weights[i];
    return sampler_weight_of(ranking->entries[i].key, ranking->entries[0].key);
}

/* How many entries top-k keeps (ties with the k-th included), and their weight. False when the
 * ranking is too short. */
static bool apply_top_k(const ranking_t *ranking, size_t top_k, size_t *n_kept, double *total)
{
    size_t n = size_min(top_k, ranking->n);
    while (n < ranking->n && ranking->entries[n].key == ranking->entries[n - 1].key)
        n++;
    if (n == ranking->n && !ranking->complete)
        return false;
    *n_kept = n;
    *total = 0;
    for (size_t i = 0; i < n; i++)
        *total += entry_weight(ranking, i);
    return true;
}

/* Top-p and min-p among the first n entries: how many stay, and their weight. total: weight of all
 * tokens that may stay so far. False when the ranking ended before a limit was met, unless that is
 * where those tokens end (bounded). */
static bool apply_nucleus(const sampler_params_t *params, const ranking_t *ranking, bool bounded,
    size_t *n, double *total)
{
    double sum = 0, limit = params->top_p * *total;
    for (size_t i = 0; i < *n; i++) {
        double weight = entry_weight(ranking, i);
        bool outside_p = params->top_p < 1 && sum >= limit;
        if (i > 0 && (outside_p || weight < params->min_p)) {
            *n = i;
            *total = sum;
            return true;
        }
        sum += weight;
    }
    *total = sum;
    return bounded;
}

/* The token that u in [0, 1) falls on. score_total: normaliser of all scores, used without top-k.
 * False when the ranking is too short to tell. */
static bool draw(const sampler_params_t *params, const ranking_t *ranking, double score_total,
    double u, size_t *chosen)
{
    size_t n = ranking->n;
    double total = score_total;
    bool bounded = ranking->complete; /* whether n is where the kept tokens end */
    *chosen = 0;
    if (ranking->entries[0].key == -INFINITY)
        return true; /* nothing is possible: the lowest id */
    if (params->top_k > 0) {
        if (!apply_top_k(ranking, params->top_k, &n, &total))
            return false;
        bounded = true;
    }
    if (params->top_p < 1 || params->min_p > 0) {
        if (!apply_nucleus(params, ranking, bounded, &n, &total))
            return false;
        bounded = true;
    }
    double target = u * total, sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += entry_weight(ranking, i);
        if (sum > target) {
            *chosen = i;
            return true;
        }
    }
    /* With all kept tokens in view, only the last bits of differently ordered sums lead here. */
    *chosen = n - 1;
    return bounded;
}

static double log_probability(const normaliser_t *normaliser, double logit)
{
    double distance = logit == normaliser->max ? 0 : logit - normaliser->max;
    return distance - Sleef_cinz_logd1_u10purec(normaliser->sum);
}

static void report(const sampler_params_t *params, const entry_t *entry,
    const ranking_t *alternatives, const normaliser_t *logits, sampler_choice_t *choice)
{
    memset(choice, 0, sizeof *choice);
    choice->token = (int32_t)entry->token;
    if (!sampler_reports_logprob(params))
        return;
    choice->logprob = log_probability(logits, entry->logit);
    choice->n_top = (uint32_t)size_min(params->n_logprobs, alternatives->n);
    for (size_t i = 0; i < choice->n_top; i++) {
        choice->top_tokens[i] = (int32_t)alternatives->entries[i].token;
        choice->top_logprobs[i] = log_probability(logits, alternatives->entries[i].logit);
    }
}

/* ---- From summaries -------------------------------------------------------------------------- */

typedef enum list { LIST_CANDIDATES, LIST_ALTERNATIVES } list_t;

static size_t list_of(const view_t *view, list_t which, const entry_t **entries)
{
    *entries = which == LIST_CANDIDATES ? view->candidates : view->alternatives;
    return which == LIST_CANDIDATES ? view->layout.n_candidates : view->layout.n_alternatives;
}

/* The summaries of all ranks; views[r] points into the caller's bytes, which stay as they are. */
typedef struct gathered {
    view_t *views;
    const size_t *n_rows;
    size_t n_ranks;
} gathered_t;

/* Merges one list of all ranks into storage. What ranks after the last entry of a list that lacks
 * some of its rank's rows is left out: an unseen row might come before it. */
static ranking_t merge_lists(const gathered_t *gathered, list_t which, entry_t *storage)
{
    const entry_t *cut = NULL, *entries;
    for (size_t r = 0; r < gathered->n_ranks; r++) {
        size_t n = list_of(&gathered->views[r], which, &entries);
        if (n > 0 && n < gathered->n_rows[r] &&
            (cut == NULL || sampler_ranks_before(&entries[n - 1], cut)))
            cut = &entries[n - 1];
    }
    size_t total = 0;
    for (size_t r = 0; r < gathered->n_ranks; r++) {
        size_t n = list_of(&gathered->views[r], which, &entries);
        for (size_t i = 0; i < n && (cut == NULL || !sampler_ranks_before(cut, &entries[i])); i++)
            storage[total++] = entries[i];
    }
    qsort(storage, total, sizeof *storage, sampler_compare_entries);
    return (ranking_t){.entries = storage, .n = total, .complete = cut == NULL};
}

static normaliser_t merge_granules(const gathered_t *gathered, bool scores)
{
    normaliser_t total = {-INFINITY, 0};
    for (int pass = 0; pass < 2; pass++)
        for (size_t r = 0; r < gathered->n_ranks; r++) {
            const view_t *view = &gathered->views[r];
            const granule_t *granules = scores ? view->score_granules : view->logit_granules;
            size_t n = scores ? view->layout.n_score_granules : view->layout.n_logit_granules;
            for (size_t g = 0; g < n; g++) {
                if (pass == 0)
                    total.max = granules[g].max > total.max ? granules[g].max : total.max;
                else
                    total.sum += granules[g].sum * sampler_weight_of(granules[g].max, total.max);
            }
        }
    return total;
}

/* all: a ranking of the whole vocabulary where the candidates do not suffice, or NULL. */
static bool pick_gathered(const sampler_params_t *params, const gathered_t *gathered,
    const ranking_t *all, entry_t *storage, uint64_t position, sampler_choice_t *choice)
{
    ranking_t ranking = all != NULL ? *all : merge_lists(gathered, LIST_CANDIDATES, storage);
    size_t chosen = 0;
    if (!sampler_is_greedy(params)) {
        double u = philox_uniform(params->seed, params->request, position);
        normaliser_t scores = merge_granules(gathered, true);
        if (!draw(params, &ranking, scores.sum, u, &chosen))
            return false;
    }
    entry_t picked = ranking.entries[chosen];
    normaliser_t logits = merge_granules(gathered, false);
    ranking_t alternatives = merge_lists(gathered, LIST_ALTERNATIVES, storage);
    report(params, &picked, &alternatives, &logits, choice);
    for (size_t r = 0; r < gathered->n_ranks && params->want_digest; r++)
        if (gathered->n_rows[r] > 0)
            choice->digest += *gathered->views[r].digest;
    return true;
}

bool sampler_pick(const sampler_params_t *params, const void *const *summaries,
    const size_t *n_rows, size_t n_ranks, uint64_t position, sampler_choice_t *choice)
{
    view_t *views = malloc(size_max(n_ranks, 1) * sizeof *views);
    entry_t *storage = malloc(size_max(n_ranks, 1) * SAMPLER_CANDIDATES * sizeof *storage);
    bool decided = false;
    /* Without memory here, sampler_pick_full is asked, and it can report. */
    if (views != NULL && storage != NULL) {
        for (size_t r = 0; r < n_ranks; r++)
            views[r] = sampler_view_of(params, n_rows[r], (void *)summaries[r]);
        gathered_t gathered = {views, n_rows, n_ranks};
        decided = pick_gathered(params, &gathered, NULL, storage, position, choice);
    }
    free(views);
    free(storage);
    return decided;
}

/* exp of each entry's distance from the first, as sampler_weight_of has it. */
static void weigh(const kernels_t *kernels, const entry_t *entries, size_t n, double *weights)
{
    double max = entries[0].key;
    for (size_t i = 0; i < n; i++)
        weights[i] = entries[i].key == max ? 0 : entries[i].key - max;
    kernels->exp_f64(n, weights);
}

int sampler_pick_full(const kernels_t *kernels, const sampler_params_t *params, const void *logits,
    bool is_f64, size_t vocab_size, const sampler_tokens_t *tokens, uint64_t position,
    sampler_choice_t *choice, fail_t *fail)
{
    size_t summary_bytes = sampler_summary_bytes(params, vocab_size);
    size_t entries_bytes = (vocab_size + SAMPLER_CANDIDATES) * sizeof(entry_t);
    size_t places_bytes = 2 * vocab_size * sizeof(sampler_place_t);
    void *summary = memory_alloc(summary_bytes, "sampler summary", fail);
    entry_t *entries = NULL;        /* [vocab_size], and what pick_gathered needs */
    sampler_place_t *places = NULL; /* [2 * vocab_size]; weights afterwards */
    if (summary == NULL)
        return fail->status;
    sampler_summarise(kernels, params, logits, is_f64, 0, vocab_size, tokens, summary);
    const void *summaries[1] = {summary};
    if (!sampler_pick(params, summaries, &vocab_size, 1, position, choice)) {
        entries = memory_alloc(entries_bytes, "ranking of the vocabulary", fail);
        places = memory_alloc(places_bytes, "ranking of the vocabulary", fail);
    }
    if (entries != NULL && places != NULL) {
        sampler_rank_all(params, logits, is_f64, vocab_size, tokens, places, entries);
        double *weights = (double *)places;
        weigh(kernels, entries, vocab_size, weights);
        const ranking_t ranking = {entries, vocab_size, true, weights};
        view_t view = sampler_view_of(params, vocab_size, summary);
        gathered_t gathered = {&view, &vocab_size, 1};
        pick_gathered(params, &gathered, &ranking, entries + vocab_size, position, choice);
    }
    memory_free(summary, summary_bytes);
    memory_free(entries, entries_bytes);
    memory_free(places, places_bytes);
    return fail->status;
}
