#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/run/philox.h"
#include "engine/run/scheduler.h"

static const scheduler_options_t small_options = {.block_tokens = 4,
    .n_blocks = 10,
    .max_batch = 3,
    .prefill_chunk = 6,
    .max_prompt_logits = 4,
    .max_context = 40};

static scheduler_t *open_with(const scheduler_options_t *options)
{
    scheduler_t *scheduler;
    fail_t fail = {0};
    assert_int_equal(scheduler_open(&scheduler, options, &fail), 0);
    return scheduler;
}

static uint64_t submit(scheduler_t *scheduler, size_t n_prompt, size_t max_tokens)
{
    static int32_t ids[64];
    for (size_t i = 0; i < n_prompt; i++)
        ids[i] = (int32_t)(100 + i);
    request_t request = {.prompt_ids = ids, .n_prompt = n_prompt, .max_tokens = max_tokens};
    uint64_t handle;
    fail_t fail = {0};
    assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), 0);
    return handle;
}

static void advance_all(scheduler_t *scheduler, const scheduler_step_t *step)
{
    for (size_t i = 0; i < step->n_entries; i++)
        scheduler_advance(scheduler, &step->entries[i], 7);
}

static void a_prompt_is_cut_into_chunks_and_then_decodes(void **state)
{
    (void)state;
    scheduler_t *scheduler = open_with(&small_options);
    submit(scheduler, 14, 3);
    static const struct {
        size_t rows, position;
        bool decode, samples;
    } expected[] = {{6, 0, false, false}, {6, 6, false, false}, {2, 12, false, true},
        {1, 14, true, true}, {1, 15, true, true}};
    for (size_t i = 0; i < 5; i++) {
        scheduler_step_t step = scheduler_plan(scheduler);
        assert_int_equal(step.n_entries, 1);
        const scheduler_entry_t *entry = &step.entries[0];
        assert_int_equal(entry->n_rows, expected[i].rows);
        assert_int_equal(entry->first_position, expected[i].position);
        assert_int_equal(entry->decode, expected[i].decode);
        assert_int_equal(entry->samples, expected[i].samples);
        assert_int_equal(entry->admitted, i == 0);
        assert_int_equal(entry->ref_q_len, expected[i].decode ? 1 : 14);
        assert_int_equal(
            entry->token_ids[0], expected[i].decode ? 7 : 100 + (int)expected[i].position);
        assert_int_equal(
            scheduler_advance(scheduler, entry, 7), i == 4 ? SCHEDULER_FULL : SCHEDULER_GOES_ON);
    }
    assert_int_equal(scheduler_plan(scheduler).n_entries, 0);
    assert_int_equal(scheduler_pending(scheduler), 0);
    scheduler_close(scheduler);
}

static void decodes_and_one_token_prompts_come_before_chunks(void **state)
{
    (void)state;
    scheduler_t *scheduler = open_with(&small_options);
    submit(scheduler, 3, 8);
    scheduler_step_t step = scheduler_plan(scheduler);
    advance_all(scheduler, &step);
    submit(scheduler, 9, 2);
    submit(scheduler, 1, 2);
    step = scheduler_plan(scheduler);
    assert_int_equal(step.n_entries, 3);
    assert_int_equal(step.n_single_rows, 2);
    assert_true(step.entries[0].decode);
    assert_int_equal(step.entries[1].handle, 2);
    assert_int_equal(step.entries[2].handle, 1);
    assert_int_equal(step.entries[2].n_rows, 6);
    assert_int_equal(step.n_rows, 8);
    assert_int_equal(step.n_prompt_rows, 7);
    advance_all(scheduler, &step);
    scheduler_close(scheduler);
}

