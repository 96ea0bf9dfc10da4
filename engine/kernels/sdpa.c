/* Kernels of the sdpa order (docs/pytorch-orders.md, "SDPA"), bf16 only, in plain C compiled once
 * per instruction set like elementwise.c, with SDPA_FILL naming the function that fills the table.
 * Panels here hold the two inputs of a pair swapped, see kernels.h. */
#include <math.h>
#include <string.h>

#include "engine/kernels/elementwise.h"
#include "engine/kernels/exp_f64.h"

#ifndef SDPA_FILL
#define SDPA_FILL sdpa_fill_baseline
#endif

#ifdef __FMA__
#include <immintrin.h>
#endif

/* Lanes run over keys or over outputs. */
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

/* sum + x * y, rounded once. */
static inline lanes_t multiply_add(float x, lanes_t y, lanes_t sum)
{
#if defined(__AVX512F__)
    return (lanes_t)_mm512_fmadd_ps(_mm512_set1_ps(x), (__m512)y, (__m512)sum);
#elif defined(__FMA__)
    union {
        lanes_t all;
        __m256 halves[2];
    } factor = {y}, total = {sum};
    for (int i = 0; i < 2; i++)
        total.halves[i] = _mm256_fmadd_ps(_mm256_set1_ps(x), factor.halves[i], total.halves[i]);
    return total.all;
#else
    for (int i = 0; i < LANES; i++)
        sum[i] = fmaf(x, y[i], sum[i]);
    return sum;
#endif
}

/* Keys, or outputs, that a loop works on at once, so that many chains are under way: what the
 * registers hold. */
#ifdef __AVX512F__
#define KEYS_AT_ONCE 4
#else
#define KEYS_AT_ONCE 1
#endif

/* Scores of keys [first, first + n * LANES) with one query row in 4 lanes over the inputs, folded
 * by halves. */
static inline __attribute__((always_inline)) void scores_4(
    const size_t n, size_t inputs, const float *q, const void *panel, size_t first, float *to)
{
    lanes_t lane[KEYS_AT_ONCE][4] = {{{0}}};
    for (size_t i = 0; i < inputs / 4; i++) {
        const float *x = q + 4 * i;
        for (size_t v = 0; v < n; v++) {
            pairs_t low = load_pairs(panel, 2 * i, KERNEL_PANEL, first + v * LANES);
            pairs_t high = load_pairs(panel, 2 * i + 1, KERNEL_PANEL, first + v * LANES);
            lane[v][0] = multiply_add(x[0], even_input(low), lane[v][0]);
            lane[v][1] = multiply_add(x[1], odd_input(low), lane[v][1]);
            lane[v][2] = multiply_add(x[2], even_input(high), lane[v][2]);
            lane[v][3] = multiply_add(x[3], odd_input(high), lane[v][3]);
        }
    }
    for (size_t v = 0; v < n; v++)
        *(lanes_in_memory_t *)(to + first + v * LANES) =
            (lane[v][0] + lane[v][2]) + (lane[v][1] + lane[v][3]);
}

