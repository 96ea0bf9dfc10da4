/* Formats of packed weights: how a matrix is stored, apart from the mode that activations are held
 * and summed in (kernels.h).
 *
 * A format is a table of functions, immutable. Those of the dense formats, one for each mode with the
 * mode's own elements, are the layouts of kernels.h, and the kernels of the mode's table multiply
 * with them.
 *
 * int4 (docs/quantised.md, "The int4 chain"): panels of KERNEL_PANEL outputs as there, group of inputs
 * after group. A group of g inputs of `width` outputs is
 *
 *   bf16     [width]         scales, zero in padding
 *   bf16     [width]         offsets, R((8 - zero) scale); only of formats with zeros
 *   uint32_t [g / 8][width]  codes of eight inputs: of input i = 0 ... 7 the bits from (7 + 4 i) mod 32
 *                            on, so that the first four, and after a rotation by 16 the others, lie in
 *                            a float's mantissa */
#ifndef CHOIR_KERNELS_FORMAT_H
#define CHOIR_KERNELS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"

typedef enum format_kind {
    FORMAT_DENSE,
    FORMAT_INT4 /* multiplied by a chain of its own, whatever the order of dense matrices is */
} format_kind_t;

/* Rows of a quantised matrix: weights are scale (code - zero). */
typedef struct coded_rows {
    size_t n, columns, n_groups;
    const uint8_t *codes; /* [n, columns], codes_stride apart */
    size_t codes_stride;
    const float *scales;  /* [n, n_groups] */
    const uint8_t *zeros; /* [n, n_groups] */
    /* [columns] which column comes i-th when groups are in order; NULL: the i-th */
    const uint32_t *order;
} coded_rows_t;

typedef struct format {
    const char *name; /* "bf16" */
    format_kind_t kind;
    size_t group;      /* inputs that have a scale in common; 0 of dense formats */
    bool zeros;        /* there are offsets */
    dtype_t row_dtype; /* of rows before packing, and unpacked */
    /* Bytes of a packed matrix, and of a vector, padding included. */
    size_t (*matrix_bytes)(size_t rows, size_t columns);
    size_t (*vector_bytes)(size_t elements);
    /* Bytes from a matrix's start to input k of its panel p. width: of that panel */
    size_t (*offset)(size_t columns, size_t width, size_t p, size_t k);
    /* Packs row-major rows into a panel whose outputs begin at first_output of the panel.
     * src: [rows, columns] row_dtype; panel: the panel's start; padding stays as it is (zero) */
    void (*pack_rows)(size_t rows, size_t columns, const void *src, void *panel, size_t width,
        size_t first_output);
    /* The same from codes, of formats that are not dense, in place of pack_rows. */
    void (*pack_codes)(const coded_rows_t *rows, void *panel, size_t width, size_t first_output);
    /* The inverse for one output, exactly. dst: [columns] row_dtype */
    void (*unpack_row)(size_t columns, const void *panel, size_t width, size_t output, void *dst);
} format_t;

/* Elements of the mode's type. */
const format_t *format_dense(dtype_t mode);

/* int4 with groups of 32, 64, 128 or 256 inputs, of which a matrix has whole ones; NULL for others.
 * Rows are unpacked to f32, to what inputs are multiplied with. */
const format_t *format_int4(size_t group, bool zeros);

#endif