static void a_limit_cuts_chunks_beside_decodes_alone(void **state)
{
    (void)state;
    scheduler_t *scheduler = open_with(&small_options);
    const scheduler_limit_t limit = {.most_rows = 2};
    scheduler_limit(scheduler, &limit);
    submit(scheduler, 3, 8);
    scheduler_step_t step = scheduler_plan(scheduler);
    assert_int_equal(step.n_prompt_rows, 3); /* nothing decodes yet */
    advance_all(scheduler, &step);
    submit(scheduler, 9, 2);
    step = scheduler_plan(scheduler);
    assert_int_equal(step.n_entries, 2);
    assert_int_equal(step.n_prompt_rows, 2);
    scheduler_figures_t figures = scheduler_figures(scheduler);
    assert_int_equal(figures.n_running, 2);
    assert_int_equal(figures.n_blocks, 10);
    assert_int_equal(figures.n_used_blocks, 6); /* of 4 tokens: 3 + 7 and 9 + 1 */
    assert_int_equal(figures.queried_tokens, 12);
    advance_all(scheduler, &step);
    submit(scheduler, 9, 2); /* two prompts beside one answer: the limit counts twice */
    step = scheduler_plan(scheduler);
    assert_int_equal(step.n_prompt_rows, 4);
    advance_all(scheduler, &step);
    const scheduler_limit_t no_prompts = {.most_rows = 0};
    scheduler_limit(scheduler, &no_prompts);
    step = scheduler_plan(scheduler);
    assert_int_equal(step.n_entries, 1);
    assert_int_equal(step.n_prompt_rows, 0);
    scheduler_close(scheduler);
}

/* A row at position p costs 1 + p: of 9 rows the first three cost 1 + 2 + 3. Two prompts beside one answer may
 * cost 6.5. */
static void costs_cut_chunks_beside_decodes(void **state)
{
    (void)state;
    scheduler_t *scheduler = open_with(&small_options);
    const scheduler_limit_t limit = {
        .budget = 3.25, .row = 1, .position = 1, .most_rows = 6, .multiple = 1};
    scheduler_limit(scheduler, &limit);
    submit(scheduler, 3, 8);
    scheduler_step_t step = scheduler_plan(scheduler);
    advance_all(scheduler, &step);
    submit(scheduler, 9, 2);
    submit(scheduler, 2, 1);
    const size_t rows[] = {3, 1, 1}, positions[] = {0 + 1 + 2, 3, 4};
    for (size_t i = 0; i < 3; i++) {
        step = scheduler_plan(scheduler);
        assert_int_equal(
            step.n_entries, i == 1 ? 3 : 2); /* the short one has room beside 4 of 6.5, once */
        assert_int_equal(step.entries[1].n_rows, rows[i]);
        assert_int_equal(step.prompt_positions, positions[i]);
        advance_all(scheduler, &step);
    }
    scheduler_close(scheduler);
}

static void whole_prompts_run_whole_or_wait(void **state)
{
    (void)state;
    scheduler_options_t options = small_options;
    options.whole_prompts = true;
    scheduler_t *scheduler = open_with(&options);
    submit(scheduler, 4, 2);
    submit(scheduler, 3, 2); /* does not fit beside the first */
    submit(scheduler, 2, 2); /* does */
    scheduler_step_t step = scheduler_plan(scheduler);
    assert_int_equal(step.n_entries, 2);
    assert_int_equal(step.entries[0].n_rows, 4);
    assert_int_equal(step.entries[1].handle, 2);
    advance_all(scheduler, &step);
    step = scheduler_plan(scheduler);
    assert_int_equal(step.n_entries, 3); /* two decode */
    assert_int_equal(step.entries[2].handle, 1);
    assert_int_equal(step.entries[2].n_rows, 3);
    advance_all(scheduler, &step);
    scheduler_close(scheduler);
}

static void a_whole_prompt_longer_than_a_step_is_refused(void **state)
{
    (void)state;
    scheduler_options_t options = small_options;
    options.whole_prompts = true;
    options.row_bytes = (size_t)1 << 29;
    scheduler_t *scheduler = open_with(&options);
    static const int32_t ids[8];
    const request_t request = {.prompt_ids = ids, .n_prompt = 8, .max_tokens = 1};
    fail_t fail = {0};
    assert_int_equal(scheduler_check(scheduler, &request, &fail), FAIL_LIMIT);
    assert_non_null(strstr(fail.message, "at most 6 tokens, found 8"));
    assert_non_null(strstr(fail.message, "1.00 GiB more"));
    scheduler_close(scheduler);
}

