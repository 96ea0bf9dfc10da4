/* The list's functions for packed bf16: k inputs of a whole panel. Mode bf16. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/kernel_list_internal.h"
#include "engine/kernels/packed.h"

/* As much again for what does not fit. */
LAYOUT(kernel_packed_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_BF16, s->k * s->n, false, false};
    b[1] = (kernel_buffer_t){DTYPE_BF16, packed_blocks_bytes(s->k) / sizeof(uint16_t), false, true};
    b[2] = (kernel_buffer_t){DTYPE_BF16, s->k * s->n / 2, false, true};
    b[3] = (kernel_buffer_t){DTYPE_BF16, s->k * s->n, true, true};
}

CALL(kernel_call_unpack_packed)
{
    fail_t fail = {0};
    spill_t spill = {.at = d[2], .bytes = s->k * s->n};
    const format_t *format = format_packed(format_dense(DTYPE_BF16));
    if (s->variant == 0)
        format->pack_panel(format, s->k, d[0], d[1], &spill, &fail);
    for (size_t k = 0; s->variant != 0 && k < s->k; k += PACKED_INPUTS)
        ((packed_block_t *)(uintptr_t)packed_block_of(d[1], k))->n_exceptions = 0;
    kernels->unpack_packed(d[1], 0, s->k, d[3]);
}

static const tile_mode_t row_modes[] = {TILE_SET, TILE_CHAIN, TILE_ADD};

static bool is_packed_already(const kernel_shape_t *s)
{
    return s->variant == KERNEL_PACKED_ROWS_VARIANTS;
}

static size_t row_panels(const kernel_shape_t *s)
{
    return is_packed_already(s) ? KERNEL_TILE_PANELS : 1 + s->variant / 3;
}

static size_t row_panel_bytes(const kernel_shape_t *s)
{
    return size_round_up(packed_blocks_bytes(s->k), 64);
}

/* Rows of k inputs, some panels, which begin a pair of inputs after each other in dense memory, the same packed, with as much
 * again for what does not fit, and the sums, a panel's after another's. */
LAYOUT(kernel_packed_rows_layout)
{
    (void)kernels;
    size_t n = row_panels(s);
    b[0] = (kernel_buffer_t){DTYPE_BF16, s->rows * (s->k + 2 * s->pad), false, false};
    b[1] = (kernel_buffer_t){
        DTYPE_BF16, is_packed_already(s) ? 0 : (s->k + 2 * n) * s->n, false, true};
    b[2] = (kernel_buffer_t){
        DTYPE_F64, n * (row_panel_bytes(s) + s->k * s->n) / sizeof(double), false, true};
    b[3] = (kernel_buffer_t){DTYPE_F32, n * s->rows * (s->n + s->pad), true, false};
}

/* The panels; packs them if they are not. */
static void pack_panels(
    const kernel_shape_t *s, void *const *d, const void *panels[KERNEL_TILE_PANELS])
{
    const format_t *format = format_packed(format_dense(DTYPE_BF16));
    const size_t n = row_panels(s), bytes = row_panel_bytes(s);
    fail_t fail = {0};
    spill_t spill = {.at = (char *)d[2] + n * bytes, .bytes = n * s->k * s->n};
    for (size_t p = 0; p < n; p++) {
        char *panel = (char *)d[2] + p * bytes;
        panels[p] = panel;
        if (!is_packed_already(s))
            format->pack_panel(format, s->k, (uint16_t *)d[1] + 2 * p * s->n, panel, &spill, &fail);
        for (size_t k = 0; is_packed_already(s) && k < s->k; k += PACKED_INPUTS)
            ((packed_block_t *)(uintptr_t)packed_block_of(panel, k))->n_exceptions = 0;
    }
}

typedef void tile_t(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode);

/* Inputs of the second half, where they begin an operation of the dot product amx, go on with another mode, as
 * leaves do. Tables without the function for so many rows unpack and multiply. */
static void call_packed(const kernels_t *kernels, const kernel_shape_t *s, void *const *d, bool amx)
{
    const size_t n = row_panels(s), c_stride = s->n + s->pad, x_stride = s->k + 2 * s->pad;
    const bool exists =
        amx ? kernels->packed_row_amx != NULL : s->rows <= kernels->packed_rows_most;
    tile_t *tile = amx ? kernels->tile_amx : kernels->tile;
    const void *panels[KERNEL_TILE_PANELS];
    pack_panels(s, d, panels);
    size_t half = is_packed_already(s) ? s->k : s->k / 2 / KERNEL_K_BLOCK * KERNEL_K_BLOCK;
    for (size_t k = 0, some; k < s->k; k += some) {
        tile_mode_t mode = k > 0 ? TILE_CHAIN : row_modes[s->variant % 3];
        const uint16_t *x = (const uint16_t *)d[0] + k;
        float *c = d[3];
        some = k < half ? half : s->k - k;
        if (exists && amx)
            kernels->packed_row_amx(x, n, panels, k, some, c, c_stride, mode);
        else if (exists)
            kernels->packed_rows(
                s->rows, x, x_stride, n, panels, k, some, c, s->rows * c_stride, c_stride, mode);
        for (size_t p = 0; !exists && p < n; p++)
            tile(s->rows, x, x_stride, (uint16_t *)d[1] + (2 * p + k) * s->n, s->n, some,
                c + p * s->rows * c_stride, c_stride, mode);
    }
}

CALL(kernel_call_packed_rows)
{
    call_packed(kernels, s, d, false);
}

CALL(kernel_call_packed_row_amx)
{
    call_packed(kernels, s, d, true);
}
