/* Words and scales of packed int4 in registers of either width. For sources that are compiled twice, see fma.h.
 * Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_INT4_VECTORS_H
#define CHOIR_KERNELS_INT4_VECTORS_H

#include <stddef.h>

#include "engine/kernels/fma.h"

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

#endif