static void a_whole_prompt_runs_again_for_more_logits(void **state)
{
    (void)state;
    scheduler_options_t options = small_options;
    options.whole_prompts = true;
    scheduler_t *scheduler = open_with(&options);
    static const int32_t ids[6];
    request_t request = {.prompt_ids = ids,
        .n_prompt = 6,
        .max_tokens = 1,
        .want_prompt_logits = true,
        .first_prompt_logits = 1};
    uint64_t handle;
    fail_t fail = {0};
    assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), 0);
    for (size_t i = 0; i < 2; i++) {
        scheduler_step_t step = scheduler_plan(scheduler);
        assert_int_equal(step.n_entries, 1);
        assert_int_equal(step.entries[0].first_position, 0);
        assert_int_equal(step.entries[0].n_rows, 6);
        assert_int_equal(step.entries[0].first_logits_row, i == 0 ? 1 : 5);
        assert_int_equal(step.entries[0].n_logits_rows, i == 0 ? 4 : 1);
        assert_int_equal(step.entries[0].samples, i == 1);
        assert_int_equal(scheduler_advance(scheduler, &step.entries[0], 7),
            i == 0 ? SCHEDULER_GOES_ON : SCHEDULER_FULL);
    }
    assert_int_equal(scheduler_pending(scheduler), 0);
    scheduler_close(scheduler);
}

static void a_request_waits_until_all_its_blocks_are_free(void **state)
{
    (void)state;
    scheduler_t *scheduler = open_with(&small_options);
    submit(scheduler, 2, 23); /* 24 tokens cached: 6 of 10 blocks */
    submit(scheduler, 2, 16); /* 17 tokens: 5 blocks, too many */
    submit(scheduler, 2, 1);  /* would fit, but is not first */
    for (int i = 0; i < 23; i++) {
        scheduler_step_t step = scheduler_plan(scheduler);
        assert_int_equal(step.n_entries, 1);
        assert_int_equal(step.entries[0].handle, 0);
        advance_all(scheduler, &step);
    }
    scheduler_step_t step = scheduler_plan(scheduler);
    assert_int_equal(step.n_entries, 2);
    assert_int_equal(step.entries[0].handle, 1);
    advance_all(scheduler, &step);
    scheduler_close(scheduler);
}

static void a_stop_token_ends_a_request_and_frees_its_blocks(void **state)
{
    (void)state;
    scheduler_t *scheduler = open_with(&small_options);
    int32_t ids[2] = {1, 2}, stops[2] = {50, 60};
    request_t request = {
        .prompt_ids = ids, .n_prompt = 2, .max_tokens = 39, .stop_ids = stops, .n_stop_ids = 2};
    uint64_t handle;
    fail_t fail = {0};
    for (int round = 0; round < 3; round++) {
        assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), 0);
        scheduler_step_t step = scheduler_plan(scheduler);
        assert_int_equal(step.n_entries, 1);
        assert_int_equal(step.entries[0].n_blocks, 10);
        assert_int_equal(scheduler_advance(scheduler, &step.entries[0], 51), SCHEDULER_GOES_ON);
        step = scheduler_plan(scheduler);
        assert_int_equal(step.entries[0].token_ids[0], 51);
        assert_int_equal(scheduler_advance(scheduler, &step.entries[0], 60), SCHEDULER_STOPPED);
    }
    scheduler_close(scheduler);
}

static void a_request_without_tokens_to_generate_ends_with_its_prompt(void **state)
{
    (void)state;
    scheduler_t *scheduler = open_with(&small_options);
    submit(scheduler, 40, 0);
    for (int i = 0; i < 7; i++) {
        scheduler_step_t step = scheduler_plan(scheduler);
        assert_false(step.entries[0].samples);
        assert_int_equal(scheduler_advance(scheduler, &step.entries[0], -1),
            i == 6 ? SCHEDULER_FULL : SCHEDULER_GOES_ON);
    }
    scheduler_close(scheduler);
}

static void wanted_logits_bound_the_chunk(void **state)
{
    (void)state;
    scheduler_t *scheduler = open_with(&small_options);
    int32_t ids[9] = {0};
    request_t request = {.prompt_ids = ids, .n_prompt = 9, .want_prompt_logits = true};
    uint64_t handle;
    fail_t fail = {0};
    assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), 0);
    submit(scheduler, 5, 1);
    scheduler_step_t step = scheduler_plan(scheduler);
    assert_int_equal(step.n_prompt_logits, 4);
    assert_int_equal(step.entries[0].n_rows, 4);
    assert_int_equal(step.entries[1].n_rows, 2);
    advance_all(scheduler, &step);
    scheduler_close(scheduler);
}

