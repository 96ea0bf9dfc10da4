/* The scalar tiles: what every other instruction set must equal, bit for bit. */
#include <float.h>
#include <math.h>

#include "engine/kernels/kernels_internal.h"

/* vdpbf16ps takes denormal factors and results as zero of the same sign. */
static float flush(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
}

static float step_bf16(uint16_t a, uint16_t b, float c)
{
    return flush(fmaf(flush(f32_from_bf16(a)), flush(f32_from_bf16(b)), flush(c)));
}

static void tile_bf16(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    for (size_t r = 0; r < rows; r++) {
        const uint16_t *x = (const uint16_t *)a + r * a_stride;
        float *out = (float *)c + r * c_stride;
        for (size_t j = 0; j < width; j++) {
            const uint16_t *w = (const uint16_t *)b + 2 * j;
            float chain = mode == TILE_CHAIN ? out[j] : 0.0f;
            for (size_t i = 0; i < k; i += 2, w += 2 * width) {
                chain = step_bf16(x[i + 1], w[1], chain);
                chain = step_bf16(x[i], w[0], chain);
            }
            out[j] = mode == TILE_ADD ? out[j] + chain : chain;
        }
    }
}

/* TDPBF16PS: up to 32 inputs; denormals are zero everywhere. */
static float step_amx(const uint16_t *x, const uint16_t *w, size_t width, size_t k, float sum)
{
    float even = 0, odd = 0;
    for (size_t i = 0; i < k; i += 2, w += 2 * width) {
        even = step_bf16(x[i], w[0], even);
        odd = step_bf16(x[i + 1], w[1], odd);
    }
    return flush(flush(sum) + flush(even + odd));
}

static void tile_amx(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    for (size_t r = 0; r < rows; r++) {
        const uint16_t *x = (const uint16_t *)a + r * a_stride;
        float *out = (float *)c + r * c_stride;
        for (size_t j = 0; j < width; j++) {
            float sum = mode == TILE_CHAIN ? out[j] : 0.0f;
            for (size_t i = 0; i < k; i += 32)
                sum = step_amx(x + i, (const uint16_t *)b + i * width + 2 * j, width,
                    k - i < 32 ? k - i : 32, sum);
            out[j] = mode == TILE_ADD ? out[j] + sum : sum;
        }
    }
}

static void tile_f32(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    for (size_t r = 0; r < rows; r++) {
        const float *x = (const float *)a + r * a_stride;
        float *out = (float *)c + r * c_stride;
        for (size_t j = 0; j < width; j++) {
            const float *w = (const float *)b + j;
            float chain = mode == TILE_CHAIN ? out[j] : 0.0f;
            for (size_t i = 0; i < k; i++)
                chain = fmaf(x[i], w[i * width], chain);
            out[j] = mode == TILE_ADD ? out[j] + chain : chain;
        }
    }
}

static void tile_f64(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    for (size_t r = 0; r < rows; r++) {
        const double *x = (const double *)a + r * a_stride;
        double *out = (double *)c + r * c_stride;
        for (size_t j = 0; j < width; j++) {
            const double *w = (const double *)b + j;
            double chain = mode == TILE_CHAIN ? out[j] : 0.0;
            for (size_t i = 0; i < k; i++)
                chain = fma(x[i], w[i * width], chain);
            out[j] = mode == TILE_ADD ? out[j] + chain : chain;
        }
    }
}

#define DEFINE_GROUPS(NAME, REAL, FMA)                                                             \
    static REAL NAME##_leaf(const REAL *x, const REAL *w, size_t width, size_t k)                  \
    {                                                                                              \
        REAL chain = 0;                                                                            \
        for (size_t i = 0; i < k; i++)                                                             \
            chain = FMA(x[i], w[i * width], chain);                                                \
        return chain;                                                                              \
    }                                                                                              \
                                                                                                   \
    static REAL NAME##_group(const REAL *x, const REAL *w, size_t width, size_t k)                 \
    {                                                                                              \
        REAL sum = NAME##_leaf(x, w, width, k < KERNEL_LEAF ? k : KERNEL_LEAF);                    \
        for (size_t i = KERNEL_LEAF; i < k; i += KERNEL_LEAF)                                      \
            sum += NAME##_leaf(                                                                    \
                x + i, w + i * width, width, k - i < KERNEL_LEAF ? k - i : KERNEL_LEAF);           \
        return sum;                                                                                \
    }                                                                                              \
                                                                                                   \
    static void NAME(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,     \
        size_t k, void *c, size_t c_stride, tile_mode_t mode)                                      \
    {                                                                                              \
        for (size_t r = 0; r < rows; r++)                                                          \
            for (size_t j = 0; j < width; j++)                                                     \
                for (size_t i = 0; i < k; i += KERNEL_GROUP) {                                     \
                    REAL *out = (REAL *)c + r * c_stride + j;                                      \
                    REAL sum = NAME##_group((const REAL *)a + r * a_stride + i,                    \
                        (const REAL *)b + i * width + j, width,                                    \
                        k - i < KERNEL_GROUP ? k - i : KERNEL_GROUP);                              \
                    *out = i > 0 || mode == TILE_ADD ? *out + sum : sum;                           \
                }                                                                                  \
    }

DEFINE_GROUPS(tile_groups_f32, float, fmaf)
DEFINE_GROUPS(tile_groups_f64, double, fma)

static void no_tile_registers(void) {}

void tiles_fill_scalar(kernels_t *kernels)
{
    kernels->amx_begin = kernels->amx_end = no_tile_registers;
    if (kernels->mode == DTYPE_BF16) {
        kernels->tile = tile_bf16;
        kernels->tile_amx = tile_amx;
        kernels->tile_wide = tile_f32;
    } else if (kernels->mode == DTYPE_F32) {
        kernels->tile = tile_f32;
        kernels->tile_groups = tile_groups_f32;
    } else {
        kernels->tile = tile_f64;
        kernels->tile_groups = tile_groups_f64;
    }
}
