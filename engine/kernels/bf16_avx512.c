/* The elementwise kernels of bf16 with AVX-512: whole vectors of 16 from load to store, where
 * compilers use twice as many half vectors. elementwise.c defines them in scalar C. Compiled twice,
 * without and with the instructions for bf16; BF16_FILL names the function that fills the table. */
#include <immintrin.h>
#include <math.h>
#include <pthread.h>

#include "engine/kernels/elementwise.h"
#include "engine/kernels/exp_f64.h"

#ifndef BF16_FILL
#define BF16_FILL bf16_fill_avx512
#endif

enum { LANES = 16 };

/* The lanes of a row's vector from element i on. */
static inline __mmask16 lanes_of(size_t n, size_t i)
{
    return n - i >= LANES ? 0xffff : (__mmask16)((1u << (n - i)) - 1);
}

static inline __m512 widen(__m256i x)
{
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16);
}

static inline __m512 load_some(__mmask16 lanes, const uint16_t *x)
{
    return widen(_mm256_maskz_loadu_epi16(lanes, x));
}

/* Rounded to bf16, in the upper halves; the lower halves are undefined. */
static inline __m512i rounded(__m512 x)
{
    __m512i bits = (__m512i)x;
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000));
}

/* R(x) */
static inline __m256i halves(__m512 x)
{
#ifdef __AVX512BF16__
    /* The instruction keeps the payload of a NaN and takes denormals for zero; R does neither. */
    enum { QUIET_NAN = 0x01, DENORMAL = 0x20, SIGNALING_NAN = 0x80 };
    if (__builtin_expect(
            _mm512_fpclass_ps_mask(x, QUIET_NAN | SIGNALING_NAN | DENORMAL) == 0, true))
        return (__m256i)_mm512_cvtneps_pbh(x);
#endif
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(x), 16));
}

/* R(x), as f32 */
static inline __m512 round_wide(__m512 x)
{
#ifdef __AVX512BF16__
    return widen(halves(x));
#else
    return (__m512)_mm512_and_si512(rounded(x), _mm512_set1_epi32((int)0xffff0000));
#endif
}

static inline void store_some(__mmask16 lanes, uint16_t *y, __m512 x)
{
    _mm256_mask_storeu_epi16(y, lanes, halves(x));
}

/* 1 + exp(-x): exp_f32 of elementwise.c, where only what 1 is added to matters. Beyond the clamp
 * exp is below half of the last bit of 1, or infinite. A NaN stays one in the division. */
static inline __m512 one_plus_exp_of_minus(__m512 x)
{
    const __m512 limit = _mm512_set1_ps(105.0f), magic = _mm512_set1_ps(0x1.8p23f);
    __m512 minus = (__m512)_mm512_xor_si512((__m512i)x, _mm512_set1_epi32((int)0x80000000));
    __m512 z = _mm512_min_ps(
        _mm512_max_ps(minus, _mm512_set1_ps(-105.0f)), limit); /* a NaN becomes a limit */
    __m512 q = _mm512_mul_ps(z, _mm512_set1_ps(1.44269504f));
    q = _mm512_sub_ps(_mm512_add_ps(q, magic), magic);
    __m512 s = _mm512_fmadd_ps(q, _mm512_set1_ps(-0.693145751953125f), z);
    s = _mm512_fmadd_ps(q, _mm512_set1_ps(-1.428606765330187045e-06f), s);
    __m512 u = _mm512_set1_ps(0.000198527617612853646278381f);
    u = _mm512_fmadd_ps(u, s, _mm512_set1_ps(0.00139304355252534151077271f));
    u = _mm512_fmadd_ps(u, s, _mm512_set1_ps(0.00833336077630519866943359f));
    u = _mm512_fmadd_ps(u, s, _mm512_set1_ps(0.0416664853692054748535156f));
    u = _mm512_fmadd_ps(u, s, _mm512_set1_ps(0.166666671633720397949219f));
    u = _mm512_fmadd_ps(u, s, _mm512_set1_ps(0.5f));
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 y = _mm512_add_ps(one, _mm512_fmadd_ps(_mm512_mul_ps(s, s), u, s));
    return _mm512_add_ps(one, _mm512_scalef_ps(y, q));
}

/* R(silu(x)) of 16 values */
static __m256i silu_of(__m512 x)
{
    return halves(_mm512_div_ps(x, one_plus_exp_of_minus(x)));
}

#ifdef __AVX512BF16__
/* R(silu(x)) of every bf16 number, in the order of their bits: a gather takes half the time of an
 * exponential and a division. The numbers that models have there fill a few KiB. */
