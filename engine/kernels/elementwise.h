/* The elementwise kernels and reductions of a table, which elementwise.c defines once per
 * instruction set. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_ELEMENTWISE_H
#define CHOIR_KERNELS_ELEMENTWISE_H

#include "engine/kernels/kernels.h"

/* bf16_from_f32 without its early return, so that loops vectorise. */
static inline uint16_t round_bf16(float x)
{
    uint32_t bits = f32_bits(x);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

/* Fill all members but isa, tile and those of sdpa. The baseline serves scalar. */
void elementwise_fill_baseline(kernels_t *kernels, dtype_t mode);
void elementwise_fill_avx2(kernels_t *kernels, dtype_t mode);
void elementwise_fill_avx512(kernels_t *kernels, dtype_t mode);

/* Those of both files that have code of their own in mode bf16 (bf16_avx512.c). */
void bf16_fill_avx512(kernels_t *kernels);
void bf16_fill_avx512_bf16(kernels_t *kernels);

/* The members of sdpa, for mode bf16 (sdpa.c). */
void sdpa_fill_baseline(kernels_t *kernels);
void sdpa_fill_avx2(kernels_t *kernels);
void sdpa_fill_avx512(kernels_t *kernels);

#endif
