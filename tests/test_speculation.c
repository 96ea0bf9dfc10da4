#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/measure/bench_drafts.h"
#include "engine/run/speculation.h"

static const speculation_options_t adaptive = {.on = true};

static size_t choose_one(speculation_t *s, size_t match, size_t most)
{
    speculation_candidate_t candidate = {.match = match, .most = most};
    speculation_choose(s, &candidate, 1, 1, SPECULATION_MOST_ROWS, false);
    return candidate.n;
}

/* Steps of this many rows take so long, and drafts are right with this chance; how many tokens are
 * drafted on average at the end. */
static double settle(
    speculation_t *s, double ns(size_t rows), double chance, size_t match, size_t n_steps)
{
    uint64_t seed = 9;
    double drafted = 0;
    for (size_t i = 0; i < n_steps; i++) {
        size_t n = choose_one(s, match, SPECULATION_MOST_DRAFTS), right = 0;
        for (; right < n; right++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            if ((double)(seed >> 33) / (double)(UINT64_C(1) << 31) >= chance)
                break;
        }
        speculation_learn(s, match, n, right);
        speculation_time(s, 1 + n, (uint64_t)ns(1 + n));
        drafted += i >= n_steps / 2 ? (double)n : 0;
    }
    return drafted / (double)(n_steps - n_steps / 2);
}

static double cheap_rows(size_t rows)
{
    return 1e6 * (1 + 0.01 * (double)(rows - 1));
}

static double dear_rows(size_t rows)
{
    return 1e6 * (1 + 0.6 * (double)(rows - 1));
}

static void drafts_that_are_right_grow_long(void **state)
{
    (void)state;
    speculation_t s;
    speculation_init(&s, &adaptive);
    assert_true(settle(&s, cheap_rows, 0.98, 20, 400) > 10);
    /* Half as often: short ones. */
    speculation_init(&s, &adaptive);
    double n = settle(&s, cheap_rows, 0.5, 20, 1000);
    assert_true(n > 2 && n < 8);
}

static void drafts_that_never_hit_are_given_up_but_for_a_try_now_and_then(void **state)
{
    (void)state;
    speculation_t s;
    speculation_init(&s, &adaptive);
    double n = settle(&s, dear_rows, 0, 2, 4000);
    assert_true(n > 0 && n < 0.02);
    /* They hit again: it is noticed. */
    assert_true(settle(&s, cheap_rows, 0.98, 2, 4000) > 5);
}

static void rows_that_cost_more_than_they_give_are_not_drafted(void **state)
{
    (void)state;
    speculation_t s;
    speculation_init(&s, &adaptive);
    assert_true(settle(&s, dear_rows, 0.4, 4, 2000) < 0.1);
    /* Where they are always right, they give more. */
    speculation_init(&s, &adaptive);
    assert_true(settle(&s, dear_rows, 1, 4, 2000) > 3);
}

static void what_others_do_to_the_machine_is_not_taken_for_the_cost_of_rows(void **state)
{
    (void)state;
    speculation_t s;
    speculation_init(&s, &adaptive);
    /* Three times slower for a while, in steps of any number of rows. */
    for (size_t i = 0; i < 3000; i++) {
        size_t rows = 1 + i % 4;
        speculation_time(&s, rows, (uint64_t)(cheap_rows(rows) * (i / 300 % 2 == 0 ? 1 : 3)));
    }
    for (size_t rows = 2; rows <= 4; rows++) {
        double cost = speculation_cost(&s, rows) / speculation_cost(&s, 1);
        assert_true(cost > 0.97 && cost < 1.1);
    }
    assert_true(speculation_ns(&s, 1) > 2e6);
}

/* ---- Runs whose steps vary ------------------------------------------------------------------- */

static double uniform(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(*seed >> 11) * 0x1p-53;
}

/* About normal. */
static double normal(uint64_t *seed)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += uniform(seed);
    return sum - 6;
}

/* Tokens a time against no drafts. A step with drafts costs `first` more and each of them 0.03; they are right with
 * some chance. Times vary by `noise`, from step to step and for longer. */
static double speed_of(double first, double chance, double noise, uint64_t seed)
{
    speculation_t s;
    double tokens = 0, time = 0, busy = 0;
    speculation_init(&s, &adaptive);
    for (size_t i = 0; i < 3000; i++) {
        size_t match = 1 + (size_t)(4 * uniform(&seed)), right = 0;
        size_t most = uniform(&seed) < 0.8 ? SPECULATION_MOST_DRAFTS : 0;
        size_t n = choose_one(&s, most > 0 ? match : 0, most);
        while (right < n && uniform(&seed) < chance)
            right++;
        speculation_learn(&s, match, n, right);
        double cost = 1 + (n > 0 ? first : 0) + 0.03 * (double)n;
        busy = 0.9 * busy + 0.44 * noise * normal(&seed);
        double took = cost * exp(noise * normal(&seed) + busy) * (uniform(&seed) < 0.01 ? 3 : 1);
        speculation_time(&s, 1 + n, (uint64_t)(160000 * took));
        tokens += 1 + (double)right;
        time += cost;
    }
    return tokens / time;
}

