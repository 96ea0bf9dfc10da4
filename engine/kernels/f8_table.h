/* A single row with codes e4m3 that all have one scale, as blocks of 128 x 128 do: a code's weight, R(number scale), is looked
 * up. For sources that are compiled several times, see fma.h. Internal to engine/kernels.
 *
 * With AVX512-VBMI in a table of the 128 numbers without sign. Else by halves: a code's last four bits, the exponent's lowest
 * one and the mantissa, give a weight's bits, to which the exponent's other bits are added; both are looked up in 16 bytes.
 * For the eight codes of exponent zero, which have no leading one, what is missing is looked up too. One of 10,000 is such a code
 * where numbers are normally distributed and a block's largest is 448, so that is a branch. */
#ifndef CHOIR_KERNELS_F8_TABLE_H
#define CHOIR_KERNELS_F8_TABLE_H

#include "engine/kernels/byte_vectors.h"
#include "engine/kernels/coded_vectors.h"
#include "engine/kernels/widen.h"

#define F8_VECTORS 4 /* of outputs at a time */
#define F8_OUTPUTS ((size_t)F8_VECTORS * LANES_F32)

/* ---- Tables ---------------------------------------------------------------------------------- */

#ifdef __AVX512VBMI__
#define F8_NUMBERS 128

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
#else
#define F8_HALF 16

/* Low and high bytes of bf16 numbers with the exponent's upper bits zero, by a code's last four bits; of numbers with
 * exponent zero, by their mantissa + 8, what is added to that. */
typedef struct f8_table {
    uint8_t low[F8_HALF], high[F8_HALF], more_low[F8_HALF], more_high[F8_HALF];
    float scale;
} f8_table_t;

/* to: of numbers times its scale */
static inline void f8_table_fill(f8_table_t *to)
{
    enum { SOME_EXPONENT = 0x10, ITS_BITS = 0x100, ZERO_EXPONENT = F8_HALF / 2 };
    uint16_t words[F8_HALF], small[ZERO_EXPONENT];
    for (unsigned i = 0; i < F8_HALF; i++)
        words[i] =
            (uint16_t)(bf16_from_f32(f32_from_e4m3((uint8_t)(SOME_EXPONENT + i)) * to->scale) -
                       ITS_BITS);
    for (unsigned i = 0; i < ZERO_EXPONENT; i++)
        small[i] = bf16_from_f32(f32_from_e4m3((uint8_t)i) * to->scale);
    for (size_t i = 0; i < F8_HALF; i++) {
        to->low[i] = (uint8_t)words[i];
        to->high[i] = (uint8_t)(words[i] >> 8);
        to->more_low[i] = to->more_high[i] = 0;
    }
    for (size_t i = 0; i < ZERO_EXPONENT; i++) {
        to->more_low[ZERO_EXPONENT + i] = (uint8_t)(small[i] - words[i]);
        to->more_high[ZERO_EXPONENT + i] = (uint8_t)((small[i] >> 8) - (words[i] >> 8));
    }
}
#endif

/* The table of group g of a whole panel: `known` or NULL, or written to own. NULL where its outputs have different scales, or
 * not all weights are normal numbers. */
static inline const f8_table_t *f8_table_find(
    const format_t *format, const void *panel, size_t g, const f8_table_t *known, f8_table_t *own)
{
    const void *scales = coded_scales(format, panel, KERNEL_PANEL, g);
    const float scale = coded_load_scales(format->scale_type, scales, 0)[0];
    const vec_u32_t first = (vec_u32_t)SET_F32(scale);
    vec_u32_t differ = coded_not_normal(first);
    for (size_t n = 0; n < KERNEL_PANEL; n += LANES_F32)
        differ |= (vec_u32_t)coded_load_scales(format->scale_type, scales, n) ^ first;
    if (coded_any(differ))
        return NULL;
    if (known != NULL && f32_bits(known->scale) == f32_bits(scale))
        return known;
    own->scale = scale;
    f8_table_fill(own);
    return own;
}

/* ---- Lookups --------------------------------------------------------------------------------- */

/* f8_words_of_input: weights of F8_OUTPUTS codes of an input, as words: the first and the last 8 outputs of each 16. */
#ifdef __AVX512VBMI__
typedef struct f8_lookup {
    vec_t low[2], high[2];
} f8_lookup_t;

INLINE f8_lookup_t f8_load_table(const f8_table_t *table)
{
    return (f8_lookup_t){{_mm512_load_si512(table->low), _mm512_load_si512(table->low + 64)},
        {_mm512_load_si512(table->high), _mm512_load_si512(table->high + 64)}};
}

INLINE void f8_words_of_input(const f8_lookup_t *t, const uint8_t *codes, vec_t words[2])
{
    enum { A_XOR_B_AND_C = 0x78 };
    const __m512i x = _mm512_loadu_si512(codes), sign = _mm512_set1_epi8((char)0x80);
    __m512i low = _mm512_permutex2var_epi8(t->low[0], x, t->low[1]);
    __m512i high = _mm512_permutex2var_epi8(t->high[0], x, t->high[1]);
    high = _mm512_ternarylogic_epi32(high, x, sign, A_XOR_B_AND_C);
    words[0] = FIRST_HALVES(low, high);
    words[1] = SECOND_HALVES(low, high);
}
#else
typedef struct f8_lookup {
    vec_t low, high, more_low, more_high, top;
} f8_lookup_t;

