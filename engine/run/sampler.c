/* A summary is, one after another and each only where the parameters call for it (layout_of):
 *   entry_t   candidates[]      best by processed score
 *   entry_t   alternatives[]    best by raw logit, for log-probabilities
 *   granule_t score_granules[]  normaliser of the processed scores
 *   granule_t logit_granules[]  normaliser of the raw logits
 *   uint64_t  digest            of the raw logits, modulo 2^64
 * Every part is a pure function of the rank's rows; candidates of all ranks merge in one total
 * order (score descending, then id), and granules are added up in vocabulary order, so the split
 * does not show. */
#include "engine/run/sampler.h"

#include <assert.h>
#include <math.h>
#include <sleef.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/philox.h"
#include "sharding/plan.h"

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

_Static_assert(PLAN_VOCAB_GRANULE == KERNEL_GRANULE, "one granule");
_Static_assert(sizeof(granule_t) == sizeof(double[2]), "as kernels write it");

typedef struct layout {
    size_t n_candidates, n_alternatives, n_score_granules, n_logit_granules, n_digests;
} layout_t;

static bool is_greedy(const sampler_params_t *params)
{
    return params->temperature == 0;
}

static bool reports_logprob(const sampler_params_t *params)
{
    return params->want_logprob || params->n_logprobs > 0;
}

static layout_t layout_of(const sampler_params_t *params, size_t n_rows)
{
    size_t n_granules = (n_rows + PLAN_VOCAB_GRANULE - 1) / PLAN_VOCAB_GRANULE;
    /* After top-k only the kept tokens are normalised, and those are candidates. */
    bool normalises_all = !is_greedy(params) && params->top_k == 0;
    return (layout_t){
        .n_candidates = size_min(n_rows, is_greedy(params) ? 1 : SAMPLER_CANDIDATES),
        .n_alternatives = size_min(n_rows, params->n_logprobs),
        .n_score_granules = normalises_all ? n_granules : 0,
        .n_logit_granules = reports_logprob(params) ? n_granules : 0,
        .n_digests = params->want_digest ? 1 : 0,
    };
}

size_t sampler_summary_bytes(const sampler_params_t *params, size_t n_rows)
{
    layout_t layout = layout_of(params, n_rows);
    return (layout.n_candidates + layout.n_alternatives) * sizeof(entry_t) +
           (layout.n_score_granules + layout.n_logit_granules) * sizeof(granule_t) +
           layout.n_digests * sizeof(uint64_t);
}

typedef struct view {
    layout_t layout;
    entry_t *candidates, *alternatives;
    granule_t *score_granules, *logit_granules;
    uint64_t *digest;
} view_t;

static view_t view_of(const sampler_params_t *params, size_t n_rows, void *summary)
{
    view_t view = {.layout = layout_of(params, n_rows)};
    view.candidates = summary;
    view.alternatives = view.candidates + view.layout.n_candidates;
    view.score_granules = (granule_t *)(view.alternatives + view.layout.n_alternatives);
    view.logit_granules = view.score_granules + view.layout.n_score_granules;
    view.digest = (uint64_t *)(view.logit_granules + view.layout.n_logit_granules);
    return view;
}

static int check_range(double value, double min, double max, const char *name, fail_t *fail)
{
    if (value >= min && value <= max)
        return 0;
    return fail_set(fail, FAIL_USAGE, "%s: expected %g to %g, found %g", name, min, max, value);
}

int sampler_check(const sampler_params_t *params, fail_t *fail)
{
    /* With lower ones, logits divided by them could overflow. */
    if (params->temperature != 0)
        check_range(params->temperature, 1e-30, 1e4, "temperature (0 is greedy)", fail);
    check_range(params->top_p, 0, 1, "top_p", fail);
    check_range(params->min_p, 0, 1, "min_p", fail);
    check_range(params->repetition_penalty, 0.01, 100, "repetition_penalty", fail);
    if (params->n_logprobs > SAMPLER_MAX_LOGPROBS)
        fail_set(fail, FAIL_USAGE, "logprobs: expected 0 to %d, found %u", SAMPLER_MAX_LOGPROBS,
            params->n_logprobs);
    return fail->status;
}

