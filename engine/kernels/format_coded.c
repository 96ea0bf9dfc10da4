/* Packed codes that are dequantised inside the product: their layout, packing, and scalar C. */
#include <math.h>
#include <string.h>

#include "engine/kernels/coded.h"
#include "engine/kernels/kernels_internal.h"

/* ---- Elements -------------------------------------------------------------------------------- */

static float scale_at(const format_t *format, const void *scales, size_t output)
{
    uint16_t half;
    if (format->scale_type == DTYPE_F32)
        return ((const float *)scales)[output];
    memcpy(&half, (const uint16_t *)scales + output, sizeof half);
    return format->scale_type == DTYPE_F16 ? f32_from_f16(half) : f32_from_bf16(half);
}

/* A code that is no number has a scale that is none (scale_of), and counts as 480. */
static float f8_number(uint8_t code)
{
    return (code & 0x7f) == 0x7f ? (code & 0x80 ? -480.0f : 480.0f) : f32_from_e4m3(code);
}

/* q - z as an exact number */
static float code_at(
    const format_t *format, const void *panel, size_t width, size_t k, size_t output)
{
    const uint8_t *pairs = coded_pairs(format, panel, width, k);
    size_t g = format->group == 0 ? 0 : k / format->group;
    int zero = format->codes == CODES_INT4 ? 8 : 128;
    if (format->zeros)
        zero = coded_zeros(format, panel, width, g)[output];
    if (format->codes == CODES_INT4)
        return (float)((pairs[output] >> (k % 2 * 4) & 15) - zero);
    uint8_t byte = pairs[k % 2 * width + output];
    return format->codes == CODES_F8 ? f8_number(byte) : (float)((byte ^ 0x80) - zero);
}

static uint16_t weight_at(
    const format_t *format, const void *panel, size_t width, size_t k, size_t output)
{
    size_t g = format->group == 0 ? 0 : k / format->group;
    float scale = scale_at(format, coded_scales(format, panel, width, g), output);
    float weight = code_at(format, panel, width, k, output) * scale;
    if (format->scale_type == DTYPE_F16) {
        uint16_t half;
        dtype_convert(&half, DTYPE_F16, &weight, DTYPE_F32, 1);
        weight = f32_from_f16(half);
    }
    return bf16_from_f32(weight);
}

void coded_unpack_scalar(const format_t *format, const void *panel, size_t width, size_t first,
    size_t inputs, uint16_t *b)
{
    for (size_t k = first; k < first + inputs; k += 2, b += 2 * width)
        for (size_t n = 0; n < width; n++)
            for (size_t i = 0; i < 2; i++)
                b[2 * n + i] = weight_at(format, panel, width, k + i, n);
}

void coded_fill_scalar(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16)
        kernels->coded_unpack = coded_unpack_scalar;
}

/* ---- Packing --------------------------------------------------------------------------------- */

/* A weight that is no number makes all of its output's sums that, so its scale says it. */
static float scale_of(const format_t *format, const coded_rows_t *rows, size_t r, size_t g)
{
    enum { F8_NAN = 0x7f };
    size_t groups = coded_groups(format->group, rows->columns);
    size_t begin = g * format->group,
           end = format->group == 0 ? rows->columns : begin + format->group;
    for (size_t k = begin; format->codes == CODES_F8 && k < end && k < rows->columns; k++)
        if ((rows->codes[r * rows->codes_stride + k] & F8_NAN) == F8_NAN)
            return NAN;
    return rows->scales[r * rows->n_groups + g * rows->n_groups / groups];
}

static void pack_groups(const format_t *format, const coded_rows_t *rows, void *panel, size_t width,
    size_t first_output)
{
    size_t groups = coded_groups(format->group, rows->columns);
    for (size_t g = 0; g < groups; g++) {
        char *scales = coded_scales(format, panel, width, g);
        uint8_t *zeros = coded_zeros(format, panel, width, g);
        for (size_t r = 0; r < rows->n; r++) {
            float scale = scale_of(format, rows, r, g);
            dtype_convert(scales + (first_output + r) * coded_scale_bytes(format),
                format->scale_type, &scale, DTYPE_F32, 1);
            if (format->zeros)
                zeros[first_output + r] =
                    rows->zeros[r * rows->n_groups + g * rows->n_groups / groups];
        }
    }
}

