#include "launch/bench_job.h"

#include "engine/base/clock.h"
#include "engine/run/engine_choices.h"
#include "launch/engine_flags.h"
#include "launch/signals.h"

#define MIB ((size_t)1 << 20)

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

void bench_job_describe(bench_job_t *job, const bench_taken_t *taken)
{
    bench_about_t *about = &job->about;
    about->isa = taken->info->isa;
    about->threads = taken->info->threads;
    about->dtype = dtype_name(taken->info->mode);
    about->attention = choice_name(engine_attentions, taken->info->attention);
    about->dot = choice_name(engine_used_dots, taken->info->dot);
    about->ranks = taken->ranks;
    about->nodes = taken->nodes;
    about->replicas = taken->replicas;
    about->options = *taken->options;
}

static void handle_signals(void *context, engine_t *engine)
{
    bench_job_t *job = context;
    progress_close(&job->loading);
    job->begin_ns = clock_ns();
    if (engine != NULL)
        signals_install(engine);
    else
        signals_remove();
}

bench_part_t bench_job_part(bench_job_t *job)
{
    const bench_flags_t *flags = job->flags;
    bench_part_t part = {.comm = job->comm,
        .measures = true,
        .replica = {.engine = engine_flags_options(&flags->run, job->directory, 1, 1),
            .n_replicas = job->about.replicas,
            .own_weights = flags->run.own_weights,
            .path = flags->common.path},
        .read_bytes = flags->read_mib * MIB,
        .opened = handle_signals,
        .context = job};
    part.replica.engine.random_config = flags->config;
    part.replica.engine.random_kind = flags->format;
    part.replica.engine.n_layers = flags->layers;
    return part;
}
