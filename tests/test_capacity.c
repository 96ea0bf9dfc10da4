#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/run/capacity.h"

#define GIB ((size_t)1 << 30)

static void plenty_of_memory_gives_a_full_batch_its_share(void **state)
{
    (void)state;
    capacity_t capacity = {.max_positions = 32768,
        .max_batch = 64,
        .weight_bytes = GIB,
        .cache_bytes_per_token = 1024,
        .available_bytes = 64 * GIB};
    assert_int_equal(capacity_choose_tokens(&capacity, 64), 65536);
    capacity.max_batch = 1;
    assert_int_equal(capacity_choose_tokens(&capacity, 64), 32768);
    capacity.max_positions = 1000;
    assert_int_equal(capacity_choose_tokens(&capacity, 64), 1024);
    capacity.available_bytes = 0;
    capacity.max_positions = 131072;
    assert_int_equal(capacity_choose_tokens(&capacity, 64), 32768);
}

static void little_memory_shortens_the_cache_but_not_below_a_use(void **state)
{
    (void)state;
    capacity_t capacity = {.max_positions = 32768,
        .max_batch = 64,
        .weight_bytes = 2 * GIB,
        .cache_bytes_per_token = 65536,
        .available_bytes = 3 * GIB};
    assert_int_equal(capacity_choose_tokens(&capacity, 64), 8192);
    capacity.available_bytes = GIB;
    assert_int_equal(capacity_choose_tokens(&capacity, 64), 1024);
    capacity.cache_bytes_per_token = 0;
    assert_int_equal(capacity_choose_tokens(&capacity, 64), 65536);
}

static void too_much_is_refused_with_figures(void **state)
{
    (void)state;
    capacity_t capacity = {.max_positions = 32768,
        .max_batch = 1,
        .weight_bytes = 3 * GIB,
        .cache_bytes_per_token = 65536,
        .available_bytes = 4 * GIB};
    fail_t fail = {0};
    assert_int_equal(capacity_check(&capacity, 8192, GIB / 2, 2, &fail), 0);
    assert_int_equal(capacity_check(&capacity, 32768, GIB / 2, 2, &fail), FAIL_MEMORY);
    assert_non_null(strstr(fail.message, "11.00 GiB"));
    assert_non_null(strstr(fail.message, "8.00 GiB"));
    assert_non_null(strstr(fail.message, "32768"));
    capacity.available_bytes = 0;
    fail = (fail_t){0};
    assert_int_equal(capacity_check(&capacity, 32768, GIB / 2, 2, &fail), 0);
    assert_int_equal(capacity_check(&capacity, SIZE_MAX / 2, 0, 1, &fail), FAIL_MEMORY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plenty_of_memory_gives_a_full_batch_its_share),
        cmocka_unit_test(little_memory_shortens_the_cache_but_not_below_a_use),
        cmocka_unit_test(too_much_is_refused_with_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
