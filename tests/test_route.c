/* A prompt follows its beginning to the replica that has it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/run/route.h"

#define N_IDS 300

static void fill(int32_t *ids, int32_t from)
{
    for (int32_t i = 0; i < N_IDS; i++)
        ids[i] = from + i;
}

static void the_longest_beginning_decides(void **state)
{
    (void)state;
    route_t *route;
    fail_t fail = {0};
    int32_t a[N_IDS], b[N_IDS];
    assert_int_equal(route_open(&route, &fail), 0);
    fill(a, 0);
    fill(b, 0);
    assert_true(route_find(route, a, N_IDS) == ROUTE_NONE);
    route_note(route, a, N_IDS, 1);
    assert_int_equal(route_find(route, a, N_IDS), 1);
    for (size_t i = 130; i < N_IDS; i++)
        b[i] = -b[i];
    assert_int_equal(route_find(route, b, N_IDS), 1); /* two blocks are a's */
    route_note(route, b, N_IDS, 2);
    assert_int_equal(route_find(route, b, N_IDS), 2);
    assert_int_equal(route_find(route, a, N_IDS), 1);    /* by its third block */
    assert_int_equal(route_find(route, a, 128), 2);      /* whose first block went to 2 last */
    assert_true(route_find(route, a, 64) == ROUTE_NONE); /* its last row is computed in any case */
    fill(b, 1);
    assert_true(route_find(route, b, N_IDS) == ROUTE_NONE);
    route_close(route);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_longest_beginning_decides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