/* ---- Scores ---------------------------------------------------------------------------------- */

static bool is_seen(const uint8_t *seen, size_t i)
{
    return (seen[i / 8] >> (i % 8) & 1) != 0;
}

/* The logit of a token that was seen, after repetition penalty and temperature. */
static double penalised_score(const sampler_params_t *params, double logit, bool is_f64)
{
    double temperature = is_greedy(params) ? 1 : params->temperature;
    double penalty = params->repetition_penalty;
    if (is_f64) {
        double penalised = logit < 0 ? logit * penalty : logit / penalty;
        return penalised / temperature;
    }
    float single = (float)logit;
    float penalised = single < 0 ? single * (float)penalty : single / (float)penalty;
    return (double)(penalised / (float)temperature);
}

/* exp(value - max), where equal infinities count as equal. */
static double weight_of(double value, double max)
{
    return value == max ? 1 : Sleef_cinz_expd1_u10purec(value - max);
}

/* ---- Best candidates ------------------------------------------------------------------------- */

static bool ranks_before(const entry_t *a, const entry_t *b)
{
    return a->key > b->key || (a->key == b->key && a->token < b->token);
}

static int compare_entries(const void *a, const void *b)
{
    return ranks_before(a, b) ? -1 : 1; /* no two are equal: tokens differ */
}

/* heap[0] is the entry that ranks last. */
static void heap_sink(entry_t *heap, size_t n, size_t i)
{
    for (;;) {
        size_t last = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++)
            if (ranks_before(&heap[last], &heap[child]))
                last = child;
        if (last == i)
            return;
        entry_t moved = heap[i];
        heap[i] = heap[last];
        heap[last] = moved;
        i = last;
    }
}

/* Keeps the best `capacity` entries: a plain list until it is full, then a heap. */
static void keep_best(entry_t *kept, size_t *n, size_t capacity, const entry_t *entry)
{
    if (*n < capacity) {
        kept[(*n)++] = *entry;
        if (*n == capacity)
            for (size_t i = capacity / 2; i-- > 0;)
                heap_sink(kept, capacity, i);
    } else if (capacity > 0 && ranks_before(entry, &kept[0])) {
        kept[0] = *entry;
        heap_sink(kept, capacity, 0);
    }
}

/* ---- Granules -------------------------------------------------------------------------------- */

/* PLAN_VOCAB_GRANULE rows or fewer, at once: loops that compilers turn into vectors. */
typedef struct rows {
    size_t n;
    double logits[PLAN_VOCAB_GRANULE]; /* raw */
    double processed[PLAN_VOCAB_GRANULE];
    const double *scores; /* processed, or the logits where nothing changes them */
} rows_t;

