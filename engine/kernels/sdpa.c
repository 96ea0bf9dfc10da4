/* Kernels of the sdpa order (docs/pytorch-orders.md, "SDPA"), bf16 only, in plain C compiled once
 * per instruction set like elementwise.c, with SDPA_FILL naming the function that fills the table.
 * Panels here hold the two inputs of a pair swapped, see kernels.h. */
#include <math.h>
#include <sleef.h>

#include "engine/kernels/elementwise.h"

#ifndef SDPA_FILL
#define SDPA_FILL sdpa_fill_baseline
#endif

/* Lanes run over keys or over outputs; products of bf16 are exact in f32, so `sum + x * y` rounds
 * once. */
#define LANES 16
typedef float lanes_t __attribute__((vector_size(4 * LANES)));
typedef uint32_t pairs_t __attribute__((vector_size(4 * LANES)));
typedef pairs_t pairs_in_memory_t __attribute__((aligned(4), may_alias));
typedef lanes_t lanes_in_memory_t __attribute__((aligned(4), may_alias));

/* Of a swapped pair, the even input is the upper half. */
static inline lanes_t even_input(pairs_t pairs)
{
    return (lanes_t)(pairs & 0xffff0000u);
}

static inline lanes_t odd_input(pairs_t pairs)
{
    return (lanes_t)(pairs << 16);
}

static inline pairs_t load_pairs(const void *panel, size_t pair, size_t width, size_t output)
{
    return *(const pairs_in_memory_t *)((const uint32_t *)panel + pair * width + output);
}

/* Input i of a swapped row. */
static inline float swapped_input(const uint16_t *row, size_t i)
{
    return f32_from_bf16(row[i ^ 1]);
}

/* Scores of keys [first, first + LANES) with one query row in 4 lanes over the inputs, folded by
 * halves. */
