/* Elementwise kernels and reductions, in plain C that compilers vectorise.
 *
 * Compiled once per instruction set, with ELEMENTWISE_FILL naming the function that fills the
 * table. Every operation is one IEEE operation (no contraction, no reassociation), and sums run in
 * lanes fixed here, so all builds give the same bits. */
#include "engine/kernels/elementwise.h"

#include <math.h>
#include <string.h>

#include "engine/kernels/exp_f64.h"
#include "engine/kernels/kernels_internal.h"

#ifndef ELEMENTWISE_FILL
#define ELEMENTWISE_FILL elementwise_fill_baseline
#endif

/* Lanes of a sum, whatever the width of the host's registers. */
typedef float f32x8_t __attribute__((vector_size(32)));
typedef double f64x8_t __attribute__((vector_size(64)));

/* exp as SLEEF's expf u10 computes it (https://sleef.org), which PyTorch's vectorised exp is: range
 * reduction by multiples of ln 2 in two parts, a polynomial of degree 7, scaling in two steps.
 * Branch-free. */
static inline float exp_f32(float x)
{
    /* Beyond the limits the result is chosen at the end; the clamp only keeps the conversion to int
     * defined. */
    float clamped = x >= -105.0f ? x : -105.0f;
    clamped = clamped <= 105.0f ? clamped : 105.0f;
    /* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even. */
    float quotient = clamped * 1.44269504f;
    quotient = (quotient + 0x1.8p23f) - 0x1.8p23f;
    float s = fmaf(quotient, -0.693145751953125f, clamped);
    s = fmaf(quotient, -1.428606765330187045e-06f, s);
    float u = 0.000198527617612853646278381f;
    u = fmaf(u, s, 0.00139304355252534151077271f);
    u = fmaf(u, s, 0.00833336077630519866943359f);
    u = fmaf(u, s, 0.0416664853692054748535156f);
    u = fmaf(u, s, 0.166666671633720397949219f);
    u = fmaf(u, s, 0.5f);
    float y = 1.0f + fmaf(s * s, u, s);
    int32_t q = (int32_t)quotient;
    int32_t half = q >> 1;
    y = y * f32_from_bits((uint32_t)(half + 127) << 23);
    y = y * f32_from_bits((uint32_t)(q - half + 127) << 23);
    y = x < -104.0f ? 0.0f : y;
    y = x > 104.0f ? INFINITY : y;
    return x == x ? y : x;
}

/* ---- Modes: how an element is read, rounded and written -------------------------------------- */

typedef uint16_t bf16_t;

static inline float load_bf16(bf16_t x)
{
    return f32_from_bf16(x);
}
static inline float load_f32(float x)
{
    return x;
}
static inline float round_f32(float x)
{
    return x;
}
static inline float middle_bf16(float x)
{
    return load_bf16(round_bf16(x));
}
/* f32 need not equal PyTorch's bits, only have a small error: these two round once. */
static inline double middle_f32(double x)
{
    return x;
}
static inline double load_f64(double x)
{
    return x;
}
static inline double round_f64(double x)
{
    return x;
}
static inline double middle_f64(double x)
{
    return x;
}

/* The sum of squares of n values in the order of torch.mean over a contiguous row (ATen's
 * cascade_sum): 8 lanes, 4 interleaved accumulators, 4 levels that keep partial sums of like size
 * together. */