enum { BF16_NUMBERS = 1 << 16 };
static uint16_t silu_of_bits[BF16_NUMBERS + 1]; /* one more, since a gather takes dwords */
static pthread_once_t silu_filled = PTHREAD_ONCE_INIT;

static void fill_silu(void)
{
    for (size_t i = 0; i < BF16_NUMBERS; i += LANES) {
        __m512i bits = _mm512_add_epi32(_mm512_set1_epi32((int)i),
            _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
        __m512 x = (__m512)_mm512_slli_epi32(bits, 16);
        _mm256_storeu_si256((__m256i *)(silu_of_bits + i), silu_of(x));
    }
}

static inline __m512 silu(__m512 gate)
{
    __m512i bits = _mm512_cvtepu16_epi32(halves(gate));
    return (__m512)_mm512_slli_epi32(
        _mm512_i32gather_epi32(bits, silu_of_bits, sizeof silu_of_bits[0]), 16);
}
#else
static inline __m512 silu(__m512 gate)
{
    return widen(silu_of(round_wide(gate)));
}
#endif

static void store_swiglu(size_t rows, size_t width, const void *gate, const void *up,
    size_t c_stride, void *y, size_t y_stride)
{
    const float *g = gate, *u = up;
    uint16_t *to = y;
    for (size_t r = 0; r < rows; r++, g += c_stride, u += c_stride, to += y_stride)
        for (size_t j = 0; j < width; j += LANES) {
            __mmask16 lanes = lanes_of(width, j);
            __m512 x = silu(_mm512_maskz_loadu_ps(lanes, g + j));
            __m512 other = round_wide(_mm512_maskz_loadu_ps(lanes, u + j));
            store_some(lanes, to + j, _mm512_mul_ps(x, other));
        }
}

static void store(size_t rows, size_t width, const void *c, size_t c_stride, const void *bias,
    void *y, size_t y_stride)
{
    const float *from = c;
    const uint16_t *b = bias;
    uint16_t *to = y;
    for (size_t r = 0; r < rows; r++, from += c_stride, to += y_stride)
        for (size_t j = 0; j < width; j += LANES) {
            __mmask16 lanes = lanes_of(width, j);
            __m512 x = _mm512_maskz_loadu_ps(lanes, from + j);
            if (b != NULL)
                x = _mm512_add_ps(x, load_some(lanes, b + j));
            store_some(lanes, to + j, x);
        }
}

static void store_residual(size_t rows, size_t width, const void *c, size_t c_stride, const void *x,
    void *y, size_t stride)
{
    const float *from = c;
    const uint16_t *add = x;
    uint16_t *to = y;
    for (size_t r = 0; r < rows; r++, from += c_stride, add += stride, to += stride)
        for (size_t j = 0; j < width; j += LANES) {
            __mmask16 lanes = lanes_of(width, j);
            __m512 product = round_wide(_mm512_maskz_loadu_ps(lanes, from + j));
            store_some(lanes, to + j, _mm512_add_ps(load_some(lanes, add + j), product));
        }
}

static void store_logits(
    size_t rows, size_t width, const void *c, size_t c_stride, void *y, size_t y_stride)
{
    const float *from = c;
    float *to = y;
    for (size_t r = 0; r < rows; r++, from += c_stride, to += y_stride)
        for (size_t j = 0; j < width; j += LANES) {
            __mmask16 lanes = lanes_of(width, j);
            _mm512_mask_storeu_ps(
                to + j, lanes, round_wide(_mm512_maskz_loadu_ps(lanes, from + j)));
        }
}

/* ---- RMSNorm --------------------------------------------------------------------------------- */

enum { SUM_LANES = 8, WAYS = 4, ROUND = SUM_LANES * WAYS, LEVELS = 4 };

/* The four interleaved accumulators of 8 lanes, two in a vector. */
typedef struct ways {
    __m512 low, high;
} ways_t;

static inline ways_t add_ways(ways_t a, ways_t b)
{
    return (ways_t){_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)};
}

/* After `done` rounds: levels that are full go to the next one. */
static void carry(ways_t *level, size_t done, size_t power)
{
    for (size_t l = 1; l < LEVELS && done % ((size_t)1 << power) == 0; l++, done >>= power) {
        level[l] = add_ways(level[l], level[l - 1]);
        level[l - 1] = (ways_t){_mm512_setzero_ps(), _mm512_setzero_ps()};
    }
}

