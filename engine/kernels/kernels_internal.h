/* What fills a table: each source overwrites the slots of kernels->mode that it has code for.
 * Internal to engine/kernels; called only where the CPU has the instructions. */
#ifndef CHOIR_KERNELS_KERNELS_INTERNAL_H
#define CHOIR_KERNELS_KERNELS_INTERNAL_H

#include "engine/kernels/kernels.h"

/* All sources, in ascending order: the capability bits that one needs, and its function.
 *   elementwise_fill_*  elementwise.c: everything but tiles and sdpa, and the sizes of elements.
 *                       Compiled once for each instruction set
 *   sdpa_fill_*         sdpa.c, likewise: mode bf16
 *   bf16_fill_*         bf16_avx512.c: mode bf16, with and without instructions for it
 *   tiles_fill_*        scalar.c; fma_tiles.c (modes f32 and f64), twice; avx512_bf16.c; amx.c
 *   f32_blocked_fill_*  fma_blocked_f32.c, many rows of mode f32
 *   bf16_tiles_fill_*   fma_bf16.c, twice
 *   single_row_fill_*   single_row_wide.c, twice: modes f32 and f64
 *   fold_fill_*         the dot product fold, mode bf16: fold_scalar.c, with the products of eager attention
 *                       that go with it; fold_fma.c, twice; fold_avx512_bf16.c
 *   int4_fill_*        format_int4.c; int4_fma.c, twice; int4_row_fill_* int4_row.c, twice
 *   coded_fill_*       format_coded.c; coded_unpack.c, twice; coded_row_fill_* coded_row.c, three times
 *   packed_fill_*      format_packed.c; packed_unpack.c, twice; packed_rows_fill_* packed_rows.c, three times
 *   fold_attention_fill_*  fold_attention.c, twice: those products */
#define KERNEL_SOURCES(X)                                                                          \
    X(0, elementwise_fill_baseline)                                                                \
    X(0, sdpa_fill_baseline)                                                                       \
    X(0, tiles_fill_scalar)                                                                        \
    X(0, fold_fill_scalar)                                                                         \
    X(0, int4_fill_scalar)                                                                         \
    X(0, coded_fill_scalar)                                                                        \
    X(0, packed_fill_scalar)                                                                       \
    KERNEL_SOURCES_OF_CPU(X)

#if defined(__x86_64__)
#define KERNEL_SOURCES_OF_CPU(X)                                                                   \
    X(ISA_AVX2, elementwise_fill_avx2)                                                             \
    X(ISA_AVX2, sdpa_fill_avx2)                                                                    \
    X(ISA_AVX2, tiles_fill_avx2)                                                                   \
    X(ISA_AVX2, f32_blocked_fill_avx2)                                                             \
    X(ISA_AVX2, bf16_tiles_fill_avx2)                                                              \
    X(ISA_AVX2, single_row_fill_avx2)                                                              \
    X(ISA_AVX2, int4_fill_avx2)                                                                    \
    X(ISA_AVX2, int4_row_fill_avx2)                                                                \
    X(ISA_AVX2, coded_fill_avx2)                                                                   \
    X(ISA_AVX2, coded_row_fill_avx2)                                                               \
    X(ISA_AVX2, packed_fill_avx2)                                                                  \
    X(ISA_AVX2, packed_rows_fill_avx2)                                                             \
    X(ISA_AVX2, fold_fill_avx2)                                                                    \
    X(ISA_AVX2, fold_attention_fill_avx2)                                                          \
    X(ISA_AVX512, elementwise_fill_avx512)                                                         \
    X(ISA_AVX512, sdpa_fill_avx512)                                                                \
    X(ISA_AVX512, tiles_fill_avx512)                                                               \
    X(ISA_AVX512, bf16_tiles_fill_avx512)                                                          \
    X(ISA_AVX512, single_row_fill_avx512)                                                          \
    X(ISA_AVX512, int4_fill_avx512)                                                                \
    X(ISA_AVX512, int4_row_fill_avx512)                                                            \
    X(ISA_AVX512, coded_fill_avx512)                                                               \
    X(ISA_AVX512, coded_row_fill_avx512)                                                           \
    X(ISA_AVX512, packed_fill_avx512)                                                              \
    X(ISA_AVX512, packed_rows_fill_avx512)                                                         \
    X(ISA_AVX512, fold_fill_avx512)                                                                \
    X(ISA_AVX512, fold_attention_fill_avx512)                                                      \
    X(ISA_AVX512, bf16_fill_avx512)                                                                \
    X(ISA_AVX512_BF16, bf16_fill_avx512_bf16)                                                      \
    X(ISA_AVX512_BF16 | CPU_AVX512_VBMI, coded_row_fill_avx512_bf16)                               \
    X(ISA_AVX512_BF16, tiles_fill_avx512_bf16)                                                     \
    X(ISA_AVX512_BF16, packed_rows_fill_avx512_bf16)                                               \
    X(ISA_AVX512_BF16, fold_fill_avx512_bf16)                                                      \
    X(ISA_AMX, tiles_fill_amx)
#else
#define KERNEL_SOURCES_OF_CPU(X)
#endif

#define KERNEL_SOURCE_DECLARE(needs, fill) void fill(kernels_t *kernels);
KERNEL_SOURCES(KERNEL_SOURCE_DECLARE)

static inline bool panel_is_packed(const panel_t *panel)
{
    return format_packs(panel->matrix->format, matrix_panel_width(panel->matrix, panel->p));
}

/* Of n panels, how many from the first on have its width. */
size_t panels_of_a_width(const panel_t *panels, size_t n);

/* int4_product.c: matrix_product of panels whose format is int4. rows: not K-blocked */
void int4_product(const kernels_t *kernels, const panel_t *panels, size_t n_panels,
    const matrix_rows_t *rows, float *c);

/* fold_product.c: matrix_product by the dot product fold. scratch: matrix_scratch_bytes */
void fold_product(const kernels_t *kernels, const panel_t *panels, size_t n_panels,
    const matrix_rows_t *rows, char *scratch, float *c);

/* rows_product.c: matrix_product of rows of one class, of the first panels that have a kernel for so few; how many panels
 * these are. leaf: MATRIX_ONE_LEAF, or a multiple of 32 */
size_t rows_product(const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n_panels,
    const matrix_rows_t *rows, size_t leaf, float *c);

/* format_coded.c: kernels_t.coded_unpack in scalar C */
void coded_unpack_scalar(const format_t *format, const void *panel, size_t width, size_t first,
    size_t inputs, uint16_t *b);

/* kernels_t.tile with AVX-512 and without vdpbf16ps, which multiplies less on some CPUs. */
void tile_bf16_by_fma(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode);

/* kernels_t.packed_rows likewise. */
void packed_rows_by_fma(size_t rows, const uint16_t *x, size_t x_stride, size_t n_panels,
    const void *const *panels, size_t first, size_t k, float *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode);

/* The kernels with vdpbf16ps for any number of rows, whether it is faster or not; the CPU has it. */
void tiles_by_dot_product(kernels_t *kernels);
void fold_by_dot_product(kernels_t *kernels);
void coded_by_dot_product(kernels_t *kernels);
void packed_by_dot_product(kernels_t *kernels);

/* kernels_t.tile_amx with AVX-512 and without tile registers: for single rows on CPUs with AMX. */
void tile_amx_by_fma(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode);

#endif
