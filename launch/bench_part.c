/* Measurements on some of the ranks, as a run of these alone would find them. */
#include "engine/base/size.h"
#include "launch/bench_job.h"
#include "launch/session.h"
#include "launch/signals.h"

/* What a rank of the part has open. */
typedef struct opened {
    comm_t *ranks;             /* of the part */
    comm_t *replica, *sharers; /* with several replicas */
    engine_t *engine;
} opened_t;

static engine_options_t engine_options(const bench_job_t *job, const bench_part_t *part)
{
    options_t flags = job->invocation->options;
    flags.threads = part->threads;
    flags.max_batch = flags.kv_tokens = 0;
    for (size_t i = 0; i < part->n_runs; i++) {
        flags.max_batch = size_max(flags.max_batch, part->runs[i].batch);
        flags.kv_tokens = size_max(flags.kv_tokens, bench_kv_tokens(&part->runs[i]));
    }
    return session_engine_options(&flags, job->directory, flags.max_batch, 1);
}

/* Collective over the part; failures are agreed on. */
static int open_engine(
    const bench_job_t *job, const bench_part_t *part, opened_t *opened, fail_t *fail)
{
    const options_t *flags = &job->invocation->options;
    engine_options_t options = engine_options(job, part);
    comm_path_t path = flags->comm == 0 ? COMM_AUTO : COMM_MPI;
    comm_t *ranks = opened->ranks;
    int each = comm_size(ranks) / (int)part->replicas;
    if (part->replicas == 1)
        return engine_open(&opened->engine, ranks, &options, fail);
    if (comm_split(ranks, comm_rank(ranks) / each, path, &opened->replica, fail) != 0)
        return fail->status;
    if (!flags->own_weights) {
        if (comm_split(ranks, comm_rank(ranks) % each, COMM_MPI, &opened->sharers, fail) != 0)
            return fail->status;
        options.beside = ranks;
        options.sharers = opened->sharers;
    }
    engine_open(&opened->engine, opened->replica, &options, fail);
    return comm_agree(ranks, fail);
}

static int run_all(bench_job_t *job, const bench_part_t *part, opened_t *opened, fail_t *fail)
{
    size_t read_bytes = bench_job_read_bytes(job, opened->ranks);
    engine_info_t info = engine_info(opened->engine);
    job->about.ranks = (size_t)comm_size(opened->ranks);
    job->about.nodes = (size_t)comm_n_nodes(opened->ranks);
    job->about.replicas = part->replicas;
    bench_job_describe(job, &info);
    for (size_t i = 0; i < part->n_runs && fail->status == 0; i++) {
        bench_report_t report;
        job->about.options = part->runs[i];
        job->about.options.read_bytes = read_bytes;
        job->about.options.beside = part->replicas > 1 ? opened->ranks : NULL;
        job->about.options.progress = NULL;
        bench_run(opened->engine, &job->about.options, &report, fail);
        if (fail->status == 0 && comm_rank(opened->ranks) == 0)
            part->take(part->context, i, &report, fail);
        bench_clear(&report);
        comm_agree(opened->ranks, fail);
    }
    return fail->status;
}

/* Collective over the part. */
static void measure(bench_job_t *job, const bench_part_t *part, opened_t *opened, fail_t *fail)
{
    if (open_engine(job, part, opened, fail) == 0) {
        signals_install(opened->engine);
        run_all(job, part, opened, fail);
        signals_remove();
    }
    engine_close(opened->engine);
    comm_close(opened->sharers);
    comm_close(opened->replica);
}

int bench_part_run(bench_job_t *job, const bench_part_t *part, fail_t *fail)
{
    comm_t *all = job->invocation->comm;
    opened_t opened = {0};
    comm_path_t path = job->invocation->options.comm == 0 ? COMM_AUTO : COMM_MPI;
    char bell = 0;
    if (comm_split(all, part->color, path, &opened.ranks, fail) != 0)
        return fail->status;
    if (part->color == 0) {
        comm_take_host(opened.ranks, all);
        measure(job, part, &opened, fail);
    }
    /* Those who rest sleep here, and leave the cores to the others. */
    comm_bcast_patient(all, &bell, sizeof bell);
    comm_close(opened.ranks);
    return comm_agree(all, fail);
}
