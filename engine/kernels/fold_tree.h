/* The tree of the dot product fold's chains, for register tiles: chains are computed in the order in which they
 * lie (fold.h), so that what is folded together follows each other. A partial sum waits in the place of its
 * height, the number of folds that it has seen, until its neighbour is there. Within a block of chains it waits in
 * the first-level cache, beyond it with those of other rows in the second. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_FOLD_TREE_H
#define CHOIR_KERNELS_FOLD_TREE_H

#include <stdbool.h>

#include "engine/kernels/fma.h"
#include "engine/kernels/fold.h"
#include "engine/kernels/tile_table.h"

#define FOLD_HEIGHT 6 /* of 64 chains */

INLINE void fold_clear(const int rows, const int vectors, tile_sums_t sum)
{
    FOR_SUMS
        sum[r][v] = (vec_f32_t){0};
}

/* sum = first + second */
INLINE void fold_add(
    const int rows, const int vectors, tile_sums_t first, tile_sums_t second, tile_sums_t sum)
{
    FOR_SUMS
        sum[r][v] = first[r][v] + second[r][v];
}

/* Folds sums number q of a block, in the order of the tree, with those that wait for them. What is not the last
 * waits then; the last is all of the block. */
INLINE void fold_in_block(const int rows, const int vectors, size_t q, const bool last,
    tile_sums_t waiting[FOLD_HEIGHT], tile_sums_t sum)
{
    size_t height = 0;
    for (; (q >> height & 1) != 0; height++)
        fold_add(rows, vectors, waiting[height], sum, sum);
    if (!last)
        FOR_SUMS
            waiting[height][r][v] = sum[r][v];
}

/* Where the sums of a block go, and those of blocks before it that are folded with them:
 * [rows, KERNEL_PANEL]; rows of `to` are to_stride apart. */
typedef struct fold_result {
    const float *add[FOLD_HEIGHT];
    size_t n_add, to_stride;
    float *to;
} fold_result_t;

/* Of block q of n chains each. waiting: [FOLD_HEIGHT][rows, KERNEL_PANEL], most_rows of them */
static inline fold_result_t fold_result(
    size_t q, size_t n, float *waiting, size_t most_rows, float *c, size_t c_stride)
{
    fold_result_t y = {.n_add = 0};
    for (; (q >> y.n_add & 1) != 0; y.n_add++)
        y.add[y.n_add] = waiting + y.n_add * most_rows * KERNEL_PANEL;
    bool last = (q + 1) * n == FOLD_CHAINS;
    y.to = last ? c : waiting + y.n_add * most_rows * KERNEL_PANEL;
    y.to_stride = last ? c_stride : KERNEL_PANEL;
    return y;
}

/* Of a register tile from a row and an output on. */
INLINE void fold_store(const int rows, const int vectors, const fold_result_t *y, size_t row,
    size_t output, tile_sums_t sum)
{
    for (size_t i = 0; i < y->n_add; i++) {
        const float *add = y->add[i] + row * KERNEL_PANEL + output;
        FOR_SUMS
            sum[r][v] = *(const mem_f32_t *)(add + r * KERNEL_PANEL + LANES_F32 * v) + sum[r][v];
    }
    float *to = y->to + row * y->to_stride + output;
    FOR_SUMS
        *(mem_f32_t *)(to + (size_t)r * y->to_stride + LANES_F32 * v) = sum[r][v];
}

/* Chains of a block: a power of two, whose inputs are at most so many, if one chain's are. */
static inline size_t fold_block_chains(size_t chain, size_t most_inputs)
{
    size_t n = FOLD_CHAINS;
    while (n > 1 && n * chain > most_inputs)
        n /= 2;
    return n;
}

/* fold_fma.c, with AVX-512: tile_fold of a single row, or where vdpbf16ps would take something as zero, and what is
 * left of a row's inputs after the 64 chains: the 8 chains and the single products are added to c. */
void tile_fold_by_fma(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride);
void fold_rest_by_fma(size_t rows, const uint16_t *a, size_t a_stride, const void *b, size_t width,
    size_t inputs, float *c, size_t c_stride);

#endif
