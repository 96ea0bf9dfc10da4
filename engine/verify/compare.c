#include "engine/verify/compare.h"

#include <math.h>
#include <string.h>

#include "engine/base/size.h"

#define BLOCK 256

/* Types from coarse to fine; f16 and bf16 each have values that the other lacks. */
static dtype_t coarser(dtype_t a, dtype_t b)
{
    return a < b ? a : b;
}

/* The number of the value among all values of its type, in ascending order; both zeros are 0. */
static int64_t ordinal(double value, dtype_t type)
{
    uint64_t bits = 0;
    dtype_convert(&bits, type, &value, DTYPE_F64, 1);
    size_t width = 8 * dtype_bytes(type);
    uint64_t sign = UINT64_C(1) << (width - 1);
    int64_t magnitude = (int64_t)(bits & (sign - 1));
    return bits & sign ? -magnitude : magnitude;
}

static uint64_t distance_ulps(double got, double expected, dtype_t type)
{
    int64_t a = ordinal(got, type), b = ordinal(expected, type);
    return a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
}

static uint64_t largest_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void note_place(compare_place_t *place, uint64_t index, double got, double expected)
{
    if (!place->found || index < place->index)
        *place = (compare_place_t){true, index, got, expected};
}

static void count_nonfinite(compare_t *c, double got, double expected, uint64_t index)
{
    if (!isfinite(got)) {
        *(isnan(got) ? &c->n_nan : &c->n_infinite) += 1;
        note_place(&c->nonfinite, index, got, expected);
    }
    if (!isfinite(expected)) {
        *(isnan(expected) ? &c->n_expected_nan : &c->n_expected_infinite) += 1;
        note_place(&c->expected_nonfinite, index, got, expected);
    }
}

/* Between finite values; equal ones may differ too, by the rounding of the expected one. */
static void add_distance(compare_t *c, double got, double expected, double row_largest)
{
    double difference = fabs(got - expected);
    c->max_abs = fmax(c->max_abs, difference);
    c->sum_squares += difference * difference;
    if (row_largest > 0)
        c->max_relative = fmax(c->max_relative, difference / row_largest);
}

static void compare_block(compare_t *c, const char *got, dtype_t got_type, const char *expected,
    dtype_t expected_type, size_t n, uint64_t index, double row_largest)
{
    double got_values[BLOCK], expected_values[BLOCK];
    char rounded[BLOCK * sizeof(double)];
    size_t bytes = dtype_bytes(got_type);
    dtype_t type = coarser(got_type, expected_type);
    dtype_convert(got_values, DTYPE_F64, got, got_type, n);
    dtype_convert(expected_values, DTYPE_F64, expected, expected_type, n);
    dtype_convert(rounded, got_type, expected, expected_type, n);
    for (size_t i = 0; i < n; i++) {
        double x = got_values[i], y = expected_values[i];
        bool finite = isfinite(x) && isfinite(y);
        if (!finite)
            count_nonfinite(c, x, y, index + i);
        else if (x != y)
            add_distance(c, x, y, row_largest);
        if (memcmp(got + i * bytes, rounded + i * bytes, bytes) == 0 || (isnan(x) && isnan(y))) {
            c->n_equal++;
            continue;
        }
        note_place(&c->difference, index + i, x, y);
        if (finite)
            c->max_ulps = largest_u64(c->max_ulps, distance_ulps(x, y, type));
        else
            c->n_unlike++;
    }
    c->n_values += n;
}

void compare_values(compare_t *compare, const void *got, dtype_t got_type, const void *expected,
    dtype_t expected_type, size_t n, uint64_t index, double row_largest)
{
    for (size_t done = 0; done < n; done += BLOCK)
        compare_block(compare, (const char *)got + done * dtype_bytes(got_type), got_type,
            (const char *)expected + done * dtype_bytes(expected_type), expected_type,
            size_min(BLOCK, n - done), index + done, row_largest);
}

static void merge_place(compare_place_t *into, const compare_place_t *from)
{
    if (from->found)
        note_place(into, from->index, from->got, from->expected);
}

void compare_merge(compare_t *into, const compare_t *from)
{
    into->n_values += from->n_values;
    into->n_equal += from->n_equal;
    into->max_abs = fmax(into->max_abs, from->max_abs);
    into->sum_squares += from->sum_squares;
    into->max_relative = fmax(into->max_relative, from->max_relative);
    into->max_ulps = largest_u64(into->max_ulps, from->max_ulps);
    into->n_nan += from->n_nan;
    into->n_infinite += from->n_infinite;
    into->n_expected_nan += from->n_expected_nan;
    into->n_expected_infinite += from->n_expected_infinite;
    into->n_unlike += from->n_unlike;
    merge_place(&into->difference, &from->difference);
    merge_place(&into->nonfinite, &from->nonfinite);
    merge_place(&into->expected_nonfinite, &from->expected_nonfinite);
}

bool compare_passes(const compare_t *compare, double tolerance)
{
    if (compare->n_equal == compare->n_values)
        return true;
    return tolerance > 0 && compare->n_unlike == 0 && compare->max_abs <= tolerance;
}

double compare_rms(const compare_t *compare)
{
    return compare->n_values == 0 ? 0 : sqrt(compare->sum_squares / (double)compare->n_values);
}

double compare_largest(const void *values, dtype_t type, size_t n)
{
    double block[BLOCK], largest = 0;
    for (size_t done = 0; done < n; done += BLOCK) {
        size_t count = size_min(BLOCK, n - done);
        dtype_convert(
            block, DTYPE_F64, (const char *)values + done * dtype_bytes(type), type, count);
        for (size_t i = 0; i < count; i++)
            if (isfinite(block[i]))
                largest = fmax(largest, fabs(block[i]));
    }
    return largest;
}