#define DEFINE_SUM_OF_SQUARES(NAME, ELEMENT, REAL, VECTOR, LOAD)                                   \
    static REAL NAME(size_t n, const ELEMENT *x)                                                   \
    {                                                                                              \
        enum { LANES = 8, WAYS = 4, LEVELS = 4 };                                                  \
        VECTOR levels[LEVELS][WAYS] = {{{0}}};                                                     \
        size_t n_vectors = n / LANES, n_rounds = n_vectors / WAYS;                                 \
        size_t log2_rounds = 0;                                                                    \
        while (((size_t)1 << log2_rounds) < n_rounds)                                              \
            log2_rounds++;                                                                         \
        size_t power = log2_rounds / LEVELS > 4 ? log2_rounds / LEVELS : 4;                        \
        size_t step_mask = ((size_t)1 << power) - 1;                                               \
        for (size_t round = 0; round < n_rounds; round++) {                                        \
            for (size_t way = 0; way < WAYS; way++) {                                              \
                const ELEMENT *from = x + (round * WAYS + way) * LANES;                            \
                VECTOR value;                                                                      \
                for (size_t lane = 0; lane < LANES; lane++)                                        \
                    value[lane] = LOAD(from[lane]);                                                \
                levels[0][way] += value * value;                                                   \
            }                                                                                      \
            size_t done = round + 1;                                                               \
            for (size_t level = 1; level < LEVELS && (done & step_mask) == 0; level++) {           \
                for (size_t way = 0; way < WAYS; way++) {                                          \
                    levels[level][way] += levels[level - 1][way];                                  \
                    levels[level - 1][way] = (VECTOR){0};                                          \
                }                                                                                  \
                done >>= power;                                                                    \
            }                                                                                      \
        }                                                                                          \
        for (size_t way = 0; way < WAYS; way++)                                                    \
            for (size_t level = 1; level < LEVELS; level++)                                        \
                levels[0][way] += levels[level][way];                                              \
        for (size_t v = n_rounds * WAYS; v < n_vectors; v++)                                       \
            for (size_t lane = 0; lane < LANES; lane++) {                                          \
                REAL value = LOAD(x[v * LANES + lane]);                                            \
                levels[0][0][lane] += value * value;                                               \
            }                                                                                      \
        for (size_t way = 1; way < WAYS; way++)                                                    \
            levels[0][0] += levels[0][way];                                                        \
        REAL sum = 0;                                                                              \
        for (size_t i = n_vectors * LANES; i < n; i++) {                                           \
            REAL value = LOAD(x[i]);                                                               \
            sum += value * value;                                                                  \
        }                                                                                          \
        for (size_t lane = 0; lane < LANES; lane++)                                                \
            sum += levels[0][0][lane];                                                             \
        return sum;                                                                                \
    }

/* Sum of exponentials: in 16 lanes by index, folded by halves, or left to right. */
#define DEFINE_SUM(NAME, REAL)                                                                     \
    static inline __attribute__((always_inline))                                                   \
    REAL NAME##_in_lanes(size_t n, const size_t n_lanes, const REAL *x)                            \
    {                                                                                              \
        REAL lane[16] = {0};                                                                       \
        size_t i = 0;                                                                              \
        for (; i + n_lanes <= n; i += n_lanes)                                                     \
            for (size_t j = 0; j < n_lanes; j++)                                                   \
                lane[j] += x[i + j];                                                               \
        for (size_t j = 0; i + j < n; j++)                                                         \
            lane[j] += x[i + j];                                                                   \
        for (size_t width = n_lanes / 2; width > 0; width /= 2)                                    \
            for (size_t j = 0; j < width; j++)                                                     \
                lane[j] += lane[j + width];                                                        \
        return lane[0];                                                                            \
    }                                                                                              \
                                                                                                   \
    static REAL NAME(size_t n, size_t n_lanes, const REAL *x)                                      \
    {                                                                                              \
        if (n_lanes == 16)                                                                         \
            return NAME##_in_lanes(n, 16, x);                                                      \
        return n_lanes == 8 ? NAME##_in_lanes(n, 8, x) : NAME##_in_lanes(n, 1, x);                 \
    }

/* RMSNorm and RoPE compute in WIDE; middle_MODE is what the reference rounds to halfway
 * (docs/numerics.md). */
