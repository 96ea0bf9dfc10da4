/* What the files of `choir bench` share. */
#ifndef CHOIR_LAUNCH_BENCH_JOB_H
#define CHOIR_LAUNCH_BENCH_JOB_H

#include "engine/model/config.h"
#include "launch/bench_report.h"
#include "launch/command.h"

#define MODEL_DIR_BYTES 4096

typedef struct bench_job {
    invocation_t *invocation;
    char directory[MODEL_DIR_BYTES];
    config_t config; /* as the file has it, all layers */
    bench_sink_t json, csv;
    uint64_t begin_ns; /* of what is measured now */
    bench_about_t about;
} bench_job_t;

/* Coordinator. Writes a row, and takes it. Whether the table goes to standard output, which it does
 * unless rows do. FAIL_MEMORY when row is NULL. */
bool bench_job_write(bench_job_t *job, json_t *row, fail_t *fail);

/* Notes in job->about what an engine has chosen. */
void bench_job_describe(bench_job_t *job, const engine_info_t *info);

/* Collective over comm. Bytes that each of its ranks reads to measure the bandwidth: --read-mib, or
 * less where memory is short. */
size_t bench_job_read_bytes(const bench_job_t *job, comm_t *comm);

/* Collective over all ranks. Some of them, `color` 0, measure while the others rest. */
typedef struct bench_part {
    int color;
    size_t threads, replicas;
    const bench_options_t *runs; /* [n_runs]; read_bytes, beside and progress are not looked at */
    size_t n_runs;
    /* On rank 0 of the part after each run. */
    void (*take)(void *context, size_t run, const bench_report_t *report, fail_t *fail);
    void *context;
} bench_part_t;

/* Failures are agreed on by all. Rank 0 of the run has to be in the part. */
int bench_part_run(bench_job_t *job, const bench_part_t *part, fail_t *fail);

/* Collective. --sweep. */
int bench_sweep(bench_job_t *job, fail_t *fail);

/* Collective. --cluster. */
int bench_cluster(bench_job_t *job, fail_t *fail);

#endif