static void the_default_is_hardly_ever_slower_than_no_drafts(void **state)
{
    static const double firsts[] = {0.02, 0.25, 0.5}, chances[] = {0, 0.2, 0.35, 0.7};
    static const double noises[] = {0.02, 0.1, 0.25};
    (void)state;
    for (size_t f = 0; f < 3; f++)
        for (size_t c = 0; c < 4; c++)
            for (size_t n = 0; n < 3; n++)
                for (uint64_t seed = 1; seed <= 3; seed++) {
                    double speed = speed_of(firsts[f], chances[c], noises[n], seed);
                    if (speed < 0.97 || (chances[c] == 0.7 && speed < 1.3))
                        fail_msg("first %g, chance %g, noise %g, seed %d: %g", firsts[f],
                            chances[c], noises[n], (int)seed, speed);
                }
}

/* Tokens that a model drafts on average at the end, each of which takes `cost` of a step. */
static double settle_model(double cost, double chance)
{
    const speculation_options_t options = {.on = true, .model = true};
    uint64_t seed = 5;
    double drafted = 0;
    speculation_t s;
    speculation_init(&s, &options);
    for (size_t i = 0; i < 2000; i++) {
        size_t n = choose_one(&s, 1, SPECULATION_MOST_DRAFTS), right = 0;
        while (right < n && uniform(&seed) < chance)
            right++;
        speculation_learn(&s, 1, n, right);
        speculation_time(&s, 1 + n, (uint64_t)cheap_rows(1 + n));
        speculation_time_drafts(&s, n, (uint64_t)(cost * 1e6 * (double)n));
        drafted += i >= 1000 ? (double)n : 0;
    }
    return drafted / 1000;
}

static void a_model_drafts_as_many_tokens_as_its_time_is_worth(void **state)
{
    (void)state;
    double n = settle_model(0.1, 0.7);
    assert_true(n > 2 && n < 6);
    assert_true(settle_model(0.02, 0.9) > 8);
    assert_true(settle_model(0.8, 0.5) < 0.1);
}

static void rows_go_to_the_likeliest_drafts(void **state)
{
    (void)state;
    const speculation_options_t fixed = {.on = true, .draft_tokens = 4};
    speculation_candidate_t candidates[3] = {{1, 9, 0}, {30, 9, 0}, {5, 2, 0}};
    speculation_t s;
    speculation_init(&s, &fixed);
    speculation_choose(&s, candidates, 3, 3, 7, false);
    assert_int_equal(candidates[0].n, 1);
    assert_int_equal(candidates[1].n, 4);
    assert_int_equal(candidates[2].n, 2);
    speculation_choose(&s, candidates, 3, 3, 64, true);
    assert_int_equal(candidates[0].n, 4);
    speculation_choose(&s, candidates, 3, 3, 0, false);
    assert_int_equal(candidates[0].n + candidates[1].n + candidates[2].n, 0);
}

static void rows_of_a_step_are_limited(void **state)
{
    (void)state;
    const speculation_options_t off = {0}, fixed = {.on = true, .draft_tokens = 3};
    assert_int_equal(speculation_most_rows(&off, 64), 0);
    assert_int_equal(speculation_most_rows(&fixed, 2), 6);
    assert_int_equal(speculation_most_rows(&fixed, 64), SPECULATION_MOST_ROWS);
    assert_int_equal(speculation_most_rows(&adaptive, 1), SPECULATION_MOST_DRAFTS);
}

static void the_gain_of_drafts_follows_from_the_time_of_steps(void **state)
{
    (void)state;
    /* Rows that cost nothing: as many as may be, 1 + 1/2 + 1/4 + ... tokens a step. */
    bench_drafts_t drafts = {.rows = {1, 2, 4, 8, 16}, .seconds = {2, 2, 2, 2, 2}};
    bench_drafts_gain(&drafts, 0);
    assert_int_equal(drafts.drafts[0], 15);
    assert_true(drafts.speedups[0] > 1.9999 && drafts.speedups[0] < 2);
    assert_true(drafts.chances[3] == 0 && drafts.drafts[3] == 0 && drafts.speedups[3] == 1);
    /* Rows that cost as much as a step each: none. */
    drafts = (bench_drafts_t){.rows = {1, 2, 4, 8, 16}, .seconds = {1, 2, 4, 8, 16}};
    bench_drafts_gain(&drafts, 1);
    assert_int_equal(drafts.drafts[2], 0);
    assert_true(drafts.speedups[2] == 1);
    /* The second row costs a half, and is right 9 times of 10. */
    drafts = (bench_drafts_t){.rows = {1, 2, 4, 8, 16}, .seconds = {1, 1.5, 9, 19, 39}};
    bench_drafts_gain(&drafts, 1);
    assert_int_equal(drafts.drafts[2], 1);
    assert_true(drafts.speedups[2] > 1.266 && drafts.speedups[2] < 1.267);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drafts_that_are_right_grow_long),
        cmocka_unit_test(drafts_that_never_hit_are_given_up_but_for_a_try_now_and_then),
        cmocka_unit_test(rows_that_cost_more_than_they_give_are_not_drafted),
        cmocka_unit_test(what_others_do_to_the_machine_is_not_taken_for_the_cost_of_rows),
        cmocka_unit_test(the_default_is_hardly_ever_slower_than_no_drafts),
        cmocka_unit_test(a_model_drafts_as_many_tokens_as_its_time_is_worth),
        cmocka_unit_test(rows_go_to_the_likeliest_drafts),
        cmocka_unit_test(rows_of_a_step_are_limited),
        cmocka_unit_test(the_gain_of_drafts_follows_from_the_time_of_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
