/* --weights auto: what is chosen from given rates, and that a measurement gives some. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/run/weights_choice.h"

static void a_gain_that_no_measurement_can_tell_is_none(void **state)
{
    (void)state;
    assert_false(weights_packed_is_faster(1, 0.98));
    assert_true(weights_packed_is_faster(1, 0.96));
}

static void rates_are_read_from_text(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "", "9", "9,", "9,8,", "9,8x", "0,8", "9,-8", "9,nan", "inf,8", "12,9,8"};
    weights_rates_t rates;
    fail_t fail = {0};
    assert_int_equal(weights_rates_parse("9,8.25", &rates, &fail), 0);
    assert_true(rates.dense == 9e9 && rates.packed == 8.25e9);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        fail = (fail_t){0};
        assert_int_equal(weights_rates_parse(wrong[i], &rates, &fail), FAIL_USAGE);
        assert_non_null(strstr(fail.message, "CHOIR_WEIGHTS_RATES: expected"));
    }
}

static void a_measurement_gives_rates(void **state)
{
    (void)state;
    for (int amx = 0; amx < 2; amx++) {
        fail_t fail = {0};
        team_t *team;
        kernels_t kernels;
        weights_rates_t rates;
        assert_int_equal(team_open(&team, 2, true, &fail), 0);
        kernels_get(&kernels, isa_detect(), DTYPE_BF16);
        assert_int_equal(
            weights_rates_measure(team, &kernels, amx ? DOT_AMX : DOT_CHAIN, &rates, &fail), 0);
        assert_true(isfinite(rates.dense) && rates.dense > 0);
        assert_true(isfinite(rates.packed) && rates.packed > 0);
        team_close(team);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gain_that_no_measurement_can_tell_is_none),
        cmocka_unit_test(rates_are_read_from_text),
        cmocka_unit_test(a_measurement_gives_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