static size_t level_power(size_t n_rounds)
{
    size_t log2_rounds = 0;
    while (((size_t)1 << log2_rounds) < n_rounds)
        log2_rounds++;
    return log2_rounds / LEVELS > 4 ? log2_rounds / LEVELS : 4;
}

/* In the order of torch.mean, see elementwise.c. */
static float sum_of_squares(size_t n, const uint16_t *x)
{
    size_t n_rounds = n / ROUND, power = level_power(n_rounds), step = (size_t)1 << power;
    ways_t level[LEVELS] = {{_mm512_setzero_ps(), _mm512_setzero_ps()}};
    for (size_t round = 0; round < n_rounds;) {
        size_t end = round + step < n_rounds ? round + step : n_rounds;
        ways_t sum = level[0];
        for (; round < end; round++) {
            __m512 low = load_some(0xffff, x + round * ROUND);
            __m512 high = load_some(0xffff, x + round * ROUND + LANES);
            sum = add_ways(sum, (ways_t){_mm512_mul_ps(low, low), _mm512_mul_ps(high, high)});
        }
        level[0] = sum;
        carry(level, round, power);
    }
    for (size_t l = 1; l < LEVELS; l++)
        level[0] = add_ways(level[0], level[l]);
    __m256 way[WAYS] = {_mm512_castps512_ps256(level[0].low),
        _mm512_extractf32x8_ps(level[0].low, 1), _mm512_castps512_ps256(level[0].high),
        _mm512_extractf32x8_ps(level[0].high, 1)};
    for (size_t i = n_rounds * ROUND; i + SUM_LANES <= n; i += SUM_LANES) {
        __m256 value = _mm512_castps512_ps256(load_some(0xff, x + i));
        way[0] = _mm256_add_ps(way[0], _mm256_mul_ps(value, value));
    }
    for (int w = 1; w < WAYS; w++)
        way[0] = _mm256_add_ps(way[0], way[w]);
    float lane[SUM_LANES], sum = 0;
    _mm256_storeu_ps(lane, way[0]);
    for (size_t i = n / SUM_LANES * SUM_LANES; i < n; i++)
        sum += f32_from_bf16(x[i]) * f32_from_bf16(x[i]);
    for (int i = 0; i < SUM_LANES; i++)
        sum += lane[i];
    return sum;
}

/* Several rows at once, so that their sums, roots and divisions overlap. */
enum { NORM_ROWS = 4 };

static void norm_rows(size_t rows, size_t n, const uint16_t *x, size_t x_stride,
    const uint16_t *weight, float eps, uint16_t *y, size_t y_stride)
{
    float mean[NORM_ROWS], scale[NORM_ROWS];
    for (size_t r = 0; r < rows; r++)
        mean[r] = sum_of_squares(n, x + r * x_stride) / (float)n;
    for (size_t r = 0; r < rows; r++)
        scale[r] = 1 / sqrtf(mean[r] + eps);
    for (size_t i = 0; i < n; i += LANES) {
        __mmask16 lanes = lanes_of(n, i);
        __m512 w = load_some(lanes, weight + i);
        for (size_t r = 0; r < rows; r++) {
            __m512 value = load_some(lanes, x + r * x_stride + i);
            __m512 normalised = round_wide(_mm512_mul_ps(value, _mm512_set1_ps(scale[r])));
            store_some(lanes, y + r * y_stride + i, _mm512_mul_ps(w, normalised));
        }
    }
}

static void rms_norm(size_t rows, size_t n, const void *x, size_t x_stride, const void *w,
    double eps, void *y, size_t y_stride)
{
    const uint16_t *from = x;
    uint16_t *to = y;
    for (size_t r = 0; r < rows; r += NORM_ROWS)
        norm_rows(rows - r < NORM_ROWS ? rows - r : NORM_ROWS, n, from + r * x_stride, x_stride, w,
            (float)eps, to + r * y_stride, y_stride);
}

/* ---- RoPE ------------------------------------------------------------------------------------ */

static void rope(size_t heads, size_t half, const void *cosines, const void *sines, void *x)
{
    for (size_t i = 0; i < half; i += LANES) {
        __mmask16 lanes = lanes_of(half, i);
        __m512 c = _mm512_maskz_loadu_ps(lanes, (const float *)cosines + i);
        __m512 s = _mm512_maskz_loadu_ps(lanes, (const float *)sines + i);
        uint16_t *low = (uint16_t *)x + i, *high = low + half;
        for (size_t h = 0; h < heads; h++, low += 2 * half, high += 2 * half) {
            __m512 a = load_some(lanes, low), b = load_some(lanes, high);
            __m512 minus_b =
                (__m512)_mm512_xor_si512((__m512i)b, _mm512_set1_epi32((int)0x80000000));
            store_some(lanes, low,
                _mm512_add_ps(
                    round_wide(_mm512_mul_ps(a, c)), round_wide(_mm512_mul_ps(minus_b, s))));
            store_some(lanes, high,
                _mm512_add_ps(round_wide(_mm512_mul_ps(b, c)), round_wide(_mm512_mul_ps(a, s))));
        }
    }
}

