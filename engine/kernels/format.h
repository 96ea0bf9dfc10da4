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
 *   uint32_t [g / 8][width]  codes of eight inputs, from bit 0 on
 *
 * Other quantised weights are dequantised inside the product, to the bf16 numbers that a dense matrix would have
 * (docs/quantised.md, "Dequantised inside the product"). A panel's inputs, an even number, lie group after group, so
 * that all of it is read in order. A group of g inputs (the last one of fewer) is
 *
 *   bf16, f16 or f32  [width]         scales, zero in padding
 *   uint8_t           [width]         zeros; only of formats with zeros
 *   uint8_t           [g][width]      int8, as signed numbers, and f8
 *                     [g / 2][width]  int4: the even input in bits 0 to 3, the odd one in bits 4 to 7
 *
 * packed bf16 (docs/speed.md, "Packed weights"): bf16 without loss in 12 bits, packed from the panels of a dense
 * format (kernels.h; fold.h, whose depth follows). Of a weight the low byte, an exponent's last bit and the
 * mantissa, is kept as it is; the high byte, the sign and the exponent's other bits, is one of 16 of its block.
 * Panels narrower than KERNEL_PANEL stay dense. A whole panel is block after block of 256 inputs as they lie
 * (the last one shorter), a block
 *
 *   uint8_t  [16]  palette: high bytes
 *   uint32_t       weights whose high byte is none of these, at most 26, or 0xffffffff
 *   uint32_t       zero
 *   uint32_t [26]  these, ascending: (pair * 128 + output * 2 + input of the pair) << 8 | high byte;
 *                  or, where there are more, int64_t: bytes from the block to all high bytes, [pairs][128]
 *   of each pair of inputs
 *   uint8_t  [128] low bytes: output o, input i of the pair at o / 32 * 64 + o % 16 / 4 * 16 + o % 32 / 16 * 8 +
 *                  o % 4 * 2 + i, so that interleaving halves of vectors gives outputs in order
 *   uint8_t  [64]  places in the palette, of the weights of low bytes j and 64 + j in bits 0 to 3 and 4 to 7
 *
 * High bytes of blocks that have too many different ones lie in a spill, in the order of low bytes. */
#ifndef CHOIR_KERNELS_FORMAT_H
#define CHOIR_KERNELS_FORMAT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"

typedef enum format_kind {
    FORMAT_DENSE,
    FORMAT_INT4,  /* multiplied by a chain of its own, whatever the order of dense matrices is */
    FORMAT_CODED, /* dequantised to bf16 inside the product, which is the dense matrix's */
    FORMAT_PACKED /* bf16 without loss, unpacked inside the product, which is the dense matrix's */
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

/* Memory for what does not fit into packed panels, shared by all threads that pack. In shared memory it lies
 * with the panels, as places are relative. */
typedef struct spill {
    char *at;
    size_t bytes;
    atomic_size_t used; /* more than bytes when there was too little */
} spill_t;

typedef struct format format_t;

struct format {
    const char *name; /* "bf16" */
    format_kind_t kind;
    size_t group; /* inputs that have a scale in common; 0: all, and of dense formats */
    bool zeros;   /* there are offsets */
    /* Of FORMAT_CODED: a weight is R((code - zero) scale), R to bf16; of scales in f16 it is rounded to f16 first. */
    code_type_t codes;
    dtype_t scale_type; /* bf16, f16, f32 */
    dtype_t row_dtype;  /* of rows before packing, and unpacked */
    /* Functions, each of which is given its format first.
     *
     * Bytes of a packed matrix, and of a vector, padding included. */
    size_t (*matrix_bytes)(const format_t *self, size_t rows, size_t columns);
    size_t (*vector_bytes)(const format_t *self, size_t elements);
    /* Bytes from a matrix's start to input k of its panel p. width: of that panel */
    size_t (*offset)(const format_t *self, size_t columns, size_t width, size_t p, size_t k);
    /* Packs row-major rows into a panel whose outputs begin at first_output of the panel.
     * src: [rows, columns] row_dtype; panel: the panel's start; padding stays as it is (zero) */
    void (*pack_rows)(const format_t *self, size_t rows, size_t columns, const void *src,
        void *panel, size_t width, size_t first_output);
    /* The same from codes, of formats that are not dense, in place of pack_rows. */
    void (*pack_codes)(const format_t *self, const coded_rows_t *rows, void *panel, size_t width,
        size_t first_output);
    /* Of FORMAT_PACKED, in place of pack_rows: a whole panel (format_packs) from one of its dense format. FAIL_MEMORY
     * when the spill is full. */
    int (*pack_panel)(const format_t *self, size_t columns, const void *dense, void *panel,
        spill_t *spill, fail_t *fail);
    /* The inverse for one output, exactly. dst: [columns] row_dtype */
    void (*unpack_row)(const format_t *self, size_t columns, const void *panel, size_t width,
        size_t output, void *dst);
};

/* Elements of the mode's type. */
const format_t *format_dense(dtype_t mode);

/* int4 with groups of 32, 64, 128 or 256 inputs, of which a matrix has whole ones; NULL for others.
 * Rows are unpacked to f32, to what inputs are multiplied with. */
const format_t *format_int4(size_t group, bool zeros);

/* FORMAT_CODED with groups of so many inputs, the last one perhaps shorter; 0: one group. NULL where there is none. */
const format_t *format_coded(code_type_t codes, dtype_t scale_type, size_t group, bool zeros);

/* Packed bf16 of panels of a dense format, format_dense(DTYPE_BF16) or format_fold(); and that one. */
const format_t *format_packed(const format_t *dense);
const format_t *format_of_packed(const format_t *packed);
/* Whether a panel of so many outputs is packed, rather than dense. */
bool format_packs(const format_t *format, size_t width);

static inline size_t format_matrix_bytes(const format_t *format, size_t rows, size_t columns)
{
    return format->matrix_bytes(format, rows, columns);
}

#endif
