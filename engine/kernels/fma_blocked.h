/* Products of many rows with several panels by fused multiply-add. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_FMA_BLOCKED_H
#define CHOIR_KERNELS_FMA_BLOCKED_H

#include "engine/kernels/kernels_internal.h"

/* x: [n, inputs] bf16, stride elements apart */
typedef struct blocked_rows {
    const uint16_t *x;
    size_t n, stride;
} blocked_rows_t;

/* As kernels_t.tile_panels, or tile_amx_panels. */
typedef void blocked_multiply_t(bool amx, const blocked_rows_t *rows, size_t n_panels,
    const uint16_t *const *b, size_t width, size_t k, float *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode);
blocked_multiply_t blocked_multiply_avx2, blocked_multiply_avx512;

/* Inputs of a block of chains, and of a chain, at most; rows with longer chains are multiplied one by one. */
#define FOLD_BLOCK_INPUTS 320

/* The 64 chains, of an even number of inputs each, of rows that are permuted (fold.h), with at most KERNEL_TILE_PANELS
 * panels, folded into c. */
typedef void blocked_fold_t(const blocked_rows_t *rows, size_t n_panels, const void *const *b,
    size_t width, size_t chain, float *c, size_t c_panel, size_t c_stride);
blocked_fold_t blocked_fold_avx2, blocked_fold_avx512;

#endif
