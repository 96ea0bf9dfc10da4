#include "engine/measure/bench_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/kernels/roof.h"

#define SPAN_BYTES ((size_t)256 << 10) /* within the second-level cache of every CPU here */
#define MAX_COPIES 512
#define PAGE_BYTES ((size_t)4096)
#define ROOF_STEPS 2000000 /* multiply-adds: some milliseconds */
#define SAMPLES_PER_SCALAR 8

/* One kernel's copies of its data. */
typedef struct trial {
    const kernel_entry_t *entry;
    kernel_shape_t shape;
    kernel_data_t pristine;
    size_t n_copies;
    kernel_data_t copies[MAX_COPIES];
} trial_t;

static void trial_close(trial_t *trial)
{
    for (size_t i = 0; i < trial->n_copies; i++)
        kernel_data_close(&trial->copies[i]);
    kernel_data_close(&trial->pristine);
    trial->n_copies = 0;
}

static int trial_open(trial_t *trial, const kernels_t *kernels, fail_t *fail)
{
    trial->n_copies = 0;
    if (kernel_data_open(
            &trial->pristine, trial->entry, kernels, &trial->shape, FILL_UNIT, 1, fail) != 0)
        return fail->status;
    size_t n = size_min(MAX_COPIES, size_max(1, SPAN_BYTES / trial->pristine.bytes));
    for (; trial->n_copies < n && fail->status == 0; trial->n_copies++)
        if (kernel_data_open(&trial->copies[trial->n_copies], trial->entry, kernels, &trial->shape,
                FILL_UNIT, 1, fail) != 0)
            break;
    return fail->status;
}

static void restore(trial_t *trial)
{
    for (size_t i = 0; i < trial->n_copies; i++)
        for (size_t b = 0; b < KERNEL_BUFFERS; b++)
            memcpy(trial->copies[i].data[b], trial->pristine.data[b],
                trial->pristine.buffers[b].count * dtype_bytes(trial->pristine.buffers[b].type));
}

/* Seconds of a call. */
static double time_calls(trial_t *trial, const kernels_t *kernels)
{
    restore(trial);
    uint64_t begin = clock_ns();
    for (size_t i = 0; i < trial->n_copies; i++)
        trial->entry->call(kernels, &trial->shape, trial->copies[i].data);
    return (double)(clock_ns() - begin) * 1e-9 / (double)trial->n_copies;
}

/* Seconds to read `bytes` from the cache that holds `span` bytes: the best of all samples. */
static double read_seconds(size_t span, double bytes, size_t samples, fail_t *fail)
{
    size_t whole = size_round_up(span, PAGE_BYTES);
    void *memory = memory_alloc(whole, "measuring a cache", fail);
    if (memory == NULL)
        return 0;
    memset(memory, 1, whole);
    double best = INFINITY;
    volatile uint64_t sink = roof_read(memory, whole);
    for (size_t i = 0; i < samples; i++) {
        uint64_t begin = clock_ns();
        sink = roof_read(memory, whole);
        double seconds = (double)(clock_ns() - begin) * 1e-9;
        best = fmin(best, seconds);
    }
    (void)sink;
    memory_free(memory, whole);
    return best / (double)whole * bytes;
}

/* FLOP per second in registers; 0 where there is no such measurement. */
static double flop_rate(isa_t isa, dtype_t mode, size_t samples)
{
    double best = 0, flop = 0;
    for (size_t i = 0; i < samples; i++) {
        uint64_t begin = clock_ns();
        volatile double sink = roof_multiply(isa, mode, ROOF_STEPS, &flop);
        (void)sink;
        double rate = flop / ((double)(clock_ns() - begin) * 1e-9);
        best = fmax(best, rate);
    }
    return best;
}

/* Of one shape of a kernel. peak: FLOP per second. */
static int measure(trial_t *trial, const kernels_t *tested, const kernels_t *scalar, double peak,
    size_t samples, bench_kernel_row_t *row, fail_t *fail)
{
    if (trial_open(trial, tested, fail) == 0) {
        double best = INFINITY, best_scalar = INFINITY;
        time_calls(trial, tested); /* warms up */
        for (size_t i = 0; i < samples; i++) {
            best = fmin(best, time_calls(trial, tested));
            if (i % SAMPLES_PER_SCALAR == 0)
                best_scalar = fmin(best_scalar, time_calls(trial, scalar));
        }
        *row = (bench_kernel_row_t){.name = trial->entry->name,
            .mode = tested->mode,
            .shape = trial->shape,
            .flop = trial->entry->flop != NULL ? trial->entry->flop(&trial->shape) : 0,
            .bytes = (double)trial->pristine.bytes,
            .seconds = best,
            .scalar_seconds = best_scalar};
        row->roof_seconds =
            read_seconds(trial->n_copies * trial->pristine.bytes, row->bytes, samples, fail);
        if (peak > 0 && row->flop / peak > row->roof_seconds)
            row->roof_seconds = row->flop / peak;
    }
    trial_close(trial);
    return fail->status;
}

int bench_kernels_run(
    isa_t isa, dtype_t mode, size_t samples, bench_kernels_t *kernels, fail_t *fail)
{
    kernels_t tested, scalar;
    kernels_get(&tested, isa, mode);
    kernels_get(&scalar, ISA_SCALAR, mode);
    *kernels = (bench_kernels_t){0};
    samples *= SAMPLES_PER_SCALAR;
    trial_t *trial = calloc(1, sizeof *trial);
    kernels->rows = calloc(2 * kernel_list_count, sizeof *kernels->rows);
    if (trial == NULL || kernels->rows == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    /* Chains of multiply-adds run on the FMA units, where AMX has tiles of its own. */
    double fma = flop_rate(isa & ~CPU_AMX_BF16, mode, samples);
    double tiles = isa_has(isa, ISA_AMX) ? flop_rate(isa, mode, samples) : fma;
    for (size_t i = 0; i < kernel_list_count && fail->status == 0; i++) {
        trial->entry = &kernel_list[i];
        for (size_t t = 0; t < 2 && kernel_exists(trial->entry, &tested) && fail->status == 0;
             t++) {
            trial->shape = trial->entry->timed[t];
            if (measure(trial, &tested, &scalar,
                    (trial->entry->uses & KERNELS_AMX) != 0 ? tiles : fma, samples,
                    &kernels->rows[kernels->n_rows], fail) == 0)
                kernels->n_rows++;
        }
    }
    free(trial);
    return fail->status;
}

void bench_kernels_clear(bench_kernels_t *kernels)
{
    free(kernels->rows);
    *kernels = (bench_kernels_t){0};
}
