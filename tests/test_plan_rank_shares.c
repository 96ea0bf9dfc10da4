/* Plans over ranks of different weight: granules and heads go out in proportion. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/plan_cases.h"

static const plan_shape_t qwen_7b = {3584, 18944, 28, 28, 4, 128, 152064, false, 2, 2};

static const size_t share_sets[][6] = {{2, 1}, {1, 3}, {3, 1, 1}, {2, 1, 1}, {1, 0, 2},
    {5, 5, 5, 2}, {0, 0, 0, 1}, {1, 2, 3, 4, 5}, {7, 1, 0, 1, 7, 3}, {1000, 1},
    {999, 1000, 1, 0, 500, 333}};
static const size_t share_counts[] = {2, 2, 3, 3, 3, 4, 4, 5, 6, 2, 6};

static plan_t open_shares(const plan_shape_t *model, plan_combine_t combine, size_t set)
{
    const plan_model_t sizes = plan_sizes(model);
    plan_t plan;
    fail_t fail = {0};
    assert_int_equal(
        plan_open_shares(&plan, &sizes, combine, share_counts[set], share_sets[set], &fail), 0);
    return plan;
}

static void for_each_plan(void (*check)(const plan_t *plan))
{
    for (size_t m = 0; m < N_PLAN_MODELS; m++) {
        for (size_t set = 0; set < COUNT(share_sets); set++) {
            for (int combine = PLAN_GATHER; combine <= PLAN_REDUCE; combine++) {
                plan_t plan = open_shares(&plan_models[m], (plan_combine_t)combine, set);
                check(&plan);
                plan_close(&plan);
            }
        }
    }
}

static size_t total_share(const plan_t *plan)
{
    size_t total = 0;
    for (size_t r = 0; r < plan->n_ranks; r++)
        total += plan->rank_shares[r];
    return total;
}

/* Within a granule; nothing for a weight of 0. */
static void check_granules_by_weight(const plan_t *plan)
{
    size_t total = total_share(plan);
    for (part_t part = HIDDEN; part < PARTS; part++) {
        size_t granule = granule_of(part), items = items_of(&plan->model, part);
        size_t all = (items + granule - 1) / granule;
        for (size_t r = 0; r < plan->n_ranks; r++) {
            plan_range_t range = part_of(&plan->shares[r], part);
            size_t granules = (plan_count(range) + granule - 1) / granule;
            assert_true(range.begin % granule == 0 || range.begin == items);
            assert_true(granules * total + total > all * plan->rank_shares[r]);
            assert_true(granules * total <= all * plan->rank_shares[r] + total);
            assert_true(plan->rank_shares[r] != 0 || granules == 0);
        }
    }
}

static void a_rank_of_weight_0_owns_nothing(const plan_t *plan)
{
    for (size_t r = 0; r < plan->n_ranks; r++) {
        for (part_t part = 0; part < PARTS && plan->rank_shares[r] == 0; part++)
            assert_int_equal(plan_count(part_of(&plan->shares[r], part)), 0);
        if (plan->rank_shares[r] == 0)
            assert_int_equal(plan_kv_bytes_per_token(plan, r), 0);
    }
}

static void weights_decide_how_many_granules(void **state)
{
    (void)state;
    for_each_plan(check_cover);
    for_each_plan(check_kv);
    for_each_plan(check_granules_by_weight);
    for_each_plan(a_rank_of_weight_0_owns_nothing);
}

/* The largest number of rows of q, k and v by weight, and KV heads in total, of a way to cut. */
typedef struct cut {
    double most;
    size_t copies;
} cut_t;

static cut_t judge_cut(const plan_t *plan, const size_t *ends)
{
    cut_t cut = {0};
    size_t group = plan->model.n_heads / plan->model.n_kv_heads, begin = 0;
    for (size_t r = 0; r < plan->n_ranks; begin = ends[r++]) {
        size_t kv = ends[r] == begin ? 0 : (ends[r] - 1) / group - begin / group + 1;
        double rows = (double)(ends[r] - begin + 2 * kv);
        if (rows > 0 && rows > cut.most * (double)plan->rank_shares[r])
            cut.most = rows / (double)plan->rank_shares[r];
        cut.copies += kv;
    }
    return cut;
}

