/* A single row with codes e4m3 that all have one scale, as blocks of 128 x 128 do: a code's weight is looked up in a table of
 * the 128 numbers without sign, R(number scale), by the instructions of AVX512-VBMI. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_F8_TABLE_H
#define CHOIR_KERNELS_F8_TABLE_H

#include "engine/kernels/coded_vectors.h"
#include "engine/kernels/widen.h"

#define F8_NUMBERS 128
#define F8_VECTORS 4 /* of a whole panel's outputs */

/* Low and high bytes of bf16 numbers. */
typedef struct f8_table {
    uint8_t low[F8_NUMBERS] __attribute__((aligned(64)));
    uint8_t high[F8_NUMBERS] __attribute__((aligned(64)));
    float scale;
} f8_table_t;

/* to: of numbers times its scale. In stores as wide as the loads that follow, which would wait for narrower ones. */
static inline void f8_table_fill(f8_table_t *to)
{
    enum { HALF = 2 * LANES_F32, BYTES = 64 };
    const vec_f32_t scale = SET_F32(to->scale * F8_AS_F16);
    uint8_t codes[F8_NUMBERS], low[BYTES];
    for (size_t i = 0; i < F8_NUMBERS; i++)
        codes[i] = (uint8_t)i;
    for (size_t i = 0; i < BYTES; i++)
        low[i] = (uint8_t)(2 * i);
    const __m512i lows = _mm512_loadu_si512(low),
                  highs = _mm512_or_si512(lows, _mm512_set1_epi8(1));
    for (size_t i = 0; i < F8_NUMBERS; i += BYTES) {
        __m512i words[BYTES / HALF];
        for (size_t j = 0; j < BYTES / HALF; j++) {
            vec_f32_t x[2];
            coded_load_f8_twice(codes + i + j * HALF, x);
            words[j] = (__m512i)_mm512_cvtne2ps_pbh((__m512)(x[1] * scale), (__m512)(x[0] * scale));
        }
        _mm512_store_si512(to->low + i, _mm512_permutex2var_epi8(words[0], lows, words[1]));
        _mm512_store_si512(to->high + i, _mm512_permutex2var_epi8(words[0], highs, words[1]));
    }
}

/* The table of group g of a whole panel: `known` or NULL, or written to own. NULL where its outputs have different scales, or
 * not all weights are normal numbers. */
static inline const f8_table_t *f8_table_find(
    const format_t *format, const void *panel, size_t g, const f8_table_t *known, f8_table_t *own)
{
    const void *scales = coded_scales(format, panel, KERNEL_PANEL, g);
    const vec_f32_t some = coded_load_scales(format->scale_type, scales, 0);
    const __m512i first = _mm512_broadcastd_epi32(_mm512_castsi512_si128((__m512i)some));
    __mmask16 differ = _mm512_movepi32_mask((__m512i)coded_not_normal((vec_u32_t)first));
    for (size_t n = 0; n < KERNEL_PANEL; n += LANES_F32)
        differ |= _mm512_cmpneq_epi32_mask(
            (__m512i)coded_load_scales(format->scale_type, scales, n), first);
    if (differ != 0)
        return NULL;
    if (known != NULL && f32_bits(known->scale) == f32_bits(some[0]))
        return known;
    own->scale = some[0];
    f8_table_fill(own);
    return own;
}

/* Element j of lane i of 128 bits to element i of lane j: natural order to that of f8_words, and back. */
INLINE void f8_transpose(vec_f32_t x[F8_VECTORS])
{
    enum { FIRST_TWO = 0x44, LAST_TWO = 0xee, EVEN = 0x88, ODD = 0xdd };
    __m512 y[F8_VECTORS];
    for (int i = 0; i < F8_VECTORS; i += 2) {
        y[i / 2] = _mm512_shuffle_f32x4((__m512)x[i], (__m512)x[i + 1], FIRST_TWO);
        y[2 + i / 2] = _mm512_shuffle_f32x4((__m512)x[i], (__m512)x[i + 1], LAST_TWO);
    }
    for (int i = 0; i < F8_VECTORS; i += 2) {
        x[i] = (vec_f32_t)_mm512_shuffle_f32x4(y[i], y[i + 1], EVEN);
        x[i + 1] = (vec_f32_t)_mm512_shuffle_f32x4(y[i], y[i + 1], ODD);
    }
}

typedef struct f8_lookup {
    __m512i low[2], high[2];
} f8_lookup_t;

INLINE f8_lookup_t f8_load_table(const f8_table_t *table)
{
    return (f8_lookup_t){{_mm512_load_si512(table->low), _mm512_load_si512(table->low + 64)},
        {_mm512_load_si512(table->high), _mm512_load_si512(table->high + 64)}};
}

/* Weights of 64 codes of an input, as words: the first and the last 8 outputs of each 16. */
INLINE void f8_words_of_input(const f8_lookup_t *t, const uint8_t *codes, __m512i words[2])
{
    enum { A_XOR_B_AND_C = 0x78 };
    const __m512i x = _mm512_loadu_si512(codes), sign = _mm512_set1_epi8((char)0x80);
    __m512i low = _mm512_permutex2var_epi8(t->low[0], x, t->low[1]);
    __m512i high = _mm512_permutex2var_epi8(t->high[0], x, t->high[1]);
    high = _mm512_ternarylogic_epi32(high, x, sign, A_XOR_B_AND_C);
    words[0] = _mm512_unpacklo_epi8(low, high);
    words[1] = _mm512_unpackhi_epi8(low, high);
}

/* The order of the even and the odd words of f8_words_of_input, first those of words[0], to natural order, and back. */
INLINE void f8_from_words(vec_f32_t x[F8_VECTORS])
{
    for (int i = 0; i < F8_VECTORS; i += 2) {
        const __m512 a = (__m512)x[i], b = (__m512)x[i + 1];
        x[i] = (vec_f32_t)_mm512_unpacklo_ps(a, b);
        x[i + 1] = (vec_f32_t)_mm512_unpackhi_ps(a, b);
    }
    f8_transpose(x);
}

INLINE void f8_to_words(vec_f32_t x[F8_VECTORS])
{
    enum { EVEN = 0x88, ODD = 0xdd };
    f8_transpose(x);
    for (int i = 0; i < F8_VECTORS; i += 2) {
        const __m512 a = (__m512)x[i], b = (__m512)x[i + 1];
        x[i] = (vec_f32_t)_mm512_shuffle_ps(a, b, EVEN);
        x[i + 1] = (vec_f32_t)_mm512_shuffle_ps(a, b, ODD);
    }
}

/* Weights of a pair of inputs of a whole panel, the even one in the lower halves. Vector j has outputs 4 j to 4 j + 3 of
 * each 16. */
INLINE void f8_words(const f8_lookup_t *t, const uint8_t *pair, __m512i words[F8_VECTORS])
{
    __m512i even[2], odd[2];
    f8_words_of_input(t, pair, even);
    f8_words_of_input(t, pair + KERNEL_PANEL, odd);
    for (int i = 0; i < 2; i++) {
        words[2 * i] = _mm512_unpacklo_epi16(even[i], odd[i]);
        words[2 * i + 1] = _mm512_unpackhi_epi16(even[i], odd[i]);
    }
}

#endif