/* logits and seen: as for sampler_summarise, from row `begin` on. */
static void load_rows(const sampler_params_t *params, const void *logits, bool is_f64,
    const uint8_t *seen, size_t begin, rows_t *rows)
{
    const double *wide = (const double *)logits + begin;
    const float *single = (const float *)logits + begin;
    for (size_t i = 0; i < rows->n && is_f64; i++)
        rows->logits[i] = isnan(wide[i]) ? -INFINITY : wide[i];
    for (size_t i = 0; i < rows->n && !is_f64; i++)
        rows->logits[i] = isnan(single[i]) ? -INFINITY : (double)single[i];
    double temperature = is_greedy(params) ? 1 : params->temperature;
    rows->scores = temperature == 1 && seen == NULL ? rows->logits : rows->processed;
    if (rows->scores == rows->logits)
        return;
    for (size_t i = 0; i < rows->n; i++)
        rows->processed[i] = temperature == 1 ? rows->logits[i]
                             : is_f64         ? rows->logits[i] / temperature
                                      : (double)((float)rows->logits[i] / (float)temperature);
    if (seen == NULL)
        return;
    /* Few tokens were seen. */
    for (size_t i = 0; i < rows->n; i++)
        if (seen[(begin + i) / 8] == 0)
            i |= 7;
        else if (is_seen(seen, begin + i))
            rows->processed[i] = penalised_score(params, rows->logits[i], is_f64);
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double max_of(const double *values, size_t n)
{
    double max[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t j = 0; j < 4; j++)
            max[j] = larger(values[i + j], max[j]);
    for (; i < n; i++)
        max[0] = larger(values[i], max[0]);
    return larger(larger(max[0], max[1]), larger(max[2], max[3]));
}

/* Granules that are worked on at once: their sums are chains of additions that do not wait for each
 * other. */
enum { TOGETHER = 4 };

typedef struct group {
    size_t count;
    rows_t rows[TOGETHER];
    double max_scores[TOGETHER], max_logits[TOGETHER];
} group_t;

static const double *values_of(const group_t *group, size_t g, bool scores)
{
    return scores ? group->rows[g].scores : group->rows[g].logits;
}

/* exp(value - max) as weight_of finds it, since exp(0) is 1; what a granule lacks of its rows adds
 * 0. granules: [count] written */
static void sum_granules(
    const kernels_t *kernels, const group_t *group, bool scores, granule_t *granules)
{
    double weights[TOGETHER][PLAN_VOCAB_GRANULE], sums[TOGETHER] = {0};
    const double *max = scores ? group->max_scores : group->max_logits;
    for (size_t g = 0; g < group->count; g++) {
        const double *values = values_of(group, g, scores);
        size_t n = group->rows[g].n;
        for (size_t i = 0; i < n; i++)
            weights[g][i] = values[i] == max[g] ? 0 : values[i] - max[g];
        for (size_t i = n; i < PLAN_VOCAB_GRANULE; i++)
            weights[g][i] = -INFINITY;
    }
    kernels->exp_f64(group->count * PLAN_VOCAB_GRANULE, weights[0]);
    if (group->count == TOGETHER)
        for (size_t i = 0; i < PLAN_VOCAB_GRANULE; i++)
            for (size_t g = 0; g < TOGETHER; g++)
                sums[g] += weights[g][i];
    else
        for (size_t g = 0; g < group->count; g++)
            for (size_t i = 0; i < PLAN_VOCAB_GRANULE; i++)
                sums[g] += weights[g][i];
    for (size_t g = 0; g < group->count; g++)
        granules[g] = (granule_t){max[g], sums[g]};
}

/* Granules are hashed one by one and added up, so that ranks may own any of them. */
static uint64_t digest_of(const void *logits, bool is_f64, size_t first_row, size_t n_rows)
{
    size_t logit_bytes = is_f64 ? sizeof(double) : sizeof(float);
    uint64_t digest = 0;
    for (size_t begin = 0; begin < n_rows; begin += PLAN_VOCAB_GRANULE)
        digest += XXH3_64bits_withSeed((const char *)logits + begin * logit_bytes,
            size_min(PLAN_VOCAB_GRANULE, n_rows - begin) * logit_bytes,
            (first_row + begin) / PLAN_VOCAB_GRANULE);
    return digest;
}

/* Offers rows from first_token on to a list ordered by keys, of which max is the largest. */
static void keep_rows(entry_t *kept, size_t *n_kept, size_t capacity, const rows_t *rows,
    const double *keys, double max, size_t first_token)
{
    /* Most granules have nothing to offer; a tie loses to the lower ids that are there. */
    if (capacity == 0 || (*n_kept == capacity && !(max > kept[0].key)))
        return;
    for (size_t i = 0; i < rows->n; i++) {
        entry_t entry = {keys[i], rows->logits[i], (int64_t)(first_token + i)};
        keep_best(kept, n_kept, capacity, &entry);
    }
}

/* Rows from `begin` on, as many granules as are worked on at once. */
static void load_group(const sampler_params_t *params, const void *logits, bool is_f64,
    const uint8_t *seen, size_t begin, size_t n_rows, group_t *group)
{
    group->count = 0;
    for (; begin < n_rows && group->count < TOGETHER; begin += PLAN_VOCAB_GRANULE) {
        size_t g = group->count++;
        rows_t *rows = &group->rows[g];
        rows->n = size_min(PLAN_VOCAB_GRANULE, n_rows - begin);
        load_rows(params, logits, is_f64, seen, begin, rows);
        group->max_logits[g] = max_of(rows->logits, rows->n);
        group->max_scores[g] =
            rows->scores == rows->logits ? group->max_logits[g] : max_of(rows->scores, rows->n);
    }
}

/* The commonest case, one pass over the logits as they are: the likeliest token and its
 * log-probability. */
static bool is_plain(const sampler_params_t *params, bool is_f64, const uint8_t *seen)
{
    return is_greedy(params) && params->n_logprobs == 0 && params->want_logprob && !is_f64 &&
           seen == NULL;
}

static void summarise_plain(const kernels_t *kernels, const float *logits, size_t first_row,
    size_t n_rows, const view_t *view)
{
    const granule_t *granules = view->logit_granules;
    size_t best = 0;
    kernels->sum_granules(n_rows, logits, (double(*)[2])view->logit_granules);
    for (size_t g = 1; g < view->layout.n_logit_granules; g++)
        if (granules[g].max > granules[best].max)
            best = g;
    double max = granules[best].max;
    size_t row = best * PLAN_VOCAB_GRANULE;
    /* Where all are minus infinity, the first one is a NaN or the largest. */
    while (max > -INFINITY && (double)logits[row] != max)
        row++;
    view->candidates[0] = (entry_t){max, max, (int64_t)(first_row + row)};
}

void sampler_summarise(const kernels_t *kernels, const sampler_params_t *params, const void *logits,
    bool is_f64, size_t first_row, size_t n_rows, const uint8_t *seen, void *summary)
{
    assert(first_row % PLAN_VOCAB_GRANULE == 0);
    view_t view = view_of(params, n_rows, summary);
    const layout_t *layout = &view.layout;
    size_t n_candidates = 0, n_alternatives = 0, n_done = 0;
    group_t group;
    bool plain = n_rows > 0 && is_plain(params, is_f64, seen);
    if (plain)
        summarise_plain(kernels, logits, first_row, n_rows, &view);
    for (size_t begin = 0; !plain && begin < n_rows; n_done += group.count) {
        load_group(params, logits, is_f64, seen, begin, n_rows, &group);
        for (size_t g = 0; g < group.count; g++, begin += PLAN_VOCAB_GRANULE) {
            const rows_t *rows = &group.rows[g];
            keep_rows(view.candidates, &n_candidates, layout->n_candidates, rows, rows->scores,
                group.max_scores[g], first_row + begin);
            keep_rows(view.alternatives, &n_alternatives, layout->n_alternatives, rows,
                rows->logits, group.max_logits[g], first_row + begin);
        }
        if (layout->n_score_granules > 0)
            sum_granules(kernels, &group, true, view.score_granules + n_done);
        if (layout->n_logit_granules > 0)
            sum_granules(kernels, &group, false, view.logit_granules + n_done);
    }
    if (layout->n_digests > 0)
        *view.digest = digest_of(logits, is_f64, first_row, n_rows);
    qsort(view.candidates, n_candidates, sizeof(entry_t), compare_entries);
    qsort(view.alternatives, n_alternatives, sizeof(entry_t), compare_entries);
}

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
} ranking_t;