static lanes_t scores_8(size_t inputs, const float *q, const void *panel, size_t first)
{
    lanes_t lane[8] = {{0}};
    for (size_t i = 0; i < inputs / 8; i++)
        for (size_t j = 0; j < 4; j++) {
            pairs_t pairs = load_pairs(panel, 4 * i + j, KERNEL_PANEL, first);
            const float *x = q + 8 * i + 2 * j;
            lane[2 * j] = multiply_add(x[0], even_input(pairs), lane[2 * j]);
            lane[2 * j + 1] = multiply_add(x[1], odd_input(pairs), lane[2 * j + 1]);
        }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static void sdpa_scores(
    size_t keys, size_t inputs, const float *q, const void *panel, size_t n_lanes, void *scores)
{
    float *to = scores;
    size_t key = 0;
    for (; n_lanes == 4 && KEYS_AT_ONCE == 4 && key + 2 * LANES < keys; key += 4 * LANES)
        scores_4(KEYS_AT_ONCE, inputs, q, panel, key, to);
    for (; n_lanes == 4 && KEYS_AT_ONCE == 4 && key + LANES < keys; key += 2 * LANES)
        scores_4(KEYS_AT_ONCE / 2, inputs, q, panel, key, to);
    for (; n_lanes == 4 && key < keys; key += LANES)
        scores_4(1, inputs, q, panel, key, to);
    for (; key < keys; key += LANES)
        *(lanes_in_memory_t *)(to + key) = scores_8(inputs, q, panel, key);
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

typedef int32_t ints_t __attribute__((vector_size(4 * LANES)));

static const ints_t down_8 = {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7};
static const ints_t down_4 = {4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11};
static const ints_t down_2 = {2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13};
static const ints_t lane_numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static inline float fold_by_halves(lanes_t lane)
{
    lane += __builtin_shuffle(lane, down_8);
    lane += __builtin_shuffle(lane, down_4);
    lane += __builtin_shuffle(lane, down_2);
    return lane[0] + lane[1];
}

/* a where the mask is set, else b */
static inline lanes_t choose(ints_t mask, lanes_t a, lanes_t b)
{
    return (lanes_t)((mask & (ints_t)a) | (~mask & (ints_t)b));
}

static inline lanes_t larger(lanes_t a, lanes_t b)
{
    return choose(a > b, a, b);
}

static inline lanes_t load_lanes(const float *x)
{
    return *(const lanes_in_memory_t *)x;
}

/* Lanes of the vector from key i on that are below n. */
static inline ints_t below(size_t n, size_t i)
{
    return lane_numbers < (int32_t)(n - i);
}

/* Scales n scores, and the rest of their last vector becomes the least. The largest of them and of
 * `largest`; what is not a number does not count. */
static float scale_and_find_largest(size_t n, float scale, float largest, float *scores)
{
    lanes_t most = (lanes_t){0} + largest, least = (lanes_t){0} - INFINITY;
    for (size_t i = 0; i < n; i += LANES) {
        lanes_t x = choose(below(n, i), load_lanes(scores + i) * scale, least);
        *(lanes_in_memory_t *)(scores + i) = x;
        most = larger(x, most);
    }
    most = larger(__builtin_shuffle(most, down_8), most);
    most = larger(__builtin_shuffle(most, down_4), most);
    most = larger(__builtin_shuffle(most, down_2), most);
    return most[1] > most[0] ? most[1] : most[0];
}

/* Of the vectors of n keys, in two sums by turns; what is beyond the keys becomes 0. */
static float fast_weights(size_t n, float largest, float *scores)
{
    lanes_t even = {0}, odd = {0};
    for (size_t i = 0; i < n; i += LANES) {
        float e[LANES];
        for (size_t j = 0; j < LANES; j++)
            e[j] = fast_exp(scores[i + j] - largest);
        lanes_t x = choose(below(n, i), load_lanes(e), (lanes_t){0});
        *(lanes_in_memory_t *)(scores + i) = x;
        if (i / LANES % 2 == 0)
            even += x;
        else
            odd += x;
    }
    return fold_by_halves(even + odd);
}

/* The last keys of a block, fewer than a vector: exact exponentials, added to sum one by one; what
 * is beyond them becomes 0. */
static float exact_weights(size_t n, float largest, float *scores, float sum)
{
    double e[LANES];
    for (size_t i = 0; i < LANES; i++)
        e[i] = i < n ? (double)(scores[i] - largest) : -INFINITY;
    exp_f64_all(LANES, e);
    for (size_t i = 0; i < LANES; i++)
        scores[i] = (float)e[i];
    for (size_t i = 0; i < n; i++)
        sum += scores[i];
    return sum;
}

/* A vector of values rounded, pairs swapped. */
static inline void store_swapped(const float *x, uint16_t *y)
{
    uint16_t rounded[LANES];
    for (size_t j = 0; j < LANES; j++)
        rounded[j] = round_bf16(x[j]);
    for (size_t j = 0; j < LANES; j++)
        y[j] = rounded[j ^ 1];
}

static float sdpa_weights(size_t n_kept, size_t n_block, size_t n_written, float scale, float *max,
    float *scores, uint16_t *weights)
{
    size_t vectors_end = n_block / LANES * LANES;
    size_t fast_end = n_kept < vectors_end ? n_kept : vectors_end;
    float largest = scale_and_find_largest(n_kept, scale, *max, scores);
    float sum = fast_weights(fast_end, largest, scores);
    if (n_kept > vectors_end)
        sum = exact_weights(n_kept - vectors_end, largest, scores + vectors_end, sum);
    *max = largest;
    size_t i = 0;
    for (; i < n_kept; i += LANES)
        store_swapped(scores + i, weights + i);
    for (; i < n_written; i++)
        weights[i] = 0;
    return sum;
}

/* o + ((x0 + x2) + (x1 + x3)) for every four keys, x = weight * value, for n vectors of outputs. */
static inline __attribute__((always_inline)) void add_outputs(
    const size_t n, size_t keys, const uint16_t *p, const void *panel, size_t width, float *o)
{
    lanes_t sum[KEYS_AT_ONCE];
    for (size_t v = 0; v < n; v++)
        sum[v] = *(lanes_in_memory_t *)(o + v * LANES);
    for (size_t k = 0; k < keys; k += 4) {
        float x[4];
        for (size_t j = 0; j < 4; j++)
            x[j] = swapped_input(p, k + j);
        for (size_t v = 0; v < n; v++) {
            pairs_t low = load_pairs(panel, k / 2, width, v * LANES);
            pairs_t high = load_pairs(panel, k / 2 + 1, width, v * LANES);
            lanes_t x02 = x[0] * even_input(low);
            lanes_t x13 = x[1] * odd_input(low);
            x02 = multiply_add(x[2], even_input(high), x02);
            x13 = multiply_add(x[3], odd_input(high), x13);
            sum[v] += x02 + x13;
        }
    }
    for (size_t v = 0; v < n; v++)
        *(lanes_in_memory_t *)(o + v * LANES) = sum[v];
}

static void sdpa_outputs(
    size_t keys, const void *weights, const void *panel, size_t width, void *out)
{
    float *o = out;
    size_t j = 0;
    for (; KEYS_AT_ONCE == 4 && j + 4 * LANES <= width; j += 4 * LANES)
        add_outputs(4, keys, weights, (const uint32_t *)panel + j, width, o + j);
    for (; KEYS_AT_ONCE == 4 && j + 2 * LANES <= width; j += 2 * LANES)
        add_outputs(2, keys, weights, (const uint32_t *)panel + j, width, o + j);
    for (; j < width; j += LANES)
        add_outputs(1, keys, weights, (const uint32_t *)panel + j, width, o + j);
}

static void sdpa_output_key(
    size_t key, const void *weights, const void *panel, size_t width, void *out)
{
    float *o = out;
    float p = swapped_input(weights, key);
    for (size_t j = 0; j < width; j += LANES) {
        pairs_t pairs = load_pairs(panel, key / 2, width, j);
        lanes_t value = key % 2 == 0 ? even_input(pairs) : odd_input(pairs);
        *(lanes_in_memory_t *)(o + j) = multiply_add(p, value, *(lanes_in_memory_t *)(o + j));
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
