/* From recorded events to slices: what nests in what, clocks that differ, and events that lost
 * their beginning. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "comm/watch/progress_record.h"
#include "comm/watch/trace_write.h"
#include "engine/base/json.h"

static const trace_clock_t same_clock = {0};

/* The file that these events of one rank become. To be released by the caller. */
static json_t *written(const trace_clock_t *clock, const trace_event_t *events, size_t n,
    uint64_t origin_ns, uint64_t end_ns)
{
    static char text[65536];
    const uint64_t errors[] = {1500};
    trace_writer_t writer;
    fail_t fail = {0};
    json_t *root = NULL;
    memset(text, 0, sizeof text);
    FILE *file = fmemopen(text, sizeof text, "w");
    assert_non_null(file);
    trace_write_begin(&writer, file, origin_ns);
    trace_write_rank(&writer, 3, "ho\"st\n1", clock);
    for (size_t i = 0; i < n; i++)
        trace_write_event(&writer, &events[i]);
    trace_write_rank_end(&writer, end_ns);
    trace_write_end(&writer, 1, errors);
    fclose(file);
    assert_int_equal(json_text_read(text, strlen(text), "trace", &root, &fail), 0);
    return root;
}

/* The only slice of a name, which there has to be. */
static json_t *slice(json_t *root, const char *name)
{
    size_t i;
    json_t *event, *found = NULL;
    json_array_foreach (json_object_get(root, "traceEvents"), i, event) {
        if (strcmp(json_string_value(json_object_get(event, "name")), name) != 0)
            continue;
        assert_null(found);
        found = event;
    }
    if (found == NULL)
        fail_msg("no slice %s", name);
    return found;
}

static void expect_slice(
    json_t *root, const char *name, const char *category, double ts, double dur)
{
    json_t *event = slice(root, name);
    assert_string_equal(json_string_value(json_object_get(event, "cat")), category);
    assert_string_equal(json_string_value(json_object_get(event, "ph")), "X");
    assert_int_equal(json_integer_value(json_object_get(event, "pid")), 3);
    assert_true(json_real_value(json_object_get(event, "ts")) == ts);
    assert_true(json_real_value(json_object_get(event, "dur")) == dur);
}

static size_t count_slices(json_t *root)
{
    size_t i, n = 0;
    json_t *event;
    json_array_foreach (json_object_get(root, "traceEvents"), i, event) {
        n += json_object_get(event, "dur") != NULL;
    }
    return n;
}

static const trace_event_t one_step[] = {
    {.ns = 10000, .kind = TRACE_ENTER, .what = PROGRESS_WAIT_BROADCAST},
    {.ns = 11000, .kind = TRACE_ENTER, .what = PROGRESS_WAIT_BARRIER}, /* inside of the other */
    {.ns = 12000, .kind = TRACE_LEAVE},
    {.ns = 13500, .kind = TRACE_LEAVE},
    {.ns = 14000, .kind = TRACE_STEP},
    {.ns = 14000, .kind = TRACE_PHASE, .what = PROGRESS_ORDER},
    {.ns = 15000, .kind = TRACE_ROWS, .value = 7},
    {.ns = 15001, .kind = TRACE_PHASE, .what = PROGRESS_EMBED},
    {.ns = 16000, .kind = TRACE_PHASE, .what = PROGRESS_QKV, .value = 4},
    {.ns = 17000, .kind = TRACE_PHASE, .what = PROGRESS_ATTENTION, .value = 4},
    {.ns = 17500, .kind = TRACE_ENTER, .what = PROGRESS_WAIT_GATHER},
    {.ns = 17900, .kind = TRACE_LEAVE},
    {.ns = 18000, .kind = TRACE_PHASE, .what = PROGRESS_O_PROJ, .value = 5}, /* a layer further */
    {.ns = 19000, .kind = TRACE_PHASE, .what = PROGRESS_IDLE},
    {.ns = 19500, .kind = TRACE_PHASE, .what = PROGRESS_SAMPLE},
    {.ns = 20250, .kind = TRACE_PHASE, .what = PROGRESS_IDLE},
    {.ns = 90000, .kind = TRACE_ENTER, .what = PROGRESS_WAIT_AGREE},
};
#define N_EVENTS (sizeof one_step / sizeof *one_step)