static double entry_weight(const ranking_t *ranking, size_t i)
{
    return weight_of(ranking->entries[i].key, ranking->entries[0].key);
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
    if (!reports_logprob(params))
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
        if (n > 0 && n < gathered->n_rows[r] && (cut == NULL || ranks_before(&entries[n - 1], cut)))
            cut = &entries[n - 1];
    }
    size_t total = 0;
    for (size_t r = 0; r < gathered->n_ranks; r++) {
        size_t n = list_of(&gathered->views[r], which, &entries);
        for (size_t i = 0; i < n && (cut == NULL || !ranks_before(cut, &entries[i])); i++)
            storage[total++] = entries[i];
    }
    qsort(storage, total, sizeof *storage, compare_entries);
    return (ranking_t){storage, total, cut == NULL};
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
                    total.sum += granules[g].sum * weight_of(granules[g].max, total.max);
            }
        }
    return total;
}

/* longer: a ranking of more than the candidates where those do not suffice, or NULL. */
static bool pick_gathered(const sampler_params_t *params, const gathered_t *gathered,
    const ranking_t *longer, entry_t *storage, uint64_t position, sampler_choice_t *choice)
{
    ranking_t ranking = longer != NULL ? *longer : merge_lists(gathered, LIST_CANDIDATES, storage);
    size_t chosen = 0;
    if (!is_greedy(params)) {
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
            views[r] = view_of(params, n_rows[r], (void *)summaries[r]);
        gathered_t gathered = {views, n_rows, n_ranks};
        decided = pick_gathered(params, &gathered, NULL, storage, position, choice);
    }
    free(views);
    free(storage);
    return decided;
}

