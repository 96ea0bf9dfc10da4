/* Vectors of the register width that a source is compiled for: AVX2 with FMA, or AVX-512F. For
 * sources that are compiled for both. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_FMA_H
#define CHOIR_KERNELS_FMA_H

#include <immintrin.h>
#include <stdint.h>

#ifdef __AVX512F__
#define REGISTER_BYTES 64
#define FMA_F32(a, b, c) ((vec_f32_t)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define FMA_F64(a, b, c) ((vec_f64_t)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define SET_F32(x) ((vec_f32_t)_mm512_set1_ps(x))
#define SET_F64(x) ((vec_f64_t)_mm512_set1_pd(x))
#else
#define REGISTER_BYTES 32
#define FMA_F32(a, b, c) ((vec_f32_t)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define FMA_F64(a, b, c) ((vec_f64_t)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define SET_F32(x) ((vec_f32_t)_mm256_set1_ps(x))
#define SET_F64(x) ((vec_f64_t)_mm256_set1_pd(x))
#endif

#define LANES_F32 (REGISTER_BYTES / 4)
#define LANES_F64 (REGISTER_BYTES / 8)

typedef float vec_f32_t __attribute__((vector_size(REGISTER_BYTES)));
typedef double vec_f64_t __attribute__((vector_size(REGISTER_BYTES)));
typedef uint32_t vec_u32_t __attribute__((vector_size(REGISTER_BYTES)));
/* The same in memory, at any address. */
typedef vec_f32_t mem_f32_t __attribute__((aligned(4), may_alias));
typedef vec_f64_t mem_f64_t __attribute__((aligned(8), may_alias));
typedef vec_u32_t mem_u32_t __attribute__((aligned(2), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* power, of two, and the number that the bits of mask are in words, where they lie among the places of its significand. */
INLINE vec_f32_t with_power(vec_u32_t words, uint32_t mask, float power)
{
    const vec_u32_t masks = (vec_u32_t){0} + mask, bits = (vec_u32_t)SET_F32(power);
#ifdef __AVX512F__
    enum { A_AND_B_OR_C = 0xea };
    return (vec_f32_t)_mm512_ternarylogic_epi32(
        (__m512i)words, (__m512i)masks, (__m512i)bits, A_AND_B_OR_C);
#else
    return (vec_f32_t)((words & masks) | bits);
#endif
}

#endif
