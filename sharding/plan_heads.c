#include "sharding/plan_heads.h"

#include <stdint.h>
#include <stdlib.h>

#include "engine/base/size.h"

/* Heads times ranks that a search for uneven shares may have. */
#define MOST_CHOICES ((size_t)1 << 26)
/* Rows by share are compared in steps of less than 1/(a*b) for any two shares a and b, so two
 * different values are never taken for the same. */
#define SCALE ((size_t)1 << 20)

/* ---- Even shares ----------------------------------------------------------------------------- */

/* KV heads that a run of query heads reads. */
static plan_range_t kv_heads_of(plan_range_t heads, size_t group)
{
    if (plan_count(heads) == 0)
        return (plan_range_t){heads.begin / group, heads.begin / group};
    return (plan_range_t){heads.begin / group, (heads.end - 1) / group + 1};
}

/* More ranks than heads: one head each, the ranks without one spread evenly, so that nodes of
 * consecutive ranks are equal. */
static void spread_heads(plan_t *plan)
{
    size_t n_heads = plan->model.n_heads, n_ranks = plan->n_ranks;
    for (size_t r = 0; r < n_ranks; r++)
        plan->shares[r].heads = (plan_range_t){r * n_heads / n_ranks, (r + 1) * n_heads / n_ranks};
}

/* Runs of `base` or `base + 1` heads, `extra` of the latter. Which ranks get the longer runs
 * decides where the runs begin, and so how many KV heads they touch. */
typedef struct run_search {
    size_t n_ranks, base, extra, group;
    size_t *copies; /* [extra + 1] fewest KV heads in total, by longer runs used so far */
    uint8_t
        *longer; /* [n_ranks, extra + 1] whether the best way to get here ends in a longer run */
} run_search_t;

/* KV heads in total when a run is added to ranks that touch `copies`; SIZE_MAX means
 * "impossible". */
static size_t add_run(const run_search_t *search, size_t copies, size_t begin, size_t length)
{
    if (copies == SIZE_MAX)
        return SIZE_MAX;
    return copies + plan_count(kv_heads_of((plan_range_t){begin, begin + length}, search->group));
}

/* Dynamic programming over (rank, longer runs used so far). */
static void search_runs(run_search_t *search)
{
    size_t base = search->base, extra = search->extra;
    for (size_t e = 0; e <= extra; e++)
        search->copies[e] = e == 0 ? 0 : SIZE_MAX;
    for (size_t r = 0; r < search->n_ranks; r++) {
        /* Downwards, so that copies[e - 1] is still that of the ranks before. */
        for (size_t e = extra + 1; e-- > 0;) {
            size_t shorter = add_run(search, search->copies[e], r * base + e, base);
            size_t longer = SIZE_MAX;
            if (e > 0)
                longer = add_run(search, search->copies[e - 1], r * base + e - 1, base + 1);
            search->longer[r * (extra + 1) + e] = longer <= shorter && longer != SIZE_MAX;
            search->copies[e] = size_min(shorter, longer);
        }
    }
}

/* At least as many heads as ranks: among the ways to make runs that differ by at most one head, one
 * that copies the fewest KV heads. */
static int divide_evenly(plan_t *plan, fail_t *fail)
{
    const plan_model_t *model = &plan->model;
    run_search_t search = {.n_ranks = plan->n_ranks,
        .base = model->n_heads / plan->n_ranks,
        .extra = model->n_heads % plan->n_ranks,
        .group = model->n_heads / model->n_kv_heads};
    search.copies = malloc((search.extra + 1) * sizeof *search.copies);
    search.longer = malloc((search.extra + 1) * plan->n_ranks);
    if (search.copies == NULL || search.longer == NULL) {
        fail_set(fail, FAIL_MEMORY, "plan: no memory to divide %zu heads among %zu ranks",
            model->n_heads, plan->n_ranks);
    } else {
        search_runs(&search);
        size_t end = model->n_heads, e = search.extra;
        for (size_t r = plan->n_ranks; r-- > 0;) {
            size_t longer = search.longer[r * (search.extra + 1) + e];
            size_t begin = end - search.base - longer;
            plan->shares[r].heads = (plan_range_t){begin, end};
            end = begin;
            e -= longer;
        }
    }
    free(search.copies);
    free(search.longer);
    return fail->status;
}

/* ---- Shares by share ------------------------------------------------------------------------ */

/* Rows of q, k and v, in heads, that a run of query heads needs. */
static size_t rows_of(size_t begin, size_t end, size_t group)
{
    plan_range_t heads = {begin, end};
    return plan_count(heads) + 2 * plan_count(kv_heads_of(heads, group));
}

/* Whether a rank of this share may have these rows; limit: rows by share, times SCALE. */
static bool allowed(size_t rows, size_t share, size_t limit)
{
    return rows * SCALE <= limit * share;
}

/* The end of the longest run that is allowed. */
static size_t longest_run(const plan_t *plan, size_t rank, size_t begin, size_t limit)
{
    size_t group = plan->model.n_heads / plan->model.n_kv_heads, end = begin;
    while (end < plan->model.n_heads &&
           allowed(rows_of(begin, end + 1, group), plan->rank_shares[rank], limit))
        end++;
    return end;
}

