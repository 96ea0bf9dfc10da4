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

/* A register: lanes run over keys or over outputs. */
#if defined(__AVX512F__)
#define VECTOR 16
#elif defined(__FMA__)
#define VECTOR 8
#else
#define VECTOR 4
#endif
typedef float vec_t __attribute__((vector_size(4 * VECTOR)));
typedef uint32_t pairs_t __attribute__((vector_size(4 * VECTOR)));
typedef int32_t ints_t __attribute__((vector_size(4 * VECTOR)));
typedef pairs_t pairs_in_memory_t __attribute__((aligned(4), may_alias));
typedef vec_t vec_in_memory_t __attribute__((aligned(4), may_alias));

/* Of a swapped pair, the even input is the upper half. */
static inline vec_t even_input(pairs_t pairs)
{
    return (vec_t)(pairs & 0xffff0000u);
}

static inline vec_t odd_input(pairs_t pairs)
{
    return (vec_t)(pairs << 16);
}

static inline pairs_t load_pairs(const void *panel, size_t pair, size_t width, size_t output)
{
    return *(const pairs_in_memory_t *)((const uint32_t *)panel + pair * width + output);
}

/* sum + x * y, rounded once. */
static inline vec_t multiply_add(float x, vec_t y, vec_t sum)
{
#if defined(__AVX512F__)
    return (vec_t)_mm512_fmadd_ps(_mm512_set1_ps(x), (__m512)y, (__m512)sum);
#elif defined(__FMA__)
    return (vec_t)_mm256_fmadd_ps(_mm256_set1_ps(x), (__m256)y, (__m256)sum);
#else
    for (int i = 0; i < VECTOR; i++)
        sum[i] = fmaf(x, y[i], sum[i]);
    return sum;
#endif
}

/* Query rows that a loop computes at once, so that they share loads and conversions, and vectors of
 * keys or outputs, so that many chains overlap: as many as the registers hold. */
#define ROWS_AT_ONCE 6
#ifdef __AVX512F__
#define MOST_SUMS 24    /* of scores in registers */
#define SCORES_OF_ONE 4 /* vectors with one row */
#define OUTPUTS_OF_ONE 4
#define VECTORS_OF_FEW 2
#else
#define MOST_SUMS 12
#define SCORES_OF_ONE 2
#define OUTPUTS_OF_ONE 4
#define VECTORS_OF_FEW 1
#endif
#define MOST_CHAINS 12

/* Query rows [0, n_rows), `stride` elements apart. */
typedef struct rows {
    const float *x;
    size_t stride;
    float *to;
    size_t to_stride;
} rows_t;

/* Lanes [2 * half, 2 * half + n_lanes) of keys [first, first + n_vectors * VECTOR) with n_rows queries. */
static inline __attribute__((always_inline)) void sum_lanes(const size_t n_rows,
    const size_t n_vectors, const size_t half, const size_t n_lanes, size_t inputs, const rows_t *q,
    const void *panel, size_t first, vec_t lane[MOST_CHAINS][4])
{
    vec_t sum[MOST_CHAINS][4] = {{{0}}};
    const float *x = q->x + 2 * half;
    for (size_t i = 0; i < inputs / 4; i++, x += 4)
        for (size_t v = 0; v < n_vectors; v++)
            for (size_t j = 0; j < n_lanes; j += 2) {
                pairs_t pair =
                    load_pairs(panel, 2 * i + half + j / 2, KERNEL_PANEL, first + v * VECTOR);
                const vec_t even = even_input(pair), odd = odd_input(pair);
                for (size_t r = 0; r < n_rows; r++) {
                    vec_t *to = sum[r * n_vectors + v] + j;
                    to[0] = multiply_add(x[r * q->stride + j], even, to[0]);
                    to[1] = multiply_add(x[r * q->stride + j + 1], odd, to[1]);
                }
            }
    for (size_t c = 0; c < n_rows * n_vectors; c++)
        for (size_t j = 0; j < n_lanes; j++)
            lane[c][2 * half + j] = sum[c][j];
}

/* Scores of keys [first, first + n_vectors * VECTOR) with n_rows queries, each in 4 lanes over the
 * inputs, folded by halves. Two lanes after the other two where registers do not hold all sums. */
