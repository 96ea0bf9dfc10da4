/* A single row with codes int8 and a positive scale in bf16 for each output: a pair's weights as vdpbf16ps takes them, without
 * conversions and without moves between lanes. For sources that are compiled several times, see fma.h. Internal to
 * engine/kernels.
 *
 * A code's byte, its sign flipped, is put under an exponent with which it is the f32 2^23 + 128 + code, or, from bit 8 on,
 * 2^15 + 128 + code. A fused multiply-add takes that away and multiplies by the scale: (2^23 + 128) scale is exact, since
 * 2^16 + 1 and a scale's 8 bits make 24, and so is the code times the scale, 16 bits. It is +0 of code zero, as the product is. */
#ifndef CHOIR_KERNELS_INT8_WORDS_H
#define CHOIR_KERNELS_INT8_WORDS_H

#include "engine/kernels/coded_vectors.h"

/* Of the outputs of a panel, each twice, for the inputs of a pair: vector by vector as int8_words takes them. */
typedef struct int8_scales {
    float scale[2 * KERNEL_PANEL] __attribute__((aligned(64)));
    float offset[2 * KERNEL_PANEL] __attribute__((aligned(64)));
} int8_scales_t;

#ifdef __AVX512BF16__
#define INT8_VECTORS 4 /* of sums: the outputs of a panel */

/* to[v]: elements first + step v of from[0] and from[1], in the lanes of `last` of from[2] and from[3] */
INLINE void int8_choose(const vec_f32_t from[INT8_VECTORS], __m512i first, int step, __mmask16 last,
    vec_f32_t to[INT8_VECTORS])
{
    for (int v = 0; v < INT8_VECTORS; v++) {
        const __m512i at = _mm512_add_epi32(first, _mm512_set1_epi32(step * v));
        to[v] = (vec_f32_t)_mm512_mask_blend_ps(last,
            _mm512_permutex2var_ps((__m512)from[0], at, (__m512)from[1]),
            _mm512_permutex2var_ps((__m512)from[2], at, (__m512)from[3]));
    }
}

static inline void int8_lay_out(const coded_outputs_t *of, int8_scales_t *to)
{
    const __m512i first = _mm512_set_epi32(20, 20, 16, 16, 4, 4, 0, 0, 20, 20, 16, 16, 4, 4, 0, 0);
    vec_f32_t scales[INT8_VECTORS], twice[INT8_VECTORS];
    for (int v = 0; v < INT8_VECTORS; v++)
        scales[v] = *(const vec_f32_t *)(of->scales + LANES_F32 * v);
    for (int half = 0; half < 2; half++) {
        int8_choose(scales, _mm512_add_epi32(first, _mm512_set1_epi32(8 * half)), 1, 0xff00, twice);
        for (int j = 0; j < INT8_VECTORS; j++) {
            const size_t at = (size_t)(2 * j + half) * LANES_F32;
            const float offset = j % 2 == 0 ? 0x1p23f + 128 : 0x1p15f + 128;
            *(vec_f32_t *)(to->scale + at) = twice[j];
            *(vec_f32_t *)(to->offset + at) = twice[j] * SET_F32(-offset);
        }
    }
}

/* The scales in registers. */
typedef struct int8_lookup {
    __m512 scale[2 * INT8_VECTORS], offset[2 * INT8_VECTORS];
} int8_lookup_t;

INLINE int8_lookup_t int8_load_scales(const int8_scales_t *of)
{
    int8_lookup_t to;
    for (size_t i = 0; i < 2 * INT8_VECTORS; i++) {
        to.scale[i] = _mm512_load_ps(of->scale + LANES_F32 * i);
        to.offset[i] = _mm512_load_ps(of->offset + LANES_F32 * i);
    }
    return to;
}

/* Vector j has outputs j and 4 + j of each 16, then 8 + j and 12 + j of each. pair: codes */
INLINE void int8_words(const int8_lookup_t *of, const uint8_t *pair, __m512i words[INT8_VECTORS])
{
    enum { A_XOR_B_AND_C = 0x78, WORD_BITS = 16 };
    const __m512i base[2] = {_mm512_set1_epi32(0x4b000080), _mm512_set1_epi32(0x47008000)},
                  byte[2] = {_mm512_set1_epi32(0xff), _mm512_set1_epi32(0xff00)};
    const __m512i even = _mm512_loadu_si512(pair), odd = _mm512_loadu_si512(pair + KERNEL_PANEL),
                  halves[2] = {_mm512_unpacklo_epi32(even, odd), _mm512_unpackhi_epi32(even, odd)};
#pragma GCC unroll 4
    for (int j = 0; j < INT8_VECTORS; j++) {
        __m512 x[2];
        for (int half = 0; half < 2; half++) {
            __m512i codes = halves[half];
            if (j >= 2)
                codes = _mm512_srli_epi32(codes, WORD_BITS);
            codes = _mm512_ternarylogic_epi32(base[j % 2], codes, byte[j % 2], A_XOR_B_AND_C);
            x[half] =
                _mm512_fmadd_ps((__m512)codes, of->scale[2 * j + half], of->offset[2 * j + half]);
        }
        words[j] = (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]);
    }
}

/* Sums of a panel's outputs from natural order to that of int8_words, and back. */
INLINE void int8_to_words(vec_f32_t x[INT8_VECTORS])
{
    vec_f32_t y[INT8_VECTORS];
    int8_choose(x, _mm512_set_epi32(28, 24, 12, 8, 28, 24, 12, 8, 20, 16, 4, 0, 20, 16, 4, 0), 1,
        0xf0f0, y);
    memcpy(x, y, sizeof y);
}

INLINE void int8_from_words(vec_f32_t x[INT8_VECTORS])
{
    vec_f32_t y[INT8_VECTORS];
    int8_choose(
        x, _mm512_set_epi32(25, 9, 25, 9, 24, 8, 24, 8, 17, 1, 17, 1, 16, 0, 16, 0), 2, 0xcccc, y);
    memcpy(x, y, sizeof y);
}
#endif

#endif
