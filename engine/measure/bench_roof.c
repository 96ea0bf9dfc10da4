#include "engine/measure/bench_roof.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/kernels/roof.h"

#define PAGE 4096
#define FIRST_STEPS 65536
#define LEAST_NS 30000000 /* of a run: long enough for the clock and for threads to meet */

static team_part_t pages_of(const bench_roof_t *roof, size_t thread)
{
    return team_part(roof->bytes / PAGE, thread, team_size(roof->team));
}

static void fill_thread(void *context, size_t thread)
{
    bench_roof_t *roof = context;
    team_part_t part = pages_of(roof, thread);
    memset(roof->memory + part.begin * PAGE, 1, (part.end - part.begin) * PAGE);
}

static void read_thread(void *context, size_t thread)
{
    bench_roof_t *roof = context;
    team_part_t part = pages_of(roof, thread);
    roof->work[thread].sink =
        (double)roof_read(roof->memory + part.begin * PAGE, (part.end - part.begin) * PAGE);
}

static void multiply_thread(void *context, size_t thread)
{
    bench_roof_t *roof = context;
    dtype_t wide = roof->mode == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
    uint64_t steps = roof->steps[roof->kind];
    double operations = 0, value;
    if (roof->kind == BENCH_ROOF_INT8)
        value = roof_multiply_int8(roof->isa, steps, &operations);
    else if (roof->kind == BENCH_ROOF_FMA)
        value = roof_multiply(roof->isa, wide, steps, &operations);
    else
        value = roof_multiply(roof->matrix_isa, roof->mode, steps, &operations);
    roof->work[thread].sink = value;
    roof->work[thread].operations = operations;
}

/* Seconds of one run on all threads of all ranks, started together. */
static double timed(bench_roof_t *roof, void (*fn)(void *, size_t))
{
    comm_barrier(roof->comm);
    uint64_t start = clock_ns();
    team_run(roof->team, fn, roof);
    comm_barrier(roof->comm);
    return (double)(clock_ns() - start) * 1e-9;
}

/* Every rank finds the same number of steps. */
static void calibrate(bench_roof_t *roof, int kind)
{
    int64_t ns = 0;
    roof->kind = kind;
    roof->steps[kind] = FIRST_STEPS;
    do {
        roof->steps[kind] *= 2;
        ns = comm_max(roof->comm, (int64_t)(timed(roof, multiply_thread) * 1e9));
        if (comm_max(roof->comm, roof->work[0].operations > 0) == 0)
            return; /* nothing runs here */
    } while (ns < LEAST_NS);
}

int bench_roof_open(bench_roof_t *roof, comm_t *comm, team_t *team, isa_t isa, isa_t matrix_isa,
    dtype_t mode, size_t bytes, fail_t *fail)
{
    *roof = (bench_roof_t){.comm = comm,
        .team = team,
        .isa = isa,
        .matrix_isa = matrix_isa,
        .mode = mode,
        .bytes = bytes};
    roof->work = aligned_alloc(64, team_size(team) * sizeof *roof->work);
    roof->memory = memory_alloc(bytes, "memory to measure the bandwidth with", fail);
    if (roof->work == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    team_run(team, fill_thread, roof);
    for (int kind = 0; kind < BENCH_ROOFS; kind++)
        calibrate(roof, kind);
    return 0;
}

void bench_roof_close(bench_roof_t *roof)
{
    memory_free(roof->memory, roof->bytes);
    free(roof->work);
    *roof = (bench_roof_t){0};
}

void bench_roof_multiply(bench_roof_t *roof, int kind, double *seconds, double *operations)
{
    double mine = 0;
    roof->kind = kind;
    *seconds += timed(roof, multiply_thread);
    for (size_t t = 0; t < team_size(roof->team); t++)
        mine += roof->work[t].operations;
    *operations += (double)comm_sum(roof->comm, (int64_t)mine);
}

void bench_roof_read(bench_roof_t *roof, double *seconds, double *bytes)
{
    *seconds += timed(roof, read_thread);
    *bytes += (double)roof->bytes * comm_size(roof->comm);
}
