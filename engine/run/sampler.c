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
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/size.h"
#include "engine/run/sampler_internal.h"
#include "sharding/plan.h"

_Static_assert(PLAN_VOCAB_GRANULE == KERNEL_GRANULE, "one granule");
_Static_assert(sizeof(granule_t) == sizeof(double[2]), "as kernels write it");

static layout_t layout_of(const sampler_params_t *params, size_t n_rows)
{
    size_t n_granules = (n_rows + PLAN_VOCAB_GRANULE - 1) / PLAN_VOCAB_GRANULE;
    /* After top-k only the kept tokens are normalised, and those are candidates. */
    bool normalises_all = !sampler_is_greedy(params) && params->top_k == 0;
    return (layout_t){
        .n_candidates = size_min(n_rows, sampler_is_greedy(params) ? 1 : SAMPLER_CANDIDATES),
        .n_alternatives = size_min(n_rows, params->n_logprobs),
        .n_score_granules = normalises_all ? n_granules : 0,
        .n_logit_granules = sampler_reports_logprob(params) ? n_granules : 0,
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

view_t sampler_view_of(const sampler_params_t *params, size_t n_rows, void *summary)
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
    /* At lower temperatures, divided logits could overflow. */
    if (params->temperature != 0)
        check_range(params->temperature, 1e-30, 1e4, "temperature (0 is greedy)", fail);
    check_range(params->top_p, 0, 1, "top_p", fail);
    check_range(params->min_p, 0, 1, "min_p", fail);
    check_range(params->repetition_penalty, 0.01, 100, "repetition_penalty", fail);
    check_range(params->presence_penalty, -2, 2, "presence_penalty", fail);
    check_range(params->frequency_penalty, -2, 2, "frequency_penalty", fail);
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

static double round_as(double value, bool is_f64)
{
    return is_f64 ? value : (double)(float)value;
}

static double after_temperature(const sampler_params_t *params, double logit, bool is_f64)
{
    double temperature = sampler_is_greedy(params) ? 1 : params->temperature;
    return is_f64 ? logit / temperature : (double)((float)logit / (float)temperature);
}

/* The logit of a token that was seen, after the repetition penalty. */
static double penalised(const sampler_params_t *params, double logit, bool is_f64)
{
    double penalty = round_as(params->repetition_penalty, is_f64);
    return round_as(logit < 0 ? logit * penalty : logit / penalty, is_f64);
}

/* After bias and penalties of generated tokens. A product or sum of two floats is exact in double, or
 * rounds to the same float. */
static double adjusted(
    const sampler_params_t *params, double logit, bool is_f64, const sampler_adjust_t *adjust)
{
    double frequency = round_as(params->frequency_penalty, is_f64);
    double presence = round_as(params->presence_penalty, is_f64);
    double score = round_as(logit + (double)adjust->bias, is_f64);
    score = round_as(score - round_as(frequency * (double)adjust->count, is_f64), is_f64);
    return adjust->count > 0 ? round_as(score - presence, is_f64) : score;
}

/* The first adjusted token from `token` on. */
static size_t find_adjusted(const sampler_adjust_t *list, size_t n, int64_t token)
{
    size_t first = 0;
    while (first < n) {
        size_t middle = first + (n - first) / 2;
        if (list[middle].token < token)
            first = middle + 1;
        else
            n = middle;
    }
    return first;
}

/* The entry of a token, which is made where there is none. */
static sampler_adjust_t *entry_of(sampler_adjust_t *list, size_t *n, int32_t token)
{
    size_t at = find_adjusted(list, *n, token);
    if (at < *n && list[at].token == token)
        return &list[at];
    memmove(list + at + 1, list + at, (*n - at) * sizeof *list);
    list[at] = (sampler_adjust_t){.token = token};
    ++*n;
    return &list[at];
}

void sampler_count(sampler_adjust_t *list, size_t *n, int32_t token)
{
    entry_of(list, n, token)->count++;
}

void sampler_add_bias(sampler_adjust_t *list, size_t *n, const sampler_bias_t *bias)
{
    entry_of(list, n, bias->token)->bias += bias->bias;
}

/* ---- Best candidates ------------------------------------------------------------------------- */

int sampler_compare_entries(const void *a, const void *b)
{
    return sampler_ranks_before(a, b) ? -1 : 1; /* no two are equal: tokens differ */
}

/* heap[0] is the entry that ranks last. */
static void heap_sink(entry_t *heap, size_t n, size_t i)
{
    for (;;) {
        size_t last = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++)
            if (sampler_ranks_before(&heap[last], &heap[child]))
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
    } else if (capacity > 0 && sampler_ranks_before(entry, &kept[0])) {
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

/* Few tokens were seen, and few are adjusted. */
static void apply_tokens(const sampler_params_t *params, bool is_f64,
    const sampler_tokens_t *tokens, size_t first_row, size_t begin, rows_t *rows)
{
    const uint8_t *seen = tokens->seen;
    for (size_t i = 0; i < rows->n && seen != NULL; i++)
        if (seen[(begin + i) / 8] == 0)
            i |= 7;
        else if (is_seen(seen, begin + i))
            rows->processed[i] =
                after_temperature(params, penalised(params, rows->logits[i], is_f64), is_f64);
    size_t n = tokens->n_adjusted, first = first_row + begin;
    for (size_t k = find_adjusted(tokens->adjusted, n, (int64_t)first);
         k < n && (size_t)tokens->adjusted[k].token < first + rows->n; k++) {
        size_t i = (size_t)tokens->adjusted[k].token - first;
        double logit = rows->logits[i];
        if (seen != NULL && is_seen(seen, begin + i))
            logit = penalised(params, logit, is_f64);
        rows->processed[i] = after_temperature(
            params, adjusted(params, logit, is_f64, &tokens->adjusted[k]), is_f64);
    }
}

static double logit_at(const void *logits, bool is_f64, size_t i)
{
    double logit = is_f64 ? ((const double *)logits)[i] : (double)((const float *)logits)[i];
    return isnan(logit) ? -INFINITY : logit;
}

/* logits and tokens: as for sampler_summarise, from row `begin` on. */
static void load_rows(const sampler_params_t *params, const void *logits, bool is_f64,
    const sampler_tokens_t *tokens, size_t first_row, size_t begin, rows_t *rows)
{
    for (size_t i = 0; i < rows->n && is_f64; i++)
        rows->logits[i] = logit_at(logits, true, begin + i);
    for (size_t i = 0; i < rows->n && !is_f64; i++)
        rows->logits[i] = logit_at(logits, false, begin + i);
    double temperature = sampler_is_greedy(params) ? 1 : params->temperature;
    rows->scores = temperature == 1 && tokens == NULL ? rows->logits : rows->processed;
    if (rows->scores == rows->logits)
        return;
    for (size_t i = 0; i < rows->n; i++)
        rows->processed[i] = temperature == 1 ? rows->logits[i]
                             : is_f64         ? rows->logits[i] / temperature
                                      : (double)((float)rows->logits[i] / (float)temperature);
    if (tokens != NULL)
        apply_tokens(params, is_f64, tokens, first_row, begin, rows);
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

/* Granules computed at once: chains of additions that overlap. */
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
    /* Most granules have no candidate; a tie loses to the lower ids in the list. */
    if (capacity == 0 || (*n_kept == capacity && !(max > kept[0].key)))
        return;
    for (size_t i = 0; i < rows->n; i++) {
        entry_t entry = {keys[i], rows->logits[i], (int64_t)(first_token + i)};
        keep_best(kept, n_kept, capacity, &entry);
    }
}

/* Rows from `begin` on, as many granules as are worked on at once. */
static void load_group(const sampler_params_t *params, const void *logits, bool is_f64,
    const sampler_tokens_t *tokens, size_t first_row, size_t begin, size_t n_rows, group_t *group)
{
    group->count = 0;
    for (; begin < n_rows && group->count < TOGETHER; begin += PLAN_VOCAB_GRANULE) {
        size_t g = group->count++;
        rows_t *rows = &group->rows[g];
        rows->n = size_min(PLAN_VOCAB_GRANULE, n_rows - begin);
        load_rows(params, logits, is_f64, tokens, first_row, begin, rows);
        group->max_logits[g] = max_of(rows->logits, rows->n);
        group->max_scores[g] =
            rows->scores == rows->logits ? group->max_logits[g] : max_of(rows->scores, rows->n);
    }
}

/* The most common cases, one pass over the raw logits: the likeliest token, and its log-probability
 * where that is wanted. */
static bool is_plain(const sampler_params_t *params, bool is_f64, const sampler_tokens_t *tokens)
{
    return sampler_is_greedy(params) && params->n_logprobs == 0 && !is_f64 && tokens == NULL;
}

/* The first of the largest logits, in blocks so that compilers use vectors; a NaN is never larger. */
static size_t first_of_largest(const float *logits, size_t n, float *largest)
{
    enum { LANES = 16, BLOCK = 1024 };
    size_t at = 0;
    *largest = -INFINITY;
    for (size_t begin = 0; begin < n; begin += BLOCK) {
        float lanes[LANES];
        const float *block = logits + begin;
        size_t here = size_min(BLOCK, n - begin), whole = here / LANES * LANES;
        for (size_t j = 0; j < LANES; j++)
            lanes[j] = *largest;
        for (size_t i = 0; i < whole; i += LANES)
            for (size_t j = 0; j < LANES; j++)
                lanes[j] = block[i + j] > lanes[j] ? block[i + j] : lanes[j];
        for (size_t i = whole; i < here; i++)
            lanes[0] = block[i] > lanes[0] ? block[i] : lanes[0];
        for (size_t j = 1; j < LANES; j++)
            lanes[0] = lanes[j] > lanes[0] ? lanes[j] : lanes[0];
        if (lanes[0] > *largest) {
            *largest = lanes[0];
            at = begin;
        }
    }
    while (*largest > -INFINITY && logits[at] != *largest)
        at++;
    return at;
}

static void summarise_plain(const kernels_t *kernels, const float *logits, size_t first_row,
    size_t n_rows, const view_t *view)
{
    const granule_t *granules = view->logit_granules;
    size_t best = 0;
    if (view->layout.n_logit_granules == 0) {
        float largest;
        size_t token = first_row + first_of_largest(logits, n_rows, &largest);
        view->candidates[0] = (entry_t){(double)largest, (double)largest, (int64_t)token};
        return;
    }
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
    bool is_f64, size_t first_row, size_t n_rows, const sampler_tokens_t *tokens, void *summary)
{
    assert(first_row % PLAN_VOCAB_GRANULE == 0);
    view_t view = sampler_view_of(params, n_rows, summary);
    const layout_t *layout = &view.layout;
    size_t n_candidates = 0, n_alternatives = 0, n_done = 0;
    group_t group;
    bool plain = n_rows > 0 && is_plain(params, is_f64, tokens);
    if (plain)
        summarise_plain(kernels, logits, first_row, n_rows, &view);
    for (size_t begin = 0; !plain && begin < n_rows; n_done += group.count) {
        load_group(params, logits, is_f64, tokens, first_row, begin, n_rows, &group);
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
    qsort(view.candidates, n_candidates, sizeof(entry_t), sampler_compare_entries);
    qsort(view.alternatives, n_alternatives, sizeof(entry_t), sampler_compare_entries);
}

void sampler_rank_all(const sampler_params_t *params, const void *logits, bool is_f64,
    size_t vocab_size, const sampler_tokens_t *tokens, sampler_place_t *places, entry_t *entries)
{
    rows_t rows;
    for (size_t begin = 0; begin < vocab_size; begin += PLAN_VOCAB_GRANULE) {
        rows.n = size_min(PLAN_VOCAB_GRANULE, vocab_size - begin);
        load_rows(params, logits, is_f64, tokens, 0, begin, &rows);
        for (size_t i = 0; i < rows.n; i++)
            places[begin + i] = sampler_place_of(rows.scores[i], begin + i);
    }
    const sampler_place_t *sorted = sampler_sort(places, places + vocab_size, vocab_size);
    for (size_t i = 0; i < vocab_size; i++)
        entries[i] = (entry_t){sampler_place_score(&sorted[i]),
            logit_at(logits, is_f64, sorted[i].token), (int64_t)sorted[i].token};
}
