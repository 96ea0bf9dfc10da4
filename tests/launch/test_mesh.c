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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_replica_loses_the_time_after_its_last_job),
        cmocka_unit_test(no_more_time_is_lost_than_there_was),
        cmocka_unit_test(work_that_took_no_time_loses_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
