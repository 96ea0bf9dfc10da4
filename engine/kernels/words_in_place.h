/* A single row with codes int8, or int4 with zeros or without, and a positive scale in bf16 for each output: a pair's weights as
 * vdpbf16ps takes them, without conversions and without moves between lanes. For sources that are compiled several times, see
 * fma.h. Internal to engine/kernels.
 *
 * A code's bits are put under an exponent with which they are an f32: of int8, the sign flipped, 2^23 + 128 + code from bit 0 on
 * or 2^15 + 128 + code from bit 8 on, of int4 2^15 + code from bit 8 on or 2^11 + code from bit 12 on. A fused multiply-add takes
 * away what is too much, the zero included, and multiplies by the scale. Both products are exact: what is too much times a
 * scale's 8 bits has at most 24, since 2^23 + 128 is 2^7 (2^16 + 1). It is +0 of a code that is the zero, as the product is. */
#ifndef CHOIR_KERNELS_WORDS_IN_PLACE_H
#define CHOIR_KERNELS_WORDS_IN_PLACE_H

#include "engine/kernels/coded_vectors.h"

/* Of the outputs of a panel, each twice, for the inputs of a pair: vector by vector as place_words takes them. */
typedef struct place_scales {
    float scale[2 * KERNEL_PANEL] __attribute__((aligned(64)));
    /* What is too much, negative, times the scale. */
    float offset[2 * KERNEL_PANEL] __attribute__((aligned(64)));
} place_scales_t;

#ifdef __AVX512BF16__
#define PLACE_VECTORS 4 /* of sums: the outputs of a panel */

/* to[v]: elements first + step v of from[0] and from[1], in the lanes of `last` of from[2] and from[3] */
INLINE void place_choose(const vec_f32_t from[PLACE_VECTORS], __m512i first, int step,
    __mmask16 last, vec_f32_t to[PLACE_VECTORS])
{
    for (int v = 0; v < PLACE_VECTORS; v++) {
        const __m512i at = _mm512_add_epi32(first, _mm512_set1_epi32(step * v));
        to[v] = (vec_f32_t)_mm512_mask_blend_ps(last,
            _mm512_permutex2var_ps((__m512)from[0], at, (__m512)from[1]),
            _mm512_permutex2var_ps((__m512)from[2], at, (__m512)from[3]));
    }
}

/* What is too much in the lanes of a vector for outputs j of 4, but for the zero. */
INLINE vec_f32_t place_base(code_type_t codes, size_t j)
{
    const float int8 = j % 2 == 0 ? 0x1p23f + 128 : 0x1p15f + 128,
                even = codes == CODES_INT4 ? 0x1p15f : int8,
                odd = codes == CODES_INT4 ? 0x1p11f : int8;
    return (vec_f32_t)_mm512_mask_blend_ps(0xaaaa, _mm512_set1_ps(even), _mm512_set1_ps(odd));
}

static inline void place_lay_out(code_type_t codes, const coded_outputs_t *of, place_scales_t *to)
{
    const __m512i first = _mm512_set_epi32(20, 20, 16, 16, 4, 4, 0, 0, 20, 20, 16, 16, 4, 4, 0, 0);
    vec_f32_t scales[PLACE_VECTORS], zeros[PLACE_VECTORS];
    for (size_t v = 0; v < PLACE_VECTORS; v++) {
        scales[v] = *(const vec_f32_t *)(of->scales + LANES_F32 * v);
        zeros[v] = *(const vec_f32_t *)(of->zeros[0] + LANES_F32 * v) -
                   SET_F32(codes == CODES_INT4 ? CODED_EVEN : 0);
    }
    for (int half = 0; half < 2; half++) {
        const __m512i at = _mm512_add_epi32(first, _mm512_set1_epi32(8 * half));
        vec_f32_t scale[PLACE_VECTORS], zero[PLACE_VECTORS];
        place_choose(scales, at, 1, 0xff00, scale);
        place_choose(zeros, at, 1, 0xff00, zero);
        for (size_t j = 0; j < PLACE_VECTORS; j++) {
            const size_t place = (2 * j + (size_t)half) * LANES_F32;
            *(vec_f32_t *)(to->scale + place) = scale[j];
            *(vec_f32_t *)(to->offset + place) = -(place_base(codes, j) + zero[j]) * scale[j];
        }
    }
}

