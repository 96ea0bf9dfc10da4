#include "sharding/rank_shares.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/log.h"
#include "engine/base/size.h"

#define STEPS                                                                                      \
    8                 /* of the slowest rank's share: finer than the precision of a short
                       * measurement */
#define ALIKE 1.1     /* rates that differ by less count as equal */
#define SHOWN "%.60s" /* of the user's text */

/* Digits at *at, which moves on to what ends the number: ',' or the text's end. */
static bool read_number(const char **at, size_t *number)
{
    const char *begin = *at;
    *number = 0;
    for (; **at >= '0' && **at <= '9'; ++*at)
        *number = size_min(*number * 10 + (size_t)(**at - '0'), RANK_SHARES_MOST + 1);
    return *at > begin && (**at == ',' || **at == '\0') && *number <= RANK_SHARES_MOST;
}

int rank_shares_parse(const char *text, size_t n, size_t *shares, fail_t *fail)
{
    size_t found = 0;
    for (const char *at = text;; at++) {
        size_t number;
        if (!read_number(&at, &number))
            return fail_set(fail, FAIL_USAGE,
                "--shares: expected auto, even, or whole numbers from 0 to %d with commas between them, found \"" SHOWN
                "\"",
                RANK_SHARES_MOST, text);
        if (found < n)
            shares[found] = number;
        found++;
        if (*at == '\0')
            break;
    }
    if (found != n)
        return fail_set(fail, FAIL_USAGE,
            "--shares: expected %zu number%s, one for each rank that the model is split over, found %zu: \"" SHOWN
            "\"",
            n, plural(n), found, text);
    return rank_shares_check(shares, n, fail);
}

int rank_shares_check(const size_t *shares, size_t n, fail_t *fail)
{
    size_t most = 0;
    for (size_t r = 0; r < n; r++)
        most = size_max(most, shares[r]);
    if (most == 0)
        return fail_set(
            fail, FAIL_USAGE, "--shares: expected a number above 0 for at least one rank, found 0");
    if (most > RANK_SHARES_MOST)
        return fail_set(
            fail, FAIL_USAGE, "--shares: expected at most %d, found %zu", RANK_SHARES_MOST, most);
    return 0;
}

static size_t common_divisor(size_t a, size_t b)
{
    return b == 0 ? a : common_divisor(b, a % b);
}

void rank_shares_from_rates(const double *rates, size_t n, size_t *shares)
{
    double slowest = rates[0], fastest = rates[0];
    size_t common = 0;
    for (size_t r = 1; r < n; r++) {
        slowest = rates[r] < slowest ? rates[r] : slowest;
        fastest = rates[r] > fastest ? rates[r] : fastest;
    }
    bool alike = fastest < ALIKE * slowest;
    for (size_t r = 0; r < n; r++) {
        double ratio = alike ? 1 : STEPS * rates[r] / slowest + 0.5;
        shares[r] = ratio < RANK_SHARES_MOST ? (size_t)ratio : RANK_SHARES_MOST;
        common = common_divisor(shares[r], common);
    }
    for (size_t r = 0; r < n; r++)
        shares[r] /= common;
}

bool rank_shares_are_even(const size_t *shares, size_t n)
{
    for (size_t r = 1; r < n; r++)
        if (shares[r] != shares[0])
            return false;
    return true;
}

void rank_shares_text(const size_t *shares, size_t n, char *text, size_t text_bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t r = 0; r < n && used < text_bytes; r++) {
        int length =
            snprintf(text + used, text_bytes - used, "%s%zu", r == 0 ? "" : ",", shares[r]);
        used += length > 0 ? (size_t)length : 0;
    }
}
