/* What --shares takes, and what it makes of rates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sharding/rank_shares.h"

static void numbers_are_read(void **state)
{
    (void)state;
    size_t shares[3];
    char text[32];
    fail_t fail = {0};
    assert_int_equal(rank_shares_parse("20,0,1000", 3, shares, &fail), 0);
    assert_int_equal(shares[0], 20);
    assert_int_equal(shares[1], 0);
    assert_int_equal(shares[2], 1000);
    rank_shares_text(shares, 3, text, sizeof text);
    assert_string_equal(text, "20,0,1000");
    rank_shares_text(shares, 3, text, 6);
    assert_string_equal(text, "20,0,");
    assert_int_equal(rank_shares_parse("7", 1, shares, &fail), 0);
}

static void refuse(const char *text, size_t n, const char *expected)
{
    size_t shares[3] = {0};
    fail_t fail = {0};
    assert_int_equal(rank_shares_parse(text, n, shares, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "--shares"));
    if (strstr(fail.message, expected) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", expected, fail.message);
}

static void other_words_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", ",", "1,", ",1", "1,,1", "-1,2", "+1,2", "1 2", "1, 2",
        "1.5,1", "a,b", "1x,1", "1001,1", "18446744073709551617,1", "0x10,1", "autos"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char quoted[64];
        snprintf(quoted, sizeof quoted, "found \"%s\"", bad[i]);
        refuse(bad[i], 2, quoted);
    }
    refuse("1,2,3", 2, "expected 2 numbers");
    refuse("1,2,3", 2, "found 3");
    refuse("1", 2, "found 1");
    refuse("1,2", 1, "expected 1 number,");
    refuse("0,0,0", 3, "above 0");
}

static void expect_weights(size_t n, const double *rates, const char *expected)
{
    size_t shares[4];
    char text[64];
    rank_shares_from_rates(rates, n, shares);
    rank_shares_text(shares, n, text, sizeof text);
    assert_string_equal(text, expected);
}

static void rates_become_small_numbers(void **state)
{
    (void)state;
    expect_weights(2, (double[]){40e9, 20e9}, "2,1");
    expect_weights(2, (double[]){10e9, 30.2e9}, "1,3");
    expect_weights(3, (double[]){25e9, 10e9, 10.1e9}, "5,2,2");
    expect_weights(2, (double[]){12.5, 10}, "5,4");
    expect_weights(2, (double[]){17, 8}, "17,8");
    expect_weights(2, (double[]){1e12, 1}, "125,1");
    expect_weights(1, (double[]){3}, "1");
}

static void rates_that_hardly_differ_are_alike(void **state)
{
    (void)state;
    expect_weights(4, (double[]){20, 21, 21.9, 20.5}, "1,1,1,1");
    expect_weights(2, (double[]){20, 22.5}, "8,9");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_read),
        cmocka_unit_test(other_words_are_refused),
        cmocka_unit_test(rates_become_small_numbers),
        cmocka_unit_test(rates_that_hardly_differ_are_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
