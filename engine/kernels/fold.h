/* The dot product fold: how PyTorch adds the products of bf16 on CPUs with AVX2 only
 * (docs/pytorch-orders-avx2.md).
 *
 * Of K inputs, each whole 64 are dealt to 64 chains of fused multiply-adds from +0, input k to chain
 * k mod 64, ascending. Chain 8 r + l is element l of vector r. The chains are folded: over r by halves
 * (r and r + 4, r + 2, r + 1), then over l likewise. Of the rest, whole 16s go to 8 more chains, input
 * i of them to chain i mod 8, which are folded by halves; that sum is added, and then the last K mod
 * 16 products one by one, each rounded before it is added. Denormals are kept everywhere.
 *
 * Layout: a row's and an output's inputs are permuted so that each chain is contiguous and chains that
 * are folded together are neighbours: chain after chain, r the faster, both in the order 0, 4, 2, 6, 1,
 * 5, 3, 7. Inputs lie in pairs of which the odd one comes first in the sum, as everywhere in kernels.h,
 * so a pair of one chain is one vdpbf16ps. Where a chain has an odd number of inputs, a zero comes
 * before them. Then the 8 chains of the 16s, in the same order, then the last inputs as they are, with a
 * zero behind an odd number.
 *
 *   a row     [fold_inputs] bf16, then a depth
 *   a panel   [fold_inputs / 2][width][2] bf16, then a depth
 *
 * A depth, 64 bytes of which the first 4 are used, says how small the smallest value other than zero
 * is. vdpbf16ps takes denormals as zero; where the depths of a row and a panel together are small, no
 * sum of their products can be denormal, because all are multiples of a number that is not. */
#ifndef CHOIR_KERNELS_FOLD_H
#define CHOIR_KERNELS_FOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/format.h"

#define FOLD_CHAINS 64
#define FOLD_LANES 8
#define FOLD_DEPTH_BYTES 64

/* How many inputs lie where. */
typedef struct fold_shape {
    size_t chunks;      /* inputs of a chain */
    size_t chain;       /* the same rounded up to even: as it lies */
    size_t short_chain; /* inputs of one of the 8 chains of the 16s, even */
    size_t last;        /* inputs that are added one by one */
} fold_shape_t;

static inline fold_shape_t fold_shape(size_t inputs)
{
    size_t chunks = inputs / FOLD_CHAINS, rest = inputs % FOLD_CHAINS;
    return (fold_shape_t){chunks, (chunks + 1) / 2 * 2, rest / 16 * 2, rest % 16};
}

/* The i-th in the order 0, 4, 2, 6, 1, 5, 3, 7. */
static inline size_t fold_order(size_t i)
{
    return (i & 1) << 2 | (i & 2) | (i & 4) >> 2;
}

/* Elements of a permuted row of so many inputs, without the depth; even. */
static inline size_t fold_inputs(size_t inputs)
{
    fold_shape_t s = fold_shape(inputs);
    return FOLD_CHAINS * s.chain + FOLD_LANES * s.short_chain + (s.last + 1) / 2 * 2;
}

/* Elements of a row with its depth. */
static inline size_t fold_row_elements(size_t inputs)
{
    return fold_inputs(inputs) + FOLD_DEPTH_BYTES / sizeof(uint16_t);
}

/* Where input k of a row lies. */
size_t fold_position(size_t inputs, size_t k);

/* Permutes a row. src: [inputs]; dst: [fold_row_elements], written whole */
void fold_pack_row(size_t inputs, const uint16_t *src, uint16_t *dst);

static inline uint32_t fold_depth(const void *row_or_panel, size_t elements)
{
    return *(const uint32_t *)(const void *)((const uint16_t *)row_or_panel + elements);
}

/* Whether no sum of products of a row and a panel with these depths can be denormal. */
static inline bool fold_is_normal(uint32_t row, uint32_t panel)
{
    /* Values are multiples of 2^(e - 134), e their biased exponents; depths are 256 - e. Products are
     * multiples of 2^(e + e' - 268), and so is every rounded sum; 2^-126 is the smallest normal. */
    enum { MOST = 512 - 142 };
    return row + panel <= MOST;
}

/* Panels in this layout. */
const format_t *format_fold(void);

#endif
