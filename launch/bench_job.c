#include "launch/bench_job.h"

#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/engine_choices.h"
#include "launch/engine_flags.h"

#define MIB ((size_t)1 << 20)
#define LEAST_READ (64 * MIB) /* what a cache may hold is no measure of memory */

bool bench_job_write(bench_job_t *job, json_t *row, fail_t *fail)
{
    if (row == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory for a report");
    if (row != NULL && job->json.file != NULL) {
        json_dumpf(row, job->json.file, JSON_COMPACT);
        fputc('\n', job->json.file);
        out_file_flush(job->json.out, fail);
    }
    if (row != NULL && job->csv.file != NULL) {
        bench_write_csv(row, job->csv.is_empty, job->csv.file);
        job->csv.is_empty = false;
        out_file_flush(job->csv.out, fail);
    }
    json_decref(row);
    return fail->status == 0 && job->json.file != stdout && job->csv.file != stdout;
}

void bench_job_describe(bench_job_t *job, const engine_info_t *info)
{
    job->about.isa = info->isa;
    job->about.threads = info->threads;
    job->about.dtype = dtype_name(info->mode);
    job->about.attention = choice_name(engine_attentions, info->attention);
    job->about.dot = choice_name(engine_dots, info->dot);
}

size_t bench_job_read_bytes(const bench_job_t *job, comm_t *comm)
{
    size_t wish = job->flags->read_mib * MIB, bytes = wish;
    size_t half = memory_available_bytes() / 2 / (size_t)comm_node_size(comm);
    if (half != 0 && bytes > half)
        bytes = size_max(half / MIB * MIB, size_min(wish, LEAST_READ));
    bytes = (size_t)comm_min(comm, (int64_t)bytes);
    if (bytes < wish)
        log_write(LOG_WARN, "memory is short: the bandwidth is measured on %zu MiB of each rank",
            bytes / MIB);
    return bytes;
}

replica_options_t bench_job_replicas(const bench_job_t *job, size_t n_replicas, size_t threads,
    const bench_options_t *runs, size_t n_runs)
{
    run_flags_t flags = job->flags->run;
    flags.threads = threads;
    flags.max_batch = flags.kv_tokens = 0;
    for (size_t i = 0; i < n_runs; i++) {
        flags.max_batch = size_max(flags.max_batch, runs[i].batch);
        flags.kv_tokens = size_max(flags.kv_tokens, bench_kv_tokens(&runs[i]));
    }
    replica_options_t options = {
        .engine = engine_flags_options(&flags, job->directory, flags.max_batch, 1),
        .n_replicas = n_replicas,
        .own_weights = flags.own_weights,
        .path = job->flags->common.path};
    options.engine.random_config = job->flags->config;
    options.engine.n_layers = job->flags->layers;
    return options;
}
