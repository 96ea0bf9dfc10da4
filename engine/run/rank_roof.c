#include "engine/run/rank_roof.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/kernels/roof.h"

#define PAGE ((size_t)4096)
#define PIECE ((size_t)1 << 18) /* bytes between two reads of the clock */
#define STEPS 65536             /* multiply-adds, likewise */
#define RUN_NS 60000000
#define RUNS 4
#define STEADY_NS 330000000 /* several periods of a control group's quota, of 100 ms each */

/* What a thread did in its last run. sink: keeps measured work from being removed. */
typedef struct work {
    _Alignas(64) double done;
    volatile double sink;
} work_t;

typedef struct roof_run {
    team_t *team;
    isa_t isa;
    char *memory; /* [bytes], placed by the threads that read it */
    size_t bytes;
    uint64_t deadline;
    work_t *work; /* [threads] */
} roof_run_t;

/* The thread's pages. */
static char *part_of(const roof_run_t *run, size_t thread, size_t *bytes)
{
    team_part_t part = team_part(run->bytes / PAGE, thread, team_size(run->team));
    *bytes = (part.end - part.begin) * PAGE;
    return run->memory + part.begin * PAGE;
}

static void fill_thread(void *context, size_t thread)
{
    size_t bytes;
    char *part = part_of(context, thread, &bytes);
    memset(part, 1, bytes);
}

static void read_thread(void *context, size_t thread)
{
    roof_run_t *run = context;
    work_t *work = &run->work[thread];
    size_t bytes, at = 0;
    const char *part = part_of(run, thread, &bytes);
    work->done = 0;
    while (bytes > 0 && clock_ns() < run->deadline) {
        size_t piece = size_min(PIECE, bytes - at);
        work->sink = (double)roof_read(part + at, piece);
        work->done += (double)piece;
        at = (at + piece) % bytes;
    }
}

static void multiply_thread(void *context, size_t thread)
{
    roof_run_t *run = context;
    work_t *work = &run->work[thread];
    work->done = 0;
    while (clock_ns() < run->deadline) {
        double operations = 0;
        work->sink = roof_multiply(run->isa, DTYPE_BF16, STEPS, &operations);
        work->done += operations;
    }
}

/* Collective. Work a second of this rank. */
static double rate(comm_t *comm, roof_run_t *run, void (*fn)(void *, size_t), uint64_t for_ns)
{
    double done = 0;
    comm_barrier(comm);
    uint64_t start = clock_ns();
    run->deadline = start + for_ns;
    team_run(run->team, fn, run);
    double seconds = (double)(clock_ns() - start) * 1e-9;
    for (size_t t = 0; t < team_size(run->team); t++)
        done += run->work[t].done;
    return done / seconds;
}

/* Collective; failures are agreed on. roof_close is to be called in any case. */
static int roof_open(
    comm_t *comm, team_t *team, isa_t isa, size_t bytes, roof_run_t *run, fail_t *fail)
{
    *run = (roof_run_t){.team = team, .isa = isa, .bytes = bytes};
    run->work = team == NULL ? NULL : aligned_alloc(64, team_size(team) * sizeof *run->work);
    run->memory = memory_alloc(bytes, "memory to measure the bandwidth with", fail);
    if (run->work == NULL)
        fail_set(fail, FAIL_MEMORY, "bandwidth of memory: out of memory");
    if (comm_agree(comm, fail) == 0)
        team_run(team, fill_thread, run);
    return fail->status;
}

static void roof_close(roof_run_t *run)
{
    memory_free(run->memory, run->bytes);
    free(run->work);
}

int rank_roof_measure(
    comm_t *comm, team_t *team, isa_t isa, size_t bytes, rank_roof_t *roof, fail_t *fail)
{
    roof_run_t run;
    *roof = (rank_roof_t){0};
    if (roof_open(comm, team, isa, bytes, &run, fail) == 0) {
        for (int i = 0; i < RUNS; i++) {
            double read = rate(comm, &run, read_thread, RUN_NS);
            double multiplied = rate(comm, &run, multiply_thread, RUN_NS);
            roof->read_bytes_per_s = fmax(roof->read_bytes_per_s, read);
            roof->flop_per_s = fmax(roof->flop_per_s, multiplied);
        }
    }
    roof_close(&run);
    return fail->status;
}

int rank_roof_bandwidth(
    comm_t *comm, team_t *team, size_t bytes, double *read_bytes_per_s, fail_t *fail)
{
    roof_run_t run;
    *read_bytes_per_s = 0;
    if (roof_open(comm, team, ISA_SCALAR, bytes, &run, fail) == 0)
        *read_bytes_per_s = rate(comm, &run, read_thread, STEADY_NS);
    roof_close(&run);
    return fail->status;
}