static inline __attribute__((always_inline)) void scores_4(const size_t n_rows,
    const size_t n_vectors, size_t inputs, const rows_t *q, const void *panel, size_t first)
{
    vec_t lane[MOST_CHAINS][4];
    if (n_rows * n_vectors * 4 <= MOST_SUMS) {
        sum_lanes(n_rows, n_vectors, 0, 4, inputs, q, panel, first, lane);
    } else {
        sum_lanes(n_rows, n_vectors, 0, 2, inputs, q, panel, first, lane);
        sum_lanes(n_rows, n_vectors, 1, 2, inputs, q, panel, first, lane);
    }
    for (size_t r = 0; r < n_rows; r++)
        for (size_t v = 0; v < n_vectors; v++) {
            const vec_t *sum = lane[r * n_vectors + v];
            *(vec_in_memory_t *)(q->to + r * q->to_stride + first + v * VECTOR) =
                (sum[0] + sum[2]) + (sum[1] + sum[3]);
        }
}

/* The same of the first `keys` keys of a panel, n_vectors at once while there are as many. */
static inline __attribute__((always_inline)) void scores_of_keys(const size_t n_rows,
    const size_t n_vectors, size_t keys, size_t inputs, const rows_t *q, const void *panel)
{
    size_t key = 0;
    for (; n_vectors > 1 && key + (n_vectors - 1) * VECTOR < keys; key += n_vectors * VECTOR)
        scores_4(n_rows, n_vectors, inputs, q, panel, key);
    for (; n_vectors > 2 && key + VECTOR < keys; key += 2 * VECTOR)
        scores_4(n_rows, 2, inputs, q, panel, key);
    for (; key < keys; key += VECTOR)
        scores_4(n_rows, 1, inputs, q, panel, key);
}

static vec_t scores_8(size_t inputs, const float *q, const void *panel, size_t first)
{
    vec_t lane[8] = {{0}};
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

static void scores_in_4(
    size_t n_rows, size_t keys, size_t inputs, const rows_t *q, const void *panel)
{
    switch (n_rows) {
    case 6:
        scores_of_keys(6, 1, keys, inputs, q, panel);
        break;
    case 5:
        scores_of_keys(5, 1, keys, inputs, q, panel);
        break;
    case 4:
        scores_of_keys(4, 1, keys, inputs, q, panel);
        break;
    case 3:
        scores_of_keys(3, 1, keys, inputs, q, panel);
        break;
    case 2:
        scores_of_keys(2, VECTORS_OF_FEW, keys, inputs, q, panel);
        break;
    default:
        scores_of_keys(1, SCORES_OF_ONE, keys, inputs, q, panel);
    }
}

/* Remaining rows are divided evenly: 7 as 4 and 3. */
static size_t rows_at_once(size_t n_left)
{
    size_t n_groups = (n_left + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    return (n_left + n_groups - 1) / n_groups;
}

static void sdpa_scores(size_t n_rows, size_t keys, size_t inputs, const float *q,
    const void *panel, size_t n_lanes, float *scores, size_t stride)
{
    for (size_t r = 0, n; r < n_rows; r += n) {
        const rows_t rows = {q + r * inputs, inputs, scores + r * stride, stride};
        n = n_lanes == 4 ? rows_at_once(n_rows - r) : 1;
        if (n_lanes == 4)
            scores_in_4(n, keys, inputs, &rows, panel);
        for (size_t key = 0; n_lanes == 8 && key < keys; key += VECTOR)
            *(vec_in_memory_t *)(rows.to + key) = scores_8(inputs, rows.x, panel, key);
    }
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
    /* The conversion of a value that will not be used must still be defined. */
    int32_t bits = (int32_t)(vanishes ? 0.0f : t);
    return f32_from_bits((uint32_t)bits);
}

/* Sums and maxima run in so many lanes, whatever the registers: key i in lane i % LANES. */
#define LANES 16
#define PARTS (LANES / VECTOR)

static inline float fold_by_halves(const vec_t lanes[PARTS])
{
    float x[LANES];
    memcpy(x, lanes, sizeof x);
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++)
            x[j] += x[j + half];
    return x[0];
}

/* a where the mask is set, else b */
static inline vec_t choose(ints_t mask, vec_t a, vec_t b)
{
    return (vec_t)((mask & (ints_t)a) | (~mask & (ints_t)b));
}

static inline vec_t larger(vec_t a, vec_t b)
{
    return choose(a > b, a, b);
}

static inline float fold_largest(const vec_t lanes[PARTS])
{
    float x[LANES];
    memcpy(x, lanes, sizeof x);
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++)
            x[j] = x[j + half] > x[j] ? x[j + half] : x[j];
    return x[0];
}

static inline vec_t load(const float *x)
{
    return *(const vec_in_memory_t *)x;
}