#define DEFINE_WIDE(MODE, ELEMENT, REAL, WIDE, SQRT)                                               \
    static void norm_row_##MODE(                                                                   \
        size_t n, const ELEMENT *from, const ELEMENT *weight, WIDE eps, ELEMENT *to)               \
    {                                                                                              \
        WIDE mean = sum_of_squares_##MODE(n, from) / (WIDE)n;                                      \
        WIDE scale = 1 / SQRT(mean + eps);                                                         \
        for (size_t i = 0; i < n; i++) {                                                           \
            WIDE normalised = middle_##MODE((WIDE)load_##MODE(from[i]) * scale);                   \
            to[i] = round_##MODE((REAL)((WIDE)load_##MODE(weight[i]) * normalised));               \
        }                                                                                          \
    }                                                                                              \
    static void rms_norm_##MODE(size_t rows, size_t n, const void *x, size_t x_stride,             \
        const void *w, double eps, void *y, size_t y_stride)                                       \
    {                                                                                              \
        for (size_t r = 0; r < rows; r++)                                                          \
            norm_row_##MODE(                                                                       \
                n, (const ELEMENT *)x + r * x_stride, w, (WIDE)eps, (ELEMENT *)y + r * y_stride);  \
    }                                                                                              \
    /* Halves as arguments, so that compilers see that they differ.
     */                                \
    static void rotate_##MODE(                                                                     \
        size_t half, const REAL *c, const REAL *s, ELEMENT *restrict low, ELEMENT *restrict high)  \
    {                                                                                              \
        for (size_t i = 0; i < half; i++) {                                                        \
            WIDE a = load_##MODE(low[i]), b = load_##MODE(high[i]);                                \
            low[i] = round_##MODE((REAL)(middle_##MODE(a * c[i]) + middle_##MODE(-b * s[i])));     \
            high[i] = round_##MODE((REAL)(middle_##MODE(b * c[i]) + middle_##MODE(a * s[i])));     \
        }                                                                                          \
    }                                                                                              \
    static void rope_##MODE(                                                                       \
        size_t heads, size_t half, const void *cosines, const void *sines, void *x)                \
    {                                                                                              \
        ELEMENT *head = x;                                                                         \
        for (size_t h = 0; h < heads; h++, head += 2 * half)                                       \
            rotate_##MODE(half, cosines, sines, head, head + half);                                \
    }

