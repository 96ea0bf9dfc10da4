/* Packed codes dequantised with vectors (coded.h): LANES_F32 outputs of one input at a time. For sources that are
 * compiled several times, see fma.h. Internal to engine/kernels.
 *
 * A product x of a code and a scale is rounded to bf16, to nearest, ties to even, by c = x (2^16 + 1) and c - (c - x)
 * (T. J. Dekker, "A floating-point technique for extending the available precision", 1971): that gives the 8 leading bits
 * of all 2^24 significands, and zeros with their signs, as rounding does. Where x is exact, c is the code times
 * (2^16 + 1) scale, which is exact too. Then c = 2^16 x will do as well, with c - x the rounded product of the code and
 * (2^16 - 1) scale: a multiplication and a fused multiply-add make a weight of a code, but +0 of -0. With 2^13 the same gives the
 * 11 bits of an f16 where products are normal numbers of that type. */
#ifndef CHOIR_KERNELS_CODED_VECTORS_H
#define CHOIR_KERNELS_CODED_VECTORS_H

#include <stdbool.h>
#include <string.h>

#include "engine/kernels/coded.h"
#include "engine/kernels/fma.h"
#include "engine/kernels/kernels.h"

#define CODED_SPLIT 0x10001p0f
#define CODED_SHIFT 0x10000p0f
#define CODED_LESS 0xffffp0f
#define CODED_SHIFT_F16 0x2000p0f
#define CODED_LESS_F16 0x1fffp0f
/* What codes of int4 are greater by while they are an f32's lowest bits, of odd inputs from bit 4 on. */
#define CODED_EVEN 0x1p23f
#define CODED_ODD 0x1p19f
#define F8_AS_F16 0x1p8f /* an e4m3 number's bits, in their places of an f16, are so much less */

/* Kinds of codes; constants after inlining. */
typedef struct coded_kind {
    code_type_t codes;
    bool exact;      /* products of codes and scales are */
    bool rounds_f16; /* products are first rounded to f16 */
    bool zeros;
    bool plain; /* scales are as coded_outputs_t.positive says, and bf16 without zeros, or f16 */
} coded_kind_t;

/* ---- Vectors --------------------------------------------------------------------------------- */

