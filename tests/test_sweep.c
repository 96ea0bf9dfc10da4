/* What a sweep measures, and what speed-up, efficiency and serial fraction are. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/measure/sweep_runs.h"

static void expect(const sweep_list_t *list, size_t n, const size_t *items)
{
    assert_int_equal(list->n, n);
    assert_memory_equal(list->items, items, n * sizeof *items);
}

static void lists(void **state)
{
    sweep_t sweep;
    fail_t fail = {0};
    (void)state;
    assert_int_equal(sweep_parse("auto", 6, 4, 3, 512, &sweep, &fail), 0);
    expect(&sweep.ranks, 4, (size_t[]){1, 2, 4, 6});
    expect(&sweep.threads, 3, (size_t[]){1, 2, 4});
    expect(&sweep.replicas, 1, (size_t[]){1});
    expect(&sweep.batches, 1, (size_t[]){3});
    expect(&sweep.contexts, 1, (size_t[]){512});
    assert_true(sweep.scalings[SWEEP_STRONG] && !sweep.scalings[SWEEP_WEAK]);
    assert_int_equal(sweep_parse(" context=2048,128,128  ranks=2,1 mesh=1,2 batch=16 threads=1 "
                                 "scaling=weak,strong",
                         2, 2, 1, 1, &sweep, &fail),
        0);
    expect(&sweep.contexts, 2, (size_t[]){128, 2048});
    expect(&sweep.ranks, 2, (size_t[]){1, 2});
    expect(&sweep.replicas, 2, (size_t[]){1, 2});
    assert_true(sweep.scalings[SWEEP_STRONG] && sweep.scalings[SWEEP_WEAK]);
}

static void refused(void **state)
{
    const char *texts[] = {"ranks=3", "ranks=", "ranks=0", "ranks=1,", "ranks=1,,2", "rank=1",
        "batch=x", "batch=1x", "batch=-1", "batch=99999999999999999999", "scaling=strange",
        "scaling=", "1,2", "context=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
        "batch=1;context=2"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        sweep_t sweep;
        fail_t fail = {0};
        if (sweep_parse(texts[i], 2, 2, 1, 1, &sweep, &fail) != FAIL_USAGE)
            fail_msg("\"%s\": expected a failure", texts[i]);
        assert_non_null(strstr(fail.message, "--sweep"));
    }
}

/* 4 ranks on 2 nodes of 2 cores: no more threads than cores, no replicas of unequal size. */
static void parts(void **state)
{
    sweep_t sweep;
    sweep_part_t part;
    fail_t fail = {0};
    const size_t expected[][3] = {{1, 1, 1}, {1, 2, 1}, {2, 1, 1}, {2, 1, 2}, {4, 1, 1}, {4, 1, 2}};
    size_t i = 0;
    (void)state;
    assert_int_equal(sweep_parse("mesh=1,2", 4, 2, 1, 1, &sweep, &fail), 0);
    for (; sweep_part(&sweep, i, 2, 2, &part); i++) {
        assert_true(i < sizeof expected / sizeof *expected);
        assert_int_equal(part.ranks, expected[i][0]);
        assert_int_equal(part.threads, expected[i][1]);
        assert_int_equal(part.replicas, expected[i][2]);
    }
    assert_int_equal(i, sizeof expected / sizeof *expected);
}

static void batches(void **state)
{
    const sweep_part_t base = {1, 2, 1}, part = {4, 2, 2}, odd = {3, 1, 1};
    (void)state;
    assert_int_equal(sweep_batch(&base, &part, SWEEP_STRONG, 6), 3);
    assert_int_equal(sweep_batch(&base, &part, SWEEP_STRONG, 5), 0);
    assert_int_equal(sweep_batch(&base, &part, SWEEP_WEAK, 6), 12);
    assert_int_equal(sweep_batch(&base, &odd, SWEEP_WEAK, 2), 3);
    assert_int_equal(sweep_batch(&base, &odd, SWEEP_WEAK, 1), 0);
}

/* A tenth serial: on 4 cores 1 / (0.1 + 0.9 / 4) = 3.077 times as fast. */
static void gains(void **state)
{
    const sweep_part_t base = {1, 1, 1}, part = {2, 2, 1};
    sweep_gain_t gain = sweep_gain(&base, 10, &part, 10 / 0.325, SWEEP_STRONG);
    (void)state;
    assert_true(fabs(gain.speedup - 1 / 0.325) < 1e-12);
    assert_true(fabs(gain.efficiency - 0.25 / 0.325) < 1e-12);
    assert_true(gain.has_fraction && fabs(gain.serial_fraction - 0.1) < 1e-12);
    assert_false(sweep_gain(&base, 10, &part, 40, SWEEP_WEAK).has_fraction);
    gain = sweep_gain(&base, 10, &base, 10, SWEEP_STRONG);
    assert_true(!gain.has_fraction && gain.efficiency == 1);
}

static void runs_stand_for_one_row_or_two(void **state)
{
    static sweep_runs_t runs;
    const bench_options_t each = {.gen_tokens = 3, .repeat = 2}, fixed = {.prompt_tokens = 9};
    const sweep_part_t one = {.ranks = 1, .threads = 1, .replicas = 1};
    const sweep_part_t two = {.ranks = 2, .threads = 1, .replicas = 1};
    sweep_t sweep;
    fail_t fail = {0};
    (void)state;
    assert_int_equal(sweep_parse("context=10,20 batch=1,2 ranks=1,2 scaling=strong,weak", 2, 1, 1,
                         1, &sweep, &fail),
        0);
    /* On the base both scalings are the same run. */
    sweep_runs_list(&runs, &sweep, &one, &one, &each);
    assert_int_equal(runs.n, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(runs.cells[i].context, i / 2);
        assert_int_equal(runs.runs[i].batch, 1 + i % 2);
        assert_int_equal(runs.runs[i].context, i < 2 ? 10 : 20);
        assert_int_equal(runs.runs[i].prompt_tokens, runs.runs[i].context);
        assert_int_equal(runs.runs[i].gen_tokens, 3);
        assert_true(runs.cells[i].scalings[SWEEP_STRONG] && runs.cells[i].scalings[SWEEP_WEAK]);
    }
    sweep_runs_list(&runs, &sweep, &one, &two, &fixed);
    assert_int_equal(runs.n, 8);
    assert_true(runs.cells[0].scalings[SWEEP_STRONG] && !runs.cells[0].scalings[SWEEP_WEAK]);
    assert_true(!runs.cells[1].scalings[SWEEP_STRONG] && runs.cells[1].scalings[SWEEP_WEAK]);
    assert_int_equal(runs.runs[1].batch, 2);
    assert_int_equal(runs.runs[1].prompt_tokens, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(lists), cmocka_unit_test(refused),
        cmocka_unit_test(parts), cmocka_unit_test(batches), cmocka_unit_test(gains),
        cmocka_unit_test(runs_stand_for_one_row_or_two)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
