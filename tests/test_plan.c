/* Plans over many shapes and rank counts: every item has one owner, shares are even, and the
 * figures add up. */
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

static const plan_shape_t qwen_05b = {896, 4864, 24, 14, 2, 64, 151936, true, 2, 2};
static const plan_shape_t qwen_7b = {3584, 18944, 28, 28, 4, 128, 152064, false, 2, 2};
static const plan_shape_t odd = {240, 200, 3, 6, 3, 40, 1009, false, 4, 4};

static const size_t rank_counts[] = {
    1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 24, 28, 31, 32, 33, 64, 100, 256, 1023, 4096};

static void for_each_plan(void (*check)(const plan_t *plan))
{
    for (size_t m = 0; m < N_PLAN_MODELS; m++) {
        for (size_t n = 0; n < COUNT(rank_counts); n++) {
            for (int combine = PLAN_GATHER; combine <= PLAN_REDUCE; combine++) {
                plan_t plan = open_plan(&plan_models[m], (plan_combine_t)combine, rank_counts[n]);
                check(&plan);
                plan_close(&plan);
            }
        }
    }
}

static void every_item_has_exactly_one_owner(void **state)
{
    (void)state;
    for_each_plan(check_cover);
}

static void check_even(const plan_t *plan)
{
    for (part_t part = 0; part < PARTS; part++) {
        size_t granule = granule_of(part), least = SIZE_MAX, most = 0;
        for (size_t r = 0; r < plan->n_ranks; r++) {
            plan_range_t range = part_of(&plan->shares[r], part);
            assert_true(range.begin % granule == 0 || range.begin == items_of(&plan->model, part));
            size_t granules = (plan_count(range) + granule - 1) / granule;
            least = granules < least ? granules : least;
            most = granules > most ? granules : most;
        }
        assert_true(most - least <= 1);
    }
}

static void shares_differ_by_at_most_one_granule(void **state)
{
    (void)state;
    for_each_plan(check_even);
}

static void ranks_hold_just_the_kv_heads_of_their_query_heads(void **state)
{
    (void)state;
    for_each_plan(check_kv);
}

/* Most KV heads on a rank, and KV heads in total, of runs in which bit r of longer makes rank r's
 * longer. */
static void count_kv(const plan_t *plan, unsigned longer, size_t *most, size_t *total)
{
    size_t group = plan->model.n_heads / plan->model.n_kv_heads, begin = 0;
    *most = *total = 0;
    for (size_t r = 0; r < plan->n_ranks; r++) {
        size_t length = plan->model.n_heads / plan->n_ranks + (longer >> r & 1);
        size_t kv = (begin + length - 1) / group - begin / group + 1;
        *most = kv > *most ? kv : *most;
        *total += kv;
        begin += length;
    }
}

static void no_arrangement_of_runs_copies_fewer_kv_heads(void **state)
{
    (void)state;
    static const size_t heads[][2] = {
        {14, 2}, {12, 2}, {16, 2}, {28, 4}, {40, 8}, {30, 5}, {13, 1}, {21, 7}, {24, 8}, {36, 4}};
    for (size_t i = 0; i < COUNT(heads); i++) {
        plan_shape_t model = qwen_7b;
        model.n_heads = heads[i][0];
        model.n_kv_heads = heads[i][1];
        for (size_t n = 1; n <= 12; n++) {
            plan_t plan = open_plan(&model, PLAN_GATHER, n);
            unsigned chosen = 0;
            for (size_t r = 0; r < n; r++)
                chosen |= (unsigned)(plan_count(plan.shares[r].heads) - model.n_heads / n) << r;
            size_t most, total, best_most = SIZE_MAX, best_total = SIZE_MAX;
            for (unsigned longer = 0; longer < 1u << n; longer++) {
                count_kv(&plan, longer, &most, &total);
                if ((size_t)__builtin_popcount(longer) != model.n_heads % n)
                    continue;
                if (most < best_most || (most == best_most && total < best_total)) {
                    best_most = most;
                    best_total = total;
                }
            }
            count_kv(&plan, chosen, &most, &total);
            assert_int_equal(most, best_most);
            assert_int_equal(total, best_total);
            plan_close(&plan);
        }
    }
}

