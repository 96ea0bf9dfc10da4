/* Which experts a token goes to, and with what weights: the orders of PyTorch's topk and sum on a CPU
 * (docs/pytorch-orders.md, "Experts"). Pure functions. */
#ifndef CHOIR_MODEL_ROUTER_H
#define CHOIR_MODEL_ROUTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"

/* A number and the expert it belongs to. */
typedef struct router_entry {
    double value;
    int32_t index;
} router_entry_t;

/* The k largest of n entries, given with ascending indices, become the first k, largest first. Equal
 * values are placed as libstdc++'s partial_sort and nth_element place them, and not by index; NaN is
 * the largest. 1 <= k <= n; entries: [n], the others are left in any order */
void router_top_k(size_t k, size_t n, router_entry_t *entries);

/* Weights of the k chosen experts from their probabilities, in place, as rounded to the mode.
 * normalised: divided by their sum. k <= ROUTER_MAX_CHOSEN */
#define ROUTER_MAX_CHOSEN 32
void router_weights(dtype_t mode, bool normalised, size_t k, double *values);

/* Groups of entries of a sum over k experts: PyTorch adds k outputs of `width` columns in one order
 * for all but the last columns, which have four accumulators. */
static inline size_t router_plain_columns(size_t width)
{
    return width / 32 * 32;
}

#endif
