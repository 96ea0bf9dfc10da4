/* Comparing arrays: counts, distances, places. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/verify/compare.h"

static compare_t compare_f32(const float *got, const float *expected, size_t n)
{
    compare_t c = {0};
    compare_values(&c, got, DTYPE_F32, expected, DTYPE_F32, n, 0, 0);
    return c;
}

static void equal_arrays_pass_with_nothing_to_say(void **state)
{
    (void)state;
    static const float values[] = {0, 1, -2.5f, 1e-40f};
    compare_t c = compare_f32(values, values, 4);
    assert_int_equal(c.n_values, 4);
    assert_int_equal(c.n_equal, 4);
    assert_true(c.max_abs == 0 && compare_rms(&c) == 0 && c.max_ulps == 0);
    assert_false(c.difference.found || c.nonfinite.found);
    assert_true(compare_passes(&c, 0));
}

static void differences_are_measured_and_the_first_is_kept(void **state)
{
    (void)state;
    static const float got[] = {1, 2, 3, 4}, expected[] = {1, 2.5f, 3, 1};
    compare_t c = {0};
    compare_values(&c, got, DTYPE_F32, expected, DTYPE_F32, 4, 1000, 8);
    assert_int_equal(c.n_equal, 2);
    assert_true(c.max_abs == 3);
    assert_true(c.max_relative == 3.0 / 8);
    assert_true(compare_rms(&c) == sqrt((0.25 + 9) / 4));
    assert_int_equal(c.difference.index, 1001);
    assert_true(c.difference.got == 2 && c.difference.expected == 2.5);
    assert_false(compare_passes(&c, 0));
    assert_false(compare_passes(&c, 2.99));
    assert_true(compare_passes(&c, 3));
}

static void ulps_count_steps_of_the_type_also_across_zero(void **state)
{
    (void)state;
    static const uint16_t got[] = {0x3f80, 0x0001, 0xc000}, expected[] = {0x3f83, 0x8002, 0xc000};
    compare_t c = {0};
    compare_values(&c, got, DTYPE_BF16, expected, DTYPE_BF16, 1, 0, 0);
    assert_int_equal(c.max_ulps, 3);
    compare_values(&c, got + 1, DTYPE_BF16, expected + 1, DTYPE_BF16, 2, 1, 0);
    assert_int_equal(c.max_ulps, 3);
    assert_int_equal(c.n_equal, 1);
    double wide = 1, next = nextafter(1, 2);
    c = (compare_t){0};
    compare_values(&c, &next, DTYPE_F64, &wide, DTYPE_F64, 1, 0, 0);
    assert_int_equal(c.max_ulps, 1);
}

static void the_two_zeros_differ_in_bits_alone(void **state)
{
    (void)state;
    static const float got[] = {-0.0f}, expected[] = {0.0f};
    compare_t c = compare_f32(got, expected, 1);
    assert_int_equal(c.n_equal, 0);
    assert_int_equal(c.max_ulps, 0);
    assert_true(c.max_abs == 0);
    assert_false(compare_passes(&c, 0));
    assert_true(compare_passes(&c, 1e-30));
}

static void nan_and_infinity_are_counted_and_placed_and_never_within_a_tolerance(void **state)
{
    (void)state;
    const float got[] = {1, NAN, INFINITY, 4}, expected[] = {1, 2, 3, -INFINITY};
    compare_t c = compare_f32(got, expected, 4);
    assert_int_equal(c.n_nan, 1);
    assert_int_equal(c.n_infinite, 1);
    assert_int_equal(c.n_expected_infinite, 1);
    assert_int_equal(c.nonfinite.index, 1);
    assert_int_equal(c.expected_nonfinite.index, 3);
    assert_int_equal(c.n_unlike, 3);
    assert_true(c.max_abs == 0);
    assert_false(compare_passes(&c, 1e30));
    compare_t same = compare_f32(got, got, 4);
    assert_int_equal(same.n_nan, 1);
    assert_true(compare_passes(&same, 0));
}

static void an_expected_value_is_rounded_to_the_type_but_its_distance_is_not(void **state)
{
    (void)state;
    const double expected[] = {1 + 0x1p-30, 2};
    static const float got[] = {1, 2};
    compare_t c = {0};
    compare_values(&c, got, DTYPE_F32, expected, DTYPE_F64, 2, 0, 0);
    assert_int_equal(c.n_equal, 2);
    assert_true(c.max_abs == 0x1p-30);
    assert_true(compare_passes(&c, 0));
}

static void a_value_finer_than_expected_must_hit_it(void **state)
{
    (void)state;
    static const uint16_t expected[] = {0x3f80, 0x4000};
    static const float got[] = {1.0001f, 2};
    compare_t c = {0};
    compare_values(&c, got, DTYPE_F32, expected, DTYPE_BF16, 2, 0, 0);
    assert_int_equal(c.n_equal, 1);
    assert_int_equal(c.difference.index, 0);
}

static void parts_add_up_to_the_whole_in_any_order(void **state)
{
    (void)state;
    enum { N = 1000 };
    float got[N], expected[N];
    for (size_t i = 0; i < N; i++) {
        expected[i] = (float)i;
        got[i] = i % 7 == 3 ? (float)i + (float)(i % 5) * 0.5f : (float)i;
    }
    compare_t whole = compare_f32(got, expected, N), parts = {0};
    static const size_t begins[] = {600, 0, 255, 600};
    static const size_t ends[] = {N, 255, 600, 600};
    for (size_t p = 0; p < 4; p++) {
        compare_t part = {0};
        compare_values(&part, got + begins[p], DTYPE_F32, expected + begins[p], DTYPE_F32,
            ends[p] - begins[p], begins[p], 0);
        compare_merge(&parts, &part);
    }
    assert_int_equal(parts.n_values, N);
    assert_int_equal(parts.n_equal, whole.n_equal);
    assert_true(parts.n_equal < N);
    assert_true(parts.max_abs == whole.max_abs && parts.sum_squares == whole.sum_squares);
    assert_int_equal(parts.difference.index, whole.difference.index);
    assert_int_equal(parts.max_ulps, whole.max_ulps);
}

static void the_largest_magnitude_ignores_nan_and_infinity(void **state)
{
    (void)state;
    const float values[] = {1, -7, NAN, INFINITY, 3};
    assert_true(compare_largest(values, DTYPE_F32, 5) == 7);
    assert_true(compare_largest(values, DTYPE_F32, 0) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_arrays_pass_with_nothing_to_say),
        cmocka_unit_test(differences_are_measured_and_the_first_is_kept),
        cmocka_unit_test(ulps_count_steps_of_the_type_also_across_zero),
        cmocka_unit_test(the_two_zeros_differ_in_bits_alone),
        cmocka_unit_test(nan_and_infinity_are_counted_and_placed_and_never_within_a_tolerance),
        cmocka_unit_test(an_expected_value_is_rounded_to_the_type_but_its_distance_is_not),
        cmocka_unit_test(a_value_finer_than_expected_must_hit_it),
        cmocka_unit_test(parts_add_up_to_the_whole_in_any_order),
        cmocka_unit_test(the_largest_magnitude_ignores_nan_and_infinity),
    };
    return cmocka_run_group_tests_name("compare", tests, NULL, NULL);
}
