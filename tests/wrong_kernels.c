#include "tests/wrong_kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "engine/kernels/fold.h"

#define MAX_HEAD_DIM 128
#define MAX_INPUTS 512

/* Kernels have no context of their own: what the wrong ones below stand on. */
static kernels_t right, right_router;
static const kv_cache_t *wrong_cache;

void wrong_kernels_begin(const kernels_t *kernels, const kernels_t *router, const kv_cache_t *cache)
{
    right = *kernels;
    right_router = *router;
    wrong_cache = cache;
}

static void rotate_neighbours(size_t half, const void *cosines, const void *sines, uint16_t *values)
{
    uint16_t halves[2 * MAX_HEAD_DIM];
    for (size_t i = 0; i < half; i++) {
        halves[i] = values[2 * i];
        halves[half + i] = values[2 * i + 1];
    }
    right.rope(1, half, cosines, sines, halves);
    for (size_t i = 0; i < half; i++) {
        values[2 * i] = halves[i];
        values[2 * i + 1] = halves[half + i];
    }
}

void rope_of_neighbours(size_t heads, size_t half, const void *cosines, const void *sines, void *x)
{
    for (size_t h = 0; h < heads; h++)
        rotate_neighbours(half, cosines, sines, (uint16_t *)x + h * 2 * half);
}

static void rotate_swapped_halves(
    size_t half, const void *cosines, const void *sines, uint16_t *values)
{
    uint16_t swapped[2 * MAX_HEAD_DIM];
    memcpy(swapped, values + half, half * sizeof *values);
    memcpy(swapped + half, values, half * sizeof *values);
    right.rope(1, half, cosines, sines, swapped);
    memcpy(values + half, swapped, half * sizeof *values);
    memcpy(values, swapped + half, half * sizeof *values);
}

void rope_of_swapped_halves(
    size_t heads, size_t half, const void *cosines, const void *sines, void *x)
{
    for (size_t h = 0; h < heads; h++)
        rotate_swapped_halves(half, cosines, sines, (uint16_t *)x + h * 2 * half);
}

/* The product with the weight before the first rounding. */
static void norm_row_rounded_once(
    size_t n, const uint16_t *in, const uint16_t *weight, double eps, uint16_t *out)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)f32_from_bf16(in[i]) * f32_from_bf16(in[i]);
    float factor = (float)(1 / sqrt(sum / (double)n + eps));
    for (size_t i = 0; i < n; i++)
        out[i] = bf16_from_f32(f32_from_bf16(in[i]) * factor * f32_from_bf16(weight[i]));
}

void norm_rounded_once(size_t rows, size_t n, const void *x, size_t x_stride, const void *w,
    double eps, void *y, size_t y_stride)
{
    for (size_t r = 0; r < rows; r++)
        norm_row_rounded_once(
            n, (const uint16_t *)x + r * x_stride, w, eps, (uint16_t *)y + r * y_stride);
}

void norm_without_eps(size_t rows, size_t n, const void *x, size_t x_stride, const void *w,
    double eps, void *y, size_t y_stride)
{
    (void)eps;
    right.rms_norm(rows, n, x, x_stride, w, 0, y, y_stride);
}

void scores_without_scale(size_t n, const void *c, double scale, void *s)
{
    (void)scale;
    right.scale_scores(n, c, 1, s);
}

void softmax_of_lower_index(size_t n, size_t n_lanes, void *s, void *scratch)
{
    float *values = s;
    right_router.softmax(n, n_lanes, s, scratch);
    for (size_t i = n; i-- > 0;)
        for (size_t j = 0, equal = 0; j < i; j++) {
            equal += values[j] == values[i];
            if (j + 1 == i)
                for (; equal > 0; equal--)
                    values[i] = nextafterf(values[i], 0);
        }
}

void add_rounded_each(size_t n, const void *x, void *sum)
{
    right.add_elements(n, x, sum);
    for (size_t i = 0; i < n; i++)
        ((float *)sum)[i] = f32_round_bf16(((float *)sum)[i]);
}

