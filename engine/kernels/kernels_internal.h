/* What fills a table: each source overwrites the slots of kernels->mode that it has code for.
 * Internal to engine/kernels; called only where the CPU has the instructions. */
#ifndef CHOIR_KERNELS_KERNELS_INTERNAL_H
#define CHOIR_KERNELS_KERNELS_INTERNAL_H

#include "engine/kernels/kernels.h"

/* elementwise.c: everything but tiles and sdpa, and the sizes of elements. Compiled once for each
 * instruction set. */
void elementwise_fill_baseline(kernels_t *kernels);
void elementwise_fill_avx2(kernels_t *kernels);
void elementwise_fill_avx512(kernels_t *kernels);

/* sdpa.c, likewise: mode bf16 */
void sdpa_fill_baseline(kernels_t *kernels);
void sdpa_fill_avx2(kernels_t *kernels);
void sdpa_fill_avx512(kernels_t *kernels);

/* bf16_avx512.c: mode bf16, with and without instructions for it */
void bf16_fill_avx512(kernels_t *kernels);
void bf16_fill_avx512_bf16(kernels_t *kernels);

/* Tiles: scalar.c; fma_tiles.c, modes f32 and f64, and fma_bf16.c, both twice; avx512_bf16.c, amx.c */
void tiles_fill_scalar(kernels_t *kernels);
void bf16_tiles_fill_avx2(kernels_t *kernels);
void bf16_tiles_fill_avx512(kernels_t *kernels);
void tiles_fill_avx2(kernels_t *kernels);
void tiles_fill_avx512(kernels_t *kernels);
void tiles_fill_avx512_bf16(kernels_t *kernels);
void tiles_fill_amx(kernels_t *kernels);

/* The dot product fold and what goes with it: fold_scalar.c. Mode bf16 */
void fold_fill_scalar(kernels_t *kernels);

/* kernels_t.tile_amx with AVX-512 and without tile registers: for single rows on CPUs with AMX. */
void tile_amx_by_fma(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode);

#endif