static void check_28_heads(size_t n_ranks, size_t most_heads, size_t most_kv, size_t total_kv)
{
    plan_t plan = open_plan(&qwen_7b, PLAN_GATHER, n_ranks);
    size_t heads = 0, kv = 0, total = 0;
    for (size_t r = 0; r < n_ranks; r++) {
        size_t n = plan_count(plan.shares[r].heads), n_kv = plan_count(plan.shares[r].kv_heads);
        heads = n > heads ? n : heads;
        kv = n_kv > kv ? n_kv : kv;
        total += n_kv;
    }
    assert_int_equal(heads, most_heads);
    assert_int_equal(kv, most_kv);
    assert_int_equal(total, total_kv);
    plan_close(&plan);
}

static void heads_of_the_7b_model_divide_well_over_awkward_rank_counts(void **state)
{
    (void)state;
    check_28_heads(1, 28, 4, 4);
    check_28_heads(2, 14, 2, 4);
    check_28_heads(3, 10, 2, 6);
    check_28_heads(4, 7, 1, 4);
    check_28_heads(5, 6, 2, 8);
    check_28_heads(7, 4, 2, 10);
    check_28_heads(8, 4, 1, 8); /* 4 + 3 heads for each KV head: nothing straddles */
    check_28_heads(32, 1, 1, 28);
}

static void ranks_without_heads_are_spread_and_carry_the_rest(void **state)
{
    (void)state;
    plan_t plan = open_plan(&qwen_7b, PLAN_GATHER, 32);
    for (size_t node = 0; node < 4; node++) {
        size_t heads = 0;
        for (size_t r = node * 8; r < node * 8 + 8; r++) {
            heads += plan_count(plan.shares[r].heads);
            assert_true(plan_count(plan.shares[r].columns) > 0);
            assert_true(plan_count(plan.shares[r].vocab) > 0);
        }
        assert_int_equal(heads, 7);
    }
    plan_close(&plan);
}

static void left_over_granules_go_to_the_ranks_with_least(void **state)
{
    (void)state;
    /* 18944 / 16 = 1184 granules over 7 ranks: 169 each and 1 over; 28 / 7 heads each, but ranks
     * that straddle two KV heads hold more k and v. The odd granule must not land on such a rank.
     */
    plan_t plan = open_plan(&qwen_7b, PLAN_GATHER, 7);
    for (size_t r = 0; r < 7; r++)
        if (plan_count(plan.shares[r].columns) == 170 * PLAN_GRANULE)
            assert_int_equal(plan_count(plan.shares[r].kv_heads), 1);
    plan_close(&plan);
    plan = open_plan(&qwen_05b, PLAN_GATHER, 16);
    for (size_t r = 0; r < 16; r++)
        if (plan_count(plan.shares[r].heads) == 0)
            assert_true(plan_count(plan.shares[r].hidden) == 4 * PLAN_GRANULE);
    plan_close(&plan);
}

static void check_owner(const plan_t *plan)
{
    size_t vocab = plan->model.vocab_size;
    for (size_t row = 0; row < vocab; row += row % 64 == 62 || vocab < 3000 ? 1 : 31) {
        plan_range_t range = plan->shares[plan_vocab_owner(plan, row)].vocab;
        assert_true(range.begin <= row && row < range.end);
    }
    plan_range_t last = plan->shares[plan_vocab_owner(plan, vocab - 1)].vocab;
    assert_true(last.begin <= vocab - 1 && vocab - 1 < last.end);
}

static void the_owner_of_a_vocabulary_row_holds_it(void **state)
{
    (void)state;
    for_each_plan(check_owner);
}

