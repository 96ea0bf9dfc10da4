/* exp of doubles by SLEEF (https://sleef.org). Its functions without fused multiply-add give the
 * same bits at every vector width and on every host; the including file's instruction set decides
 * which one is used. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_EXP_F64_H
#define CHOIR_KERNELS_EXP_F64_H

#include <sleef.h>
#include <stddef.h>

static inline double exp_f64(double x)
{
    return Sleef_cinz_expd1_u10purec(x);
}

#if defined(__AVX512F__)
#define EXP_F64_LANES 8
#define EXP_F64_VECTOR(x) Sleef_cinz_expd8_u10avx512fnofma(x)
#elif defined(__AVX__)
#define EXP_F64_LANES 4
#define EXP_F64_VECTOR(x) Sleef_cinz_expd4_u10avx(x)
#endif

/* x[i] = exp(x[i]), n of them */
static inline void exp_f64_all(size_t n, double *x)
{
    size_t vectors_end = 0;
#ifdef EXP_F64_VECTOR
    typedef double vector_t __attribute__((vector_size(8 * EXP_F64_LANES)));
    typedef vector_t in_memory_t __attribute__((aligned(8), may_alias));
    vectors_end = n / EXP_F64_LANES * EXP_F64_LANES;
    for (size_t i = 0; i < vectors_end; i += EXP_F64_LANES)
        *(in_memory_t *)(x + i) = EXP_F64_VECTOR(*(const in_memory_t *)(x + i));
#endif
    for (size_t i = vectors_end; i < n; i++)
        x[i] = exp_f64(x[i]);
}

#endif