#define DEFINE_MODE(MODE, ELEMENT, REAL, EXP)                                                      \
    static void store_##MODE(size_t rows, size_t width, const void *c, size_t c_stride,            \
        const void *bias, void *y, size_t y_stride)                                                \
    {                                                                                              \
        const REAL *from = c;                                                                      \
        const ELEMENT *b = bias;                                                                   \
        ELEMENT *to = y;                                                                           \
        for (size_t r = 0; r < rows; r++, from += c_stride, to += y_stride) {                      \
            if (b == NULL)                                                                         \
                for (size_t j = 0; j < width; j++)                                                 \
                    to[j] = round_##MODE(from[j]);                                                 \
            else                                                                                   \
                for (size_t j = 0; j < width; j++)                                                 \
                    to[j] = round_##MODE(from[j] + load_##MODE(b[j]));                             \
        }                                                                                          \
    }                                                                                              \
    static void store_residual_##MODE(size_t rows, size_t width, const void *c, size_t c_stride,   \
        const void *x, void *y, size_t stride)                                                     \
    {                                                                                              \
        const REAL *from = c;                                                                      \
        const ELEMENT *add = x;                                                                    \
        ELEMENT *to = y;                                                                           \
        for (size_t r = 0; r < rows; r++, from += c_stride, add += stride, to += stride)           \
            for (size_t j = 0; j < width; j++)                                                     \
                to[j] = round_##MODE(load_##MODE(add[j]) + load_##MODE(round_##MODE(from[j])));    \
    }                                                                                              \
    static void store_swiglu_##MODE(size_t rows, size_t width, const void *gate, const void *up,   \
        size_t c_stride, void *y, size_t y_stride)                                                 \
    {                                                                                              \
        const REAL *g = gate, *u = up;                                                             \
        ELEMENT *to = y;                                                                           \
        for (size_t r = 0; r < rows; r++, g += c_stride, u += c_stride, to += y_stride)            \
            for (size_t j = 0; j < width; j++) {                                                   \
                REAL x = load_##MODE(round_##MODE(g[j]));                                          \
                REAL silu = load_##MODE(round_##MODE(x / (1 + EXP(-x))));                          \
                to[j] = round_##MODE(silu * load_##MODE(round_##MODE(u[j])));                      \
            }                                                                                      \
    }                                                                                              \
    static void store_logits_##MODE(                                                               \
        size_t rows, size_t width, const void *c, size_t c_stride, void *y, size_t y_stride)       \
    {                                                                                              \
        const REAL *from = c;                                                                      \
        REAL *to = y;                                                                              \
        for (size_t r = 0; r < rows; r++, from += c_stride, to += y_stride)                        \
            for (size_t j = 0; j < width; j++)                                                     \
                to[j] = load_##MODE(round_##MODE(from[j]));                                        \
    }                                                                                              \
    static void add_##MODE(size_t n, const void *c, void *sum)                                     \
    {                                                                                              \
        const REAL *from = c;                                                                      \
        REAL *to = sum;                                                                            \
        for (size_t i = 0; i < n; i++)                                                             \
            to[i] += from[i];                                                                      \
    }                                                                                              \
    static void add_elements_##MODE(size_t n, const void *x, void *sum)                            \
    {                                                                                              \
        const ELEMENT *from = x;                                                                   \
        REAL *to = sum;                                                                            \
        for (size_t i = 0; i < n; i++)                                                             \
            to[i] += load_##MODE(from[i]);                                                         \
    }                                                                                              \
    static void scale_scores_##MODE(size_t n, const void *c, double scale, void *s)                \
    {                                                                                              \
        const REAL *from = c;                                                                      \
        ELEMENT *to = s;                                                                           \
        REAL factor = (REAL)scale;                                                                 \
        for (size_t i = 0; i < n; i++)                                                             \
            to[i] = round_##MODE(load_##MODE(round_##MODE(from[i])) * factor);                     \
    }                                                                                              \
    static void softmax_##MODE(size_t n, size_t n_lanes, void *s, void *scratch)                   \
    {                                                                                              \
        ELEMENT *row = s;                                                                          \
        REAL *e = scratch;                                                                         \
        REAL max = -INFINITY;                                                                      \
        for (size_t i = 0; i < n; i++) {                                                           \
            REAL value = load_##MODE(row[i]);                                                      \
            max = value > max ? value : max;                                                       \
        }                                                                                          \
        for (size_t i = 0; i < n; i++)                                                             \
            e[i] = EXP(load_##MODE(row[i]) - max);                                                 \
        REAL factor = 1 / sum_##MODE(n, n_lanes, e);                                               \
        for (size_t i = 0; i < n; i++)                                                             \
            row[i] = round_##MODE(e[i] * factor);                                                  \
    }                                                                                              \
    static void fill_##MODE(kernels_t *kernels)                                                    \
    {                                                                                              \
        kernels->element_bytes = sizeof(ELEMENT);                                                  \
        kernels->accumulator_bytes = sizeof(REAL);                                                 \
        kernels->store = store_##MODE;                                                             \
        kernels->store_residual = store_residual_##MODE;                                           \
        kernels->store_swiglu = store_swiglu_##MODE;                                               \
        kernels->store_logits = store_logits_##MODE;                                               \
        kernels->add = add_##MODE;                                                                 \
        kernels->add_elements = add_elements_##MODE;                                               \
        kernels->rms_norm = rms_norm_##MODE;                                                       \
        kernels->rope = rope_##MODE;                                                               \
        kernels->scale_scores = scale_scores_##MODE;                                               \
        kernels->softmax = softmax_##MODE;                                                         \
    }

DEFINE_SUM_OF_SQUARES(sum_of_squares_bf16, bf16_t, float, f32x8_t, load_bf16)
DEFINE_SUM_OF_SQUARES(sum_of_squares_f32, float, double, f64x8_t, load_f32)
DEFINE_SUM_OF_SQUARES(sum_of_squares_f64, double, double, f64x8_t, load_f64)
DEFINE_SUM(sum_f32, float)
DEFINE_SUM(sum_f64, double)
#define sum_bf16 sum_f32
DEFINE_WIDE(bf16, bf16_t, float, float, sqrtf)
DEFINE_WIDE(f32, float, float, double, sqrt)
DEFINE_WIDE(f64, double, double, double, sqrt)
DEFINE_MODE(bf16, bf16_t, float, exp_f32)
DEFINE_MODE(f32, float, float, exp_f32)
DEFINE_MODE(f64, double, double, exp_f64)

/* ---- Exponentials of logits ------------------------------------------------------------------ */

typedef int32_t i32x8_t __attribute__((vector_size(32)));
typedef int64_t i64x8_t __attribute__((vector_size(64)));
typedef f32x8_t f32x8_in_memory_t __attribute__((aligned(4), may_alias));

/* a where it is larger, else b; a NaN is not. */
static inline f32x8_t larger(f32x8_t a, f32x8_t b)
{
    i32x8_t mask = a > b;
    return (f32x8_t)((mask & (i32x8_t)a) | (~mask & (i32x8_t)b));
}

/* A granule's largest value; distances [KERNEL_GRANULE]: value - largest, what is equal at 0, NaN
 * at minus infinity. */
static float find_distances(const float *x, double *distances)
{
    enum { LANES = 8, VECTORS = KERNEL_GRANULE / LANES };
    const f32x8_t least = (f32x8_t){0} - INFINITY;
    f32x8_t values[VECTORS], most = least;
    for (size_t v = 0; v < VECTORS; v++) {
        values[v] = larger(*(const f32x8_in_memory_t *)(x + v * LANES), least);
        most = larger(values[v], most);
    }
    float max = most[0];
    for (size_t i = 1; i < LANES; i++)
        max = most[i] > max ? most[i] : max;
    for (size_t v = 0; v < VECTORS; v++) {
        f64x8_t value = __builtin_convertvector(values[v], f64x8_t);
        i64x8_t apart = value != (double)max;
        f64x8_t distance = (f64x8_t)(apart & (i64x8_t)(value - (double)max));
        for (size_t i = 0; i < LANES; i++)
            distances[v * LANES + i] = distance[i];
    }
    return max;
}

/* Granules computed at once: chains of additions that overlap. */
enum { GRANULES = 8 };

static void sum_some_granules(size_t n, const float *x, double (*granules)[2])
{
    double weights[GRANULES][KERNEL_GRANULE], sums[GRANULES] = {0};
    float last[KERNEL_GRANULE];
    size_t count = 0;
    for (; count * KERNEL_GRANULE < n; count++) {
        const float *from = x + count * KERNEL_GRANULE;
        size_t rows = n - count * KERNEL_GRANULE;
        for (size_t i = 0; rows < KERNEL_GRANULE && i < KERNEL_GRANULE; i++)
            last[i] = i < rows ? from[i] : -INFINITY;
        granules[count][0] = find_distances(rows < KERNEL_GRANULE ? last : from, weights[count]);
        for (size_t i = rows; i < KERNEL_GRANULE; i++)
            weights[count][i] = -INFINITY;
    }
    exp_f64_all(count * KERNEL_GRANULE, weights[0]);
    for (size_t g = count; g < GRANULES; g++)
        memset(weights[g], 0, sizeof weights[g]);
    for (size_t i = 0; i < KERNEL_GRANULE; i++)
        for (size_t g = 0; g < GRANULES; g++)
            sums[g] += weights[g][i];
    for (size_t g = 0; g < count; g++)
        granules[g][1] = sums[g];
}

static void sum_granules(size_t n, const float *x, double (*granules)[2])
{
    enum { AT_ONCE = GRANULES * KERNEL_GRANULE };
    for (size_t i = 0; i < n; i += AT_ONCE)
        sum_some_granules(n - i < AT_ONCE ? n - i : AT_ONCE, x + i, granules + i / KERNEL_GRANULE);
}

void ELEMENTWISE_FILL(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16)
        fill_bf16(kernels);
    else if (kernels->mode == DTYPE_F32)
        fill_f32(kernels);
    else
        fill_f64(kernels);
    kernels->exp_f64 = exp_f64_all;
    if (kernels->mode != DTYPE_F64)
        kernels->sum_granules = sum_granules;
}
