/* Products of many rows with several panels by fused multiply-add with AVX2. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_FMA_BLOCKED_H
#define CHOIR_KERNELS_FMA_BLOCKED_H

#include "engine/kernels/kernels_internal.h"

/* x: [n, inputs] bf16, stride elements apart */
typedef struct blocked_rows {
    const uint16_t *x;
    size_t n, stride;
} blocked_rows_t;

/* As kernels_t.tile_panels, or tile_amx_panels. */
void blocked_multiply_avx2(bool amx, const blocked_rows_t *rows, size_t n_panels,
    const uint16_t *const *b, size_t width, size_t k, float *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode);

#endif
