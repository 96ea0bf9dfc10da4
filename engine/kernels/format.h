/* Formats of packed weights: how a matrix is stored, apart from the mode that activations are held
 * and summed in (kernels.h).
 *
 * A format is a table of functions, immutable. Those of the dense formats, one for each mode with the
 * mode's own elements, are the layouts of kernels.h, and the kernels of the mode's table multiply
 * with them. */
#ifndef CHOIR_KERNELS_FORMAT_H
#define CHOIR_KERNELS_FORMAT_H

#include <stddef.h>

#include "engine/base/dtype.h"

typedef struct format {
    const char *name;  /* "bf16" */
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
    /* The inverse for one output, exactly. dst: [columns] row_dtype */
    void (*unpack_row)(size_t columns, const void *panel, size_t width, size_t output, void *dst);
} format_t;

/* Elements of the mode's type. */
const format_t *format_dense(dtype_t mode);

#endif
