/* The dot product fold and the sums of eager attention that go with it, in scalar C: what every other
 * instruction set must equal, bit for bit. */
#include <math.h>
#include <string.h>

#include "engine/kernels/fold.h"
#include "engine/kernels/kernels_internal.h"

/* Element i of output n. */
static float weight(const uint16_t *panel, size_t width, size_t n, size_t i)
{
    return f32_from_bf16(panel[(i / 2 * width + n) * 2 + i % 2]);
}

static float fold_by_halves(float x[FOLD_LANES])
{
    for (size_t half = FOLD_LANES / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++)
            x[l] += x[l + half];
    return x[0];
}

/* s[r][l] */
static float fold_chains(float s[FOLD_LANES][FOLD_LANES])
{
    for (size_t half = FOLD_LANES / 2; half > 0; half /= 2)
        for (size_t r = 0; r < half; r++)
            for (size_t l = 0; l < FOLD_LANES; l++)
                s[r][l] += s[r + half][l];
    return fold_by_halves(s[0]);
}

/* One chain, contiguous from input i on. */
static float chain_of(
    const uint16_t *x, const uint16_t *panel, size_t width, size_t n, size_t i, size_t length)
{
    float sum = 0;
    for (size_t j = i; j < i + length; j += 2) {
        sum = fmaf(f32_from_bf16(x[j + 1]), weight(panel, width, n, j + 1), sum);
        sum = fmaf(f32_from_bf16(x[j]), weight(panel, width, n, j), sum);
    }
    return sum;
}

static float fold_dot(
    size_t inputs, const uint16_t *x, const uint16_t *panel, size_t width, size_t n)
{
    fold_shape_t s = fold_shape(inputs);
    float chains[FOLD_LANES][FOLD_LANES] = {{0}}, lanes[FOLD_LANES] = {0};
    size_t at = FOLD_CHAINS * s.chain;
    for (size_t q = 0; q < FOLD_CHAINS; q++)
        chains[fold_order(q % FOLD_LANES)][fold_order(q / FOLD_LANES)] =
            chain_of(x, panel, width, n, q * s.chain, s.chain);
    float sum = fold_chains(chains);
    for (size_t l = 0; l < FOLD_LANES; l++)
        lanes[fold_order(l)] = chain_of(x, panel, width, n, at + l * s.short_chain, s.short_chain);
    if (inputs % FOLD_CHAINS != 0)
        sum += fold_by_halves(lanes);
    at += FOLD_LANES * s.short_chain;
    for (size_t i = at; i < at + s.last; i++)
        sum += f32_from_bf16(x[i]) * weight(panel, width, n, i);
    return sum;
}

static void tile_fold(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride)
{
    for (size_t p = 0; p < n_panels; p++)
        for (size_t r = 0; r < rows; r++)
            for (size_t n = 0; n < width; n++)
                c[p * c_panel + r * c_stride + n] =
                    fold_dot(inputs, a + r * a_stride, b[p], width, n);
}

/* The same sum of inputs that lie as they are. */
static void fold_scores(size_t rows, const uint16_t *a, size_t a_stride, const void *b,
    size_t width, size_t k, float *c, size_t c_stride)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t n = 0; n < width; n++) {
            const uint16_t *x = a + r * a_stride;
            float chains[FOLD_LANES][FOLD_LANES] = {{0}}, lanes[FOLD_LANES] = {0};
            size_t i = 0;
            for (; i < k / FOLD_CHAINS * FOLD_CHAINS; i++) {
                float *sum = &chains[i % FOLD_CHAINS / FOLD_LANES][i % FOLD_LANES];
                *sum = fmaf(f32_from_bf16(x[i]), weight(b, width, n, i), *sum);
            }
            float sum = fold_chains(chains);
            for (; i < k / 16 * 16; i++)
                lanes[i % FOLD_LANES] =
                    fmaf(f32_from_bf16(x[i]), weight(b, width, n, i), lanes[i % FOLD_LANES]);
            if (k % FOLD_CHAINS != 0)
                sum += fold_by_halves(lanes);
            for (; i < k; i++)
                sum += f32_from_bf16(x[i]) * weight(b, width, n, i);
            c[r * c_stride + n] = sum;
        }
}

static void interleaved_outputs(size_t rows, const uint16_t *a, size_t a_stride, const void *b,
    size_t width, size_t k, size_t n_interleaved, float *c, size_t c_stride)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t n = 0; n < width; n++)
            for (size_t i = 0; i < k; i++) {
                float *sum = c + r * c_stride + (i < n_interleaved ? i % 4 : 0) * width + n;
                *sum = fmaf(f32_from_bf16(a[r * a_stride + i]), weight(b, width, n, i), *sum);
            }
}

void fold_fill_scalar(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->tile_fold = tile_fold;
    kernels->fold_scores = fold_scores;
    kernels->interleaved_outputs = interleaved_outputs;
}
