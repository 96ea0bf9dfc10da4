/* Words and scales of packed int4 in registers of either width. For sources that are compiled twice, see fma.h.
 * Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_INT4_VECTORS_H
#define CHOIR_KERNELS_INT4_VECTORS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/kernels/fma.h"
#include "engine/kernels/int4.h"

/* From any byte on. */
INLINE vec_u32_t load_words(const void *words)
{
#ifdef __AVX512F__
    return (vec_u32_t)_mm512_loadu_si512(words);
#else
    return (vec_u32_t)_mm256_loadu_si256((const __m256i *)words);
#endif
}

/* Numbers of bf16, one after the other, as f32. */
INLINE vec_f32_t widen_bf16(const uint16_t *x)
{
#ifdef __AVX512F__
    const __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)x);
    return (vec_f32_t)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
#else
    const __m128i half = _mm_loadu_si128((const __m128i *)(const void *)x);
    return (vec_f32_t)_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
#endif
}

/* ---- Codes as floats: a code in a float's mantissa, below an exponent that makes its lowest bit 1, is 2^e + code. */

#define INT4_PLACES 2 /* of codes in a mantissa, from bit 8 on: below 2^e + 8 has too many bits */
#define INT4_PARTS (INT4_WORD / INT4_PLACES) /* of a word, which come into these places by turns */

/* 2^e of each place */
static const float int4_power[INT4_PLACES] = {0x1p15f, 0x1p11f};

/* Part 0 of words; scales lie before them. */
INLINE vec_u32_t int4_first_part(const uint32_t *words)
{
    return load_words((const char *)words - 1);
}

INLINE vec_u32_t int4_next_part(vec_u32_t part, int i, const uint32_t *words)
{
    return i == 1 ? load_words(words) : part >> 8;
}

/* 2^e + the code at place j */
INLINE vec_f32_t int4_with_power(vec_u32_t words, int j)
{
    return with_power(words, 15u << (8 + 4 * j), int4_power[j]);
}

/* ---- Exactness ------------------------------------------------------------------------------- */

/* Numbers of bf16 as they are. Widths of panels and groups are multiples of 16. */
typedef uint16_t vec_u16_t __attribute__((vector_size(32)));
#define LANES_U16 16

INLINE vec_u16_t load_u16(const uint16_t *x)
{
    return (vec_u16_t)_mm256_loadu_si256((const __m256i *)(const void *)x);
}

INLINE bool any_u16(vec_u16_t x)
{
    return _mm256_testz_si256((__m256i)x, (__m256i)x) == 0;
}

/* Whether fma(2^15 + code, scale, offset - (2^15 + 8) scale) and the same with 2^11 are b of all codes, of a group's n
 * outputs from `first` on: scales are below 2^111, so that nothing overflows, and offsets are zero, or multiples of a
 * scale's last bit below 16 times the scale's power of two. Then all operands are, of at most 24 bits, and so exact. */
INLINE bool int4_splits(
    const format_t *format, const void *group, size_t width, size_t first, size_t n)
{
    enum { MOST_SCALE = 0x7700, EXPONENT = 0x7f80, ONE = 0x80 };
    const uint16_t *scales = int4_scales(group) + first,
                   *offsets = int4_offsets(group, width) + first;
    vec_u16_t outside = {0};
    for (size_t i = 0; i < n; i += LANES_U16) {
        const vec_u16_t scale = load_u16(scales + i), magnitude = scale & 0x7fff;
        outside |= (vec_u16_t)(magnitude >= MOST_SCALE);
        if (format->zeros) {
            const vec_u16_t offset = load_u16(offsets + i), exponent = scale & EXPONENT,
                            more = (offset & EXPONENT) - exponent;
            outside |= ((vec_u16_t)(exponent == 0) | (vec_u16_t)(more > 3 * ONE)) &
                       (vec_u16_t)(offset != 0);
        }
    }
    return !any_u16(outside);
}

#endif