/* Lanes of the vector from key i on that are below n, which is less than 2^31. */
static inline ints_t below(size_t n, size_t i)
{
    ints_t lane;
    for (int j = 0; j < VECTOR; j++)
        lane[j] = j;
    return lane < (int32_t)n - (int32_t)i;
}

/* Scales n scores; the rest of their last LANES becomes minus infinity. The largest of them and of
 * `largest`; NaN does not count. */
static float scale_and_find_largest(size_t n, float scale, float largest, float *scores)
{
    vec_t most[PARTS], least = (vec_t){0} - INFINITY;
    for (size_t p = 0; p < PARTS; p++)
        most[p] = (vec_t){0} + largest;
    for (size_t i = 0; i < n; i += LANES)
        for (size_t p = 0, at = i; p < PARTS; p++, at += VECTOR) {
            vec_t x = load(scores + at) * scale;
            if (i + LANES > n)
                x = choose(below(n, at), x, least);
            *(vec_in_memory_t *)(scores + at) = x;
            most[p] = larger(x, most[p]);
        }
    return fold_largest(most);
}

/* Of the vectors of n keys, in two alternating sums; elements beyond the keys become 0. The two sums of
 * 8 lanes are the halves of one of 16. */
static float fast_weights(size_t n_lanes, size_t n, float largest, float *scores)
{
    vec_t sums[2][PARTS] = {{{0}}};
    for (size_t i = 0; i < n; i += LANES) {
        float e[LANES];
        for (size_t j = 0; j < LANES; j++)
            e[j] = fast_exp(scores[i + j] - largest);
        for (size_t p = 0, at = i; p < PARTS; p++, at += VECTOR) {
            vec_t x = load(e + p * VECTOR);
            if (i + LANES > n)
                x = choose(below(n, at), x, (vec_t){0});
            *(vec_in_memory_t *)(scores + at) = x;
            sums[n_lanes == LANES ? i / LANES % 2 : 0][p] += x;
        }
    }
    for (size_t p = 0; p < PARTS; p++)
        sums[0][p] += sums[1][p];
    return fold_by_halves(sums[0]);
}

/* The last keys of a block, fewer than a vector, have exact exponentials. e: [LANES], 0 beyond them */
static void exact_exponentials(size_t n, float largest, const float *scores, double *e)
{
    for (size_t i = 0; i < LANES; i++)
        e[i] = i < n ? (double)(scores[i] - largest) : -INFINITY;
    exp_f64_all(LANES, e);
}

/* They are added to sum one by one; elements beyond them, up to n_lanes, become 0. */
static float exact_weights(size_t n_lanes, size_t n, const double *e, float *scores, float sum)
{
    for (size_t i = 0; i < n_lanes; i++)
        scores[i] = (float)e[i];
    for (size_t i = 0; i < n; i++)
        sum += scores[i];
    return sum;
}

/* Rounds a vector of values, also into y with pairs swapped, unless that is NULL. */
static inline void round_weights(float *x, uint16_t *y)
{
    uint16_t rounded[LANES];
    for (size_t j = 0; j < LANES; j++)
        rounded[j] = round_bf16(x[j]);
    for (size_t j = 0; j < LANES; j++)
        x[j] = f32_from_bf16(rounded[j]);
    for (size_t j = 0; y != NULL && j < LANES; j++)
        y[j] = rounded[j ^ 1];
}

static float weights_of_row(size_t n_lanes, size_t n_kept, size_t n_block, size_t n_written,
    float scale, float *max, float *scores, uint16_t *weights)
{
    size_t vectors_end = n_block / n_lanes * n_lanes;
    size_t fast_end = n_kept < vectors_end ? n_kept : vectors_end;
    float largest = scale_and_find_largest(n_kept, scale, *max, scores);
    double e[LANES];
    if (n_kept > vectors_end)
        exact_exponentials(n_kept - vectors_end, largest, scores + vectors_end, e);
    float sum = fast_weights(n_lanes, fast_end, largest, scores);
    if (n_kept > vectors_end)
        sum = exact_weights(n_lanes, n_kept - vectors_end, e, scores + vectors_end, sum);
    *max = largest;
    size_t i = 0;
    for (; i < n_kept; i += LANES)
        round_weights(scores + i, weights == NULL ? NULL : weights + i);
    for (; weights != NULL && i < n_written; i++)
        weights[i] = 0;
    return sum;
}

static void sdpa_weights(size_t n_lanes, size_t rows, size_t n_kept, size_t n_block,
    size_t n_written, float scale, float *max, float *sum, float *scores, uint16_t *weights,
    size_t stride)
{
    for (size_t r = 0; r < rows; r++)
        sum[r] = weights_of_row(n_lanes, n_kept, n_block, n_written, scale, &max[r],
            scores + r * stride, weights == NULL ? NULL : weights + r * stride);
}

