#include "engine/measure/calibrate.h"

#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "comm/stream.h"
#include "engine/base/clock.h"
#include "engine/base/size.h"

#define SMALL_GATHER 256 /* bytes whose time is negligible */
#define ROW_BYTES ((size_t)8 << 10)
#define LARGE_ROWS 512  /* of a prompt's step: packed, and 2 ms of a link of 16 Gbit/s */
#define BURST_ROWS 128  /* share of the bytes from which a burst counts */
#define LEAST_BURST 0.1 /* share of these bytes that is */
#define PAUSE_NS 20000000
#define GATHER_REPEATS 21
#define STREAM_TILES 8
#define WORK_BYTES                                                                                 \
    ((size_t)1                                                                                     \
        << 20)         /* that a second-level cache has room for, as products' rows                \
                        */
#define WORK_TIMES 1.5 /* as long as the link takes for what streams meanwhile */

void calibrate_runs(bench_options_t *runs)
{
    static const struct {
        size_t batch, prompt, context;
    } sizes[CALIBRATE_RUNS] = {{1, 32, 128}, {1, 128, 512}, {1, 512, 2048}, {1, 2048, 2048},
        {2, 128, 256}, {4, 128, 128}, {16, 32, 128}, {16, 128, 1024}, {64, 8, 128}};
    for (size_t i = 0; i < CALIBRATE_RUNS; i++)
        runs[i] = (bench_options_t){.batch = sizes[i].batch,
            .prompt_tokens = sizes[i].prompt,
            .context = sizes[i].context,
            .gen_tokens = 8};
}

/* ---- Samples --------------------------------------------------------------------------------- */

/* Means over ranks. */
static predict_split_t mean_split(const bench_report_t *report, bench_phase_t phase)
{
    predict_split_t sum = {0};
    double scale = 1 / (double)report->n_ranks;
    for (size_t r = 0; r < report->n_ranks; r++) {
        const bench_split_t *s = &report->splits[(size_t)phase * report->n_ranks + r];
        sum.matrix += s->matrix * scale;
        sum.attention += s->attention * scale;
        sum.elementwise += s->elementwise * scale;
        sum.exchange += s->exchange * scale;
        sum.waiting += s->waiting * scale;
        sum.sampling += s->sampling * scale;
    }
    return sum;
}

/* Makes the parts add up to so many seconds. */
static void scale_split(predict_split_t *s, double seconds)
{
    double all = predict_seconds(s), scale = all > 0 ? seconds / all : 0;
    s->matrix *= scale;
    s->attention *= scale;
    s->elementwise *= scale;
    s->exchange *= scale;
    s->waiting *= scale;
    s->sampling *= scale;
}

calibrate_sample_t calibrate_sample(
    const bench_options_t *run, const bench_report_t *report, size_t chunk)
{
    calibrate_sample_t sample = {.work = {.batch = run->batch,
                                     .prompt_tokens = run->prompt_tokens,
                                     .context = run->context,
                                     .gen_tokens = run->gen_tokens,
                                     .chunk = chunk},
        .prefill = mean_split(report, BENCH_PREFILL),
        .decode = mean_split(report, BENCH_DECODE)};
    double tokens = (double)(run->batch * run->prompt_tokens);
    scale_split(&sample.prefill, tokens / bench_spread(report, BENCH_PREFILL_TOKENS).median);
    scale_split(&sample.decode, bench_spread(report, BENCH_TOKEN).median);
    return sample;
}

/* The repetition of sample `run` that (repeat - 1) / 2 others are faster than; ties by their order.
 */
