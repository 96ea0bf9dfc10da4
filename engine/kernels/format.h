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
 *                            a float's mantissa
 *
 * Other quantised weights are dequantised inside the product, to the bf16 numbers that a dense matrix would have
 * (docs/quantised.md, "Dequantised inside the product"). A panel of K inputs, an even number, is
 *
 *   bf16, f16 or f32  [groups][width]    scales, zero in padding
 *   uint8_t           [groups][width]    zeros; only of formats with zeros
 *   uint8_t           [K / 2][width][2]  int8, as signed numbers, and f8: codes of pairs of inputs
 *                     [K / 2][width]     int4: the even input in bits 0 to 3, the odd one in bits 4 to 7 */
#ifndef CHOIR_KERNELS_FORMAT_H
#define CHOIR_KERNELS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"

typedef enum format_kind {
    FORMAT_DENSE,
    FORMAT_INT4, /* multiplied by a chain of its own, whatever the order of dense matrices is */
    FORMAT_CODED /* dequantised to bf16 inside the product, which is the dense matrix's */
} format_kind_t;

/* Of FORMAT_CODED */
typedef enum code_type { CODES_INT4, CODES_INT8, CODES_F8 /* e4m3 */ } code_type_t;

/* Rows of a quantised matrix: weights are scale (code - zero). */
typedef struct coded_rows {
    size_t n, columns, n_groups;
    const uint8_t *codes; /* [n, columns], codes_stride apart */
    size_t codes_stride;
    const float *scales;  /* [n, n_groups] */
    const uint8_t *zeros; /* [n, n_groups] */
    bool in_order;        /* groups follow each other, as many inputs in each but the last */
    /* [columns] which column comes i-th when groups are in order; NULL: the i-th */
    const uint32_t *order;
} coded_rows_t;

typedef struct format {
    const char *name; /* "bf16" */
    format_kind_t kind;
    size_t group; /* inputs that have a scale in common; 0: all, and of dense formats */
    bool zeros;   /* there are offsets */
    /* Of FORMAT_CODED: a weight is R((code - zero) scale), R to bf16; of scales in f16 it is rounded to f16 first. */
    code_type_t codes;
    dtype_t scale_type; /* bf16, f16, f32 */
    dtype_t row_dtype;  /* of rows before packing, and unpacked */
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

/* FORMAT_CODED with groups of so many inputs, the last one perhaps shorter; 0: one group. NULL where there is none. */
const format_t *format_coded(code_type_t codes, dtype_t scale_type, size_t group, bool zeros);

/* The e4m3 number of a byte; 480 in place of what is no number. */
float f32_from_e4m3(uint8_t byte);

#endif
