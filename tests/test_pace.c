/* Prompts beside answers, on a machine whose times are known: steps stay near the ratio, and use it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/run/pace.h"
#include "engine/run/philox.h"

#define PROMPT 8192
#define CONTEXT (2 * PROMPT)

typedef struct machine {
    double decode_ns, row_ns, position_ns,
        noise; /* noise: times vary by so much of them, either way */
    size_t n_steps;
} machine_t;

static double step_ns(machine_t *m, const scheduler_step_t *step)
{
    double u = philox_uniform(1, 0, m->n_steps++);
    double ns =
        m->row_ns * (double)step->n_prompt_rows + m->position_ns * (double)step->prompt_positions;
    return (m->decode_ns + ns) * (1 + m->noise * (2 * u - 1));
}

typedef struct figures {
    size_t n_mixed;      /* steps with rows of the prompt and of answers */
    double longest, sum; /* of them, against a step without a prompt */
} figures_t;

static int32_t ids[CONTEXT];

static void submit(scheduler_t *scheduler, size_t n_prompt, size_t max_tokens)
{
    uint64_t handle;
    fail_t fail = {0};
    const request_t request = {.prompt_ids = ids, .n_prompt = n_prompt, .max_tokens = max_tokens};
    assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), 0);
}

/* One answer goes on while a prompt of 8,192 tokens arrives; figures of the steps with both. */
static figures_t run(machine_t *machine, pace_t *pace, double ratio)
{
    scheduler_t *scheduler;
    fail_t fail = {0};
    figures_t figures = {0};
    const scheduler_options_t options = {.block_tokens = 64,
        .n_blocks = 2 * CONTEXT / 64,
        .max_batch = 4,
        .prefill_chunk = 512,
        .max_prompt_logits = 1,
        .max_context = CONTEXT};
    assert_int_equal(scheduler_open(&scheduler, &options, &fail), 0);
    submit(scheduler, 64, 4000);
    for (size_t i = 0; i < 20 || figures.n_mixed == 0 || scheduler_pending(scheduler) > 1; i++) {
        if (i == 20)
            submit(scheduler, PROMPT, 1);
        scheduler_step_t step = scheduler_plan(scheduler);
        double ns = step_ns(machine, &step);
        if (step.n_prompt_rows > 0 && step.n_rows > step.n_prompt_rows) {
            double times = ns / machine->decode_ns;
            figures.n_mixed++;
            figures.sum += times;
            figures.longest = times > figures.longest ? times : figures.longest;
        }
        for (size_t n = step.n_entries; n-- > 0;)
            scheduler_advance(scheduler, &step.entries[n], 7);
        pace_learn(pace, &step, ns);
        scheduler_limit_t limit = pace_limit(pace, ratio);
        scheduler_limit(scheduler, &limit);
    }
    scheduler_close(scheduler);
    return figures;
}

static void late_rows_cost_more_and_chunks_get_shorter(void **state)
{
    (void)state;
    machine_t machine = {.decode_ns = 30e6, .row_ns = 0.25e6, .position_ns = 50};
    pace_t pace = {0};
    for (int again = 0; again < 3; again++) {
        figures_t figures = run(&machine, &pace, 2.5);
        assert_true(figures.longest < 2.6);
        assert_true(figures.sum / (double)figures.n_mixed > 2.2);
    }
    assert_true(pace.row_ns > 0.24e6 && pace.row_ns < 0.26e6);
    assert_true(pace.position_ns > 48 && pace.position_ns < 52);
}

static void noise_is_borne(void **state)
{
    (void)state;
    machine_t machine = {.decode_ns = 30e6, .row_ns = 0.25e6, .position_ns = 50, .noise = 0.1};
    pace_t pace = {0};
    for (int again = 0; again < 3; again++) {
        figures_t figures = run(&machine, &pace, 2.5);
        assert_true(figures.longest < 3);
        assert_true(figures.sum / (double)figures.n_mixed > 1.9);
    }
}

static void a_machine_that_gets_slower_is_noticed(void **state)
{
    (void)state;
    machine_t machine = {.decode_ns = 30e6, .row_ns = 0.25e6, .position_ns = 50};
    pace_t pace = {0};
    run(&machine, &pace, 2.5);
    machine.row_ns *= 2;
    machine.position_ns *= 2;
    figures_t figures = run(&machine, &pace, 2.5);
    assert_true(figures.longest < 4.1); /* the first chunk, and none after it */
    assert_true(figures.sum / (double)figures.n_mixed < 2.6);
    assert_true(figures.sum / (double)figures.n_mixed > 2);
}

static void costly_rows_run_in_the_smallest_chunks(void **state)
{
    (void)state;
    machine_t machine = {.decode_ns = 1e6, .row_ns = 1e6, .position_ns = 100};
    pace_t pace = {0};
    assert_int_equal(
        run(&machine, &pace, 2.5).n_mixed, (PROMPT - 16) / 8 + 1); /* the first has 16 rows */
}

static void rows_are_not_blamed_for_a_decode_that_is_not_known(void **state)
{
    (void)state;
    pace_t pace = {0};
    const scheduler_step_t mixed = {
        .n_rows = 33, .n_single_rows = 1, .n_prompt_rows = 32, .prompt_positions = 496};
    const scheduler_step_t decode = {.n_rows = 1, .n_single_rows = 1};
    pace_learn(&pace, &mixed, 50e6);
    assert_true(pace_limit(&pace, 2).row == 0);
    pace_learn(&pace, &decode, 40e6);
    pace_learn(&pace, &mixed, 50e6);
    assert_true(pace_limit(&pace, 2).row < 10e6 / 32 + 1);
}

static void a_step_without_prompts_comes_first(void **state)
{
    (void)state;
    pace_t pace = {0};
    assert_int_equal(pace_limit(&pace, 2).most_rows, 0);
    /* A prompt of one token costs what a decode's row costs. */
    const scheduler_step_t step = {.n_rows = 2, .n_single_rows = 2, .n_prompt_rows = 1};
    pace_learn(&pace, &step, 40e6);
    assert_true(pace_limit(&pace, 2).most_rows > 0);
    assert_true(pace_limit(&pace, 2).budget == 40e6);
}

static void short_steps_are_not_cut(void **state)
{
    (void)state;
    machine_t machine = {.decode_ns = 0.4e6, .row_ns = 5e3, .position_ns = 1};
    pace_t pace = {0};
    figures_t figures = run(&machine, &pace, 2);
    assert_true(figures.longest * machine.decode_ns < 5.1e6);
    assert_true(figures.n_mixed < PROMPT / 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(late_rows_cost_more_and_chunks_get_shorter),
        cmocka_unit_test(noise_is_borne),
        cmocka_unit_test(a_machine_that_gets_slower_is_noticed),
        cmocka_unit_test(rows_are_not_blamed_for_a_decode_that_is_not_known),
        cmocka_unit_test(costly_rows_run_in_the_smallest_chunks),
        cmocka_unit_test(a_step_without_prompts_comes_first),
        cmocka_unit_test(short_steps_are_not_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