static const predict_split_t *median_of(
    const calibrate_sample_t *samples, size_t repeat, size_t run, bool prefill)
{
    for (size_t i = 0; i < repeat; i++) {
        const calibrate_sample_t *mine = &samples[i * CALIBRATE_RUNS + run];
        const predict_split_t *split = prefill ? &mine->prefill : &mine->decode;
        size_t before = 0;
        for (size_t j = 0; j < repeat; j++) {
            const calibrate_sample_t *other = &samples[j * CALIBRATE_RUNS + run];
            double theirs = predict_seconds(prefill ? &other->prefill : &other->decode);
            before +=
                theirs < predict_seconds(split) || (theirs == predict_seconds(split) && j < i);
        }
        if (before == (repeat - 1) / 2)
            return split;
    }
    return prefill ? &samples[run].prefill : &samples[run].decode;
}

void calibrate_medians(
    const calibrate_sample_t *samples, size_t repeat, calibrate_sample_t *medians)
{
    for (size_t run = 0; run < CALIBRATE_RUNS; run++)
        medians[run] = (calibrate_sample_t){.work = samples[run].work,
            .prefill = *median_of(samples, repeat, run, true),
            .decode = *median_of(samples, repeat, run, false)};
}

/* ---- Fitting --------------------------------------------------------------------------------- */

typedef struct fit {
    const plan_t *plan;
    const calibrate_sample_t *samples;
    size_t n;
    predict_rates_t *rates;
} fit_t;

static predict_curve_t one(void)
{
    return (predict_curve_t){.n = 1, .x = {1}, .y = {1}};
}

/* The model's time of a sample with these rates. */
static predict_result_t model_of(const fit_t *f, size_t sample, predict_rates_t rates)
{
    const predict_network_t none = {0};
    predict_result_t result;
    rates.threads = f->rates->threads;
    predict_run(f->plan, &rates, &none, f->plan->n_ranks, &f->samples[sample].work, &result);
    return result;
}

static size_t rows_of(const fit_t *f, size_t i)
{
    return f->samples[i].work.batch * f->samples[i].work.prompt_tokens;
}

static bool is_one_step(const fit_t *f, size_t i)
{
    return rows_of(f, i) <= f->samples[i].work.chunk;
}

/* The sample of one sequence, and that of the most, in decode; in prefill the most rows of a step.
 */
static size_t single_row_sample(const fit_t *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->samples[i].work.batch == 1)
            return i;
    return 0;
}

static size_t wide_sample(const fit_t *f, bool prefill)
{
    size_t best = 0, most = 0;
    for (size_t i = 0; i < f->n; i++) {
        size_t size = prefill ? (is_one_step(f, i) ? rows_of(f, i) : 0) : f->samples[i].work.batch;
        if (size > most) {
            most = size;
            best = i;
        }
    }
    return best;
}

/* Adds the mean of the values at equal x. */
static void add_means(const double *x, const double *y, size_t n, predict_curve_t *curve)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0, count = 0;
        for (size_t j = 0; j < n; j++)
            if (x[j] == x[i] && y[j] > 0) {
                sum += y[j];
                count++;
            }
        if (x[i] > 0 && count > 0)
            predict_curve_add(curve, x[i], sum / count);
    }
}

static void fit_matrices(fit_t *f)
{
    double x[CALIBRATE_RUNS] = {0}, y[CALIBRATE_RUNS] = {0}, bytes_of_prompt[CALIBRATE_RUNS];
    for (size_t i = 0; i < f->n; i++) {
        predict_result_t bytes = model_of(f, i, (predict_rates_t){.decode_matrix = one()});
        x[i] = (double)f->samples[i].work.batch;
        y[i] = f->samples[i].decode.matrix / bytes.decode.matrix;
    }
    add_means(x, y, f->n, &f->rates->decode_matrix);
    for (size_t i = 0; i < f->n; i++) {
        predict_result_t bytes = model_of(f, i, (predict_rates_t){.prompt_matrix = one()});
        predict_result_t logits =
            model_of(f, i, (predict_rates_t){.decode_matrix = f->rates->decode_matrix});
        x[i] = is_one_step(f, i) ? (double)rows_of(f, i) : 0;
        bytes_of_prompt[i] = bytes.prefill.matrix;
        y[i] = (f->samples[i].prefill.matrix - logits.prefill.matrix) / bytes_of_prompt[i];
    }
    add_means(x, y, f->n, &f->rates->prompt_matrix);
    /* Where other work on the machine made decoding that slow, the logits' part is not known. */
    if (f->rates->prompt_matrix.n == 0) {
        for (size_t i = 0; i < f->n; i++)
            y[i] = f->samples[i].prefill.matrix / bytes_of_prompt[i];
        add_means(x, y, f->n, &f->rates->prompt_matrix);
    }
}