void softmax_in_bf16(size_t n, size_t n_lanes, void *s, void *scratch)
{
    uint16_t *values = s;
    float sum = 0;
    (void)n_lanes, (void)scratch;
    for (size_t i = 0; i < n; i++) {
        values[i] = bf16_from_f32(expf(f32_from_bf16(values[i])));
        sum = f32_round_bf16(sum + f32_from_bf16(values[i]));
    }
    for (size_t i = 0; i < n; i++)
        values[i] = bf16_from_f32(f32_from_bf16(values[i]) / sum);
}

void softmax_of_one_key_less(size_t n, size_t n_lanes, void *s, void *scratch)
{
    if (n > 1) {
        right.softmax(n - 1, n_lanes, s, scratch);
        ((uint16_t *)s)[n - 1] = 0;
    } else {
        right.softmax(n, n_lanes, s, scratch);
    }
}

void swiglu_rounded_once(size_t rows, size_t width, const void *gate, const void *up,
    size_t c_stride, void *y, size_t y_stride)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < width; i++) {
            float g = f32_round_bf16(((const float *)gate)[r * c_stride + i]);
            float u = f32_round_bf16(((const float *)up)[r * c_stride + i]);
            ((uint16_t *)y)[r * y_stride + i] = bf16_from_f32(g / (1 + expf(-g)) * u);
        }
}

void swiglu_of_the_other(size_t rows, size_t width, const void *gate, const void *up,
    size_t c_stride, void *y, size_t y_stride)
{
    right.store_swiglu(rows, width, up, gate, c_stride, y, y_stride);
}

void residual_dropped(size_t rows, size_t width, const void *c, size_t c_stride, const void *x,
    void *y, size_t stride)
{
    (void)x;
    right.store(rows, width, c, c_stride, NULL, y, stride);
}

void residual_rounded_once(size_t rows, size_t width, const void *c, size_t c_stride, const void *x,
    void *y, size_t stride)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < width; i++)
            ((uint16_t *)y)[r * stride + i] =
                bf16_from_f32(f32_from_bf16(((const uint16_t *)x)[r * stride + i]) +
                              ((const float *)c)[r * c_stride + i]);
}

void logits_unrounded(
    size_t rows, size_t width, const void *c, size_t c_stride, void *y, size_t y_stride)
{
    for (size_t r = 0; r < rows; r++)
        memcpy((float *)y + r * y_stride, (const float *)c + r * c_stride, width * sizeof(float));
}

void tile_of_short_leaves(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    if (k != 512) {
        right.tile(rows, a, a_stride, b, width, k, c, c_stride, mode);
        return;
    }
    right.tile(rows, a, a_stride, b, width, k / 2, c, c_stride, mode);
    right.tile(rows, (const uint16_t *)a + k / 2, a_stride, (const uint16_t *)b + k / 2 * width,
        width, k / 2, c, c_stride, TILE_ADD);
}

/* The same place of the next head's keys; a panel that is none of keys stays. */
static const char *next_head(const kv_cache_t *cache, const char *panel)
{
    for (size_t l = 0; l < cache->n_layers; l++)
        for (size_t h = 0; h < cache->n_kv_heads; h++)
            for (size_t b = 0; b < cache->n_blocks; b++) {
                const char *keys = kv_cache_k(cache, l, h, b);
                if (panel >= keys && panel < keys + cache->k_block_bytes)
                    return kv_cache_k(cache, l, (h + 1) % cache->n_kv_heads, b) + (panel - keys);
            }
    return panel;
}

void tile_of_the_next_head(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    right.tile(rows, a, a_stride, next_head(wrong_cache, b), width, k, c, c_stride, mode);
}

void sdpa_without_scale(size_t n_lanes, size_t rows, size_t n_kept, size_t n_block,
    size_t n_written, float scale, float *max, float *sum, float *scores, uint16_t *weights,
    size_t stride)
{
    (void)scale;
    right.sdpa_weights(
        n_lanes, rows, n_kept, n_block, n_written, 1, max, sum, scores, weights, stride);
}

void sdpa_of_one_key_less(size_t n_lanes, size_t rows, size_t n_kept, size_t n_block,
    size_t n_written, float scale, float *max, float *sum, float *scores, uint16_t *weights,
    size_t stride)
{
    size_t fewer = n_kept > 1 ? n_kept - 1 : n_kept;
    right.sdpa_weights(
        n_lanes, rows, fewer, n_block, n_written, scale, max, sum, scores, weights, stride);
}

