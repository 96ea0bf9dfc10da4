/* Every kernel alone, on one thread: its time, the least time that this core allows, and scalar's.
 *
 * Method. A kernel's data is held in as many copies as fill SPAN_BYTES of cache, and a sample is
 * one call on each, so that in-place kernels meet fresh data; between samples the copies are
 * restored. The best sample counts, as what the kernel can do: samples are short, and other work of
 * the machine only adds to them. The limit is measured too: multiply-adds in registers
 * (roof_multiply), and reading as many bytes as the copies have, which come from the same cache
 * (roof_read). The larger of the two times is the roof. */
#ifndef CHOIR_MEASURE_BENCH_KERNELS_H
#define CHOIR_MEASURE_BENCH_KERNELS_H

#include "engine/kernels/kernel_list.h"

typedef struct bench_kernel_row {
    const char *name;
    dtype_t mode;
    kernel_shape_t shape;
    double flop, bytes;             /* of one call; flop is 0 where only bytes count */
    double seconds, scalar_seconds; /* of one call */
    double roof_seconds;            /* the least time of a call */
} bench_kernel_row_t;

typedef struct bench_kernels {
    bench_kernel_row_t *rows; /* [n_rows] */
    size_t n_rows;
} bench_kernels_t;

/* Local. The kernels of a mode on a set of capabilities that the CPU has. samples: of scalar's
 * kernels; the tested ones take eight times as many. FAIL_MEMORY. kernels: to be cleared by
 * bench_kernels_clear whatever is returned. */
int bench_kernels_run(
    isa_t isa, dtype_t mode, size_t samples, bench_kernels_t *kernels, fail_t *fail);
void bench_kernels_clear(bench_kernels_t *kernels);

#endif