/* ---- Weights of sdpa attention --------------------------------------------------------------- */

/* The lanes' halves folded onto each other: 8 apart, 4 apart, 2 apart. */
static inline __m512 from_8_apart(__m512 x)
{
    return _mm512_shuffle_f32x4(x, x, 0x4e);
}

static inline __m512 from_4_apart(__m512 x)
{
    return _mm512_shuffle_f32x4(x, x, 0xb1);
}

static inline __m512 from_2_apart(__m512 x)
{
    return _mm512_permute_ps(x, 0x4e);
}

/* Scales n scores; the rest of their last vector becomes the least. The largest of them and of
 * `largest`. */
static float scale_scores(size_t n, float scale, float largest, float *scores)
{
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 most = _mm512_set1_ps(largest);
    for (size_t i = 0; i < n; i += LANES) {
        __m512 x = _mm512_mask_mul_ps(
            least, lanes_of(n, i), _mm512_loadu_ps(scores + i), _mm512_set1_ps(scale));
        _mm512_storeu_ps(scores + i, x);
        most = _mm512_max_ps(x, most); /* the second where one is no number */
    }
    most = _mm512_max_ps(from_8_apart(most), most);
    most = _mm512_max_ps(from_4_apart(most), most);
    most = _mm512_max_ps(from_2_apart(most), most);
    __m512 last = _mm512_max_ps(_mm512_movehdup_ps(most), most);
    return _mm512_cvtss_f32(last);
}

/* fast_exp of sdpa.c. Results that are 0 are selected after the conversion, which never traps. */
static inline __m512 fast_exp(__m512 x)
{
    __m512 y = _mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f));
    __m512 f = _mm512_sub_ps(y, _mm512_roundscale_ps(y, _MM_FROUND_TO_NEG_INF));
    __m512 r = _mm512_fmadd_ps(
        f, _mm512_set1_ps(-0.079204240219773236f), _mm512_set1_ps(-0.22433836478672356f));
    r = _mm512_fmadd_ps(f, r, _mm512_set1_ps(0.30354260500649682f));
    r = _mm512_fmadd_ps(f, r, _mm512_set1_ps(0.00010703434948458272f));
    __m512 t =
        _mm512_fmadd_ps(_mm512_set1_ps(0x1p+23f), _mm512_sub_ps(y, r), _mm512_set1_ps(0x1.fcp+29f));
    __mmask16 stays = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-0x1.5d58ap+6f), _CMP_NLT_UQ);
    return (__m512)_mm512_maskz_cvttps_epi32(stays, t);
}

/* A vector of rounded weights: f32, and bf16 with pairs swapped if wanted. */
static inline void put_weights(__m512 e, float *scores, uint16_t *weights)
{
    __m256i bits = halves(e);
    _mm512_storeu_ps(scores, widen(bits));
    if (weights != NULL)
        _mm256_storeu_si256((__m256i *)weights, _mm256_rol_epi32(bits, 16));
}

/* Exponentials of the whole vectors of n keys, rounded, and their sum in two alternating chains; those
 * of 8 lanes are the halves of one. */
static float fast_weights(size_t n_lanes, size_t n, float largest, float *scores, uint16_t *weights)
{
    const bool halves_alternate = n_lanes != LANES;
    __m512 sum_of_last = _mm512_setzero_ps(), sum_before = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += LANES) {
        __m512 apart = _mm512_sub_ps(_mm512_loadu_ps(scores + i), _mm512_set1_ps(largest));
        __m512 e = _mm512_maskz_mov_ps(lanes_of(n, i), fast_exp(apart));
        put_weights(e, scores + i, weights == NULL ? NULL : weights + i);
        __m512 sum_of_this = _mm512_add_ps(halves_alternate ? sum_of_last : sum_before, e);
        sum_before = halves_alternate ? sum_before : sum_of_last;
        sum_of_last = sum_of_this;
    }
    __m512 lane = _mm512_add_ps(sum_before, sum_of_last);
    lane = _mm512_add_ps(lane, from_8_apart(lane));
    lane = _mm512_add_ps(lane, from_4_apart(lane));
    lane = _mm512_add_ps(lane, from_2_apart(lane));
    return _mm512_cvtss_f32(_mm512_add_ps(lane, _mm512_movehdup_ps(lane)));
}