/* Whether the heads can be cut within the limit. Taking the longest run each time leaves the least
 * to the others, so it finds a way if there is one. */
static bool can_cut(const plan_t *plan, size_t limit)
{
    size_t begin = 0;
    for (size_t r = 0; r < plan->n_ranks && begin < plan->model.n_heads; r++)
        begin = longest_run(plan, r, begin, limit);
    return begin == plan->model.n_heads;
}

/* The least of the limits within which the heads can be cut. */
static size_t least_limit(const plan_t *plan)
{
    size_t impossible = 0, possible = 3 * plan->model.n_heads * SCALE;
    while (possible - impossible > 1) {
        size_t middle = impossible + (possible - impossible) / 2;
        if (can_cut(plan, middle))
            possible = middle;
        else
            impossible = middle;
    }
    return possible;
}

/* What a way to cut costs: KV heads in total, then how far the runs are from the shares. */
typedef struct cut_cost {
    size_t copies, distance;
} cut_cost_t;

static bool is_less(cut_cost_t a, cut_cost_t b)
{
    return a.copies != b.copies ? a.copies < b.copies : a.distance < b.distance;
}

static size_t distance(size_t a, size_t b)
{
    return a > b ? a - b : b - a;
}

typedef struct cut_search {
    const plan_t *plan;
    size_t limit, total; /* total: of all shares */
    cut_cost_t *costs;   /* [2, n_heads + 1] of the best way to give so many heads to the ranks
                          * before, and to those with this one; copies SIZE_MAX: no way */
    uint16_t *lengths;   /* [n_ranks, n_heads + 1] the last run of that way */
} cut_search_t;

static const cut_cost_t no_way = {SIZE_MAX, SIZE_MAX};

/* Adds a rank to all ways to cut. */
static void search_rank(cut_search_t *search, size_t rank)
{
    const plan_t *plan = search->plan;
    size_t n_heads = plan->model.n_heads, group = n_heads / plan->model.n_kv_heads;
    cut_cost_t *before = search->costs + (rank % 2) * (n_heads + 1);
    cut_cost_t *with = search->costs + ((rank + 1) % 2) * (n_heads + 1);
    for (size_t h = 0; h <= n_heads; h++)
        with[h] = no_way;
    for (size_t begin = 0; begin <= n_heads; begin++) {
        if (before[begin].copies == SIZE_MAX)
            continue;
        size_t last = longest_run(plan, rank, begin, search->limit);
        for (size_t end = begin; end <= last; end++) {
            cut_cost_t cost = before[begin];
            cost.copies += plan_count(kv_heads_of((plan_range_t){begin, end}, group));
            cost.distance +=
                distance((end - begin) * search->total, n_heads * plan->rank_shares[rank]);
            if (!is_less(cost, with[end]))
                continue;
            with[end] = cost;
            search->lengths[rank * (n_heads + 1) + end] = (uint16_t)(end - begin);
        }
    }
}

static void cut_heads(cut_search_t *search, plan_share_t *shares)
{
    const plan_t *plan = search->plan;
    size_t n_heads = plan->model.n_heads, end = n_heads;
    for (size_t h = 0; h <= n_heads; h++)
        search->costs[h] = no_way;
    search->costs[0] = (cut_cost_t){0, 0};
    for (size_t r = 0; r < plan->n_ranks; r++)
        search_rank(search, r);
    for (size_t r = plan->n_ranks; r-- > 0;) {
        size_t begin = end - search->lengths[r * (n_heads + 1) + end];
        shares[r].heads = (plan_range_t){begin, end};
        end = begin;
    }
}

static int divide_by_share(plan_t *plan, fail_t *fail)
{
    size_t n_heads = plan->model.n_heads;
    if (n_heads > UINT16_MAX || plan->n_ranks > MOST_CHOICES / (n_heads + 1))
        return fail_set(fail, FAIL_LIMIT,
            "plan: uneven shares: expected at most %zu ranks times query heads, found %zu times %zu",
            MOST_CHOICES, plan->n_ranks, n_heads);
    cut_search_t search = {.plan = plan, .limit = least_limit(plan)};
    for (size_t r = 0; r < plan->n_ranks; r++)
        search.total += plan->rank_shares[r];
    search.costs = malloc(2 * (n_heads + 1) * sizeof *search.costs);
    search.lengths = calloc(plan->n_ranks * (n_heads + 1), sizeof *search.lengths);
    if (search.costs == NULL || search.lengths == NULL)
        fail_set(fail, FAIL_MEMORY, "plan: no memory to divide %zu heads among %zu ranks", n_heads,
            plan->n_ranks);
    else
        cut_heads(&search, plan->shares);
    free(search.costs);
    free(search.lengths);
    return fail->status;
}

int plan_divide_heads(plan_t *plan, fail_t *fail)
{
    const plan_model_t *model = &plan->model;
    if (plan->rank_shares != NULL)
        divide_by_share(plan, fail);
    else if (plan->n_ranks > model->n_heads)
        spread_heads(plan);
    else
        divide_evenly(plan, fail);
    for (size_t r = 0; r < plan->n_ranks; r++)
        plan->shares[r].kv_heads =
            kv_heads_of(plan->shares[r].heads, model->n_heads / model->n_kv_heads);
    return fail->status;
}
