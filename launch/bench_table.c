#include <string.h>

#include "engine/base/log.h"
#include "engine/base/printable.h"
#include "launch/bench_report.h"

/* How a metric is shown. */
typedef struct line {
    const char *name;
    bench_metric_t metric;
    double scale;
    int digits;
    const char *unit;
} line_t;

static const line_t lines[] = {
    {"read bandwidth", BENCH_READ_BANDWIDTH, 1e-9, 1, "GB/s"},
    {"multiply-add peak", BENCH_FMA_PEAK, 1e-9, 0, "GFLOP/s"},
    {"matrix peak", BENCH_PEAK, 1e-9, 0, "GFLOP/s"},
    {"int8 peak", BENCH_INT8_PEAK, 1e-9, 0, "GOP/s"},
    {NULL, BENCH_METRICS, 0, 0, NULL},
    {"prefill", BENCH_PREFILL_TOKENS, 1, 1, "tokens/s"},
    {"", BENCH_PREFILL_FLOP, 1e-9, 0, "GFLOP/s"},
    {"", BENCH_PREFILL_SHARE, 100, 1, "% of the matrix peak"},
    {"", BENCH_PREFILL_BANDWIDTH, 100, 1, "% of the read bandwidth"},
    {"time to first token", BENCH_FIRST_TOKEN, 1e3, 1, "ms"},
    {NULL, BENCH_METRICS, 0, 0, NULL},
    {"decode", BENCH_DECODE_TOKENS, 1, 2, "tokens/s"},
    {"", BENCH_DECODE_BYTES, 1e-9, 1, "GB/s"},
    {"", BENCH_DECODE_BANDWIDTH, 100, 1, "% of the read bandwidth"},
    {"", BENCH_DECODE_SHARE, 100, 1, "% of the matrix peak"},
    {"time per token", BENCH_TOKEN, 1e3, 2, "ms"},
};

static void print_machine(const bench_about_t *about, FILE *out)
{
    fprintf(out, "%s, ", printable_name(about->model).text);
    if (about->n_layers != about->model_layers)
        fprintf(out, "%zu of its %zu layers, ", about->n_layers, about->model_layers);
    if (about->format != NULL)
        fprintf(out, "%s weights, ", about->format);
    fprintf(out, "%s, %s\n", about->dtype, about->isa);
    size_t replicas = about->replicas > 1 ? about->replicas : 1, ranks = about->ranks / replicas;
    if (replicas > 1)
        fprintf(out, "%zu replicas x ", replicas);
    fprintf(out, "%zu rank%s x %zu thread%s on %s\n", ranks, plural(ranks), about->threads,
        plural(about->threads), about->cpu);
}

/* A limit is itself a measurement, which a step may exceed a little. Above this it is no share: a small model is read from
 * the caches. */
#define MOST_OF_LIMIT 1.25

static void print_multiple(const line_t *line, const bench_spread_t *spread, FILE *out)
{
    fprintf(out, "%-20s %11.2f %11.2f %11.2f  times%s\n", line->name, spread->median, spread->min,
        spread->max, line->unit + strlen("% of"));
}

static void print_metrics(const bench_report_t *report, FILE *out)
{
    fprintf(out, "\n%-20s %11s %11s %11s\n", "", "median", "lowest", "highest");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const line_t *line = &lines[i];
        if (line->name == NULL) {
            fputc('\n', out);
            continue;
        }
        bench_spread_t spread = bench_spread(report, line->metric);
        if (line->unit[0] == '%' && spread.median > MOST_OF_LIMIT)
            print_multiple(line, &spread, out);
        else if (spread.max > 0)
            fprintf(out, "%-20s %11.*f %11.*f %11.*f  %s\n", line->name, line->digits,
                spread.median * line->scale, line->digits, spread.min * line->scale, line->digits,
                spread.max * line->scale, line->unit);
        else
            fprintf(out, "%-20s %11s %11s %11s  %s\n", line->name, "-", "-", "-", line->unit);
    }
}

static double total(const bench_split_t *split)
{
    return split->matrix + split->attention + split->elementwise + split->exchange +
           split->waiting + split->sampling;
}

static void print_splits(const bench_report_t *report, bench_phase_t phase, FILE *out)
{
    for (size_t r = 0; r < report->n_ranks; r++) {
        const bench_split_t *split = &report->splits[(size_t)phase * report->n_ranks + r];
        double all = total(split), scale = all > 0 ? 100 / all : 0;
        char name[64];
        snprintf(name, sizeof name, "%s, rank %zu", phase == BENCH_PREFILL ? "prefill" : "step", r);
        fprintf(out, "%-20s %11.2f %8.1f %9.1f %11.1f %8.1f %7.1f %8.1f\n", name, all * 1e3,
            split->matrix * scale, split->attention * scale, split->elementwise * scale,
            split->exchange * scale, split->waiting * scale, split->sampling * scale);
    }
}

