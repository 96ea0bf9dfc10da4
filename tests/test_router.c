/* The choice of experts, against PyTorch's (golden/router.json, made by oracle/router.py). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/base/json.h"
#include "engine/model/router.h"

enum { MAX_EXPERTS = 4096 };

static size_t size_at(json_t *object, const char *key)
{
    return (size_t)json_integer_value(json_object_get(object, key));
}

static json_t *read_golden(void)
{
    json_t *golden = NULL;
    fail_t fail = {0};
    assert_int_equal(
        json_file_read(CHOIR_SOURCE_DIR "/tests/golden/router.json", &golden, &fail), 0);
    return golden;
}

static void equal_values_are_chosen_as_pytorch_chooses(void **state)
{
    (void)state;
    static router_entry_t entries[MAX_EXPERTS];
    json_t *golden = read_golden(), *entry;
    size_t at, n_compared = 0;
    json_array_foreach (json_object_get(golden, "top_k"), at, entry) {
        size_t n = size_at(entry, "n"), k = size_at(entry, "k"), a = size_at(entry, "a");
        size_t levels = size_at(entry, "levels");
        assert_true(n <= MAX_EXPERTS);
        for (size_t i = 0; i < n; i++)
            entries[i] = (router_entry_t){(double)((i * (i + a) * 7 + a) % levels) / 4, (int32_t)i};
        router_top_k(k, n, entries);
        for (size_t j = 0; j < k; j++, n_compared++)
            assert_int_equal(entries[j].index,
                json_integer_value(json_array_get(json_object_get(entry, "indices"), j)));
    }
    assert_true(n_compared > 1000);
    json_decref(golden);
}

static void weights_are_divided_by_their_sum_in_pytorchs_order(void **state)
{
    (void)state;
    json_t *golden = read_golden(), *expected;
    size_t at;
    json_array_foreach (json_object_get(golden, "weights"), at, expected) {
        double values[ROUTER_MAX_CHOSEN];
        size_t k = at + 1;
        for (size_t i = 0; i < k; i++)
            values[i] = (float)exp2((double)((i * 37 + k) % 101) / 8 - 9);
        router_weights(DTYPE_BF16, true, k, values);
        for (size_t i = 0; i < k; i++)
            assert_int_equal(
                bf16_from_f32((float)values[i]), json_integer_value(json_array_get(expected, i)));
    }
    json_decref(golden);
}

static void weights_are_only_rounded_where_they_are_not_divided(void **state)
{
    (void)state;
    double values[] = {0.3, 0.2, 0.1};
    router_weights(DTYPE_BF16, false, 3, values);
    assert_true(values[0] == f32_from_bf16(bf16_from_f32(0.3f)));
    assert_true(values[2] == f32_from_bf16(bf16_from_f32(0.1f)));
    double wide[] = {0.3, 0.1};
    router_weights(DTYPE_F64, true, 2, wide);
    assert_true(wide[0] == 0.3 / (0.3 + 0.1));
}

static void what_is_not_a_number_is_the_largest(void **state)
{
    (void)state;
    router_entry_t entries[] = {{1, 0}, {NAN, 1}, {3, 2}, {2, 3}};
    router_top_k(2, 4, entries);
    assert_int_equal(entries[0].index, 1);
    assert_int_equal(entries[1].index, 2);
}

/* Against a plain choice, where no two are equal, and with rounds that run out. */
static void different_values_are_in_order(void **state)
{
    (void)state;
    static router_entry_t entries[MAX_EXPERTS];
    for (size_t n = 1; n <= MAX_EXPERTS; n = n * 3 / 2 + 1)
        for (size_t k = 1; k <= n && k <= ROUTER_MAX_CHOSEN; k += 3) {
            for (size_t i = 0; i < n; i++)
                entries[i] = (router_entry_t){(double)(i * 2654435761u % 65521), (int32_t)i};
            router_top_k(k, n, entries);
            for (size_t j = 1; j < k; j++)
                assert_true(entries[j - 1].value > entries[j].value);
            size_t larger = 0;
            for (size_t i = 0; i < n; i++)
                larger += (double)(i * 2654435761u % 65521) > entries[k - 1].value;
            assert_int_equal(larger, k - 1);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_values_are_chosen_as_pytorch_chooses),
        cmocka_unit_test(weights_are_divided_by_their_sum_in_pytorchs_order),
        cmocka_unit_test(weights_are_only_rounded_where_they_are_not_divided),
        cmocka_unit_test(what_is_not_a_number_is_the_largest),
        cmocka_unit_test(different_values_are_in_order),
    };
    return cmocka_run_group_tests_name("router", tests, NULL, NULL);
}
