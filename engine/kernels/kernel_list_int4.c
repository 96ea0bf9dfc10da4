/* The list's functions for packed int4: rows x n outputs, k inputs, groups of 32. Mode bf16. Variants: with
 * zeros, with an order of inputs, with both. */
#include "engine/base/size.h"
#include "engine/kernels/coded.h"
#include "engine/kernels/kernel_list_internal.h"

static const format_t *int4_of(const kernel_shape_t *s)
{
    return format_int4(32, s->variant % 2 == 1);
}

static size_t inputs_stride(const kernel_shape_t *s)
{
    return s->k + 2 * s->pad;
}

/* Codes and scales are whatever bits random numbers have. */
LAYOUT(kernel_int4_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_BF16, s->rows * inputs_stride(s), false, false};
    b[1] = (kernel_buffer_t){
        DTYPE_BF16, format_matrix_bytes(int4_of(s), s->n, s->k) / sizeof(uint16_t), false, true};
    b[2] = (kernel_buffer_t){DTYPE_F32, size_max(s->k, s->rows) * (s->n + s->pad), true, true};
    b[3] = (kernel_buffer_t){DTYPE_F32, s->k, false, true};
}

CALL(kernel_call_int4_tile)
{
    uint32_t *order = d[3];
    for (size_t i = 0; i < s->k; i++)
        order[i] = (uint32_t)((i * 5 + 1) % s->k);
    kernels->int4_tile(s->rows, d[0], inputs_stride(s), s->variant >= 2 ? order : NULL, int4_of(s),
        d[1], s->n, s->k, d[2], s->n + s->pad);
}

CALL(kernel_call_int4_unpack)
{
    kernels->int4_unpack(int4_of(s), d[1], s->n, s->k, d[2]);
}

/* Of four variants two have groups of 32, two the largest that inputs are whole ones of; the last four have zeros. */
static const format_t *int4_row_of(const kernel_shape_t *s)
{
    size_t group = s->variant % 4 < 2 ? 32 : 256;
    while (s->k % group != 0)
        group /= 2;
    return format_int4(group, s->variant >= 4);
}

/* A row, as many panels as the shape has rows, their sums, and the order of inputs. */
LAYOUT(kernel_int4_row_layout)
{
    (void)kernels;
    size_t panel_bytes = format_matrix_bytes(int4_row_of(s), s->n, s->k);
    b[0] = (kernel_buffer_t){DTYPE_BF16, s->k, false, false};
    b[1] = (kernel_buffer_t){DTYPE_BF16, s->rows * panel_bytes / sizeof(uint16_t), false, true};
    b[2] = (kernel_buffer_t){DTYPE_F32, s->rows * (s->n + s->pad), true, true};
    b[3] = (kernel_buffer_t){DTYPE_F32, s->k, false, true};
}

/* Tables without the function multiply panel after panel. */
CALL(kernel_call_int4_row)
{
    const format_t *format = int4_row_of(s);
    const size_t panel_bytes = format_matrix_bytes(format, s->n, s->k), stride = s->n + s->pad;
    const void *panels[MATRIX_MAX_PANELS];
    uint32_t *order = d[3];
    for (size_t i = 0; i < s->k; i++)
        order[i] = (uint32_t)((i * 5 + 1) % s->k);
    if (s->variant % 2 == 0)
        order = NULL;
    for (size_t p = 0; p < s->rows; p++)
        panels[p] = (const char *)d[1] + p * panel_bytes;
    if (kernels->int4_row != NULL)
        kernels->int4_row(d[0], order, format, s->rows, panels, s->n, s->k, d[2], stride);
    for (size_t p = 0; p < s->rows && kernels->int4_row == NULL; p++)
        kernels->int4_tile(1, d[0], s->k, order, format, panels[p], s->n, s->k,
            (float *)d[2] + p * stride, stride);
}

LAYOUT(kernel_wide_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_F32, s->rows * inputs_stride(s), false, false};
    b[1] = (kernel_buffer_t){DTYPE_F32, s->k * s->n, false, true};
    b[2] = (kernel_buffer_t){DTYPE_F32, s->rows * (s->n + s->pad), true, true};
}

CALL(kernel_call_tile_wide)
{
    kernels->tile_wide(s->rows, d[0], inputs_stride(s), d[1], s->n, s->k, d[2], s->n + s->pad,
        (tile_mode_t)s->variant);
}

/* Every format, one after the other; groups of 32 or 128, or one. */
static const struct coded_case {
    code_type_t codes;
    dtype_t scale;
    size_t group;
    bool zeros;
    enum {
        ANY_SCALES,
        POSITIVE, /* and normal, as checkpoints have them */
        ONE_SCALE /* in a group, as blocks of 128 x 128 have it */
    } scales;
} coded_cases[KERNEL_CODED_VARIANTS] = {{CODES_INT8, DTYPE_BF16, 0, false, POSITIVE},
    {CODES_F8, DTYPE_F32, 128, false, ANY_SCALES}, {CODES_INT4, DTYPE_BF16, 32, false, ANY_SCALES},
    {CODES_INT4, DTYPE_BF16, 0, true, ANY_SCALES}, {CODES_INT4, DTYPE_F16, 32, false, ANY_SCALES},
    {CODES_INT4, DTYPE_F16, 64, true, ANY_SCALES}, {CODES_INT8, DTYPE_BF16, 32, true, ANY_SCALES},
    {CODES_INT8, DTYPE_F16, 32, false, ANY_SCALES}, {CODES_INT8, DTYPE_F16, 0, true, ANY_SCALES},
    {CODES_F8, DTYPE_BF16, 0, false, ANY_SCALES}, {CODES_INT8, DTYPE_BF16, 0, false, ANY_SCALES},
    {CODES_INT8, DTYPE_F16, 128, false, POSITIVE}, {CODES_INT8, DTYPE_F16, 0, true, POSITIVE},
    {CODES_INT4, DTYPE_F16, 64, true, POSITIVE}, {CODES_INT4, DTYPE_BF16, 32, false, POSITIVE},
    {CODES_INT4, DTYPE_BF16, 0, true, POSITIVE}, {CODES_F8, DTYPE_F32, 128, false, ONE_SCALE}};