static void impossible_requests_are_refused_with_figures(void **state)
{
    (void)state;
    scheduler_t *scheduler = open_with(&small_options);
    int32_t ids[41] = {0};
    request_t request = {.prompt_ids = ids, .n_prompt = 41};
    uint64_t handle;
    fail_t fail = {0};
    assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), FAIL_LIMIT);
    assert_non_null(strstr(fail.message, "41"));
    assert_non_null(strstr(fail.message, "40"));
    fail = (fail_t){0};
    request = (request_t){.prompt_ids = ids, .n_prompt = 40, .max_tokens = 1};
    assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), FAIL_LIMIT);
    fail = (fail_t){0};
    request.n_prompt = 0;
    assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), FAIL_USAGE);
    assert_int_equal(scheduler_pending(scheduler), 0);
    scheduler_close(scheduler);
}

static void cancelled_requests_yield_no_rows(void **state)
{
    (void)state;
    scheduler_t *scheduler = open_with(&small_options);
    for (int i = 0; i < 5; i++)
        submit(scheduler, 2, 5);
    scheduler_step_t step = scheduler_plan(scheduler);
    assert_int_equal(step.n_entries, 3);
    advance_all(scheduler, &step);
    scheduler_cancel(scheduler, 1); /* runs */
    scheduler_cancel(scheduler, 4); /* waits, last */
    scheduler_cancel(scheduler, 99);
    assert_int_equal(scheduler_pending(scheduler), 3);
    step = scheduler_plan(scheduler);
    assert_int_equal(step.n_entries, 3);
    assert_int_equal(step.entries[2].handle, 3);
    assert_int_equal(step.entries[2].slot, 1);
    assert_true(step.entries[2].admitted);
    advance_all(scheduler, &step);
    assert_int_equal(submit(scheduler, 2, 1), 5);
    assert_int_equal(scheduler_pending(scheduler), 4);
    scheduler_close(scheduler);
}

/* ---- Random loads ---------------------------------------------------------------------------- */

enum { MAX_REQUESTS = 400 };

typedef struct load {
    uint64_t draws;
    scheduler_options_t options;
    size_t n_prompt[MAX_REQUESTS], max_tokens[MAX_REQUESTS], seen_rows[MAX_REQUESTS];
    size_t drawn[MAX_REQUESTS];
    bool ended[MAX_REQUESTS];
    size_t n_submitted, n_ended;
} load_t;

static size_t below(load_t *load, size_t n)
{
    return (size_t)(philox_uniform(3, 4, load->draws++) * (double)n);
}

static void check_blocks(const load_t *load, const scheduler_step_t *step)
{
    uint8_t *used = calloc(load->options.n_blocks, 1);
    for (size_t i = 0; i < step->n_entries; i++) {
        const scheduler_entry_t *entry = &step->entries[i];
        size_t keys = entry->first_position + entry->n_rows;
        assert_true(entry->n_blocks * load->options.block_tokens >= keys);
        for (size_t b = 0; b < entry->n_blocks; b++) {
            assert_in_range(entry->blocks[b], 0, load->options.n_blocks - 1);
            assert_false(used[entry->blocks[b]]++);
        }
    }
    free(used);
}

static void check_step(load_t *load, const scheduler_step_t *step)
{
    size_t rows = 0, prompt_rows = 0, chunk_rows = 0, logits = 0;
    for (size_t i = 0; i < step->n_entries; i++) {
        const scheduler_entry_t *entry = &step->entries[i];
        assert_in_range(entry->slot, 0, load->options.max_batch - 1);
        assert_int_equal(entry->ref_q_len == 1, i < step->n_single_rows);
        assert_int_equal(entry->first_position, load->seen_rows[entry->handle]);
        assert_false(load->ended[entry->handle]);
        rows += entry->n_rows;
        prompt_rows += entry->decode ? 0 : entry->n_rows;
        chunk_rows += entry->ref_q_len > 1 ? entry->n_rows : 0;
        logits += entry->prompt_logits ? entry->n_rows : 0;
    }
    assert_int_equal(rows, step->n_rows);
    assert_int_equal(prompt_rows, step->n_prompt_rows);
    assert_int_equal(logits, step->n_prompt_logits);
    assert_true(chunk_rows <= load->options.prefill_chunk);
    assert_true(logits <= load->options.max_prompt_logits);
    assert_true(rows <= scheduler_max_rows(&load->options));
    check_blocks(load, step);
}

