/* The dense layout of weights (kernels.h): its packing and formats. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/fold.h"
#include "engine/kernels/kernels_internal.h"

/* Four dwords; shuffles of them compile to the registers that every host has. */
typedef uint32_t quad_t __attribute__((vector_size(16)));
typedef quad_t quad_in_memory_t __attribute__((aligned(4), may_alias));

/* 4 rows x 4 dwords, transposed. */
static void pack_quads(const uint32_t *src, size_t src_stride, uint32_t *panel, size_t width)
{
    quad_t r[4], pairs[4];
    for (size_t i = 0; i < 4; i++)
        r[i] = *(const quad_in_memory_t *)(src + i * src_stride);
    for (size_t i = 0; i < 2; i++) {
        pairs[i] = __builtin_shuffle(r[2 * i], r[2 * i + 1], (quad_t){0, 4, 1, 5});
        pairs[2 + i] = __builtin_shuffle(r[2 * i], r[2 * i + 1], (quad_t){2, 6, 3, 7});
    }
    for (size_t i = 0; i < 4; i++)
        *(quad_in_memory_t *)(panel + i * width) = __builtin_shuffle(pairs[i / 2 * 2],
            pairs[i / 2 * 2 + 1], i % 2 == 0 ? (quad_t){0, 1, 4, 5} : (quad_t){2, 3, 6, 7});
}

/* Pairs of bf16 move as one dword, so that bf16 and f32 share their loops. */
static void pack_dwords(size_t rows, size_t n_dwords, const uint32_t *src, size_t src_stride,
    uint32_t *panel, size_t width)
{
    size_t quad_rows = rows / 4 * 4, quad_dwords = n_dwords / 4 * 4;
    /* 16 dwords of all rows at a time: a cache line of each. */
    for (size_t i0 = 0; i0 < quad_dwords; i0 += 16)
        for (size_t r = 0; r < quad_rows; r += 4)
            for (size_t i = i0; i < size_min(i0 + 16, quad_dwords); i += 4)
                pack_quads(src + r * src_stride + i, src_stride, panel + i * width + r, width);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = r < quad_rows ? quad_dwords : 0; i < n_dwords; i++)
            panel[i * width + r] = src[r * src_stride + i];
}

static void pack_bf16_odd(
    size_t rows, size_t columns, const uint16_t *src, uint16_t *panel, size_t width)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < columns; i++)
            panel[(i / 2 * width + r) * 2 + i % 2] = src[r * columns + i];
}

void panel_pack_rows(dtype_t mode, size_t rows, size_t columns, const void *src, void *panel,
    size_t width, size_t first_output)
{
    if (mode == DTYPE_BF16 && columns % 2 != 0)
        pack_bf16_odd(rows, columns, src, (uint16_t *)panel + 2 * first_output, width);
    else if (mode == DTYPE_BF16)
        pack_dwords(rows, columns / 2, src, columns / 2, (uint32_t *)panel + first_output, width);
    else if (mode == DTYPE_F32)
        pack_dwords(rows, columns, src, columns, (uint32_t *)panel + first_output, width);
    else
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < columns; i++)
                ((double *)panel)[i * width + first_output + r] =
                    ((const double *)src)[r * columns + i];
}

void panel_unpack_row(
    dtype_t mode, size_t columns, const void *panel, size_t width, size_t output, void *dst)
{
    for (size_t i = 0; i < columns; i++) {
        if (mode == DTYPE_BF16)
            ((uint16_t *)dst)[i] = ((const uint16_t *)panel)[(i / 2 * width + output) * 2 + i % 2];
        else if (mode == DTYPE_F32)
            ((float *)dst)[i] = ((const float *)panel)[i * width + output];
        else
            ((double *)dst)[i] = ((const double *)panel)[i * width + output];
    }
}

void panel_pack_input(
    dtype_t mode, bool swapped, size_t outputs, const void *x, void *panel, size_t width, size_t k)
{
    if (mode == DTYPE_BF16) {
        const uint16_t *from = x;
        uint32_t *to = (uint32_t *)panel + k / 2 * width;
        uint32_t shift = swapped == (k % 2 == 0) ? 16 : 0, partner = 0xffffu << (16 - shift);
        /* A reused block may hold any value, also NaN, in the place of a partner that comes later;
         * NaN times zero is not zero. */
        if (k % 2 == 0)
            for (size_t n = 0; n < outputs; n++)
                to[n] = (uint32_t)from[n] << shift;
        else
            for (size_t n = 0; n < outputs; n++)
                to[n] = (to[n] & partner) | (uint32_t)from[n] << shift;
    } else {
        size_t bytes = dtype_bytes(mode);
        memcpy((char *)panel + k * width * bytes, x, outputs * bytes);
    }
}

/* ---- Formats --------------------------------------------------------------------------------- */

static size_t dense_matrix_bytes(const format_t *self, size_t rows, size_t columns)
{
    dtype_t mode = self->row_dtype;
    return kernel_padded_outputs(rows) * kernel_padded_inputs(mode, columns) * dtype_bytes(mode);
}

static size_t dense_vector_bytes(const format_t *self, size_t elements)
{
    return kernel_padded_outputs(elements) * dtype_bytes(self->row_dtype);
}

static size_t dense_offset(const format_t *self, size_t columns, size_t width, size_t p, size_t k)
{
    dtype_t mode = self->row_dtype;
    return (p * KERNEL_PANEL * kernel_padded_inputs(mode, columns) + k * width) * dtype_bytes(mode);
}

static void dense_pack_rows(const format_t *self, size_t rows, size_t columns, const void *src,
    void *panel, size_t width, size_t first_output)
{
    panel_pack_rows(self->row_dtype, rows, columns, src, panel, width, first_output);
}

static void dense_unpack_row(
    const format_t *self, size_t columns, const void *panel, size_t width, size_t output, void *dst)
{
    panel_unpack_row(self->row_dtype, columns, panel, width, output, dst);
}

#define DENSE                                                                                      \
    .matrix_bytes = dense_matrix_bytes, .vector_bytes = dense_vector_bytes,                        \
    .offset = dense_offset, .pack_rows = dense_pack_rows, .unpack_row = dense_unpack_row

static const format_t bf16 = {.name = "bf16", .row_dtype = DTYPE_BF16, DENSE},
                      f32 = {.name = "f32", .row_dtype = DTYPE_F32, DENSE},
                      f64 = {.name = "f64", .row_dtype = DTYPE_F64, DENSE};

const format_t *format_dense(dtype_t mode)
{
    return mode == DTYPE_F64 ? &f64 : mode == DTYPE_F32 ? &f32 : &bf16;
}