static const format_t *coded_of(size_t variant)
{
    const struct coded_case *c = &coded_cases[variant];
    return format_coded(c->codes, c->scale, c->group, c->zeros);
}

/* Scales of a panel of random bytes. */
static void give_scales(size_t variant, size_t columns, size_t width, void *panel)
{
    enum { BELOW_2 = 0x3fff, BF16_FROM = 0x2000 /* 2^-63 */, F16_FROM = 0x0400 /* 2^-14 */ };
    const format_t *format = coded_of(variant);
    for (size_t g = 0; g < coded_groups(format->group, columns); g++) {
        void *scales = coded_scales(format, panel, width, g);
        for (size_t n = 0; n < width && coded_cases[variant].scales == POSITIVE; n++)
            ((uint16_t *)scales)[n] =
                (uint16_t)((((uint16_t *)scales)[n] & BELOW_2) |
                           (format->scale_type == DTYPE_F16 ? F16_FROM : BF16_FROM));
        for (size_t n = 1; n < width && coded_cases[variant].scales == ONE_SCALE; n++)
            ((float *)scales)[n] = ((float *)scales)[0];
    }
}

/* Of k inputs in memory, the second half is unpacked where it begins a pair. */
LAYOUT(kernel_coded_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_BF16,
        (format_matrix_bytes(coded_of(s->variant), s->n, s->k) + 1) / sizeof(uint16_t), false,
        true};
    b[1] = (kernel_buffer_t){DTYPE_BF16, s->k * s->n, true, true};
}

CALL(kernel_call_coded_unpack)
{
    size_t first = s->pad == 0 ? 0 : s->k / 4 * 2;
    give_scales(s->variant, s->k, s->n, d[0]);
    kernels->coded_unpack(coded_of(s->variant), d[0], s->n, first, s->k - first, d[1]);
}

static size_t coded_panel_bytes(const kernel_shape_t *s)
{
    return size_round_up(format_matrix_bytes(coded_of(s->variant), s->n, s->k), 64);
}

/* A row, as many panels as the shape has rows, their sums, and a dense panel. */
LAYOUT(kernel_coded_row_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_BF16, s->k, false, false};
    b[1] = (kernel_buffer_t){
        DTYPE_BF16, s->rows * coded_panel_bytes(s) / sizeof(uint16_t), false, true};
    b[2] = (kernel_buffer_t){DTYPE_F32, s->rows * (s->n + s->pad), true, false};
    b[3] =
        (kernel_buffer_t){DTYPE_F64, s->k * s->n * sizeof(uint16_t) / sizeof(double), false, true};
}

typedef void coded_row_t(const format_t *format, const uint16_t *x, size_t n_panels,
    const void *const *panels, size_t width, size_t columns, size_t first, size_t k, float *c,
    size_t c_panel, tile_mode_t mode);
typedef void tile_t(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode);

/* Inputs of the second half, where they begin an operation of the dot product amx, are another leaf. Tables without
 * the function dequantise and multiply. */
static void call_coded_row(const kernels_t *kernels, const kernel_shape_t *s, void *const *d,
    coded_row_t *function, tile_t *tile)
{
    const format_t *format = coded_of(s->variant);
    const void *panels[KERNEL_TILE_PANELS];
    const uint16_t *x = d[0];
    for (size_t p = 0; p < s->rows; p++) {
        char *panel = (char *)d[1] + p * coded_panel_bytes(s);
        give_scales(s->variant, s->k, s->n, panel);
        panels[p] = panel;
    }
    size_t half = s->pad % 2 == 0 ? 0 : s->k / 2 / KERNEL_K_BLOCK * KERNEL_K_BLOCK;
    for (size_t k = 0, some; k < s->k; k += some) {
        tile_mode_t mode = k == 0 ? (tile_mode_t)(s->pad % 3) : TILE_ADD;
        some = k < half ? half : s->k - k;
        if (function != NULL)
            function(
                format, x + k, s->rows, panels, s->n, s->k, k, some, d[2], s->n + s->pad, mode);
        for (size_t p = 0; function == NULL && p < s->rows; p++) {
            kernels->coded_unpack(format, panels[p], s->n, k, some, d[3]);
            tile(1, x + k, s->k, d[3], s->n, some, (float *)d[2] + p * (s->n + s->pad), s->n, mode);
        }
    }
}

CALL(kernel_call_coded_row)
{
    call_coded_row(kernels, s, d, kernels->coded_row, kernels->tile);
}

CALL(kernel_call_coded_row_amx)
{
    call_coded_row(kernels, s, d, kernels->coded_row_amx, kernels->tile_amx);
}