static void one_rank_holds_the_published_number_of_parameters(void **state)
{
    (void)state;
    plan_t plan = open_plan(&qwen_05b, PLAN_GATHER, 1);
    assert_int_equal(plan_weight_bytes(&plan, 0), 2 * UINT64_C(494032768));
    assert_int_equal(plan_kv_bytes_per_token(&plan, 0), 24 * 2 * 64 * 2 * 2);
    plan_close(&plan);
    plan = open_plan(&qwen_7b, PLAN_REDUCE, 1);
    assert_int_equal(plan_weight_bytes(&plan, 0), 2 * UINT64_C(7615616512));
    plan_close(&plan);
}

static void weight_bytes_count_padding_biases_and_norms(void **state)
{
    (void)state;
    /* hidden 240, MLP 200, 6 heads, 3 KV heads of 40, vocabulary 1009, f32, one rank: 120, 200
     * and 1009 need padding. */
    size_t layer = (240 + 2 * 128) * (240 + 1) + 2 * 208 * 240 + 240 * 240 + 240 * 200 + 2 * 240;
    size_t expected = (3 * layer + 2 * 1024 * 240 + 240) * 4;
    plan_t plan = open_plan(&odd, PLAN_GATHER, 1);
    assert_int_equal(plan_weight_bytes(&plan, 0), expected);
    plan_close(&plan);
    /* Odd inputs of 16-bit weights are padded to pairs. */
    plan_shape_t model = {65, 17, 1, 1, 1, 2, 10, true, 2, 2};
    layer = 3 * 16 * (66 + 1) + 2 * 32 * 66 + 80 * 2 + 80 * 18 + 2 * 80;
    plan = open_plan(&model, PLAN_GATHER, 1);
    assert_int_equal(plan_weight_bytes(&plan, 0), (layer + 16 * 66 + 80) * 2);
    plan_close(&plan);
}

static void weights_of_all_ranks_add_up_when_nothing_is_copied_or_padded(void **state)
{
    (void)state;
    plan_t one = open_plan(&qwen_7b, PLAN_GATHER, 1);
    size_t norms = (28 * 2 + 1) * 3584 * 2;
    for (int combine = PLAN_GATHER; combine <= PLAN_REDUCE; combine++) {
        plan_t plan = open_plan(&qwen_7b, (plan_combine_t)combine, 4);
        size_t sum = 0;
        for (size_t r = 0; r < 4; r++)
            sum += plan_weight_bytes(&plan, r) - norms;
        assert_int_equal(sum, plan_weight_bytes(&one, 0) - norms);
        plan_close(&plan);
    }
    plan_close(&one);
}

static void check_balance(const plan_t *plan)
{
    /* A rank holds at most its even part, one granule of each kind, one run's excess and a copied
     * KV head. */
    const plan_model_t *m = &plan->model;
    plan_t one;
    fail_t fail = {0};
    assert_int_equal(plan_open(&one, m, plan->combine, 1, &fail), 0);
    size_t granule =
        m->n_layers * m->cache_bytes *
        (PLAN_GRANULE * (m->n_heads * m->head_dim + 4 * m->intermediate) +
            4 * PLAN_GRANULE * (m->hidden + 1) + 4 * (m->head_dim + 16) * (m->hidden + 1));
    granule += 2 * PLAN_VOCAB_GRANULE * (m->hidden + 1) * m->cache_bytes;
    size_t norms = (m->n_layers * 2 + 1) * m->hidden * m->cache_bytes;
    for (size_t r = 0; r < plan->n_ranks; r++)
        assert_true(plan_weight_bytes(plan, r) <=
                    plan_weight_bytes(&one, 0) / plan->n_ranks + norms + 3 * granule);
    plan_close(&one);
}

static void no_rank_holds_more_than_its_part_and_a_granule(void **state)
{
    (void)state;
    for_each_plan(check_balance);
}

static void largest_share_of_bytes_stays_near_the_mean(void **state)
{
    (void)state;
    static const size_t ranks[] = {2, 3, 4, 5, 7, 8, 16, 32};
    for (size_t i = 0; i < COUNT(ranks); i++) {
        plan_t plan = open_plan(&qwen_7b, PLAN_GATHER, ranks[i]);
        double most = 0, sum = 0;
        for (size_t r = 0; r < ranks[i]; r++) {
            double bytes = (double)plan_weight_bytes(&plan, r);
            most = bytes > most ? bytes : most;
            sum += bytes;
        }
        assert_true(most * (double)ranks[i] / sum < 1.03);
        plan_close(&plan);
    }
}

