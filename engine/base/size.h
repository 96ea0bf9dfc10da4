/* Checked sizes: products and sums of untrusted sizes that report overflow instead of wrapping. */
#ifndef CHOIR_BASE_SIZE_H
#define CHOIR_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>

/* *out = a * b; false (and *out untouched) when it does not fit into size_t. */
static inline bool size_mul(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

/* *out = a + b; false when it does not fit. */
static inline bool size_add(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

/* The smallest multiple of unit that is at least n. unit must be positive. */
static inline size_t size_round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static inline size_t size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t size_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

#endif
