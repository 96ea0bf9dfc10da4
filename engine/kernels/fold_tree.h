/* The tree of the dot product fold's chains, for register tiles: chains are computed in the order in which they
 * lie (fold.h), so that what is folded together follows each other. A partial sum waits in the slot of its
 * height, the number of folds that it has seen, until its neighbour is there. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_FOLD_TREE_H
#define CHOIR_KERNELS_FOLD_TREE_H

#include "engine/kernels/fma.h"
#include "engine/kernels/fold.h"
#include "engine/kernels/kernels.h"

#define FOLD_HEIGHT 6                           /* of 64 chains */
#define FOLD_SHORT_HEIGHT 3                     /* of 8 */
#define FOLD_VECTORS (KERNEL_PANEL / LANES_F32) /* of a panel, at most */

/* Where partial sums wait, those of the last height where the result goes: [rows, KERNEL_PANEL] each, but
 * for the result, whose rows are result_stride apart. */
typedef struct fold_slots {
    float *at[FOLD_HEIGHT + 1];
    size_t height; /* of the result */
    size_t result_stride;
} fold_slots_t;

/* Folds the sums of chain q, counted in the order of the tree, with those that wait for them. */
INLINE void fold_into(const int rows, const int vectors, size_t q, const fold_slots_t *slots,
    vec_f32_t sum[][FOLD_VECTORS])
{
    size_t height = 0;
    for (; (q >> height & 1) != 0; height++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++)
                sum[r][v] =
                    *(const mem_f32_t *)(slots->at[height] + r * KERNEL_PANEL + LANES_F32 * v) +
                    sum[r][v];
    size_t stride = height == slots->height ? slots->result_stride : KERNEL_PANEL;
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            *(mem_f32_t *)(slots->at[height] + (size_t)r * stride + LANES_F32 * v) = sum[r][v];
}

/* The slots of a row, or of a register tile, from a row and an output on. */
static inline fold_slots_t fold_slots_from(const fold_slots_t *slots, size_t row, size_t output)
{
    fold_slots_t moved = *slots;
    for (size_t h = 0; h < slots->height; h++)
        moved.at[h] += row * KERNEL_PANEL + output;
    moved.at[slots->height] += row * slots->result_stride + output;
    return moved;
}

/* Chains of a block: a power of two, whose inputs are at most so many, if one chain's are. */
static inline size_t fold_block_chains(size_t chain, size_t most_inputs)
{
    size_t n = FOLD_CHAINS;
    while (n > 1 && n * chain > most_inputs)
        n /= 2;
    return n;
}

/* fold_fma.c, with AVX-512: tile_fold where vdpbf16ps would take something as zero, and what is left of a row's
 * inputs after the 64 chains: the 8 chains and the single products are added to c. */
void tile_fold_by_fma(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride);
void fold_rest_by_fma(size_t rows, const uint16_t *a, size_t a_stride, const void *b, size_t width,
    size_t inputs, float *c, size_t c_stride);

#endif