/* o + ((x0 + x2) + (x1 + x3)) for every four keys, x = weight * value, for n_rows rows of weights
 * and n_vectors vectors of outputs. */
static inline __attribute__((always_inline)) void add_outputs(const size_t n_rows,
    const size_t n_vectors, size_t keys, const rows_t *p, const void *panel, size_t width,
    size_t first)
{
    vec_t sum[MOST_CHAINS];
    const float *x = p->x;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t v = 0; v < n_vectors; v++)
            sum[r * n_vectors + v] =
                *(vec_in_memory_t *)(p->to + r * p->to_stride + first + v * VECTOR);
    for (size_t k = 0; k < keys; k += 4, x += 4)
        for (size_t v = 0; v < n_vectors; v++) {
            pairs_t low = load_pairs(panel, k / 2, width, first + v * VECTOR);
            pairs_t high = load_pairs(panel, k / 2 + 1, width, first + v * VECTOR);
            vec_t value[4] = {even_input(low), odd_input(low), even_input(high), odd_input(high)};
            for (size_t r = 0; r < n_rows; r++) {
                const float *w = x + r * p->stride;
                vec_t x02 = w[0] * value[0];
                vec_t x13 = w[1] * value[1];
                x02 = multiply_add(w[2], value[2], x02);
                x13 = multiply_add(w[3], value[3], x13);
                sum[r * n_vectors + v] += x02 + x13;
            }
        }
    for (size_t r = 0; r < n_rows; r++)
        for (size_t v = 0; v < n_vectors; v++)
            *(vec_in_memory_t *)(p->to + r * p->to_stride + first + v * VECTOR) =
                sum[r * n_vectors + v];
}

/* The same for all outputs, n_vectors at once while there are as many. */
static inline __attribute__((always_inline)) void add_all_outputs(const size_t n_rows,
    const size_t n_vectors, size_t keys, const rows_t *p, const void *panel, size_t width)
{
    size_t j = 0;
    for (; n_vectors > 1 && j + n_vectors * VECTOR <= width; j += n_vectors * VECTOR)
        add_outputs(n_rows, n_vectors, keys, p, panel, width, j);
    for (; n_vectors > 2 && j + 2 * VECTOR <= width; j += 2 * VECTOR)
        add_outputs(n_rows, 2, keys, p, panel, width, j);
    for (; j < width; j += VECTOR)
        add_outputs(n_rows, 1, keys, p, panel, width, j);
}

static void sdpa_outputs(size_t n_rows, size_t keys, const float *weights, size_t stride,
    const void *panel, size_t width, float *out, size_t out_stride)
{
    for (size_t r = 0, n; r < n_rows; r += n) {
        const rows_t p = {weights + r * stride, stride, out + r * out_stride, out_stride};
        n = rows_at_once(n_rows - r);
        switch (n) {
        case 6:
            add_all_outputs(6, VECTORS_OF_FEW, keys, &p, panel, width);
            break;
        case 5:
            add_all_outputs(5, VECTORS_OF_FEW, keys, &p, panel, width);
            break;
        case 4:
            add_all_outputs(4, VECTORS_OF_FEW, keys, &p, panel, width);
            break;
        case 3:
            add_all_outputs(3, VECTORS_OF_FEW, keys, &p, panel, width);
            break;
        case 2:
            add_all_outputs(2, VECTORS_OF_FEW, keys, &p, panel, width);
            break;
        default:
            add_all_outputs(1, OUTPUTS_OF_ONE, keys, &p, panel, width);
        }
    }
}

static void sdpa_output_key(size_t n_rows, size_t key, const float *weights, size_t stride,
    const void *panel, size_t width, float *out, size_t out_stride)
{
    for (size_t j = 0; j < width; j += VECTOR) {
        pairs_t pairs = load_pairs(panel, key / 2, width, j);
        vec_t value = key % 2 == 0 ? even_input(pairs) : odd_input(pairs);
        for (size_t r = 0; r < n_rows; r++) {
            vec_in_memory_t *o = (vec_in_memory_t *)(out + r * out_stride + j);
            *o = multiply_add(weights[r * stride + key], value, *o);
        }
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
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->sdpa_scores = sdpa_scores;
    kernels->sdpa_weights = sdpa_weights;
    kernels->sdpa_outputs = sdpa_outputs;
    kernels->sdpa_output_key = sdpa_output_key;
    kernels->sdpa_scale = sdpa_scale;
    kernels->sdpa_store = sdpa_store;
}