static void slices_end_where_the_next_begin(void **state)
{
    (void)state;
    json_t *root = written(&same_clock, one_step, N_EVENTS, 10000, 95000);
    expect_slice(root, "broadcast", "collective", 0, 3.5);
    expect_slice(root, "step 0", "step", 4, 6.25);
    expect_slice(root, "embedding", "phase", 5.001, 0.999);
    expect_slice(root, "layer 4", "layer", 6, 2);
    expect_slice(root, "attention", "phase", 7, 1);
    expect_slice(root, "gather of activations", "collective", 7.5, 0.4);
    expect_slice(root, "layer 5", "layer", 8, 1);
    expect_slice(root, "o_proj", "phase", 8, 1);
    expect_slice(root, "sampling", "phase", 9.5, 0.75);
    expect_slice(root, "agreement", "collective", 80, 5); /* when the trace ended */
    assert_int_equal(count_slices(root), 12);
    json_t *args = json_object_get(slice(root, "step 0"), "args");
    assert_int_equal(json_integer_value(json_object_get(args, "rows")), 7);
    args = json_object_get(slice(root, "process_name"), "args");
    assert_string_equal(json_string_value(json_object_get(args, "name")), "rank 3 on host1");
    json_t *errors = json_object_get(json_object_get(root, "otherData"), "clock_error_us");
    assert_true(json_real_value(json_array_get(errors, 0)) == 1.5);
    json_decref(root);
}

/* This rank's clock is 1 s ahead of rank 0's at first and 1 us less at the end. */
static void another_clock_is_brought_into_line(void **state)
{
    (void)state;
    const trace_clock_t clock = {
        .at_ns = {1000000000, 1000020000}, .ahead_ns = {1000000000, 999999000}};
    const trace_event_t events[] = {
        {.ns = 1000000000, .kind = TRACE_STEP},
        {.ns = 1000004000, .kind = TRACE_PHASE, .what = PROGRESS_EMBED},
        {.ns = 1000010000, .kind = TRACE_PHASE, .what = PROGRESS_IDLE},
    };
    json_t *root = written(&clock, events, 3, 0, 1000020000);
    expect_slice(root, "step 0", "step", 0, 10.5);
    expect_slice(root, "embedding", "phase", 4.2, 6.3);
    json_decref(root);
}

static void what_was_before_the_trace_is_at_its_beginning(void **state)
{
    (void)state;
    const trace_event_t events[] = {
        {.ns = 500, .kind = TRACE_STEP},
        {.ns = 3000, .kind = TRACE_PHASE, .what = PROGRESS_IDLE},
    };
    json_t *root = written(&same_clock, events, 2, 1000, 4000);
    expect_slice(root, "step 0", "step", 0, 2);
    json_decref(root);
}

/* As where a ring was too small: the rest is as if recording began there. */
static void events_without_their_beginning_still_nest(void **state)
{
    (void)state;
    for (size_t first = 0; first < N_EVENTS; first++) {
        json_t *root = written(&same_clock, one_step + first, N_EVENTS - first, 0, 95000), *event;
        size_t i;
        assert_true(count_slices(root) > 0);
        json_array_foreach (json_object_get(root, "traceEvents"), i, event) {
            double ts = json_real_value(json_object_get(event, "ts"));
            double dur = json_real_value(json_object_get(event, "dur"));
            assert_true(ts + dur <= 95);
        }
        json_decref(root);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_end_where_the_next_begin),
        cmocka_unit_test(another_clock_is_brought_into_line),
        cmocka_unit_test(what_was_before_the_trace_is_at_its_beginning),
        cmocka_unit_test(events_without_their_beginning_still_nest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