/* The last n keys of a block, fewer than a vector, have exact exponentials. Their distances from
 * the largest, in one or two vectors of doubles: */
static void exact_distances(size_t n, float largest, const float *scores, double *e)
{
    const __m256 most = _mm256_set1_ps(largest);
    _mm512_storeu_pd(e, _mm512_cvtps_pd(_mm256_sub_ps(_mm256_loadu_ps(scores), most)));
    if (n > 8)
        _mm512_storeu_pd(e + 8, _mm512_cvtps_pd(_mm256_sub_ps(_mm256_loadu_ps(scores + 8), most)));
}

/* The exponentials are added to sum one by one; n_lanes of them are written. */
static float exact_weights(
    size_t n_lanes, size_t n, const double *e, float *scores, uint16_t *weights, float sum)
{
    __m512 all = _mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_loadu_pd(e)));
    if (n > 8)
        all = _mm512_insertf32x8(all, _mm512_cvtpd_ps(_mm512_loadu_pd(e + 8)), 1);
    all = _mm512_maskz_mov_ps(lanes_of(n, 0), all);
    float single[LANES];
    _mm512_storeu_ps(single, all);
    for (size_t i = 0; i < n; i++)
        sum += single[i];
    if (n_lanes == LANES) {
        put_weights(all, scores, weights);
        return sum;
    }
    uint16_t rounded[LANES];
    put_weights(all, single, rounded);
    _mm256_storeu_ps(scores, _mm256_loadu_ps(single));
    if (weights != NULL)
        _mm_storeu_si128((__m128i *)weights, _mm_loadu_si128((const __m128i *)rounded));
    return sum;
}

/* Several rows at once, so that their chains of additions and exponentials overlap. */
enum { WEIGHT_ROWS = 4 };

static void weights_of_rows(size_t n_lanes, size_t rows, size_t n_kept, size_t n_block, float scale,
    float *max, float *sum, float *scores, uint16_t *weights, size_t stride)
{
    size_t vectors_end = n_block / n_lanes * n_lanes;
    size_t fast_end = n_kept < vectors_end ? n_kept : vectors_end;
    size_t n = n_kept - fast_end, lanes = n > 8 ? LANES : 8;
    double e[WEIGHT_ROWS * LANES];
    for (size_t r = 0; r < rows; r++)
        max[r] = scale_scores(n_kept, scale, max[r], scores + r * stride);
    for (size_t r = 0; n > 0 && r < rows; r++)
        exact_distances(n, max[r], scores + r * stride + vectors_end, e + r * lanes);
    for (size_t r = 0; r < rows; r++)
        sum[r] = fast_weights(n_lanes, fast_end, max[r], scores + r * stride,
            weights == NULL ? NULL : weights + r * stride);
    if (n == 0)
        return;
    exp_f64_all(rows * lanes, e);
    for (size_t r = 0; r < rows; r++) {
        size_t at = r * stride + vectors_end;
        sum[r] = exact_weights(
            n_lanes, n, e + r * lanes, scores + at, weights == NULL ? NULL : weights + at, sum[r]);
    }
}

static void sdpa_weights(size_t n_lanes, size_t rows, size_t n_kept, size_t n_block,
    size_t n_written, float scale, float *max, float *sum, float *scores, uint16_t *weights,
    size_t stride)
{
    for (size_t r = 0; r < rows; r += WEIGHT_ROWS)
        weights_of_rows(n_lanes, rows - r < WEIGHT_ROWS ? rows - r : WEIGHT_ROWS, n_kept, n_block,
            scale, max + r, sum + r, scores + r * stride,
            weights == NULL ? NULL : weights + r * stride, stride);
    for (size_t r = 0; weights != NULL && r < rows; r++)
        for (size_t i = (n_kept + LANES - 1) / LANES * LANES; i < n_written; i++)
            weights[r * stride + i] = 0;
}

void BF16_FILL(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
#ifdef __AVX512BF16__
    pthread_once(&silu_filled, fill_silu);
#endif
    kernels->store = store;
    kernels->store_residual = store_residual;
    kernels->store_swiglu = store_swiglu;
    kernels->store_logits = store_logits;
    kernels->rms_norm = rms_norm;
    kernels->rope = rope;
    kernels->sdpa_weights = sdpa_weights;
}
