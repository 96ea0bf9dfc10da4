#include "sharding/weights.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/log.h"
#include "engine/base/size.h"

#define STEPS                                                                                      \
    8                 /* of the slowest rank's weight: finer than the precision of a short
                       * measurement */
#define ALIKE 1.1     /* rates that differ by less count as equal */
#define SHOWN "%.60s" /* of the user's text */

/* Digits at *at, which moves on to what ends the number: ',' or the text's end. */
static bool read_number(const char **at, size_t *number)
{
    const char *begin = *at;
    *number = 0;
    for (; **at >= '0' && **at <= '9'; ++*at)
        *number = size_min(*number * 10 + (size_t)(**at - '0'), WEIGHTS_MOST + 1);
    return *at > begin && (**at == ',' || **at == '\0') && *number <= WEIGHTS_MOST;
}

int weights_parse(const char *text, size_t n, size_t *weights, fail_t *fail)
{
    size_t found = 0;
    for (const char *at = text;; at++) {
        size_t number;
        if (!read_number(&at, &number))
            return fail_set(fail, FAIL_USAGE,
                "--shares: expected auto, even, or whole numbers from 0 to %d with commas between them, found \"" SHOWN
                "\"",
                WEIGHTS_MOST, text);
        if (found < n)
            weights[found] = number;
        found++;
        if (*at == '\0')
            break;
    }
    if (found != n)
        return fail_set(fail, FAIL_USAGE,
            "--shares: expected %zu number%s, one for each rank that the model is split over, found %zu: \"" SHOWN
            "\"",
            n, plural(n), found, text);
    return weights_check(weights, n, fail);
}

int weights_check(const size_t *weights, size_t n, fail_t *fail)
{
    size_t most = 0;
    for (size_t r = 0; r < n; r++)
        most = size_max(most, weights[r]);
    if (most == 0)
        return fail_set(
            fail, FAIL_USAGE, "--shares: expected a number above 0 for at least one rank, found 0");
    if (most > WEIGHTS_MOST)
        return fail_set(
            fail, FAIL_USAGE, "--shares: expected at most %d, found %zu", WEIGHTS_MOST, most);
    return 0;
}

static size_t common_divisor(size_t a, size_t b)
{
    return b == 0 ? a : common_divisor(b, a % b);
}

void weights_from_rates(const double *rates, size_t n, size_t *weights)
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
        weights[r] = ratio < WEIGHTS_MOST ? (size_t)ratio : WEIGHTS_MOST;
        common = common_divisor(weights[r], common);
    }
    for (size_t r = 0; r < n; r++)
        weights[r] /= common;
}

bool weights_are_even(const size_t *weights, size_t n)
{
    for (size_t r = 1; r < n; r++)
        if (weights[r] != weights[0])
            return false;
    return true;
}

void weights_text(const size_t *weights, size_t n, char *text, size_t text_bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t r = 0; r < n && used < text_bytes; r++) {
        int length =
            snprintf(text + used, text_bytes - used, "%s%zu", r == 0 ? "" : ",", weights[r]);
        used += length > 0 ? (size_t)length : 0;
    }
}