INLINE f8_lookup_t f8_load_table(const f8_table_t *table)
{
    /* A code's first four bits as those of a weight's high byte: the sign, and the exponent's upper bits. */
    static const uint8_t top[F8_HALF] = {
        0, 1, 2, 3, 4, 5, 6, 7, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87};
    return (f8_lookup_t){PALETTE(table->low), PALETTE(table->high), PALETTE(table->more_low),
        PALETTE(table->more_high), PALETTE(top)};
}

INLINE void f8_words_of_input(const f8_lookup_t *t, const uint8_t *codes, vec_t words[2])
{
    /* A lookup goes by the lowest four bits; where bit 7 is set, it gives zero. */
    const vec_t x = LOAD(codes), unsigned_x = AND_BYTES(x, BYTES_OF(0x7f));
    /* Of exponent zero 0x78 to 0x7f, of others, nearly all, from 0x80 on. */
    const vec_t small = ADD_BYTES(unsigned_x, BYTES_OF(0x78));
    vec_t low = LOOK_UP(t->low, unsigned_x),
          high = ADD_BYTES(LOOK_UP(t->high, unsigned_x), LOOK_UP(t->top, HIGH_CODES(x)));
    if (__builtin_expect(!ALL_NEGATIVE(small), false)) {
        low = ADD_BYTES(low, LOOK_UP(t->more_low, small));
        high = ADD_BYTES(high, LOOK_UP(t->more_high, small));
    }
    words[0] = FIRST_HALVES(low, high);
    words[1] = SECOND_HALVES(low, high);
}
#endif

/* ---- The order of sums ----------------------------------------------------------------------- */

/* The order of the even and the odd words of f8_words_of_input, first those of words[0], to natural order, and back. */
#ifdef __AVX512F__
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
#else
/* Lanes of 128 bits: 0 and 1 of the first two, 0 and 1 of the last two, to the first of all four, the last; and back. */
INLINE void f8_exchange_lanes(const __m256 from[F8_VECTORS], __m256 to[F8_VECTORS])
{
    enum { FIRST = 0x20, LAST = 0x31 };
    to[0] = _mm256_permute2f128_ps(from[0], from[1], FIRST);
    to[1] = _mm256_permute2f128_ps(from[2], from[3], FIRST);
    to[2] = _mm256_permute2f128_ps(from[0], from[1], LAST);
    to[3] = _mm256_permute2f128_ps(from[2], from[3], LAST);
}

INLINE void f8_from_words(vec_f32_t x[F8_VECTORS])
{
    __m256 pairs[F8_VECTORS], y[F8_VECTORS];
    for (int i = 0; i < F8_VECTORS; i += 2) {
        pairs[i] = _mm256_unpacklo_ps((__m256)x[i], (__m256)x[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps((__m256)x[i], (__m256)x[i + 1]);
    }
    f8_exchange_lanes(pairs, y);
    for (int i = 0; i < F8_VECTORS; i++)
        x[i] = (vec_f32_t)y[i];
}

INLINE void f8_to_words(vec_f32_t x[F8_VECTORS])
{
    enum { FIRST = 0x20, LAST = 0x31, EVEN = 0x88, ODD = 0xdd };
    __m256 pairs[F8_VECTORS];
    for (int i = 0; i < 2; i++) {
        pairs[2 * i] = _mm256_permute2f128_ps((__m256)x[i], (__m256)x[i + 2], FIRST);
        pairs[2 * i + 1] = _mm256_permute2f128_ps((__m256)x[i], (__m256)x[i + 2], LAST);
    }
    for (int i = 0; i < F8_VECTORS; i += 2) {
        x[i] = (vec_f32_t)_mm256_shuffle_ps(pairs[i], pairs[i + 1], EVEN);
        x[i + 1] = (vec_f32_t)_mm256_shuffle_ps(pairs[i], pairs[i + 1], ODD);
    }
}
#endif

#ifdef __AVX512VBMI__
/* Weights of a pair of inputs of a whole panel, the even one in the lower halves. Vector j has outputs 4 j to 4 j + 3 of
 * each 16. */
INLINE void f8_words(const f8_lookup_t *t, const uint8_t *pair, vec_t words[F8_VECTORS])
{
    vec_t even[2], odd[2];
    f8_words_of_input(t, pair, even);
    f8_words_of_input(t, pair + KERNEL_PANEL, odd);
    for (int i = 0; i < 2; i++) {
        words[2 * i] = _mm512_unpacklo_epi16(even[i], odd[i]);
        words[2 * i + 1] = _mm512_unpackhi_epi16(even[i], odd[i]);
    }
}
#endif

#endif
