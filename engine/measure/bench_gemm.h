/* Choir's matrix kernels alone, on the shapes of a model, against OpenBLAS's gemm.
 *
 * Method. A shape's weights are held as often as needed to exceed every cache, and each call uses
 * the next copy, so that products with few rows read memory as a decode step does. A sample is as
 * many calls as take 10 ms. Samples of Choir and of OpenBLAS alternate, after a pause in which the
 * other's threads go to sleep. Choir's threads are bound, since one that is woken for 10 ms may
 * spend them on the core of the one that woke it. The caller is bound for Choir's samples only:
 * threads that OpenBLAS starts from it would inherit its one core. bf16 is compared with sbgemm
 * where the library has it, else with sgemm on weights of twice the size. */
#ifndef CHOIR_MEASURE_BENCH_GEMM_H
#define CHOIR_MEASURE_BENCH_GEMM_H

#include <stddef.h>

#include "comm/topology.h"
#include "engine/base/status.h"
#include "engine/kernels/kernels.h"
#include "engine/model/config.h"
#include "engine/model/order.h"

typedef struct bench_gemm_row {
    char name[16]; /* matrices of this shape: "gate, up" */
    size_t outputs, inputs, rows, threads;
    size_t samples;
    double flop, weight_bytes, seconds;     /* of one call of Choir, median */
    double blas_weight_bytes, blas_seconds; /* OpenBLAS's */
} bench_gemm_row_t;

typedef struct bench_gemm {
    char library[128];
    const char *function; /* "cblas_sgemm" */
    size_t n_rows;
    bench_gemm_row_t *rows; /* [n_rows] */
} bench_gemm_t;

typedef struct bench_gemm_options {
    const config_t *config;
    dtype_t mode;
    isa_t isa;
    dot_t dot;
    order_t order;
    size_t threads; /* besides one alone */
    topology_bind_t bind;
    size_t repeat; /* samples; fewer where one takes long */
    void (*progress)(void *context, size_t done, size_t total, const char *shape);
    void *progress_context;
} bench_gemm_options_t;

/* Local. FAIL_MEMORY, with the numbers, before anything large is allocated; FAIL_FILE without
 * OpenBLAS; FAIL_USAGE when there are fewer cores than threads to bind to them. gemm: to be cleared
 * by bench_gemm_clear whatever is returned. */
int bench_gemm_run(const bench_gemm_options_t *options, bench_gemm_t *gemm, fail_t *fail);
void bench_gemm_clear(bench_gemm_t *gemm);

#endif