static void fit_attention(fit_t *f)
{
    double x[CALIBRATE_RUNS] = {0}, y[CALIBRATE_RUNS] = {0}, u[CALIBRATE_RUNS], v[CALIBRATE_RUNS];
    for (size_t i = 0; i < f->n; i++) {
        const predict_work_t *w = &f->samples[i].work;
        predict_result_t flop =
            model_of(f, i, (predict_rates_t){.decode_attention = one(), .prompt_attention = one()});
        x[i] = (double)w->context + (double)(w->gen_tokens + 1) / 2;
        y[i] = f->samples[i].decode.attention / flop.decode.attention;
        u[i] = (double)w->prompt_tokens;
        v[i] = f->samples[i].prefill.attention / flop.prefill.attention;
    }
    add_means(x, y, f->n, &f->rates->decode_attention);
    add_means(u, v, f->n, &f->rates->prompt_attention);
}

/* a[0] x + a[1] y = a[2] and likewise b, neither x nor y below 0. */
static void solve(const double *a, const double *b, double *x, double *y)
{
    double determinant = a[0] * b[1] - a[1] * b[0];
    *x = determinant != 0 ? (a[2] * b[1] - a[1] * b[2]) / determinant : 0;
    *y = determinant != 0 ? (a[0] * b[2] - a[2] * b[0]) / determinant : 0;
    if (*x < 0) {
        *x = 0;
        *y = b[1] > 0 ? b[2] / b[1] : 0;
    } else if (*y < 0) {
        *y = 0;
        *x = a[0] > 0 ? a[2] / a[0] : 0;
    }
}

static void fit_rest(fit_t *f)
{
    predict_rates_t *r = f->rates;
    size_t single_row = single_row_sample(f), wide = wide_sample(f, true),
           many = wide_sample(f, false);
    predict_result_t constant, wide_constant, slope, step;
    const predict_split_t *d = &f->samples[single_row].decode, *p = &f->samples[wide].prefill;

    constant = model_of(f, single_row, (predict_rates_t){.elementwise_layer_s = 1});
    step = model_of(f, single_row, (predict_rates_t){.elementwise_element_s = 1});
    slope = model_of(f, wide, (predict_rates_t){.elementwise_element_s = 1});
    wide_constant = model_of(f, wide, (predict_rates_t){.elementwise_layer_s = 1});
    solve((double[]){constant.decode.elementwise, step.decode.elementwise, d->elementwise},
        (double[]){wide_constant.prefill.elementwise, slope.prefill.elementwise, p->elementwise},
        &r->elementwise_layer_s, &r->elementwise_element_s);

    double layers = (double)f->plan->model.n_layers;
    solve((double[]){layers, d->matrix + d->attention + d->elementwise, d->waiting},
        (double[]){layers, p->matrix + p->attention + p->elementwise, p->waiting},
        &r->waiting_layer_s, &r->waiting_share);

    step = model_of(f, single_row, (predict_rates_t){.sampling_row_s = 1});
    slope = model_of(f, many, (predict_rates_t){.sampling_row_s = 1});
    solve((double[]){1, step.decode.sampling, d->sampling},
        (double[]){1, slope.decode.sampling, f->samples[many].decode.sampling}, &r->sampling_step_s,
        &r->sampling_row_s);
}

static double above_zero(double value)
{
    return value > 0 ? value : 0;
}