static void gathers_receive_what_the_others_own(void **state)
{
    (void)state;
    plan_t plan = open_plan(&qwen_7b, PLAN_GATHER, 4);
    size_t layer = 3 * (3584 + 3584 + 18944 + 3584) / 4;
    for (size_t r = 0; r < 4; r++)
        assert_int_equal(plan_exchange_bytes_per_token(&plan, r, 2), (3584 + 28 * layer) * 2);
    plan_close(&plan);
    plan = open_plan(&qwen_7b, PLAN_GATHER, 1);
    assert_int_equal(plan_exchange_bytes_per_token(&plan, 0, 2), 0);
    plan_close(&plan);
}

/* 4 ranks in nodes of 2, of 3 (the last is one rank), and in one. */
static void nodes_receive_what_other_nodes_own(void **state)
{
    (void)state;
    plan_t plan = open_plan(&qwen_7b, PLAN_GATHER, 4);
    size_t width = 3584 + 3584 + 18944 + 3584;
    assert_int_equal(plan_network_bytes_per_token(&plan, 0, 2, 2), (3584 + 28 * width / 2) * 2);
    assert_int_equal(plan_network_bytes_per_token(&plan, 2, 2, 2), (3584 + 28 * width / 2) * 2);
    assert_int_equal(plan_network_bytes_per_token(&plan, 0, 3, 2), (3584 + 28 * width / 4) * 2);
    assert_int_equal(plan_network_bytes_per_token(&plan, 3, 3, 2), (3584 + 28 * width * 3 / 4) * 2);
    assert_int_equal(plan_network_bytes_per_token(&plan, 0, 4, 2), 0);
    assert_int_equal(plan_network_bytes_per_token(&plan, 0, 9, 2), 0);
    plan_close(&plan);
    plan = open_plan(&qwen_7b, PLAN_REDUCE, 4);
    assert_int_equal(
        plan_network_bytes_per_token(&plan, 0, 2, 2), plan_exchange_bytes_per_token(&plan, 0, 2));
    plan_close(&plan);
}

static void reductions_receive_two_rings_of_f32_a_layer(void **state)
{
    (void)state;
    plan_t plan = open_plan(&qwen_7b, PLAN_REDUCE, 4);
    assert_int_equal(
        plan_exchange_bytes_per_token(&plan, 2, 2), 3584 * 2 + 28 * 2 * (2 * 3 * (3584 / 4)) * 4);
    assert_int_equal(
        plan_exchange_bytes_per_token(&plan, 2, 8), 3584 * 8 + 28 * 2 * (2 * 3 * (3584 / 4)) * 8);
    plan_close(&plan);
}

static void reduce_keeps_the_row_partition_of_gather(void **state)
{
    (void)state;
    for (size_t i = 0; i < 40 * N_PLAN_MODELS; i++) {
        size_t n = i % 40 + 1;
        plan_t gather = open_plan(&plan_models[i / 40], PLAN_GATHER, n);
        plan_t reduce = open_plan(&plan_models[i / 40], PLAN_REDUCE, n);
        for (size_t r = 0; r < n; r++)
            assert_memory_equal(
                &gather.shares[r].hidden, &reduce.shares[r].hidden, sizeof gather.shares[r].hidden);
        plan_close(&gather);
        plan_close(&reduce);
    }
}

static void expect_failure(const plan_shape_t *model, size_t n_ranks, int status,
    const char *object, const char *expected, const char *found)
{
    plan_t plan;
    fail_t fail = {0};
    const plan_model_t sizes = plan_sizes(model);
    assert_int_equal(plan_open(&plan, &sizes, PLAN_GATHER, n_ranks, &fail), status);
    assert_int_equal(fail.status, status);
    assert_non_null(strstr(fail.message, object));
    assert_non_null(strstr(fail.message, expected));
    assert_non_null(strstr(fail.message, found));
    plan_close(&plan);
}

