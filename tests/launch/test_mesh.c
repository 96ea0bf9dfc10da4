#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "launch/mesh.h"

#define SECOND UINT64_C(1000000000)

static void a_replica_loses_the_time_after_its_last_job(void **state)
{
    (void)state;
    const fleet_stats_t stats[] = {{.tail_ns = 0}, {.tail_ns = 2 * SECOND}};
    assert_true(mesh_lost(stats, 2, 8) == 0.125);
    assert_true(mesh_lost(stats, 1, 8) == 0);
}

/* One without a job waits from before the work begins, and its clock with it. */
static void no_more_time_is_lost_than_there_was(void **state)
{
    (void)state;
    const fleet_stats_t stats[] = {{.tail_ns = 0}, {.tail_ns = 37 * SECOND}};
    assert_true(mesh_lost(stats, 2, 0.5) == 0.5);
    assert_true(mesh_lost(stats + 1, 1, 0.5) == 1);
}

static void work_that_took_no_time_loses_none(void **state)
{
    (void)state;
    const fleet_stats_t stats[] = {{.tail_ns = SECOND}};
    assert_true(mesh_lost(stats, 1, 0) == 0);
}

static void meshes_are_parsed(void **state)
{
    (void)state;
    size_t n;
    fail_t fail = {0};
    assert_int_equal(mesh_parse(NULL, 6, &n, &fail), 0);
    assert_int_equal(n, 1);
    assert_int_equal(mesh_parse("3x2", 6, &n, &fail), 0);
    assert_int_equal(n, 3);
    static const char *const bad[] = {
        "", "x", "2x", "x2", "2x2x", "-2x-3", "2*3", "0x6", "6x0", "2x2", " "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fail = (fail_t){0};
        assert_int_equal(mesh_parse(bad[i], 6, &n, &fail), FAIL_USAGE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_replica_loses_the_time_after_its_last_job),
        cmocka_unit_test(no_more_time_is_lost_than_there_was),
        cmocka_unit_test(meshes_are_parsed),
        cmocka_unit_test(work_that_took_no_time_loses_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