static void run_step(load_t *load, scheduler_t *scheduler, const scheduler_step_t *step)
{
    for (size_t i = 0; i < step->n_entries; i++) {
        const scheduler_entry_t *entry = &step->entries[i];
        uint64_t handle = entry->handle;
        load->seen_rows[handle] += entry->n_rows;
        load->drawn[handle] += entry->samples;
        if (scheduler_advance(scheduler, entry, 1) != SCHEDULER_GOES_ON) {
            load->ended[handle] = true;
            load->n_ended++;
            size_t n_prompt = load->n_prompt[handle];
            size_t room = load->options.max_context - n_prompt;
            size_t expected = load->max_tokens[handle] < room ? load->max_tokens[handle] : room;
            assert_int_equal(load->drawn[handle], expected);
            assert_int_equal(load->seen_rows[handle], n_prompt + (expected > 0 ? expected - 1 : 0));
        }
    }
}

static void random_loads_all_end_within_every_limit(void **state)
{
    (void)state;
    static const int32_t ids[64];
    load_t *load = calloc(1, sizeof *load);
    for (size_t round = 0; round < 60; round++) {
        uint64_t draws = load->draws;
        *load = (load_t){.draws = draws};
        size_t block = 1 + below(load, 8), n_blocks = 4 + below(load, 30);
        load->options = (scheduler_options_t){.block_tokens = block,
            .n_blocks = n_blocks,
            .max_batch = 1 + below(load, 6),
            .prefill_chunk = 1 + below(load, 20),
            .max_prompt_logits = 1 + below(load, 9),
            .max_context = 2 + below(load, block * n_blocks - 1)};
        scheduler_t *scheduler = open_with(&load->options);
        size_t n_requests = 1 + below(load, MAX_REQUESTS / 4), cancelled = 0;
        while (load->n_submitted < n_requests || scheduler_pending(scheduler) > 0) {
            if (load->n_submitted < n_requests && below(load, 2)) {
                size_t longest = load->options.max_context - 1;
                request_t request = {.prompt_ids = ids,
                    .n_prompt = 1 + below(load, longest < 60 ? longest : 60),
                    .max_tokens = below(load, 12),
                    .want_prompt_logits = below(load, 3) == 0};
                uint64_t handle;
                fail_t fail = {0};
                assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), 0);
                assert_int_equal(handle, load->n_submitted);
                load->n_prompt[handle] = request.n_prompt;
                load->max_tokens[handle] = request.max_tokens;
                load->n_submitted++;
            }
            if (load->n_submitted > 0 && below(load, 20) == 0) {
                uint64_t handle = below(load, load->n_submitted);
                cancelled += !load->ended[handle];
                load->ended[handle] = true;
                scheduler_cancel(scheduler, handle);
            }
            size_t pending = scheduler_pending(scheduler);
            scheduler_step_t step = scheduler_plan(scheduler);
            assert_int_equal(step.n_entries > 0, pending > 0);
            check_step(load, &step);
            run_step(load, scheduler, &step);
        }
        assert_int_equal(load->n_ended + cancelled, n_requests);
        scheduler_close(scheduler);
    }
    free(load);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_is_cut_into_chunks_and_then_decodes),
        cmocka_unit_test(decodes_and_one_token_prompts_come_before_chunks),
        cmocka_unit_test(a_limit_cuts_chunks_beside_decodes_alone),
        cmocka_unit_test(costs_cut_chunks_beside_decodes),
        cmocka_unit_test(whole_prompts_run_whole_or_wait),
        cmocka_unit_test(a_whole_prompt_longer_than_a_step_is_refused),
        cmocka_unit_test(a_whole_prompt_runs_again_for_more_logits),
        cmocka_unit_test(a_request_waits_until_all_its_blocks_are_free),
        cmocka_unit_test(a_stop_token_ends_a_request_and_frees_its_blocks),
        cmocka_unit_test(a_request_without_tokens_to_generate_ends_with_its_prompt),
        cmocka_unit_test(wanted_logits_bound_the_chunk),
        cmocka_unit_test(impossible_requests_are_refused_with_figures),
        cmocka_unit_test(cancelled_requests_yield_no_rows),
        cmocka_unit_test(random_loads_all_end_within_every_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