/* The best of all ways to end the runs of ranks from `rank` on. */
static void best_cut(const plan_t *plan, size_t rank, size_t *ends, cut_t *best)
{
    size_t begin = rank == 0 ? 0 : ends[rank - 1];
    if (rank + 1 < plan->n_ranks) {
        for (ends[rank] = begin; ends[rank] <= plan->model.n_heads; ends[rank]++)
            best_cut(plan, rank + 1, ends, best);
        return;
    }
    ends[rank] = plan->model.n_heads;
    cut_t cut = judge_cut(plan, ends);
    if (cut.most < best->most || (cut.most == best->most && cut.copies < best->copies))
        *best = cut;
}

static void no_cut_of_the_heads_suits_the_weights_better(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_PLAN_MODELS; m++) {
        for (size_t set = 0; set < COUNT(share_sets); set++) {
            if (plan_models[m].n_heads > 28 && share_counts[set] > 4)
                continue; /* too many ways */
            plan_t plan = open_shares(&plan_models[m], PLAN_GATHER, set);
            size_t ends[6];
            cut_t best = {INFINITY, SIZE_MAX};
            best_cut(&plan, 0, ends, &best);
            for (size_t r = 0; r < plan.n_ranks; r++)
                ends[r] = plan.shares[r].heads.end;
            cut_t chosen = judge_cut(&plan, ends);
            assert_true(chosen.most == best.most);
            assert_int_equal(chosen.copies, best.copies);
            plan_close(&plan);
        }
    }
}

static void weights_that_are_alike_change_nothing(void **state)
{
    (void)state;
    static const size_t sevens[] = {7, 7, 7, 7, 7};
    for (size_t m = 0; m < N_PLAN_MODELS; m++) {
        for (size_t n = 1; n <= COUNT(sevens); n++) {
            plan_t even = open_plan(&plan_models[m], PLAN_GATHER, n), plan;
            fail_t fail = {0};
            const plan_model_t sizes = plan_sizes(&plan_models[m]);
            plan_open_shares(&plan, &sizes, PLAN_GATHER, n, sevens, &fail);
            assert_int_equal(fail.status, 0);
            assert_null(plan.rank_shares);
            assert_memory_equal(plan.shares, even.shares, n * sizeof *plan.shares);
            plan_close(&plan);
            plan_close(&even);
        }
    }
}

static void the_table_shows_what_was_asked_for(void **state)
{
    (void)state;
    char text[4096] = "";
    FILE *out = fmemopen(text, sizeof text, "w");
    plan_t plan = open_shares(&plan_models[3], PLAN_GATHER, 9); /* 1000,1 */
    assert_non_null(out);
    plan_print(&plan, out);
    plan_close(&plan);
    fclose(out);
    assert_non_null(strstr(text, "shares in %"));
    assert_non_null(strstr(text, "    1      0.1      0.0"));
    assert_null(strstr(text, "do not divide as asked"));
    out = fmemopen(text, sizeof text, "w");
    assert_non_null(out);
    plan = open_shares(&plan_models[9], PLAN_GATHER, 0); /* one head, 2,1 */
    plan_print(&plan, out);
    plan_close(&plan);
    fclose(out);
    assert_non_null(strstr(text, "1 query heads on 1 KV heads do not divide as asked"));
}

static void impossible_weights_are_refused(void **state)
{
    (void)state;
    static const size_t zeros[] = {0, 0}, large[] = {1, 1001};
    plan_t plan;
    fail_t fail = {0};
    const plan_model_t sizes = plan_sizes(&qwen_7b);
    assert_int_equal(plan_open_shares(&plan, &sizes, PLAN_GATHER, 2, zeros, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "above 0"));
    fail = (fail_t){0};
    assert_int_equal(plan_open_shares(&plan, &sizes, PLAN_GATHER, 2, large, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "1001"));
    plan_shape_t model = qwen_7b;
    static const size_t uneven[] = {1, 2};
    model.n_heads = (size_t)1 << 30;
    model.n_kv_heads = 1;
    model.head_dim = model.hidden = 1;
    const plan_model_t large_sizes = plan_sizes(&model);
    fail = (fail_t){0};
    assert_int_equal(
        plan_open_shares(&plan, &large_sizes, PLAN_GATHER, 2, uneven, &fail), FAIL_LIMIT);
    assert_non_null(strstr(fail.message, "1073741824"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_decide_how_many_granules),
        cmocka_unit_test(no_cut_of_the_heads_suits_the_weights_better),
        cmocka_unit_test(weights_that_are_alike_change_nothing),
        cmocka_unit_test(the_table_shows_what_was_asked_for),
        cmocka_unit_test(impossible_weights_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