/* The best n of the whole vocabulary. */
static ranking_t rank_best(const sampler_params_t *params, const void *logits, bool is_f64,
    size_t vocab_size, const uint8_t *seen, size_t n, entry_t *entries)
{
    size_t n_kept = 0;
    rows_t rows;
    for (size_t begin = 0; begin < vocab_size; begin += PLAN_VOCAB_GRANULE) {
        rows.n = size_min(PLAN_VOCAB_GRANULE, vocab_size - begin);
        load_rows(params, logits, is_f64, seen, begin, &rows);
        keep_rows(entries, &n_kept, n, &rows, rows.scores, max_of(rows.scores, rows.n), begin);
    }
    qsort(entries, n_kept, sizeof *entries, compare_entries);
    return (ranking_t){entries, n_kept, n_kept == vocab_size};
}

int sampler_pick_full(const kernels_t *kernels, const sampler_params_t *params, const void *logits,
    bool is_f64, size_t vocab_size, const uint8_t *seen, uint64_t position,
    sampler_choice_t *choice, fail_t *fail)
{
    size_t summary_bytes = sampler_summary_bytes(params, vocab_size);
    size_t entries_bytes = (vocab_size + SAMPLER_CANDIDATES) * sizeof(entry_t);
    void *summary = memory_alloc(summary_bytes, "sampler summary", fail);
    entry_t *entries = NULL;
    if (summary == NULL)
        return fail->status;
    sampler_summarise(kernels, params, logits, is_f64, 0, vocab_size, seen, summary);
    const void *summaries[1] = {summary};
    bool decided = sampler_pick(params, summaries, &vocab_size, 1, position, choice);
    if (!decided)
        entries = memory_alloc(entries_bytes, "ranking of the vocabulary", fail);
    view_t view = view_of(params, vocab_size, summary);
    gathered_t gathered = {&view, &vocab_size, 1};
    /* Rarely is more than a few thousand needed, and sorting all takes long. */
    for (size_t n = 16 * SAMPLER_CANDIDATES; !decided && entries != NULL; n *= 16) {
        ranking_t ranking =
            rank_best(params, logits, is_f64, vocab_size, seen, size_min(n, vocab_size), entries);
        decided =
            pick_gathered(params, &gathered, &ranking, entries + vocab_size, position, choice);
    }
    memory_free(summary, summary_bytes);
    memory_free(entries, entries_bytes);
    return fail->status;
}
