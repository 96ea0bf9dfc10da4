/* Bytes in registers of either width, and lookups of them in 16 bytes. For sources that are compiled several times, see
 * fma.h. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_BYTE_VECTORS_H
#define CHOIR_KERNELS_BYTE_VECTORS_H

#include "engine/kernels/fma.h"

#ifdef __AVX512F__
typedef __m512i vec_t;
#define LOAD(at) _mm512_loadu_si512(at)
#define STORE(at, x) _mm512_storeu_si512(at, x)
#define PALETTE(at) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(at)))
#define LOOK_UP(palette, codes) _mm512_shuffle_epi8(palette, codes)
#define LOW_CODES(x) _mm512_and_si512(x, _mm512_set1_epi8(15))
#define HIGH_CODES(x) _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15))
#define FIRST_HALVES(low, high) _mm512_unpacklo_epi8(low, high)
#define SECOND_HALVES(low, high) _mm512_unpackhi_epi8(low, high)
#define BYTES_OF(x) _mm512_set1_epi8((char)(x))
#define AND_BYTES(a, b) _mm512_and_si512(a, b)
#define ADD_BYTES(a, b) _mm512_add_epi8(a, b)
#define ALL_NEGATIVE(x) (_mm512_movepi8_mask(x) == UINT64_MAX)
#else
typedef __m256i vec_t;
#define LOAD(at) _mm256_loadu_si256((const __m256i *)(at))
#define STORE(at, x) _mm256_storeu_si256((__m256i *)(at), x)
#define PALETTE(at) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(at)))
#define LOOK_UP(palette, codes) _mm256_shuffle_epi8(palette, codes)
#define LOW_CODES(x) _mm256_and_si256(x, _mm256_set1_epi8(15))
#define HIGH_CODES(x) _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15))
#define FIRST_HALVES(low, high) _mm256_unpacklo_epi8(low, high)
#define SECOND_HALVES(low, high) _mm256_unpackhi_epi8(low, high)
#define BYTES_OF(x) _mm256_set1_epi8((char)(x))
#define AND_BYTES(a, b) _mm256_and_si256(a, b)
#define ADD_BYTES(a, b) _mm256_add_epi8(a, b)
#define ALL_NEGATIVE(x) (_mm256_movemask_epi8(x) == -1)
#endif

#endif
