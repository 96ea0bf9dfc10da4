/* The elementwise kernels and reductions of a table, which elementwise.c defines once per
 * instruction set. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_ELEMENTWISE_H
#define CHOIR_KERNELS_ELEMENTWISE_H

#include "engine/kernels/kernels.h"

/* Fill all members but isa, tile and those of sdpa. The baseline serves scalar. */
void elementwise_fill_baseline(kernels_t *kernels, dtype_t mode);
void elementwise_fill_avx2(kernels_t *kernels, dtype_t mode);
void elementwise_fill_avx512(kernels_t *kernels, dtype_t mode);

/* The members of sdpa, for mode bf16 (sdpa.c). */
void sdpa_fill_baseline(kernels_t *kernels);
void sdpa_fill_avx2(kernels_t *kernels);
void sdpa_fill_avx512(kernels_t *kernels);

#endif
