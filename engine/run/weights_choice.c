#include "engine/run/weights_choice.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/kernels/roof.h"

#define DENSE_BYTES 2.0
#define PACKED_BYTES (12.1 / 8)
#define LEAST_GAIN 0.97

double weights_seconds(const weights_rates_t *rates, bool packed)
{
    double memory = (packed ? PACKED_BYTES : DENSE_BYTES) / rates->memory;
    return fmax(memory, 1 / (packed ? rates->packed : rates->dense));
}

bool weights_packed_is_faster(double dense_s, double packed_s)
{
    return packed_s < LEAST_GAIN * dense_s;
}

int weights_rates_parse(const char *text, weights_rates_t *rates, fail_t *fail)
{
    int length = -1;
    *rates = (weights_rates_t){0};
    if (sscanf(text, "%lf,%lf,%lf%n", &rates->memory, &rates->dense, &rates->packed, &length) < 3 ||
        length < 0 || text[length] != 0 || !(rates->memory > 0 && rates->memory < 1e6) ||
        !(rates->dense > 0 && rates->dense < 1e6) || !(rates->packed > 0 && rates->packed < 1e6))
        return fail_set(fail, FAIL_USAGE,
            "CHOIR_WEIGHTS_RATES: expected GB/s of memory and 1e9 dense and packed weights a second of a thread, as 12.5,9,12, found \"%s\"",
            text);
    rates->memory *= 1e9;
    rates->dense *= 1e9;
    rates->packed *= 1e9;
    return 0;
}

/* ---- Measurement ----------------------------------------------------------------------------- */

/* Of a thread: a matrix in both formats that fits into a second-level cache, and memory that fits into none. */
enum { PANELS = 2, OUTPUTS = PANELS * KERNEL_PANEL, INPUTS = 1024, TURNS = 8, LEAF = 512 };
#define MEMORY_BYTES ((size_t)64 << 20)

typedef struct work {
    matrix_t dense, packed;
    spill_t spill;
    void *memory;
    double memory_s, dense_s, packed_s;
    uint64_t sum;
} work_t;

typedef struct job {
    const kernels_t *kernels;
    dot_t dot;
    team_t *team;
    work_t *work; /* of each thread */
} job_t;

static void measure_product(const job_t *job, const matrix_t *matrix, double *best)
{
    uint16_t x[INPUTS];
    float c[OUTPUTS];
    panel_t panels[PANELS];
    const matrix_rows_t rows = {.x = x, .stride = INPUTS, .n = 1, .n_single_rows = 1};
    const size_t leaf = job->dot == DOT_AMX ? MATRIX_ONE_LEAF : LEAF;
    for (size_t i = 0; i < INPUTS; i++)
        x[i] = (uint16_t)(0x3f80 + i % 64);
    for (size_t p = 0; p < PANELS; p++)
        panels[p] = (panel_t){matrix, p};
    for (size_t turn = 0; turn < TURNS; turn++) {
        uint64_t began = clock_ns();
        for (size_t i = 0; i < TURNS; i++)
            matrix_product(job->kernels, job->dot, panels, PANELS, &rows, leaf, leaf, NULL, c);
        double seconds = (double)(clock_ns() - began) * 1e-9 / TURNS / ((double)INPUTS * OUTPUTS);
        *best = fmin(*best, seconds);
    }
}

static void measure_thread(void *context, size_t thread)
{
    const job_t *job = context;
    work_t *work = &job->work[thread];
    memset(work->memory, 1, MEMORY_BYTES);
    for (size_t turn = 0; turn < 2; turn++) {
        team_barrier(job->team, thread);
        uint64_t began = clock_ns();
        work->sum += roof_read(work->memory, MEMORY_BYTES);
        work->memory_s =
            fmin(work->memory_s, (double)(clock_ns() - began) * 1e-9 / (double)MEMORY_BYTES);
    }
    team_barrier(job->team, thread);
    measure_product(job, &work->dense, &work->dense_s);
    measure_product(job, &work->packed, &work->packed_s);
}

/* Weights of a few exponents, as trained ones have. */
static int open_work(work_t *work, fail_t *fail)
{
    const format_t *dense = format_dense(DTYPE_BF16), *packed = format_packed(dense);
    matrix_t *both[] = {&work->dense, &work->packed};
    *work = (work_t){.memory_s = INFINITY, .dense_s = INFINITY, .packed_s = INFINITY};
    work->memory = memory_alloc(MEMORY_BYTES, "memory to be measured", fail);
    for (size_t i = 0; i < 2; i++) {
        const format_t *format = i == 0 ? dense : packed;
        *both[i] = (matrix_t){.format = format,
            .rows = OUTPUTS,
            .columns = INPUTS,
            .bytes = format_matrix_bytes(format, OUTPUTS, INPUTS)};
        both[i]->panels = memory_alloc(both[i]->bytes, "a matrix to be measured", fail);
    }
    if (fail->status != 0)
        return fail->status;
    uint16_t *weights = work->dense.panels;
    for (uint32_t i = 0; i < INPUTS * OUTPUTS; i++)
        weights[i] = (uint16_t)(0x3c00 + (i * 2654435761u >> 16 & 0x81ff));
    for (size_t p = 0; p < PANELS; p++)
        packed->pack_panel(packed, INPUTS, matrix_panel(&work->dense, p, 0),
            (void *)(uintptr_t)matrix_panel(&work->packed, p, 0), &work->spill, fail);
    return fail->status;
}

static void close_work(work_t *work)
{
    memory_free(work->memory, MEMORY_BYTES);
    memory_free(work->dense.panels, work->dense.bytes);
    memory_free(work->packed.panels, work->packed.bytes);
}

int weights_rates_measure(
    team_t *team, const kernels_t *kernels, dot_t dot, weights_rates_t *rates, fail_t *fail)
{
    size_t n = team_size(team), bytes = n * sizeof(work_t);
    work_t slowest = {0};
    job_t job = {kernels, dot, team, memory_alloc(bytes, "a measurement of weights", fail)};
    *rates = (weights_rates_t){0};
    if (job.work == NULL)
        return fail->status;
    memset(job.work, 0, bytes);
    for (size_t i = 0; i < n && fail->status == 0; i++)
        open_work(&job.work[i], fail);
    if (fail->status == 0)
        team_run(team, measure_thread, &job);
    for (size_t i = 0; i < n; i++) {
        slowest.memory_s = fmax(slowest.memory_s, job.work[i].memory_s);
        slowest.dense_s = fmax(slowest.dense_s, job.work[i].dense_s);
        slowest.packed_s = fmax(slowest.packed_s, job.work[i].packed_s);
        close_work(&job.work[i]);
    }
    memory_free(job.work, bytes);
    *rates = (weights_rates_t){1 / slowest.memory_s, 1 / slowest.dense_s, 1 / slowest.packed_s};
    return fail->status;
}
