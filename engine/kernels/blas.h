/* OpenBLAS, loaded when it is first asked for: its threads would otherwise start with every rank.
 *
 * Products as the yardstick of our own kernels; row-major. Owns nothing that must be released; not
 * thread safe. */
#ifndef CHOIR_KERNELS_BLAS_H
#define CHOIR_KERNELS_BLAS_H

#include <stddef.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"

typedef struct blas {
    void (*set_threads)(int n);
    /* What it was built as: "OpenBLAS 0.3.21 ... SkylakeX". */
    const char *description;
    void *sgemm, *dgemm, *sbgemm; /* sbgemm: NULL where the library lacks it */
} blas_t;

/* FAIL_FILE when the library is not there. */
int blas_open(blas_t *blas, fail_t *fail);

/* "cblas_sgemm", and the type of its inputs, for weights of a mode: f32 for bf16 where there is no
 * sbgemm. */
const char *blas_function(const blas_t *blas, dtype_t mode, dtype_t *inputs);

/* c = a w^T. type: as blas_function gave it.
 * a: [rows, inputs] type; w: [outputs, inputs] type; c: [rows, outputs] f32, or f64 for f64 */
void blas_product(const blas_t *blas, dtype_t type, size_t rows, size_t outputs, size_t inputs,
    const void *a, const void *w, void *c);

#endif
