/* Output of `choir bench`: a table as text, JSON lines (docs/bench-json.md) and CSV for tools.
 * Plain data; all functions are the coordinator's. */
#ifndef CHOIR_LAUNCH_BENCH_REPORT_H
#define CHOIR_LAUNCH_BENCH_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/out_file.h"
#include "engine/base/status.h"
#include "engine/measure/bench.h"
#include "engine/measure/bench_gemm.h"
#include "engine/measure/bench_kernels.h"

#define BENCH_NAME_BYTES 128

/* The conditions of a measurement. */
typedef struct bench_about {
    char model[BENCH_NAME_BYTES]; /* the file's or directory's name */
    char cpu[BENCH_NAME_BYTES];
    char time_utc[32]; /* "2026-01-31T12:00:00Z" */
    bool random_weights;
    const char *format; /* of --format, or NULL */
    uint64_t config_digest;
    const char *dtype, *isa, *dot, *order, *attention, *combine, *comm;
    size_t n_layers, model_layers, ranks, nodes, threads; /* ranks: all of the run's */
    size_t replicas;
    bench_options_t options;
} bench_about_t;

void bench_print_table(const bench_about_t *about, const bench_report_t *report, FILE *out);
void bench_print_gemm(const bench_about_t *about, const bench_gemm_t *gemm, FILE *out);
void bench_print_kernels(const bench_about_t *about, const bench_kernels_t *kernels, FILE *out);

/* One object; NULL when out of memory. The caller owns it. */
json_t *bench_about_json(const bench_about_t *about); /* the conditions alone */
json_t *bench_json(const bench_about_t *about, const bench_report_t *report);
json_t *bench_gemm_json(const bench_about_t *about, const bench_gemm_t *gemm);
json_t *bench_kernels_json(const bench_about_t *about, const bench_kernels_t *kernels);

/* Two lines: names and values of the object's members that are numbers or strings. with_names: the
 * first line too. */
void bench_write_csv(const json_t *object, bool with_names, FILE *out);

/* Where rows go: a file to append to, or standard output for "-". */
typedef struct bench_sink {
    out_file_t *out;
    FILE *file;    /* of out; NULL: not asked for */
    bool is_empty; /* the file was empty before */
} bench_sink_t;

/* path: NULL for none. FAIL_FILE. */
int bench_sink_open(bench_sink_t *sink, const char *path, fail_t *fail);
/* FAIL_FILE when not everything could be written. */
int bench_sink_close(bench_sink_t *sink, fail_t *fail);

#endif
