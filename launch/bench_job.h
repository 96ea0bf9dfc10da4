/* Shared by the files of `choir bench`. */
#ifndef CHOIR_LAUNCH_BENCH_JOB_H
#define CHOIR_LAUNCH_BENCH_JOB_H

#include "engine/base/progress.h"
#include "engine/measure/bench_part.h"
#include "engine/model/config.h"
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
    quantised_kind_t format; /* of --config's matrices */
    const char *serve, *key; /* --serve: the server's address */
    size_t requests, prompt_ids, beside;
    double rate;
    double acceptance;   /* of --speculate; below 0: not asked for */
    const char *draft;   /* the model that drafts; NULL: none */
    size_t draft_layers; /* of it */
} bench_flags_t;

typedef struct bench_job {
    comm_t *comm; /* of all ranks */
    bench_flags_t *flags;
    const args_given_t *given;
    char directory[MODEL_DIR_BYTES], draft_directory[MODEL_DIR_BYTES];
    config_t config; /* as the file has it, all layers */
    bench_sink_t json, csv;
    progress_t loading; /* shown until the engine is open */
    uint64_t begin_ns;  /* of what is measured now */
    bench_about_t about;
} bench_job_t;

/* Coordinator. Writes a row, and takes it. Whether the table goes to standard output, which it does
 * unless rows do. FAIL_MEMORY when row is NULL. */
bool bench_job_write(bench_job_t *job, json_t *row, fail_t *fail);

/* Notes in job->about what was measured. */
void bench_job_describe(bench_job_t *job, const bench_taken_t *taken);

/* What the flags ask for, on all ranks; its context is the job. Without runs. */
bench_part_t bench_job_part(bench_job_t *job);

#endif