static void fit_exchange(fit_t *f)
{
    size_t single_row = single_row_sample(f), wide = wide_sample(f, true);
    if (f->plan->n_ranks == 1)
        return;
    double messages = model_of(f, single_row, (predict_rates_t){0}).decode.exchange;
    double gathers =
        model_of(f, single_row, (predict_rates_t){.gather_s = 1}).decode.exchange - messages;
    f->rates->gather_s = above_zero(f->samples[single_row].decode.exchange - messages) / gathers;
    double fixed =
        model_of(f, wide, (predict_rates_t){.gather_s = f->rates->gather_s}).prefill.exchange;
    double bytes = model_of(f, wide, (predict_rates_t){.copy_byte_s = 1}).prefill.exchange -
                   model_of(f, wide, (predict_rates_t){0}).prefill.exchange;
    if (bytes > 0)
        f->rates->copy_byte_s = above_zero(f->samples[wide].prefill.exchange - fixed) / bytes;
}

void calibrate_fit(
    const plan_t *plan, const calibrate_sample_t *samples, size_t n_samples, predict_rates_t *rates)
{
    fit_t f = {plan, samples, size_min(n_samples, CALIBRATE_RUNS), rates};
    fit_matrices(&f);
    fit_attention(&f);
    fit_rest(&f);
    fit_exchange(&f);
}

/* ---- Network --------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double seconds[GATHER_REPEATS])
{
    qsort(seconds, GATHER_REPEATS, sizeof *seconds, by_value);
    return seconds[GATHER_REPEATS / 2];
}

/* Collective. Median of so many rows, the slowest rank's; each after a pause, in which a token
 * bucket may fill, or back to back. */
static double gather_seconds(
    comm_t *comm, comm_buffer_t *buffer, size_t rows, size_t bytes, bool pauses, size_t *begins)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    double seconds[GATHER_REPEATS];
    size_t n = (size_t)comm_size(comm);
    for (size_t r = 0; r <= n; r++)
        begins[r] = bytes * r / n;
    for (size_t i = 0; i < GATHER_REPEATS; i++) {
        if (pauses)
            nanosleep(&pause, NULL);
        comm_barrier(comm);
        uint64_t start = clock_ns();
        comm_gather_columns(buffer, rows, bytes, begins);
        seconds[i] = (double)comm_max(comm, (int64_t)(clock_ns() - start)) * 1e-9;
    }
    return median(seconds);
}

/* Gathers that stream, and the work meanwhile. */
typedef struct streaming {
    comm_t *comm;
    comm_stream_t *stream;
    const char *rows;
    volatile uint64_t *memory; /* WORK_BYTES */
    size_t passes;             /* through the memory, for each tile */
} streaming_t;

static void work_through(const streaming_t *s)
{
    uint64_t sum = 0;
    for (size_t pass = 0; pass < s->passes; pass++)
        for (size_t i = 0; i < WORK_BYTES / sizeof *s->memory; i++)
            sum += s->memory[i];
    s->memory[0] = sum;
}

/* Collective. Seconds of the work for so many tiles, the slowest rank's; each tile is sent, or
 * nothing is. */
static double work_seconds(const streaming_t *s, bool send)
{
    comm_barrier(s->comm);
    uint64_t start = clock_ns();
    if (send)
        comm_stream_begin(s->stream, s->rows, LARGE_ROWS, false);
    size_t tiles = send ? comm_stream_tiles(s->stream) : STREAM_TILES;
    for (size_t i = 0; i < STREAM_TILES; i++) {
        work_through(s);
        if (send && i < tiles) {
            comm_stream_send(s->stream, i);
            comm_stream_poll(s->stream);
        }
    }
    if (send)
        comm_stream_end(s->stream);
    return (double)comm_max(s->comm, (int64_t)(clock_ns() - start)) * 1e-9;
}