static void pack_codes(
    const format_t *self, const coded_rows_t *rows, void *panel, size_t width, size_t first_output)
{
    const uint8_t flip = self->codes == CODES_INT8 ? 0x80 : 0;
    pack_groups(self, rows, panel, width, first_output);
    for (size_t k = 0; k < rows->columns; k += 2)
        for (size_t r = 0; r < rows->n; r++) {
            const uint8_t *codes = rows->codes + r * rows->codes_stride + k;
            uint8_t *at = coded_pairs(self, panel, width, k) + first_output + r;
            if (self->codes == CODES_INT4) {
                *at = (uint8_t)(codes[0] | codes[1] << 4);
            } else {
                *at = codes[0] ^ flip;
                at[width] = codes[1] ^ flip;
            }
        }
}

static void unpack_row(
    const format_t *self, size_t columns, const void *panel, size_t width, size_t output, void *dst)
{
    for (size_t k = 0; k < columns; k++)
        ((uint16_t *)dst)[k] = weight_at(self, panel, width, k, output);
}

/* ---- Formats --------------------------------------------------------------------------------- */

static size_t output_bytes(const format_t *format, size_t columns)
{
    size_t group_bytes = coded_scale_bytes(format) + (format->zeros ? 1 : 0);
    return coded_groups(format->group, columns) * group_bytes +
           (format->codes == CODES_INT4 ? columns / 2 : columns);
}

static size_t matrix_bytes(const format_t *self, size_t rows, size_t columns)
{
    return kernel_padded_outputs(rows) * output_bytes(self, columns);
}

static size_t vector_bytes(const format_t *self, size_t elements)
{
    (void)self;
    return kernel_padded_outputs(elements) * sizeof(uint16_t);
}

static size_t offset(const format_t *self, size_t columns, size_t width, size_t p, size_t k)
{
    (void)width, (void)k;
    return p * KERNEL_PANEL * output_bytes(self, columns);
}

#define CODED(text, code_type, scale, size, has_zeros)                                             \
    {                                                                                              \
        .name = text, .kind = FORMAT_CODED, .row_dtype = DTYPE_BF16, .group = (size),              \
        .zeros = (has_zeros), .codes = code_type, .scale_type = scale,                             \
        .matrix_bytes = matrix_bytes, .vector_bytes = vector_bytes, .offset = offset,              \
        .pack_codes = pack_codes, .unpack_row = unpack_row                                         \
    }
#define CODED_INT(text, code_type, scale, size)                                                    \
    CODED(text, code_type, scale, size, false), CODED(text "-zeros", code_type, scale, size, true)

static const format_t formats[] = {
    CODED_INT("int4", CODES_INT4, DTYPE_BF16, 0),
    CODED_INT("int4-g32", CODES_INT4, DTYPE_BF16, 32),
    CODED_INT("int4-g64", CODES_INT4, DTYPE_BF16, 64),
    CODED_INT("int4-g128", CODES_INT4, DTYPE_BF16, 128),
    CODED_INT("int4", CODES_INT4, DTYPE_F16, 0),
    CODED_INT("int4-g32", CODES_INT4, DTYPE_F16, 32),
    CODED_INT("int4-g64", CODES_INT4, DTYPE_F16, 64),
    CODED_INT("int4-g128", CODES_INT4, DTYPE_F16, 128),
    CODED_INT("int8", CODES_INT8, DTYPE_BF16, 0),
    CODED_INT("int8-g32", CODES_INT8, DTYPE_BF16, 32),
    CODED_INT("int8-g128", CODES_INT8, DTYPE_BF16, 128),
    CODED_INT("int8", CODES_INT8, DTYPE_F16, 0),
    CODED_INT("int8-g32", CODES_INT8, DTYPE_F16, 32),
    CODED_INT("int8-g128", CODES_INT8, DTYPE_F16, 128),
    CODED("fp8", CODES_F8, DTYPE_BF16, 0, false),
    CODED("fp8-g128", CODES_F8, DTYPE_BF16, 128, false),
    CODED("fp8", CODES_F8, DTYPE_F32, 0, false),
    CODED("fp8-g128", CODES_F8, DTYPE_F32, 128, false),
};

const format_t *format_coded(code_type_t codes, dtype_t scale_type, size_t group, bool zeros)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i].codes == codes && formats[i].scale_type == scale_type &&
            formats[i].group == group && formats[i].zeros == zeros)
            return &formats[i];
    return NULL;
}
