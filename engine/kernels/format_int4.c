/* Packed int4: its layout, packing, and what scalar C multiplies with it. */
#include <math.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/int4.h"
#include "engine/kernels/kernels_internal.h"

/* ---- Elements -------------------------------------------------------------------------------- */

static const char *group_at(const format_t *format, const void *panel, size_t width, size_t g)
{
    return (const char *)panel + g * int4_group_bytes(format, width);
}

/* b of an input and an output; the product is exact. */
static float weight_at(
    const format_t *format, const void *panel, size_t width, size_t k, size_t output)
{
    const void *group = group_at(format, panel, width, k / format->group);
    size_t word = k % format->group / INT4_WORD * width + output;
    unsigned code = int4_code(int4_words(format, group, width)[word], k % INT4_WORD);
    float offset = format->zeros ? f32_from_bf16(int4_offsets(group, width)[output]) : 0.0f;
    return fmaf((float)code - 8.0f, f32_from_bf16(int4_scales(group)[output]), offset);
}

/* ---- Packing --------------------------------------------------------------------------------- */

static void pack_group(const format_t *format, const coded_rows_t *rows, size_t g, size_t r,
    void *group, size_t width, size_t output)
{
    uint32_t *words = (uint32_t *)(void *)((uint16_t *)group + width * (format->zeros ? 2 : 1));
    uint16_t scale = bf16_from_f32(rows->scales[r * rows->n_groups + g]);
    ((uint16_t *)group)[output] = scale;
    if (format->zeros)
        ((uint16_t *)group)[width + output] = bf16_from_f32(
            (8.0f - (float)rows->zeros[r * rows->n_groups + g]) * f32_from_bf16(scale));
    const uint8_t *codes = rows->codes + r * rows->codes_stride;
    for (size_t i = 0; i < format->group; i += INT4_WORD) {
        uint32_t word = 0;
        for (size_t j = 0; j < INT4_WORD; j++) {
            size_t k = g * format->group + i + j;
            uint32_t code = codes[rows->order != NULL ? rows->order[k] : k];
            word |= code << 4 * j;
        }
        words[i / INT4_WORD * width + output] = word;
    }
}

static void pack_codes(
    const format_t *self, const coded_rows_t *rows, void *panel, size_t width, size_t first_output)
{
    for (size_t g = 0; g < rows->columns / self->group; g++)
        for (size_t r = 0; r < rows->n; r++)
            pack_group(self, rows, g, r, (char *)panel + g * int4_group_bytes(self, width), width,
                first_output + r);
}

static void unpack_row(
    const format_t *self, size_t columns, const void *panel, size_t width, size_t output, void *dst)
{
    for (size_t k = 0; k < columns; k++)
        ((float *)dst)[k] = weight_at(self, panel, width, k, output);
}

/* ---- Formats --------------------------------------------------------------------------------- */

static size_t matrix_bytes(const format_t *self, size_t rows, size_t columns)
{
    return columns / self->group * int4_group_bytes(self, kernel_padded_outputs(rows));
}

static size_t vector_bytes(const format_t *self, size_t elements)
{
    (void)self;
    return kernel_padded_outputs(elements) * sizeof(float);
}

static size_t offset(const format_t *self, size_t columns, size_t width, size_t p, size_t k)
{
    return p * matrix_bytes(self, KERNEL_PANEL, columns) +
           k / self->group * int4_group_bytes(self, width);
}

#define INT4(text, size, has_zeros)                                                                \
    {                                                                                              \
        .name = text, .kind = FORMAT_INT4, .row_dtype = DTYPE_F32, .group = (size),                \
        .zeros = (has_zeros), .matrix_bytes = matrix_bytes, .vector_bytes = vector_bytes,          \
        .offset = offset, .pack_codes = pack_codes, .unpack_row = unpack_row                       \
    }

static const format_t formats[] = {INT4("int4-g32", 32, false), INT4("int4-g64", 64, false),
    INT4("int4-g128", 128, false), INT4("int4-g256", 256, false), INT4("int4-g32-zeros", 32, true),
    INT4("int4-g64-zeros", 64, true), INT4("int4-g128-zeros", 128, true),
    INT4("int4-g256-zeros", 256, true)};

const format_t *format_int4(size_t group, bool zeros)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i].group == group && formats[i].zeros == zeros)
            return &formats[i];
    return NULL;
}

/* ---- Scalar C -------------------------------------------------------------------------------- */

static void int4_tile(size_t rows, const uint16_t *a, size_t a_stride, const uint32_t *order,
    const format_t *format, const void *panel, size_t width, size_t columns, float *c,
    size_t c_stride)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t n = 0; n < width; n++) {
            const uint16_t *x = a + r * a_stride;
            float sum = 0;
            for (size_t k = 0; k < columns; k++)
                sum = fmaf(f32_from_bf16(x[order != NULL ? order[k] : k]),
                    weight_at(format, panel, width, k, n), sum);
            c[r * c_stride + n] = sum;
        }
}

static void int4_unpack(
    const format_t *format, const void *groups, size_t width, size_t inputs, float *b)
{
    for (size_t k = 0; k < inputs; k++)
        for (size_t n = 0; n < width; n++)
            b[k * width + n] = weight_at(format, groups, width, k, n);
}

void int4_fill_scalar(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->int4_tile = int4_tile;
    kernels->int4_unpack = int4_unpack;
}
