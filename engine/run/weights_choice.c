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
enum { INPUTS = 1024, PANELS = 256, TURNS = 9, LEAF = 512 };

typedef struct work {
    matrix_t dense, packed;
    double dense_s[TURNS], packed_s[TURNS]; /* of a weight */
} work_t;

typedef struct job {
    const kernels_t *kernels;
    dot_t dot;
    team_t *team;
    work_t *work; /* of each thread */
} job_t;

static double measure_product(const job_t *job, size_t thread, const matrix_t *matrix)
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
    return (double)(clock_ns() - began) * 1e-9 / weights;
}

/* Sums of four uniform numbers: near to normal, as trained weights are, so that palettes lack a few of them. */
static uint16_t weight_of(uint32_t *state)
{
    float sum = -2;
    for (int i = 0; i < 4; i++) {
        *state = *state * 1664525u + 1013904223u;
        sum += (float)(*state >> 8) * 0x1p-24f;
    }
    return (uint16_t)(f32_bits(sum) >> 16);
}

/* The first panels are packed, the others are copies. */
static void fill(work_t *work)
{
    enum { DISTINCT = 16 };
    const format_t *packed = work->packed.format;
    const size_t dense_bytes = work->dense.bytes / PANELS,
                 packed_bytes = work->packed.bytes / PANELS;
    char *dense_panels = work->dense.panels, *packed_panels = work->packed.panels;
    uint32_t state = 1;
    fail_t none = {0};
    spill_t spill = {0};
    for (size_t p = 0; p < PANELS; p++) {
        uint16_t *weights = (uint16_t *)(void *)(dense_panels + p * dense_bytes);
        void *to = packed_panels + p * packed_bytes;
        if (p >= DISTINCT) {
            memcpy(weights, dense_panels + p % DISTINCT * dense_bytes, dense_bytes);
            memcpy(to, packed_panels + p % DISTINCT * packed_bytes, packed_bytes);
            continue;
        }
        for (size_t i = 0; i < INPUTS * KERNEL_PANEL; i++)
            weights[i] = weight_of(&state);
        packed->pack_panel(packed, INPUTS, weights, to, &spill, &none);
    }
}

static void measure_thread(void *context, size_t thread)
{
    const job_t *job = context;
    work_t *work = &job->work[thread];
    fill(work);
    for (size_t turn = 0; turn < TURNS; turn++) {
        work->dense_s[turn] = measure_product(job, thread, &work->dense);
        work->packed_s[turn] = measure_product(job, thread, &work->packed);
    }
}

static int open_work(work_t *work, fail_t *fail)
{
    const format_t *dense = format_dense(DTYPE_BF16);
    matrix_t *both[] = {&work->dense, &work->packed};
    *work = (work_t){0};
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

static int compare_seconds(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of a weight: of each turn the slowest thread's, for which a step would wait; of all turns the median. */
static double typical_seconds(const work_t *work, size_t n_threads, bool packed)
{
    double slowest[TURNS] = {0};
    for (size_t turn = 0; turn < TURNS; turn++)
        for (size_t i = 0; i < n_threads; i++)
            slowest[turn] =
                fmax(slowest[turn], packed ? work[i].packed_s[turn] : work[i].dense_s[turn]);
    qsort(slowest, TURNS, sizeof *slowest, compare_seconds);
    return slowest[TURNS / 2];
}

int weights_rates_measure(
    team_t *team, const kernels_t *kernels, dot_t dot, weights_rates_t *rates, fail_t *fail)
{
    size_t n = team_size(team), bytes = n * sizeof(work_t);
    job_t job = {kernels, dot, team, memory_alloc(bytes, "a measurement of weights", fail)};
    *rates = (weights_rates_t){0};
    if (job.work == NULL)
        return fail->status;
    memset(job.work, 0, bytes);
    for (size_t i = 0; i < n && fail->status == 0; i++)
        open_work(&job.work[i], fail);
    if (fail->status == 0)
        team_run(team, measure_thread, &job);
    if (fail->status == 0)
        *rates = (weights_rates_t){.dense = 1 / typical_seconds(job.work, n, false),
            .packed = 1 / typical_seconds(job.work, n, true)};
    for (size_t i = 0; i < n; i++)
        close_work(&job.work[i]);
    memory_free(job.work, bytes);
    return fail->status;
}

int weights_rates_find(
    team_t *team, const kernels_t *kernels, dot_t dot, weights_rates_t *rates, fail_t *fail)
{
    if (weights_rates_given(rates, fail) == 0 && !rates->given)
        weights_rates_measure(team, kernels, dot, rates, fail);
    return fail->status;
}