void bench_print_table(const bench_about_t *about, const bench_report_t *report, FILE *out)
{
    const bench_options_t *o = &about->options;
    print_machine(about, out);
    fprintf(out,
        "batch %zu, prompt %zu tokens, decode of %zu from context %zu, %zu repetition%s; %s "
        "weights\n",
        o->batch, o->prompt_tokens, o->gen_tokens, o->context, o->repeat, plural(o->repeat),
        about->random_weights ? "random" : "the model's");
    print_metrics(report, out);
    fprintf(out,
        "\nthe prefill reads %.1f MB of weights, a decode step %.1f MB and %.1f MB of keys and values\n",
        report->prefill_bytes * 1e-6, report->weight_bytes * 1e-6, report->kv_bytes * 1e-6);
    fprintf(out, "\n%-20s %11s %8s %9s %11s %8s %7s %8s\n", "mean split, %", "ms", "matrix",
        "attention", "elementwise", "exchange", "waiting", "sampling");
    print_splits(report, BENCH_PREFILL, out);
    print_splits(report, BENCH_DECODE, out);
    fprintf(out, "\nlogits digest %016llx\n", (unsigned long long)report->logits_digest);
    double bandwidth = bench_spread(report, BENCH_DECODE_BANDWIDTH).median;
    double peak = bench_spread(report, BENCH_PREFILL_SHARE).median;
    double read = bench_spread(report, BENCH_PREFILL_BANDWIDTH).median;
    if (peak > 0 && read > peak && read <= 1)
        fprintf(out, "prefill %.0f%% of the read bandwidth (%.0f%% of the matrix peak), ",
            100 * read, 100 * peak);
    else if (peak > 0)
        fprintf(out, "prefill %.0f%% of the matrix peak, ", 100 * peak);
    else
        fprintf(out, "prefill %.1f tokens/s, ", bench_spread(report, BENCH_PREFILL_TOKENS).median);
    if (bandwidth > MOST_OF_LIMIT)
        fprintf(out, "decode reads %.1f times as fast as memory, from the caches\n", bandwidth);
    else
        fprintf(out, "decode %.0f%% of the read bandwidth\n", 100 * bandwidth);
}

static void print_gemm_rate(double work, double seconds, double scale, FILE *out)
{
    if (seconds > 0)
        fprintf(out, " %9.1f", work / seconds * scale);
    else
        fprintf(out, " %9s", "-");
}

void bench_print_gemm(const bench_about_t *about, const bench_gemm_t *gemm, FILE *out)
{
    print_machine(about, out);
    fprintf(out, "against %s of %s; medians of up to %zu\n\n", gemm->function, gemm->library,
        about->options.repeat);
    fprintf(out, "%-8s %7s %7s %5s %7s   %-19s  %-19s\n", "", "", "", "", "", "Choir", "OpenBLAS");
    fprintf(out, "%-8s %7s %7s %5s %7s  %9s %9s  %9s %9s %7s\n", "matrix", "outputs", "inputs",
        "rows", "threads", "GFLOP/s", "GB/s", "GFLOP/s", "GB/s", "ratio");
    for (size_t i = 0; i < gemm->n_rows; i++) {
        const bench_gemm_row_t *row = &gemm->rows[i];
        if (i > 0 && strcmp(row->name, gemm->rows[i - 1].name) != 0)
            fputc('\n', out);
        fprintf(out, "%-8s %7zu %7zu %5zu %7zu ", row->name, row->outputs, row->inputs, row->rows,
            row->threads);
        print_gemm_rate(row->flop, row->seconds, 1e-9, out);
        print_gemm_rate(row->weight_bytes, row->seconds, 1e-9, out);
        fputc(' ', out);
        print_gemm_rate(row->flop, row->blas_seconds, 1e-9, out);
        print_gemm_rate(row->blas_weight_bytes, row->blas_seconds, 1e-9, out);
        if (row->blas_seconds > 0)
            fprintf(out, " %7.2f", row->blas_seconds / row->seconds);
        fputc('\n', out);
    }
}

void bench_print_kernels(const bench_about_t *about, const bench_kernels_t *kernels, FILE *out)
{
    print_machine(about, out);
    fprintf(out,
        "one thread; best of %zu samples; the roof is the larger of reading the call's bytes from "
        "the\n"
        "second-level cache and its multiply-adds in registers\n\n",
        8 * about->options.repeat);
    fprintf(out, "%-16s %18s %12s %9s %9s %6s %8s\n", "kernel", "rows x n x k", "us", "GFLOP/s",
        "GB/s", "roof", "scalar");
    for (size_t i = 0; i < kernels->n_rows; i++) {
        const bench_kernel_row_t *row = &kernels->rows[i];
        char shape[64];
        int used = snprintf(shape, sizeof shape, "%zu x %zu", row->shape.rows, row->shape.n);
        if (row->shape.k > 0)
            snprintf(shape + used, sizeof shape - (size_t)used, " x %zu", row->shape.k);
        fprintf(out, "%-16s %18s %12.3f", row->name, shape, row->seconds * 1e6);
        print_gemm_rate(row->flop, row->flop > 0 ? row->seconds : 0, 1e-9, out);
        print_gemm_rate(row->bytes, row->seconds, 1e-9, out);
        fprintf(out, " %5.0f%% %7.1fx\n", 100 * row->roof_seconds / row->seconds,
            row->scalar_seconds / row->seconds);
    }
}