/* Places [at, at + n) of a row and an output's weights are added to a chain. */
static float add_chain(const uint16_t *x, const uint16_t *panel, size_t width, size_t output,
    size_t at, size_t n, float sum)
{
    for (size_t i = at; i < at + n; i++) {
        size_t place = i ^ 1;
        float w = f32_from_bf16(panel[(place / 2 * width + output) * 2 + place % 2]);
        sum = fmaf(f32_from_bf16(x[place]), w, sum);
    }
    return sum;
}

typedef float output_t(
    size_t inputs, const uint16_t *x, const uint16_t *panel, size_t width, size_t output);

static float chains_left_to_right(
    size_t inputs, const uint16_t *x, const uint16_t *panel, size_t width, size_t output)
{
    size_t chain = fold_shape(inputs).chain;
    float sum = 0;
    for (size_t q = 0; q < FOLD_CHAINS; q++)
        sum += add_chain(x, panel, width, output, q * chain, chain, 0);
    return sum;
}

/* Chains lie in the order in which neighbours are folded; those of vector 0 begin each eight. */
static float tail_in_chains(
    size_t inputs, const uint16_t *x, const uint16_t *panel, size_t width, size_t output)
{
    fold_shape_t s = fold_shape(inputs);
    size_t tail = FOLD_CHAINS * s.chain, last = tail + FOLD_LANES * s.short_chain;
    float sums[FOLD_CHAINS];
    for (size_t q = 0; q < FOLD_CHAINS; q++) {
        sums[q] = add_chain(x, panel, width, output, q * s.chain, s.chain, 0);
        if (q % FOLD_LANES == 0)
            sums[q] = add_chain(x, panel, width, output, tail + q / FOLD_LANES * s.short_chain,
                s.short_chain, sums[q]);
    }
    for (size_t n = FOLD_CHAINS / 2; n > 0; n /= 2)
        for (size_t q = 0; q < n; q++)
            sums[q] = sums[2 * q] + sums[2 * q + 1];
    for (size_t i = last; i < last + s.last; i++)
        sums[0] += f32_from_bf16(x[i]) * f32_from_bf16(panel[(i / 2 * width + output) * 2 + i % 2]);
    return sums[0];
}

static void each_output(output_t *output, size_t rows, const uint16_t *a, size_t a_stride,
    size_t n_panels, const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel,
    size_t c_stride)
{
    for (size_t p = 0; p < n_panels; p++)
        for (size_t r = 0; r < rows; r++)
            for (size_t n = 0; n < width; n++)
                c[p * c_panel + r * c_stride + n] =
                    output(inputs, a + r * a_stride, b[p], width, n);
}

void fold_left_to_right(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride)
{
    each_output(
        chains_left_to_right, rows, a, a_stride, n_panels, b, width, inputs, c, c_panel, c_stride);
}

void fold_tail_in_chains(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride)
{
    each_output(
        tail_in_chains, rows, a, a_stride, n_panels, b, width, inputs, c, c_panel, c_stride);
}

void fold_flushed(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride)
{
    right.tile_fold(rows, a, a_stride, n_panels, b, width, inputs, c, c_panel, c_stride);
    for (size_t p = 0; p < n_panels; p++)
        for (size_t r = 0; r < rows; r++)
            for (size_t n = 0; n < width; n++) {
                float *sum = &c[p * c_panel + r * c_stride + n];
                *sum = fabsf(*sum) < FLT_MIN ? 0 : *sum;
            }
}

void interleaved_tail(size_t rows, const uint16_t *a, size_t a_stride, const void *b, size_t width,
    size_t k, size_t n_interleaved, float *c, size_t c_stride)
{
    const uint16_t *panel = b;
    (void)n_interleaved;
    for (size_t r = 0; r < rows; r++)
        for (size_t n = 0; n < width; n++)
            for (size_t i = 0; i < k; i++)
                c[r * c_stride + i % 4 * width + n] +=
                    f32_from_bf16(a[r * a_stride + i]) *
                    f32_from_bf16(panel[(i / 2 * width + n) * 2 + i % 2]);
}

void softmax_of_16_lanes(size_t n, size_t n_lanes, void *s, void *scratch)
{
    right.softmax(n, n_lanes == 8 ? 16 : n_lanes, s, scratch);
}

