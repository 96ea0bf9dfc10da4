/* The limits of the machine, reached by all threads of all ranks together. Internal to bench.c. */
#ifndef CHOIR_MEASURE_BENCH_ROOF_H
#define CHOIR_MEASURE_BENCH_ROOF_H

#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "engine/base/team.h"
#include "engine/kernels/kernels.h"

enum { BENCH_ROOF_FMA, BENCH_ROOF_MATRIX, BENCH_ROOF_INT8, BENCH_ROOFS };

/* What a thread did in its last run. sink: keeps measured work from being removed. */
typedef struct bench_roof_work {
    _Alignas(64) double operations;
    volatile double sink;
} bench_roof_work_t;

typedef struct bench_roof {
    comm_t *comm;
    team_t *team;
    isa_t isa, matrix_isa;
    dtype_t mode;
    char *memory; /* [bytes], placed by the threads that read it */
    size_t bytes; /* a multiple of 4096 */
    uint64_t steps[BENCH_ROOFS];
    bench_roof_work_t *work; /* [threads] */
    int kind;                /* what multiply_thread runs */
} bench_roof_t;

/* Collective; failures are agreed on. Fills the memory and finds how many steps take long enough to
 * be timed. matrix_isa: the instruction set of BENCH_ROOF_MATRIX; isa: that of the others. */
int bench_roof_open(bench_roof_t *roof, comm_t *comm, team_t *team, isa_t isa, isa_t matrix_isa,
    dtype_t mode, size_t bytes, fail_t *fail);
void bench_roof_close(bench_roof_t *roof);

/* Collective. Seconds and operations (all ranks together) of one run are added. */
void bench_roof_multiply(bench_roof_t *roof, int kind, double *seconds, double *operations);

/* Collective. Seconds and bytes (all ranks together) of reading the memory once are added. */
void bench_roof_read(bench_roof_t *roof, double *seconds, double *bytes);

#endif
