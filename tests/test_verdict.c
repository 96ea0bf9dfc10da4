/* Who holds a run up, told from a monitor's table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "comm/watch/verdict.h"

enum { N = 4, LIMIT = 40, QUIET = 12 };

static const verdict_limits_t limits = {.limit = LIMIT, .quiet = QUIET, .seconds_a_tick = 0.25};

/* All ranks wait for nothing in the gather after layer 2's MLP of step 7, and all were just heard.
 */
static void fill(verdict_view_t *views)
{
    for (int r = 0; r < N; r++)
        views[r] = (verdict_view_t){.record = {.beats = 100,
                                        .step = 7,
                                        .layer = 2,
                                        .phase = PROGRESS_MLP,
                                        .wait = PROGRESS_WAIT_GATHER},
            .heard = true,
            .host = r < 2 ? "a" : "b",
            .pid = 70 + r};
}

static void all_still(verdict_view_t *views, size_t ticks)
{
    for (int r = 0; r < N; r++)
        views[r].still = ticks;
}

static void expect(const verdict_view_t *views, int culprit, const char *stack, const char *words)
{
    char text[1024];
    assert_int_equal(verdict_find(views, N, &limits), culprit);
    verdict_text(views, N, culprit, &limits, stack, text, sizeof text);
    assert_string_equal(text, words);
}

static void a_run_that_gets_on_is_left_alone(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    assert_int_equal(verdict_find(views, N, &limits), -1);
    all_still(views, LIMIT - 1);
    assert_int_equal(verdict_find(views, N, &limits), -1);
}

static void waiting_for_one_that_gets_on_is_no_fault(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    all_still(views, 10 * LIMIT);
    views[2].still = LIMIT - 1;
    assert_int_equal(verdict_find(views, N, &limits), -1);
}

static void having_nothing_to_do_is_no_fault(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    all_still(views, 10 * LIMIT);
    for (int r = 0; r < N; r++)
        views[r].record.phase = PROGRESS_IDLE;
    assert_int_equal(verdict_find(views, N, &limits), -1);
}

static void a_rank_that_was_never_heard_is_not_judged(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    views[3].heard = false;
    views[3].silent = views[3].still = 10 * LIMIT;
    assert_int_equal(verdict_find(views, N, &limits), -1);
}

static void a_loop_is_the_one_that_computes(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    all_still(views, LIMIT);
    views[1].record.wait = PROGRESS_WAIT_NONE;
    expect(views, 1, "spin < main",
        "no progress for 10 s: rank 1 on a (process 71) has been for 10 s in step 7, layer 2, MLP; "
        "ranks 0, 2-3 wait in step 7, layer 2, MLP, gather of activations; its stack: spin < main");
}

static void of_those_that_wait_the_one_behind_is_named(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    all_still(views, LIMIT);
    views[2].record.step = 6;
    views[2].record.phase = PROGRESS_SAMPLE;
    views[2].record.wait = PROGRESS_WAIT_COLLECT;
    expect(views, 2, "",
        "no progress for 10 s: rank 2 on b (process 72) is behind the others and has waited for 10 "
        "s in step 6, sampling, collection; ranks 0-1, 3 wait in step 7, layer 2, MLP, gather of "
        "activations");
}

static void a_silent_rank_counts_more_than_one_that_computes(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    all_still(views, LIMIT);
    views[1].record.wait = PROGRESS_WAIT_NONE;
    views[3].silent = LIMIT - 1;
    views[3].record.step = 5;
    expect(views, 3, "",
        "no progress for 10 s: rank 3 on b (process 73) has sent no heartbeat for 10 s (stopped, "
        "ended, or disconnected); it was last in step 5, layer 2, MLP, gather of "
        "activations; ranks 0, 2 wait in step 7, layer 2, MLP, gather of activations");
}

static void a_silent_rank_is_missed_while_all_idle(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    for (int r = 0; r < N; r++)
        views[r].record.phase = PROGRESS_IDLE, views[r].record.wait = PROGRESS_WAIT_NONE;
    views[0].silent = LIMIT - 1;
    assert_int_equal(verdict_find(views, N, &limits), -1);
    views[0].silent = LIMIT;
    expect(views, 0, "",
        "no progress for 10 s: rank 0 on a (process 70) has sent no heartbeat for 10 s (stopped, "
        "ended, or disconnected); it was last in no step since 7");
}