/* The scales in registers. */
typedef struct place_lookup {
    __m512 scale[2 * PLACE_VECTORS], offset[2 * PLACE_VECTORS];
} place_lookup_t;

INLINE place_lookup_t place_load_scales(const place_scales_t *of)
{
    place_lookup_t to;
    for (size_t i = 0; i < 2 * PLACE_VECTORS; i++) {
        to.scale[i] = _mm512_load_ps(of->scale + LANES_F32 * i);
        to.offset[i] = _mm512_load_ps(of->offset + LANES_F32 * i);
    }
    return to;
}

/* The four codes of a lane, j at a time, in place under their exponents. */
INLINE __m512i place_codes(code_type_t codes, int j, __m512i x)
{
    enum { A_XOR_B_AND_C = 0x78, BYTE = 8 };
    __m512i base, bits;
    if (codes == CODES_INT4) {
        base = _mm512_set1_epi64(0x4500000047000000);
        bits = _mm512_set1_epi64(0x0000f00000000f00);
        x = j == 0 ? _mm512_slli_epi32(x, BYTE) : _mm512_srli_epi32(x, BYTE * ((unsigned)j - 1));
    } else {
        base = _mm512_set1_epi32(j % 2 == 0 ? 0x4b000080 : 0x47008000);
        bits = _mm512_set1_epi32(j % 2 == 0 ? 0xff : 0xff00);
        x = _mm512_srli_epi32(x, j < 2 ? 0 : 2 * BYTE);
    }
    return _mm512_ternarylogic_epi32(base, x, bits, A_XOR_B_AND_C);
}

/* Vector j has outputs j and 4 + j of each 16, then 8 + j and 12 + j of each. pair: codes */
INLINE void place_words(const code_type_t codes, const place_lookup_t *of, const uint8_t *pair,
    __m512i words[PLACE_VECTORS])
{
    const __m512i even = _mm512_loadu_si512(pair),
                  odd = codes == CODES_INT4 ? even : _mm512_loadu_si512(pair + KERNEL_PANEL),
                  halves[2] = {_mm512_unpacklo_epi32(even, odd), _mm512_unpackhi_epi32(even, odd)};
#pragma GCC unroll 4
    for (int j = 0; j < PLACE_VECTORS; j++) {
        __m512 x[2];
        for (int half = 0; half < 2; half++)
            x[half] = _mm512_fmadd_ps((__m512)place_codes(codes, j, halves[half]),
                of->scale[2 * j + half], of->offset[2 * j + half]);
        words[j] = (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]);
    }
}

/* Sums of a panel's outputs from natural order to that of place_words, and back. */
INLINE void place_to_words(vec_f32_t x[PLACE_VECTORS])
{
    vec_f32_t y[PLACE_VECTORS];
    place_choose(x, _mm512_set_epi32(28, 24, 12, 8, 28, 24, 12, 8, 20, 16, 4, 0, 20, 16, 4, 0), 1,
        0xf0f0, y);
    memcpy(x, y, sizeof y);
}

INLINE void place_from_words(vec_f32_t x[PLACE_VECTORS])
{
    vec_f32_t y[PLACE_VECTORS];
    place_choose(
        x, _mm512_set_epi32(25, 9, 25, 9, 24, 8, 24, 8, 17, 1, 17, 1, 16, 0, 16, 0), 2, 0xcccc, y);
    memcpy(x, y, sizeof y);
}
#endif

#endif
