/* Comparing values with expected ones: how many are equal, and how large the differences are.
 *
 * Plain data; compare_merge adds comparisons of parts. Values that compare equal have the same
 * bits, once the expected one is rounded to the type of the other; any NaN equals any other. */
#ifndef CHOIR_VERIFY_COMPARE_H
#define CHOIR_VERIFY_COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"

/* The first value of a kind, by its index in the whole matrix. */
typedef struct compare_place {
    bool found;
    uint64_t index;
    double got, expected;
} compare_place_t;

typedef struct compare {
    uint64_t n_values, n_equal;
    /* Of the differences between finite values. */
    double max_abs, sum_squares;
    double max_relative; /* difference / largest expected magnitude of its row */
    uint64_t max_ulps;   /* steps of the coarser one of the two types */
    uint64_t n_nan, n_infinite, n_expected_nan, n_expected_infinite;
    uint64_t n_unlike; /* unequal, and not both finite */
    compare_place_t difference, nonfinite, expected_nonfinite;
} compare_t;

/* Adds n values that are contiguous in the matrix. index: of the first of them; row_largest: the
 * largest expected magnitude of their row, 0 when it is not needed. */
void compare_values(compare_t *compare, const void *got, dtype_t got_type, const void *expected,
    dtype_t expected_type, size_t n, uint64_t index, double row_largest);

void compare_merge(compare_t *into, const compare_t *from);

/* Whether everything is equal, or, with a tolerance above 0, within it. */
bool compare_passes(const compare_t *compare, double tolerance);

/* Root of the mean square of the differences. */
double compare_rms(const compare_t *compare);

/* Largest magnitude among n values; infinities and NaN do not count. */
double compare_largest(const void *values, dtype_t type, size_t n);

#endif
