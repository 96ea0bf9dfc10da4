#include "engine/run/weights_choice.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"

#define LEAST_GAIN 0.97

bool weights_packed_is_faster(double dense_s, double packed_s)
{
    return packed_s < LEAST_GAIN * dense_s;
}

int weights_rates_parse(const char *text, weights_rates_t *rates, fail_t *fail)
{
    int length = -1;
    *rates = (weights_rates_t){0};
    if (sscanf(text, "%lf,%lf%n", &rates->dense, &rates->packed, &length) < 2 || length < 0 ||
        text[length] != 0 || !(rates->dense > 0 && rates->dense < 1e6) ||
        !(rates->packed > 0 && rates->packed < 1e6))
        return fail_set(fail, FAIL_USAGE,
            "CHOIR_WEIGHTS_RATES: expected 1e9 dense and packed weights a second of a thread, as 7.5,9, found \"%s\"",
            text);
    rates->dense *= 1e9;
    rates->packed *= 1e9;
    return 0;
}

int weights_rates_given(weights_rates_t *rates, fail_t *fail)
{
    const char *text = getenv("CHOIR_WEIGHTS_RATES");
    *rates = (weights_rates_t){0};
    if (text != NULL && weights_rates_parse(text, rates, fail) == 0)
        rates->given = true;
    return fail->status;
}

/* ---- Measurement ----------------------------------------------------------------------------- */

/* Of a thread: a matrix in both formats, more than its part of the caches. */
enum { INPUTS = 1024, PANELS = 256, TURNS = 4, LEAF = 512 };

typedef struct work {
    matrix_t dense, packed;
    double dense_s, packed_s; /* of a weight */
} work_t;

typedef struct job {
    const kernels_t *kernels;
    dot_t dot;
    team_t *team;
    work_t *work; /* of each thread */
} job_t;

static void measure_product(const job_t *job, size_t thread, const matrix_t *matrix, double *best)
{
    enum { TOGETHER = MATRIX_MAX_PANELS };
    uint16_t x[INPUTS];
    float c[TOGETHER * KERNEL_PANEL];
    panel_t panels[TOGETHER];
    const matrix_rows_t rows = {.x = x, .stride = INPUTS, .n = 1, .n_single_rows = 1};
    const size_t leaf = job->dot == DOT_AMX ? MATRIX_ONE_LEAF : LEAF;
    for (size_t i = 0; i < INPUTS; i++)
        x[i] = (uint16_t)(0x3f80 + i % 64);
    team_barrier(job->team, thread);
    uint64_t began = clock_ns();
    for (size_t p = 0, n; p < PANELS; p += n) {
        n = size_min(TOGETHER, PANELS - p);
        for (size_t i = 0; i < n; i++)
            panels[i] = (panel_t){matrix, p + i};
        matrix_product(job->kernels, job->dot, panels, n, &rows, leaf, leaf, NULL, c);
    }
    double weights = (double)PANELS * KERNEL_PANEL * INPUTS;
    *best = fmin(*best, (double)(clock_ns() - began) * 1e-9 / weights);
}

/* One panel is packed, the others are copies. */
static void fill(work_t *work)
{
    const format_t *packed = work->packed.format;
    uint16_t *weights = work->dense.panels;
    fail_t none = {0};
    spill_t spill = {0};
    /* Of a few exponents, as trained weights are. */
    for (uint32_t i = 0; i < INPUTS * KERNEL_PANEL; i++)
        weights[i] = (uint16_t)(0x3c00 + (i * 2654435761u >> 16 & 0x81ff));
    packed->pack_panel(packed, INPUTS, weights, work->packed.panels, &spill, &none);
    for (const matrix_t *m = &work->dense; m != NULL; m = m == &work->dense ? &work->packed : NULL)
        for (size_t p = 1; p < PANELS; p++)
            memcpy((char *)m->panels + p * (m->bytes / PANELS), m->panels, m->bytes / PANELS);
}

static void measure_thread(void *context, size_t thread)
{
    const job_t *job = context;
    work_t *work = &job->work[thread];
    fill(work);
    for (size_t turn = 0; turn < TURNS; turn++) {
        measure_product(job, thread, &work->dense, &work->dense_s);
        measure_product(job, thread, &work->packed, &work->packed_s);
    }
}

static int open_work(work_t *work, fail_t *fail)
{
    const format_t *dense = format_dense(DTYPE_BF16);
    matrix_t *both[] = {&work->dense, &work->packed};
    *work = (work_t){.dense_s = INFINITY, .packed_s = INFINITY};
    for (size_t i = 0; i < 2; i++) {
        const format_t *format = i == 0 ? dense : format_packed(dense);
        *both[i] = (matrix_t){.format = format, .rows = PANELS * KERNEL_PANEL, .columns = INPUTS};
        both[i]->bytes = format_matrix_bytes(format, both[i]->rows, INPUTS);
        both[i]->panels = memory_alloc(both[i]->bytes, "a matrix to be measured", fail);
    }
    return fail->status;
}

static void close_work(work_t *work)
{
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
        slowest.dense_s = fmax(slowest.dense_s, job.work[i].dense_s);
        slowest.packed_s = fmax(slowest.packed_s, job.work[i].packed_s);
        close_work(&job.work[i]);
    }
    memory_free(job.work, bytes);
    *rates = (weights_rates_t){.dense = 1 / slowest.dense_s, .packed = 1 / slowest.packed_s};
    return fail->status;
}

int weights_rates_find(
    team_t *team, const kernels_t *kernels, dot_t dot, weights_rates_t *rates, fail_t *fail)
{
    if (weights_rates_given(rates, fail) == 0 && !rates->given)
        weights_rates_measure(team, kernels, dot, rates, fail);
    return fail->status;
}