/* Collective. Median of the time that a gather adds to work that takes longer than it. */
static double added_seconds(streaming_t *s, double gather)
{
    double seconds[GATHER_REPEATS];
    s->passes = 8;
    work_seconds(s, false);
    double pass = work_seconds(s, false) / (double)(s->passes * STREAM_TILES);
    size_t passes = (size_t)(WORK_TIMES * gather / STREAM_TILES / pass) + 1;
    s->passes = (size_t)comm_max(s->comm, (int64_t)passes);
    for (size_t i = 0; i < GATHER_REPEATS; i++) {
        double alone = work_seconds(s, false);
        seconds[i] = work_seconds(s, true) - alone;
    }
    return median(seconds);
}

/* Collective. small: seconds of a gather of few bytes; bytes: that a node receives of a large one.
 * Of what a gather adds the last tile's way over the link is no work of the processor;
 * its own part of that tile passes while the link is busy with it. */
static int measure_processor(comm_t *comm, comm_buffer_t *buffer, predict_network_t *network,
    double small, double bytes, fail_t *fail)
{
    size_t n = (size_t)comm_size(comm), part = ROW_BYTES / n;
    size_t *begins = calloc(n + 1, sizeof *begins);
    streaming_t s = {
        .comm = comm, .rows = comm_buffer_data(buffer), .memory = calloc(WORK_BYTES, 1)};
    if (begins == NULL || s.memory == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    for (size_t r = 0; begins != NULL && r <= n; r++)
        begins[r] = part * r;
    const comm_tiling_t tiling = {(part + STREAM_TILES - 1) / STREAM_TILES, SIZE_MAX};
    if (comm_agree(comm, fail) == 0 &&
        comm_stream_open(&s.stream, buffer, LARGE_ROWS, ROW_BYTES, begins, tiling, fail) == 0 &&
        s.stream != NULL) {
        double added = added_seconds(&s, bytes / network->bytes_per_s) - small;
        double last = above_zero(bytes / STREAM_TILES - network->burst_bytes);
        double rest = (added - last / network->bytes_per_s) * STREAM_TILES / (STREAM_TILES - 1);
        network->processor_byte_s = above_zero(rest < added ? rest : added) / bytes;
    }
    comm_stream_close(s.stream);
    free((void *)s.memory);
    free(begins);
    return fail->status;
}

predict_network_t calibrate_link(
    double latency, double small, double large, double paused, double row)
{
    predict_network_t network = {.latency_s = latency};
    network.bytes_per_s = LARGE_ROWS * row / (large > small ? large - small : large);
    double burst = BURST_ROWS * row - (paused - small) * network.bytes_per_s;
    if (paused > small && burst > LEAST_BURST * BURST_ROWS * row)
        network.burst_bytes = burst;
    return network;
}

int calibrate_network(comm_t *comm, predict_network_t *network, fail_t *fail)
{
    comm_buffer_t *buffer = NULL;
    size_t *begins = calloc((size_t)comm_size(comm) + 1, sizeof *begins);
    double nodes = comm_n_nodes(comm), rounds = 0;
    *network = (predict_network_t){0};
    if (begins == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    if (comm_agree(comm, fail) == 0 && nodes > 1 &&
        comm_buffer_open(comm, LARGE_ROWS * ROW_BYTES, "gathers to measure", &buffer, fail) == 0) {
        double small = gather_seconds(comm, buffer, 1, SMALL_GATHER, false, begins);
        double large = gather_seconds(comm, buffer, LARGE_ROWS, ROW_BYTES, false, begins);
        double paused = gather_seconds(comm, buffer, BURST_ROWS, ROW_BYTES, true, begins);
        double row = (double)ROW_BYTES * (nodes - 1) / nodes;
        for (double reached = 1; reached < nodes; reached *= 2)
            rounds++;
        *network = calibrate_link(small / rounds, small, large, paused, row);
        measure_processor(comm, buffer, network, small, LARGE_ROWS * row, fail);
    }
    comm_buffer_close(buffer);
    free(begins);
    return fail->status;
}