#ifdef __AVX512F__
typedef __m128i coded_bytes_t; /* LANES_F32 of them */
#define CODED_LOAD(at) _mm_loadu_si128((const __m128i *)(const void *)(at))
#define CODED_UNSIGNED(x) ((vec_u32_t)_mm512_cvtepu8_epi32(x))
#define CODED_SIGNED(x) ((vec_u32_t)_mm512_cvtepi8_epi32(x))
#define CODED_FLOATS(x) ((vec_f32_t)_mm512_cvtepi32_ps((__m512i)(x)))
#define CODED_FROM_F16(x) ((vec_f32_t)_mm512_cvtph_ps(x))
#define CODED_TO_F16(x) _mm512_cvtps_ph((__m512)(x), _MM_FROUND_TO_NEAREST_INT)
typedef __m256i coded_halves_t;
#define CODED_LOAD_HALVES(at) _mm256_loadu_si256((const __m256i *)(const void *)(at))
#define CODED_WIDEN_HALVES(x) ((vec_u32_t)_mm512_cvtepu16_epi32(x))
#define CODED_MINUS_FMA(a, b, c)                                                                   \
    ((vec_f32_t)_mm512_fnmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#else
typedef __m128i coded_bytes_t;
#define CODED_LOAD(at) _mm_loadl_epi64((const __m128i *)(const void *)(at))
#define CODED_UNSIGNED(x) ((vec_u32_t)_mm256_cvtepu8_epi32(x))
#define CODED_SIGNED(x) ((vec_u32_t)_mm256_cvtepi8_epi32(x))
#define CODED_FLOATS(x) ((vec_f32_t)_mm256_cvtepi32_ps((__m256i)(x)))
#define CODED_FROM_F16(x) ((vec_f32_t)_mm256_cvtph_ps(x))
#define CODED_TO_F16(x) _mm256_cvtps_ph((__m256)(x), _MM_FROUND_TO_NEAREST_INT)
typedef __m128i coded_halves_t;
#define CODED_LOAD_HALVES(at) _mm_loadu_si128((const __m128i *)(const void *)(at))
#define CODED_WIDEN_HALVES(x) ((vec_u32_t)_mm256_cvtepu16_epi32(x))
#define CODED_MINUS_FMA(a, b, c)                                                                   \
    ((vec_f32_t)_mm256_fnmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#endif

/* ---- Codes ----------------------------------------------------------------------------------- */

/* e4m3 numbers divided by F8_AS_F16. */
INLINE vec_f32_t coded_load_f8(const uint8_t *codes)
{
    enum { MANTISSA_BITS_MORE = 7, WITHOUT_BIT_14 = 0xbfff };
#ifdef __AVX512F__
    __m256i x = _mm256_cvtepi8_epi16(CODED_LOAD(codes));
    x = _mm256_slli_epi16(x, MANTISSA_BITS_MORE);
    return CODED_FROM_F16(_mm256_and_si256(x, _mm256_set1_epi16((short)WITHOUT_BIT_14)));
#else
    __m128i x = _mm_cvtepi8_epi16(CODED_LOAD(codes));
    x = _mm_slli_epi16(x, MANTISSA_BITS_MORE);
    return CODED_FROM_F16(_mm_and_si128(x, _mm_set1_epi16((short)WITHOUT_BIT_14)));
#endif
}

/* The two inputs of a pair, of LANES_F32 outputs. */
typedef struct coded_pair {
    vec_f32_t even, odd;
} coded_pair_t;

/* ---- Groups ---------------------------------------------------------------------------------- */

/* Scales and zeros of a group's outputs; of f8 scales times F8_AS_F16. */
typedef struct coded_outputs {
    float scales[KERNEL_PANEL] __attribute__((aligned(64)));
    /* Scales times CODED_SPLIT, CODED_SHIFT, CODED_LESS; shifted and less of scales in f16 times CODED_SHIFT_F16, CODED_LESS_F16. */
    float split[KERNEL_PANEL] __attribute__((aligned(64)));
    float shifted[KERNEL_PANEL] __attribute__((aligned(64)));
    float less[KERNEL_PANEL] __attribute__((aligned(64)));
    /* What coded_load_pair subtracts from even and odd inputs. */
    float zeros[2][KERNEL_PANEL] __attribute__((aligned(64)));
    /* All scales are above zero; of f16 also such that no product is denormal or too large. */
    bool positive;
} coded_outputs_t;

INLINE vec_f32_t coded_load_scales(dtype_t type, const void *scales, size_t n)
{
    const uint16_t *halves = (const uint16_t *)scales + n;
    if (type == DTYPE_F32)
        return *(const mem_f32_t *)((const float *)scales + n);
    return type == DTYPE_F16 ? CODED_FROM_F16(CODED_LOAD_HALVES(halves))
                             : (vec_f32_t)(CODED_WIDEN_HALVES(CODED_LOAD_HALVES(halves)) << 16);
}

/* Lanes of scales with which some weights are not normal numbers, and rounded as such. Padding has scales of zero. Bits are
 * compared, as the caller may take denormals as zero. */
INLINE vec_u32_t coded_not_normal(vec_u32_t scale)
{
    const uint32_t least = f32_bits(0x1p-100f), most = f32_bits(0x1p100f);
    const vec_u32_t magnitude = scale & 0x7fffffffu;
    return (vec_u32_t)(magnitude - 1 < least - 1) | (vec_u32_t)(magnitude > most);
}

INLINE bool coded_any(vec_u32_t x)
{
#ifdef __AVX512F__
    return _mm512_test_epi32_mask((__m512i)x, (__m512i)x) != 0;
#else
    return _mm256_testz_si256((__m256i)x, (__m256i)x) == 0;
#endif
}

/* Whether all weights of the group are normal numbers and rounded as such. */
static inline bool coded_lay_out_group(
    const format_t *format, const void *panel, size_t width, size_t g, coded_outputs_t *to)
{
    const void *scales = coded_scales(format, panel, width, g);
    const uint8_t *zeros = format->zeros ? coded_zeros(format, panel, width, g) : NULL;
    const bool int4 = format->codes == CODES_INT4;
    const float middle = int4 ? 8.0f : 0.0f, even = int4 ? CODED_EVEN : 0,
                odd = int4 ? CODED_ODD : 0, signed_by = format->codes == CODES_INT8 ? 128.0f : 0.0f,
                times = format->codes == CODES_F8 ? F8_AS_F16 : 1.0f;
    const bool f16 = format->scale_type == DTYPE_F16;
    const float shift = times * (f16 ? CODED_SHIFT_F16 : CODED_SHIFT),
                less = times * (f16 ? CODED_LESS_F16 : CODED_LESS);
    /* Bits of positive scales; of f16 from 2^-14 to 2^8. */
    const uint32_t least = f16 ? f32_bits(0x1p-14f) : 1, end = f16 ? f32_bits(0x1p8f) : 1u << 31;
    vec_u32_t outside = {0}, not_positive = {0};
    for (size_t n = 0; n < width; n += LANES_F32) {
        vec_f32_t scale = coded_load_scales(format->scale_type, scales, n), zero = SET_F32(middle);
        if (zeros != NULL)
            zero = CODED_FLOATS(CODED_UNSIGNED(CODED_LOAD(zeros + n))) - SET_F32(signed_by);
        outside |= coded_not_normal((vec_u32_t)scale);
        *(vec_f32_t *)(to->scales + n) = scale * SET_F32(times);
        *(vec_f32_t *)(to->split + n) = scale * SET_F32(times * CODED_SPLIT);
        *(vec_f32_t *)(to->shifted + n) = scale * SET_F32(shift);
        *(vec_f32_t *)(to->less + n) = scale * SET_F32(less);
        not_positive |= (vec_u32_t)((vec_u32_t)scale - least >= end - least);
        *(vec_f32_t *)(to->zeros[0] + n) = zero + SET_F32(even);
        *(vec_f32_t *)(to->zeros[1] + n) = zero + SET_F32(odd);
    }
    to->positive = !coded_any(not_positive);
    return !coded_any(outside);
}

/* ---- Weights --------------------------------------------------------------------------------- */

/* Codes of a pair less their zeros: of f8 divided by F8_AS_F16. pair: its codes; first: of the outputs; width: of the panel */
INLINE coded_pair_t coded_load_pair(const coded_kind_t kind, const uint8_t *pair, size_t width,
    size_t first, const coded_outputs_t *of)
{
    const vec_f32_t even_zero = *(const vec_f32_t *)(of->zeros[0] + first),
                    odd_zero = *(const vec_f32_t *)(of->zeros[1] + first);
    const uint8_t *codes = pair + first;
    if (kind.codes == CODES_F8)
        return (coded_pair_t){coded_load_f8(codes), coded_load_f8(codes + width)};
    if (kind.codes == CODES_INT8) {
        coded_pair_t x = {CODED_FLOATS(CODED_SIGNED(CODED_LOAD(codes))),
            CODED_FLOATS(CODED_SIGNED(CODED_LOAD(codes + width)))};
        return kind.zeros ? (coded_pair_t){x.even - even_zero, x.odd - odd_zero} : x;
    }
    const vec_u32_t both = CODED_UNSIGNED(CODED_LOAD(codes));
    return (coded_pair_t){with_power(both, 0x0f, CODED_EVEN) - even_zero,
        with_power(both, 0xf0, CODED_ODD) - odd_zero};
}

/* Plain products of codes and scales, rounded to the scales' type. */
INLINE vec_f32_t coded_plain(vec_f32_t code, size_t first, const coded_outputs_t *of)
{
    vec_f32_t rest = code * *(const vec_f32_t *)(of->less + first);
    return FMA_F32(code, *(const vec_f32_t *)(of->shifted + first), -rest);
}

/* What is rounded to bf16: products of codes and scales, as they are or as f16. */
INLINE vec_f32_t coded_product(
    const coded_kind_t kind, vec_f32_t code, size_t first, const coded_outputs_t *of)
{
    if (kind.rounds_f16 && kind.plain)
        return coded_plain(code, first, of);
    vec_f32_t x = code * *(const vec_f32_t *)(of->scales + first);
    return kind.rounds_f16 ? CODED_FROM_F16(CODED_TO_F16(x)) : x;
}

/* Weights as bf16 rounded, in f32, of codes of outputs from `first` on. */
INLINE vec_f32_t coded_weights(
    const coded_kind_t kind, vec_f32_t code, size_t first, const coded_outputs_t *of)
{
    if (kind.plain && !kind.rounds_f16)
        return coded_plain(code, first, of);
    if (kind.exact) {
        vec_f32_t c = code * *(const vec_f32_t *)(of->split + first);
        return c - CODED_MINUS_FMA(code, *(const vec_f32_t *)(of->scales + first), c);
    }
    vec_f32_t x = coded_product(kind, code, first, of);
    if (kind.plain)
        return FMA_F32(x, SET_F32(CODED_SHIFT), -(vec_f32_t)(x * SET_F32(CODED_LESS)));
    vec_f32_t c = x * SET_F32(CODED_SPLIT);
    return c - (c - x);
}

INLINE coded_pair_t coded_weights_of_pair(const coded_kind_t kind, const uint8_t *pair,
    size_t width, size_t first, const coded_outputs_t *of)
{
    coded_pair_t codes = coded_load_pair(kind, pair, width, first, of);
    return (coded_pair_t){
        coded_weights(kind, codes.even, first, of), coded_weights(kind, codes.odd, first, of)};
}

#ifdef __AVX512BF16__
/* Weights of a pair as vdpbf16ps takes them, the even input in the lower halves: products rounded by the instruction that
 * converts two vectors. Groups are laid out normal, so it meets no denormal. */
INLINE __m512i coded_words(
    const coded_kind_t kind, coded_pair_t codes, size_t first, const coded_outputs_t *of)
{
    const __m512i interleaved = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25,
        9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)coded_product(kind, codes.odd, first, of),
        (__m512)coded_product(kind, codes.even, first, of));
    return _mm512_permutexvar_epi16(interleaved, (__m512i)both);
}