static void ranks_that_fell_silent_together_are_listed(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    all_still(views, LIMIT);
    views[2].silent = LIMIT, views[3].silent = LIMIT + 1;
    views[2].state = 'T';
    expect(views, 2, "",
        "no progress for 10 s: rank 2 on b (process 72) is stopped (SIGSTOP or a debugger), in "
        "step 7, layer 2, MLP, gather of activations; also silent: rank 3; ranks 0-1 wait in step "
        "7, "
        "layer 2, MLP, gather of activations");
}

static void a_process_that_has_ended_is_named_at_once(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    views[3].state = 'Z';
    views[3].record.wait = PROGRESS_WAIT_NONE;
    expect(views, 3, "",
        "rank 3 on b (process 73) has ended; it was last in step 7, layer 2, MLP; ranks 0-2 wait "
        "in step 7, layer 2, MLP, gather of activations");
}

static void groups_that_run_side_by_side_are_judged_apart(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    all_still(views, LIMIT);
    views[2].record.group = views[3].record.group = 2;
    views[0].record.phase = views[1].record.phase = PROGRESS_IDLE;
    views[3].record.wait = PROGRESS_WAIT_NONE;
    assert_int_equal(verdict_find(views, N, &limits), 3);
    views[2].still = 0;
    assert_int_equal(verdict_find(views, N, &limits), -1);
}

static void a_group_that_waits_for_another_one_that_gets_on_is_left_alone(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    all_still(views, LIMIT);
    views[2].record.group = views[3].record.group = 2;
    for (int r = 0; r < N; r++)
        views[r].record.phase = PROGRESS_LOAD;
    views[0].record.wait = views[1].record.wait = PROGRESS_WAIT_AGREE;
    views[0].record.wide = views[1].record.wide = 1;
    views[2].still = 0;
    assert_int_equal(verdict_find(views, N, &limits), -1);
    views[2].still = LIMIT;
    views[2].record.wait = PROGRESS_WAIT_NONE;
    assert_int_equal(verdict_find(views, N, &limits), 2);
}

static void a_stopped_rank_needs_not_have_been_heard(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    views[3].heard = false;
    views[3].record = (progress_view_t){0};
    views[3].state = 'T';
    views[3].silent = LIMIT - 1;
    assert_int_equal(verdict_find(views, N, &limits), -1);
    views[3].silent = LIMIT;
    expect(views, 3, "",
        "no progress for 10 s: rank 3 on b (process 73) is stopped (SIGSTOP or a debugger), in no "
        "step yet; ranks 0-2 wait in step 7, layer 2, MLP, gather of activations");
}

static void one_that_was_never_heard_is_blamed_when_all_others_wait(void **state)
{
    (void)state;
    verdict_view_t views[N];
    fill(views);
    all_still(views, LIMIT);
    views[3].heard = false;
    views[3].silent = LIMIT;
    views[3].record = (progress_view_t){0};
    assert_int_equal(verdict_find(views, N, &limits), 3);
    views[1].record.wait = PROGRESS_WAIT_NONE;
    assert_int_equal(verdict_find(views, N, &limits), 1);
}

static void a_long_message_is_cut(void **state)
{
    (void)state;
    verdict_view_t views[N];
    char text[20];
    fill(views);
    all_still(views, LIMIT);
    verdict_text(views, N, 0, &limits, "f", text, sizeof text);
    assert_string_equal(text, "no progress for 10 ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_that_gets_on_is_left_alone),
        cmocka_unit_test(waiting_for_one_that_gets_on_is_no_fault),
        cmocka_unit_test(having_nothing_to_do_is_no_fault),
        cmocka_unit_test(a_rank_that_was_never_heard_is_not_judged),
        cmocka_unit_test(a_loop_is_the_one_that_computes),
        cmocka_unit_test(of_those_that_wait_the_one_behind_is_named),
        cmocka_unit_test(a_silent_rank_counts_more_than_one_that_computes),
        cmocka_unit_test(a_silent_rank_is_missed_while_all_idle),
        cmocka_unit_test(ranks_that_fell_silent_together_are_listed),
        cmocka_unit_test(a_process_that_has_ended_is_named_at_once),
        cmocka_unit_test(groups_that_run_side_by_side_are_judged_apart),
        cmocka_unit_test(a_group_that_waits_for_another_one_that_gets_on_is_left_alone),
        cmocka_unit_test(a_stopped_rank_needs_not_have_been_heard),
        cmocka_unit_test(one_that_was_never_heard_is_blamed_when_all_others_wait),
        cmocka_unit_test(a_long_message_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
