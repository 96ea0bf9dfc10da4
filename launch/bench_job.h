/* Shared by the files of `choir bench`. */
#ifndef CHOIR_LAUNCH_BENCH_JOB_H
#define CHOIR_LAUNCH_BENCH_JOB_H

#include "engine/model/config.h"
#include "engine/run/replica.h"
#include "launch/args.h"
#include "launch/bench_report.h"
#include "launch/flags.h"

#define MODEL_DIR_BYTES 4096

typedef struct bench_flags {
    common_flags_t common;
    run_flags_t run;
    const char *config, *sweep, *cluster, *json_file, *csv_file;
    size_t layers, prompt_tokens, gen_tokens, batch, context, repeat, warmup, read_mib;
    bool gemm, kernels;
} bench_flags_t;

typedef struct bench_job {
    comm_t *comm; /* of all ranks */
    bench_flags_t *flags;
    const args_given_t *given;
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

/* Replicas whose engines have room for every one of runs[n_runs]. threads: of a rank; 0: chosen. */
replica_options_t bench_job_replicas(const bench_job_t *job, size_t n_replicas, size_t threads,
    const bench_options_t *runs, size_t n_runs);

#endif