/* 32 numbers e4m3 divided by F8_AS_F16, of one input. */
INLINE void coded_load_f8_twice(const uint8_t *codes, vec_f32_t to[2])
{
    enum { MANTISSA_BITS_MORE = 7, WITHOUT_BIT_14 = 0xbfff };
    __m512i x = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)codes));
    x = _mm512_and_si512(
        _mm512_slli_epi16(x, MANTISSA_BITS_MORE), _mm512_set1_epi16((short)WITHOUT_BIT_14));
    to[0] = CODED_FROM_F16(_mm512_castsi512_si256(x));
    to[1] = CODED_FROM_F16(_mm512_extracti64x4_epi64(x, 1));
}

/* Of `vectors` times LANES_F32 outputs from `first` on. */
INLINE void coded_words_of_pair(const coded_kind_t kind, const int vectors, const uint8_t *pair,
    size_t width, size_t first, const coded_outputs_t *of, __m512i *words)
{
    for (int v = 0; v < vectors; v++) {
        const size_t n = first + (size_t)v * LANES_F32;
        if (kind.codes == CODES_F8 && vectors % 2 == 0) {
            vec_f32_t even[2], odd[2];
            if (v % 2 == 1)
                continue;
            coded_load_f8_twice(pair + n, even);
            coded_load_f8_twice(pair + width + n, odd);
            words[v] = coded_words(kind, (coded_pair_t){even[0], odd[0]}, n, of);
            words[v + 1] = coded_words(kind, (coded_pair_t){even[1], odd[1]}, n + LANES_F32, of);
        } else {
            words[v] = coded_words(kind, coded_load_pair(kind, pair, width, n, of), n, of);
        }
    }
}
#endif

