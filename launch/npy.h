/* Writes one two-dimensional array as a NumPy .npy file, rows as they come.
 *
 * Format (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), version 1.0: the
 * six bytes \x93NUMPY, 1, 0, a little-endian 16-bit length, that many bytes of a Python dictionary
 * literal ending in a newline, padded with spaces so that the data, row-major and little-endian,
 * begins at a multiple of 64. */
#ifndef CHOIR_LAUNCH_NPY_H
#define CHOIR_LAUNCH_NPY_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/out_file.h"
#include "engine/base/status.h"

typedef struct npy {
    out_file_t *file; /* NULL when not open */
    const char *path; /* borrowed */
    size_t row_bytes;
} npy_t;

/* [n_rows, n_columns] of f64 when is_f64, else f32. FAIL_FILE. */
int npy_open(
    npy_t *npy, const char *path, size_t n_rows, size_t n_columns, bool is_f64, fail_t *fail);
/* The next rows. FAIL_FILE. */
int npy_write(npy_t *npy, const void *rows, size_t n_rows, fail_t *fail);
/* FAIL_FILE when the last bytes could not be written. After a failure of the run, which *fail holds
 * then, the file does not take its place. Nothing happens when not open. */
int npy_close(npy_t *npy, fail_t *fail);

#endif
