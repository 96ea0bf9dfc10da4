/* Formats of packed weights: what a matrix is stored as, apart from the mode that activations are
 * held and summed in (kernels.h).
 *
 * A format is a table of functions; formats are immutable. Today there is one for each mode, with
 * the mode's own elements; layouts are in kernels.h. */
#ifndef CHOIR_KERNELS_FORMAT_H
#define CHOIR_KERNELS_FORMAT_H

#include <stddef.h>

#include "engine/base/dtype.h"

typedef struct format {
    const char *name; /* "bf16" */
    /* Bytes of a packed matrix, and of a vector, padding included. */
    size_t (*matrix_bytes)(size_t rows, size_t columns);
    size_t (*vector_bytes)(size_t elements);
} format_t;

/* Elements of the mode's type. */
const format_t *format_dense(dtype_t mode);

#endif