/* DO(kind), of a format; positive: so are all scales. */
#define CODED_DISPATCH(FORMAT, POSITIVE, DO)                                                       \
    do {                                                                                           \
        const bool f16_ = (FORMAT)->scale_type == DTYPE_F16, zeros_ = (FORMAT)->zeros,             \
                   positive_ = (POSITIVE);                                                         \
        if ((FORMAT)->codes == CODES_F8 && (FORMAT)->scale_type == DTYPE_F32)                      \
            DO(((coded_kind_t){CODES_F8, false, false, false, false}));                            \
        else if ((FORMAT)->codes == CODES_F8)                                                      \
            DO(((coded_kind_t){CODES_F8, true, false, false, false}));                             \
        else if ((FORMAT)->codes == CODES_INT8)                                                    \
            CODED_DISPATCH_INT(CODES_INT8, DO)                                                     \
        else                                                                                       \
            CODED_DISPATCH_INT(CODES_INT4, DO)                                                     \
    } while (0)
#define CODED_DISPATCH_INT(CODES, DO)                                                              \
    {                                                                                              \
        if (f16_ && zeros_ && positive_)                                                           \
            DO(((coded_kind_t){CODES, false, true, true, true}));                                  \
        else if (f16_ && zeros_)                                                                   \
            DO(((coded_kind_t){CODES, false, true, true, false}));                                 \
        else if (f16_ && positive_)                                                                \
            DO(((coded_kind_t){CODES, false, true, false, true}));                                 \
        else if (f16_)                                                                             \
            DO(((coded_kind_t){CODES, false, true, false, false}));                                \
        else if (zeros_)                                                                           \
            DO(((coded_kind_t){CODES, true, false, true, false}));                                 \
        else if (positive_)                                                                        \
            DO(((coded_kind_t){CODES, true, false, false, true}));                                 \
        else                                                                                       \
            DO(((coded_kind_t){CODES, true, false, false, false}));                                \
    }

#endif
