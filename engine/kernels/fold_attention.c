/* Products of eager attention that go with the dot product fold: lanes run over keys, or over outputs. Compiled
 * twice, see fma.h. */
#include "engine/kernels/fold.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/widen.h"

#ifdef __AVX512F__
#define FILL fold_attention_fill_avx512
#else
#define FILL fold_attention_fill_avx2
#endif

#define MOST_INPUTS 512 /* of a head, that are widened together */

static void widen_inputs(size_t n, const uint16_t *x, float *wide)
{
    for (size_t i = 0; i < n; i++)
        wide[i] = f32_from_bf16(x[i]);
}

/* Adds input i of a pair, whichever it is, to a chain. */
INLINE vec_f32_t add_input(const float *x, const uint16_t *b, size_t width, size_t i, vec_f32_t sum)
{
    pair_t pairs = load_pair(b + 2 * (i / 2) * width);
    return FMA_F32(SET_F32(x[i]), i % 2 != 0 ? pairs.odd : pairs.even, sum);
}

INLINE vec_f32_t fold_by_halves(vec_f32_t x[FOLD_LANES])
{
    for (size_t half = FOLD_LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
}

/* The 64 chains over inputs [0, k), k a multiple of 64; two lanes l at a time, whose inputs are pairs. */
INLINE vec_f32_t fold_chains(const float *x, const uint16_t *b, size_t width, size_t k)
{
    vec_f32_t lanes[FOLD_LANES];
    for (size_t l = 0; l < FOLD_LANES; l += 2) {
        vec_f32_t even[FOLD_LANES] = {{0}}, odd[FOLD_LANES] = {{0}};
        for (size_t i = l; i < k; i += FOLD_CHAINS)
            for (size_t r = 0; r < FOLD_LANES; r++) {
                size_t at = i + FOLD_LANES * r;
                pair_t pairs = load_pair(b + 2 * (at / 2) * width);
                even[r] = FMA_F32(SET_F32(x[at]), pairs.even, even[r]);
                odd[r] = FMA_F32(SET_F32(x[at + 1]), pairs.odd, odd[r]);
            }
        lanes[l] = fold_by_halves(even);
        lanes[l + 1] = fold_by_halves(odd);
    }
    return fold_by_halves(lanes);
}

/* Inputs [from, k) after the 64 chains: whole 16s in 8 chains, then one by one, products rounded. */
static vec_f32_t fold_rest(
    const float *x, const uint16_t *b, size_t width, size_t from, size_t k, vec_f32_t sum)
{
    vec_f32_t lanes[FOLD_LANES] = {{0}};
    size_t i = from;
    for (; i < k / 16 * 16; i++)
        lanes[i % FOLD_LANES] = add_input(x, b, width, i, lanes[i % FOLD_LANES]);
    sum += fold_by_halves(lanes);
    for (; i < k; i++) {
        pair_t pairs = load_pair(b + 2 * (i / 2) * width);
        sum += SET_F32(x[i]) * (i % 2 != 0 ? pairs.odd : pairs.even);
    }
    return sum;
}

static void fold_scores(size_t rows, const uint16_t *a, size_t a_stride, const void *b,
    size_t width, size_t k, float *c, size_t c_stride)
{
    float x[MOST_INPUTS];
    size_t whole = k / FOLD_CHAINS * FOLD_CHAINS;
    kernels_t scalar = {.mode = DTYPE_BF16};
    if (k > MOST_INPUTS) {
        fold_fill_scalar(&scalar);
        scalar.fold_scores(rows, a, a_stride, b, width, k, c, c_stride);
        return;
    }
    for (size_t r = 0; r < rows; r++) {
        widen_inputs(k, a + r * a_stride, x);
        for (size_t n = 0; n < width; n += LANES_F32) {
            const uint16_t *keys = (const uint16_t *)b + 2 * n;
            vec_f32_t sum = {0};
            if (whole > 0)
                sum = fold_chains(x, keys, width, whole);
            if (whole < k)
                sum = fold_rest(x, keys, width, whole, k, sum);
            *(mem_f32_t *)(c + r * c_stride + n) = sum;
        }
    }
}

/* Inputs [0, k), a multiple of 4, of `vectors` of the outputs. */
INLINE void add_fours(
    const int vectors, const float *x, const uint16_t *b, size_t width, size_t k, float *c)
{
    vec_f32_t sum[4][2];
    for (int chain = 0; chain < 4; chain++)
        for (int v = 0; v < vectors; v++)
            sum[chain][v] = *(mem_f32_t *)(c + (size_t)chain * width + v * LANES_F32);
    for (size_t i = 0; i < k; i += 4)
        for (int v = 0; v < vectors; v++)
            for (size_t chain = 0; chain < 4; chain += 2) {
                pair_t pairs = load_pair(b + 2 * LANES_F32 * v + 2 * ((i + chain) / 2) * width);
                const float *at = x + i + chain;
                sum[chain][v] = FMA_F32(SET_F32(at[0]), pairs.even, sum[chain][v]);
                sum[chain + 1][v] = FMA_F32(SET_F32(at[1]), pairs.odd, sum[chain + 1][v]);
            }
    for (int chain = 0; chain < 4; chain++)
        for (int v = 0; v < vectors; v++)
            *(mem_f32_t *)(c + (size_t)chain * width + v * LANES_F32) = sum[chain][v];
}

static void interleaved_outputs(size_t rows, const uint16_t *a, size_t a_stride, const void *b,
    size_t width, size_t k, size_t n_interleaved, float *c, size_t c_stride)
{
    enum { PART = 64 }; /* inputs that are widened together; a multiple of 4 */
    float x[PART];
    for (size_t r = 0; r < rows; r++)
        for (size_t k0 = 0, n; k0 < k; k0 += n) {
            n = k - k0 < PART ? k - k0 : PART;
            size_t left = n_interleaved > k0 ? n_interleaved - k0 : 0;
            size_t fours = (left < n ? left : n) / 4 * 4, n_outputs = 2 * LANES_F32;
            widen_inputs(n, a + r * a_stride + k0, x);
            for (size_t j = 0; j < width; j += n_outputs) {
                const uint16_t *values = (const uint16_t *)b + k0 * width + 2 * j;
                float *to = c + r * c_stride + j;
                if (width - j >= n_outputs)
                    add_fours(2, x, values, width, fours, to);
                else
                    add_fours(1, x, values, width, fours, to);
                for (size_t v = j; v < j + n_outputs && v < width; v += LANES_F32) {
                    for (size_t i = fours; i < n; i++) {
                        size_t chain = i < left ? i % 4 : 0;
                        mem_f32_t *sum = (mem_f32_t *)(c + r * c_stride + chain * width + v);
                        *sum = add_input(x, values + 2 * (v - j), width, i, *sum);
                    }
                }
            }
        }
}

void FILL(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->fold_scores = fold_scores;
    kernels->interleaved_outputs = interleaved_outputs;
}
