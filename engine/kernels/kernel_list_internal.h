/* How functions of the list are written, and those of the dot product fold, of a single row and of packed weights, which have files of
 * their own. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_KERNEL_LIST_INTERNAL_H
#define CHOIR_KERNELS_KERNEL_LIST_INTERNAL_H

#include "engine/kernels/kernel_list.h"

#define LAYOUT(NAME)                                                                               \
    void NAME(const kernels_t *kernels, const kernel_shape_t *s, kernel_buffer_t b[KERNEL_BUFFERS])
#define CALL(NAME)                                                                                 \
    void NAME(const kernels_t *kernels, const kernel_shape_t *s, void *const d[KERNEL_BUFFERS])

/* kernel_list_fold.c. Variants of tile_fold: 1 panel, 2, ...; and the same with rows and panels that lie
 * permuted already, to be timed. */
#define FOLD_VARIANTS KERNEL_TILE_PANELS
LAYOUT(kernel_fold_layout);
CALL(kernel_call_tile_fold);
double kernel_fold_flop(const kernel_shape_t *s);
LAYOUT(kernel_fold_scores_layout);
CALL(kernel_call_fold_scores);
LAYOUT(kernel_interleaved_layout);
CALL(kernel_call_interleaved_outputs);

/* kernel_list_int4.c */
LAYOUT(kernel_int4_layout);
CALL(kernel_call_int4_tile);
CALL(kernel_call_int4_unpack);
LAYOUT(kernel_int4_row_layout);
CALL(kernel_call_int4_row);
#define KERNEL_CODED_VARIANTS 17
LAYOUT(kernel_coded_layout);
CALL(kernel_call_coded_unpack);
/* The same with 1 to KERNEL_TILE_PANELS panels. */
LAYOUT(kernel_coded_row_layout);
CALL(kernel_call_coded_row);
CALL(kernel_call_coded_row_amx);
LAYOUT(kernel_wide_layout);
CALL(kernel_call_tile_wide);

/* kernel_list_row.c. Variants: each tile mode with 1 panel, with 2, ... */
#define KERNEL_ROW_VARIANTS (3 * KERNEL_TILE_PANELS)
LAYOUT(kernel_row_layout);
CALL(kernel_call_row_panels);
CALL(kernel_call_row_amx_panels);
CALL(kernel_call_row_groups_panels);
double kernel_row_flop(const kernel_shape_t *s);

/* kernel_list_packed.c. The second variant's panels lie packed already, to be timed. */
LAYOUT(kernel_packed_layout);
CALL(kernel_call_unpack_packed);
/* Variants: tile modes, of 1 to KERNEL_TILE_PANELS panels; and panels that lie packed already. */
#define KERNEL_PACKED_ROWS_VARIANTS (3 * KERNEL_TILE_PANELS)
LAYOUT(kernel_packed_rows_layout);
CALL(kernel_call_packed_rows);
CALL(kernel_call_packed_row_amx);

#endif