static lanes_t scores_4(
    size_t inputs, const uint16_t *q, const void *panel, size_t width, size_t first)
{
    lanes_t lane[4] = {{0}};
    for (size_t i = 0; i < inputs / 4; i++) {
        pairs_t low = load_pairs(panel, 2 * i, width, first);
        pairs_t high = load_pairs(panel, 2 * i + 1, width, first);
        lane[0] += swapped_input(q, 4 * i) * even_input(low);
        lane[1] += swapped_input(q, 4 * i + 1) * odd_input(low);
        lane[2] += swapped_input(q, 4 * i + 2) * even_input(high);
        lane[3] += swapped_input(q, 4 * i + 3) * odd_input(high);
    }
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

static lanes_t scores_8(
    size_t inputs, const uint16_t *q, const void *panel, size_t width, size_t first)
{
    lanes_t lane[8] = {{0}};
    for (size_t i = 0; i < inputs / 8; i++)
        for (size_t j = 0; j < 4; j++) {
            pairs_t pairs = load_pairs(panel, 4 * i + j, width, first);
            lane[2 * j] += swapped_input(q, 8 * i + 2 * j) * even_input(pairs);
            lane[2 * j + 1] += swapped_input(q, 8 * i + 2 * j + 1) * odd_input(pairs);
        }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static void sdpa_scores(
    size_t inputs, const void *q, const void *panel, size_t n_lanes, void *scores)
{
    float *to = scores;
    for (size_t key = 0; key < KERNEL_PANEL; key += LANES)
        *(lanes_in_memory_t *)(to + key) = n_lanes == 4
                                               ? scores_4(inputs, q, panel, KERNEL_PANEL, key)
                                               : scores_8(inputs, q, panel, KERNEL_PANEL, key);
}

/* exp to about 17 bits, as PyTorch's flash attention computes it (Vec::fexp_u20; Malossi et al.
 * 2015): 2^y from the float's own exponent field, corrected by a cubic in the fraction. */
static inline float fast_exp(float x)
{
    float y = x * 0x1.715476p+0f;
    float f = y - floorf(y);
    float r = fmaf(f, -0.079204240219773236f, -0.22433836478672356f);
    r = fmaf(f, r, 0.30354260500649682f);
    r = fmaf(f, r, 0.00010703434948458272f);
    float t = fmaf(0x1p+23f, y - r, 0x1.fcp+29f);
    bool vanishes = x < -0x1.5d58ap+6f;
    /* The conversion of what will be dropped must stay defined. */
    int32_t bits = (int32_t)(vanishes ? 0.0f : t);
    return f32_from_bits((uint32_t)bits);
}

static float sum_in_two(size_t n, const float *e)
{
    lanes_t sums[2] = {{0}};
    for (size_t v = 0; v < n / LANES; v++)
        sums[v % 2] += *(const lanes_in_memory_t *)(e + v * LANES);
    lanes_t lane = sums[0] + sums[1];
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            lane[j] += lane[j + width];
    return lane[0];
}

static float sdpa_weights(size_t n_kept, size_t n_block, size_t n_written, float scale, float *max,
    float *scores, uint16_t *weights)
{
    size_t vectors_end = n_block / LANES * LANES; /* beyond: exact exponentials, added one by one */
    size_t fast_end = n_kept < vectors_end ? n_kept : vectors_end;
    float largest = *max;
    for (size_t i = 0; i < n_kept; i++)
        scores[i] = scores[i] * scale;
    for (size_t i = 0; i < n_kept; i++)
        largest = scores[i] > largest ? scores[i] : largest;
    for (size_t i = 0; i < fast_end; i++)
        scores[i] = fast_exp(scores[i] - largest);
    size_t padded = (fast_end + LANES - 1) / LANES * LANES;
    for (size_t i = fast_end; i < padded && i < vectors_end; i++)
        scores[i] = 0; /* masked */
    float sum = sum_in_two(padded, scores);
    for (size_t i = vectors_end; i < n_kept; i++) {
        scores[i] = (float)Sleef_cinz_expd1_u10purec((double)(scores[i] - largest));
        sum += scores[i];
    }
    *max = largest;
    for (size_t i = 0; i < n_written; i++)
        weights[i ^ 1] = i < n_kept ? bf16_from_f32(scores[i]) : 0;
    return sum;
}

/* o + ((x0 + x2) + (x1 + x3)) for every four keys, x = weight * value. */
static void sdpa_outputs(
    size_t keys, const void *weights, const void *panel, size_t width, void *out)
{
    const uint16_t *p = weights;
    float *o = out;
    for (size_t j = 0; j < width; j += LANES) {
        lanes_t sum = *(lanes_in_memory_t *)(o + j);
        for (size_t k = 0; k < keys; k += 4) {
            pairs_t low = load_pairs(panel, k / 2, width, j),
                    high = load_pairs(panel, k / 2 + 1, width, j);
            lanes_t x02 = swapped_input(p, k) * even_input(low);
            lanes_t x13 = swapped_input(p, k + 1) * odd_input(low);
            x02 += swapped_input(p, k + 2) * even_input(high);
            x13 += swapped_input(p, k + 3) * odd_input(high);
            sum += x02 + x13;
        }
        *(lanes_in_memory_t *)(o + j) = sum;
    }
}

static void sdpa_output_key(
    size_t key, const void *weights, const void *panel, size_t width, void *out)
{
    float *o = out;
    float p = swapped_input(weights, key);
    for (size_t j = 0; j < width; j += LANES) {
        pairs_t pairs = load_pairs(panel, key / 2, width, j);
        *(lanes_in_memory_t *)(o + j) += p * (key % 2 == 0 ? even_input(pairs) : odd_input(pairs));
    }
}

static void sdpa_scale(size_t n, float factor, void *out)
{
    float *o = out;
    for (size_t i = 0; i < n; i++)
        o[i] = o[i] * factor;
}

static void sdpa_store(size_t n, const void *out, float factor, void *y)
{
    const float *o = out;
    uint16_t *to = y;
    for (size_t i = 0; i < n; i++)
        to[i] = bf16_from_f32(o[i] * factor);
}

void SDPA_FILL(kernels_t *kernels)
{
    kernels->sdpa_scores = sdpa_scores;
    kernels->sdpa_weights = sdpa_weights;
    kernels->sdpa_outputs = sdpa_outputs;
    kernels->sdpa_output_key = sdpa_output_key;
    kernels->sdpa_scale = sdpa_scale;
    kernels->sdpa_store = sdpa_store;
}
