/* OpenBLAS, loaded when it is first asked for: its threads would otherwise start with every rank.
 *
 * Products as the yardstick of our own kernels; sums of squares and triangular factors for
 * quantisation; row-major. Owns nothing that must be released. Threads may call the functions at
 * the same time once set_threads(1) was called; the rest is not thread safe. */
#ifndef CHOIR_KERNELS_BLAS_H
#define CHOIR_KERNELS_BLAS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "engine/kernels/isa.h"

typedef struct blas {
    void (*set_threads)(int n);
    /* What it was built as: "OpenBLAS 0.3.21 ... SkylakeX". */
    const char *description;
    const char *core;             /* the kind of CPU whose code it runs: "SkylakeX" */
    void *sgemm, *dgemm, *sbgemm; /* sbgemm: NULL where the library lacks it */
    void *ssyrk, *strmm, *strsm;
    void *spotrf, *strtri; /* NULL where it has no LAPACK */
} blas_t;

/* Before blas_open, once a process: the kernels that OpenBLAS will use are those for CPUs with this instruction set
 * (OPENBLAS_CORETYPE, unless the user has set it), so that results depend on it alone. By itself OpenBLAS uses those of
 * SSE3 on a CPU that is newer than it is. */
void blas_choose_core(isa_t isa);

/* FAIL_FILE when the library is not there. */
int blas_open(blas_t *blas, fail_t *fail);

/* "cblas_sgemm", and the type of its inputs, for weights of a mode: f32 for bf16 where there is no
 * sbgemm. */
const char *blas_function(const blas_t *blas, dtype_t mode, dtype_t *inputs);

/* c = a w^T. type: as blas_function gave it.
 * a: [rows, inputs] type; w: [outputs, inputs] type; c: [rows, outputs] f32, or f64 for f64 */
void blas_product(const blas_t *blas, dtype_t type, size_t rows, size_t outputs, size_t inputs,
    const void *a, const void *w, void *c);

/* FAIL_FILE when the library has no LAPACK, which blas_factor and blas_invert_factor need. */
int blas_need_lapack(const blas_t *blas, fail_t *fail);

/* The rows [first, first + n) of the lower triangle of c += x^T x, up to the diagonal: of one call, so that
 * their bits depend on these arguments alone.
 * x: [n_rows, at least first + n], x_stride apart; c: [first + n, .] of which row r is at c + r * c_stride */
void blas_add_squares(const blas_t *blas, size_t n_rows, size_t first, size_t n, const float *x,
    size_t x_stride, float *c, size_t c_stride);

/* c -= a b. a: [rows, inputs]; b: [inputs, columns]; c: [rows, columns]; rows a_stride, b_stride, c_stride apart */
void blas_subtract_product(const blas_t *blas, size_t rows, size_t columns, size_t inputs,
    const float *a, size_t a_stride, const float *b, size_t b_stride, float *c, size_t c_stride);

/* c -= a b^T. a: [rows, inputs]; b: [columns, inputs]; c: [rows, columns] */
void blas_subtract_transposed(const blas_t *blas, size_t rows, size_t columns, size_t inputs,
    const float *a, size_t a_stride, const float *b, size_t b_stride, float *c, size_t c_stride);

/* The lower triangle of c -= a a^T. a: [n, inputs]; c: [n, n] */
void blas_subtract_squares(const blas_t *blas, size_t n, size_t inputs, const float *a,
    size_t a_stride, float *c, size_t c_stride);

/* Lower triangles of [n, n] matrices whose rows are a_stride or l_stride apart; what is above the diagonal is neither read
 * nor written. */

/* a becomes L with a = L L^T (spotrf). False when a is not positive definite. */
bool blas_factor(const blas_t *blas, size_t n, float *a, size_t a_stride);
/* a becomes its inverse (strtri). False when it is singular. */
bool blas_invert_factor(const blas_t *blas, size_t n, float *a, size_t a_stride);
/* b = b inv(L)^T (strsm). b: [rows, n] */
void blas_divide_by_factor(const blas_t *blas, size_t rows, size_t n, const float *l,
    size_t l_stride, float *b, size_t b_stride);
/* b = b L^T, or on the left b = -L^T b (strmm). b: [rows, n], or on the left [n, columns] */
void blas_multiply_by_factor(const blas_t *blas, size_t rows, size_t n, const float *l,
    size_t l_stride, float *b, size_t b_stride);
void blas_multiply_left_by_factor(const blas_t *blas, size_t n, size_t columns, const float *l,
    size_t l_stride, float *b, size_t b_stride);

#endif