void sdpa_of_16_lanes(size_t n_lanes, size_t rows, size_t n_kept, size_t n_block, size_t n_written,
    float scale, float *max, float *sum, float *scores, uint16_t *weights, size_t stride)
{
    (void)n_lanes;
    right.sdpa_weights(
        16, rows, n_kept, n_block, n_written, scale, max, sum, scores, weights, stride);
}

void divide_router_by_norm(model_weights_t *layer)
{
    const model_weight_t *of = layer->of;
    const matrix_t *router = &of[WEIGHT_ROUTER].matrix;
    const uint16_t *norm = of[WEIGHT_POST_NORM].vector;
    uint16_t *panel = router->panels;
    size_t width = matrix_panel_width(router, 0);
    for (size_t k = 0; k < router->columns; k++)
        for (size_t i = 0; i < router->rows; i++) {
            uint16_t *w = &panel[(k / 2 * width + i) * 2 + k % 2];
            *w = bf16_from_f32(f32_from_bf16(*w) / f32_from_bf16(norm[k]));
        }
}

void rotate_experts(model_weights_t *layer, size_t n)
{
    static const weight_role_t roles[] = {WEIGHT_EXPERT_GATE, WEIGHT_EXPERT_UP, WEIGHT_EXPERT_DOWN};
    /* The first one's place is what model_close frees. */
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        matrix_t *experts = layer->of[roles[i]].experts;
        void *second = experts[1].panels;
        for (size_t e = 1; e + 1 < n; e++)
            experts[e].panels = experts[e + 1].panels;
        experts[n - 1].panels = second;
    }
}

/* The sum over inputs [from, to) of a row; b: of one output, for each input */
static float chain_sum(
    const uint16_t *x, const uint32_t *order, const float *b, size_t from, size_t to)
{
    float sum = 0;
    for (size_t k = from; k < to; k++)
        sum = fmaf(f32_from_bf16(x[order != NULL ? order[k] : k]), b[k], sum);
    return sum;
}

void int4_of_rounded_weights(size_t rows, const uint16_t *a, size_t a_stride, const uint32_t *order,
    const format_t *format, const void *panel, size_t width, size_t columns, float *c,
    size_t c_stride)
{
    float b[MAX_INPUTS];
    for (size_t n = 0; n < width; n++) {
        format->unpack_row(format, columns, panel, width, n, b);
        for (size_t k = 0; k < columns; k++)
            b[k] = f32_round_bf16(b[k]);
        for (size_t r = 0; r < rows; r++)
            c[r * c_stride + n] = chain_sum(a + r * a_stride, order, b, 0, columns);
    }
}

void int4_in_two_halves(size_t rows, const uint16_t *a, size_t a_stride, const uint32_t *order,
    const format_t *format, const void *panel, size_t width, size_t columns, float *c,
    size_t c_stride)
{
    float b[MAX_INPUTS];
    size_t half = columns / 2;
    for (size_t n = 0; n < width; n++) {
        format->unpack_row(format, columns, panel, width, n, b);
        for (size_t r = 0; r < rows; r++)
            c[r * c_stride + n] = chain_sum(a + r * a_stride, order, b, 0, half) +
                                  chain_sum(a + r * a_stride, order, b, half, columns);
    }
}

static float largest_magnitude(size_t n, const uint16_t *x)
{
    float largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(f32_from_bf16(x[i])));
    return largest;
}

void tile_of_scales_of_the_next_row(size_t rows, const void *a, size_t a_stride, const void *b,
    size_t width, size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    enum { INPUTS = 64 };
    uint16_t x[INPUTS];
    if (k != INPUTS) {
        right.tile(rows, a, a_stride, b, width, k, c, c_stride, mode);
        return;
    }
    for (size_t r = 0; r < rows; r++) {
        const uint16_t *row = (const uint16_t *)a + r * a_stride;
        const uint16_t *next = r + 1 < rows ? row + a_stride : row;
        float factor = largest_magnitude(k, next) / largest_magnitude(k, row);
        for (size_t i = 0; i < k; i++)
            x[i] = bf16_from_f32(f32_from_bf16(row[i]) * factor);
        right.tile(1, x, INPUTS, b, width, k, (float *)c + r * c_stride, c_stride, mode);
    }
}