static void impossible_plans_are_refused_with_their_reason(void **state)
{
    (void)state;
    expect_failure(&qwen_7b, 0, FAIL_USAGE, "number of ranks", "expected 1 to", "found 0");
    expect_failure(
        &qwen_7b, (size_t)1 << 40, FAIL_USAGE, "number of ranks", "expected 1 to", "1099511627776");
    plan_shape_t model = qwen_7b;
    model.n_kv_heads = 3;
    expect_failure(&model, 2, FAIL_MODEL, "query heads", "multiple of the 3 KV heads", "found 28");
    model = qwen_7b;
    model.intermediate = 0;
    expect_failure(&model, 2, FAIL_MODEL, "intermediate size", "at least 1", "found 0");
    model = qwen_7b;
    model.n_layers = 0;
    expect_failure(&model, 2, FAIL_MODEL, "number of layers", "at least 1", "found 0");
    model = qwen_7b;
    model.hidden = SIZE_MAX / 2;
    model.vocab_size = SIZE_MAX / 2;
    expect_failure(&model, 2, FAIL_MODEL, "model", "expected at most", "found");
}

static char *print_plan(const plan_t *plan)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    plan_print(plan, out);
    fclose(out);
    return text;
}

static void the_table_has_a_row_a_rank_and_the_ratios(void **state)
{
    (void)state;
    plan_t plan = open_plan(&qwen_7b, PLAN_GATHER, 5);
    char *text = print_plan(&plan);
    assert_non_null(strstr(text, "28 query heads and 4 KV heads of 128"));
    assert_non_null(strstr(text, "5 ranks, combined by gather"));
    for (int r = 0; r < 5; r++) {
        char row[64];
        snprintf(row, sizeof row, "\n%5d  %7zu  %8zu  %11zu", r, plan_count(plan.shares[r].heads),
            plan_count(plan.shares[r].kv_heads), plan_count(plan.shares[r].columns));
        assert_non_null(strstr(text, row));
    }
    assert_non_null(strstr(text, "largest/mean"));
    assert_non_null(strstr(text, "attention, query heads    1.071")); /* 6 of 28 over 5 ranks */
    assert_non_null(strstr(text, "o/down rows"));
    free(text);
    plan_close(&plan);
    plan = open_plan(&qwen_7b, PLAN_REDUCE, 2);
    text = print_plan(&plan);
    assert_non_null(strstr(text, "2 ranks, combined by reduce"));
    free(text);
    plan_close(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_has_exactly_one_owner),
        cmocka_unit_test(shares_differ_by_at_most_one_granule),
        cmocka_unit_test(ranks_hold_just_the_kv_heads_of_their_query_heads),
        cmocka_unit_test(no_arrangement_of_runs_copies_fewer_kv_heads),
        cmocka_unit_test(heads_of_the_7b_model_divide_well_over_awkward_rank_counts),
        cmocka_unit_test(ranks_without_heads_are_spread_and_carry_the_rest),
        cmocka_unit_test(left_over_granules_go_to_the_ranks_with_least),
        cmocka_unit_test(the_owner_of_a_vocabulary_row_holds_it),
        cmocka_unit_test(one_rank_holds_the_published_number_of_parameters),
        cmocka_unit_test(weight_bytes_count_padding_biases_and_norms),
        cmocka_unit_test(weights_of_all_ranks_add_up_when_nothing_is_copied_or_padded),
        cmocka_unit_test(no_rank_holds_more_than_its_part_and_a_granule),
        cmocka_unit_test(largest_share_of_bytes_stays_near_the_mean),
        cmocka_unit_test(gathers_receive_what_the_others_own),
        cmocka_unit_test(nodes_receive_what_other_nodes_own),
        cmocka_unit_test(reductions_receive_two_rings_of_f32_a_layer),
        cmocka_unit_test(reduce_keeps_the_row_partition_of_gather),
        cmocka_unit_test(impossible_plans_are_refused_with_their_reason),
        cmocka_unit_test(the_table_has_a_row_a_rank_and_the_ratios),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
