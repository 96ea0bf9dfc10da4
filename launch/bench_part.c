#include "launch/bench_part.h"

#include "launch/signals.h"

/* ranks: of the part. */
static int run_all(
    bench_job_t *job, const bench_part_t *part, comm_t *ranks, engine_t *engine, fail_t *fail)
{
    size_t read_bytes = bench_job_read_bytes(job, ranks);
    engine_info_t info = engine_info(engine);
    job->about.ranks = (size_t)comm_size(ranks);
    job->about.nodes = (size_t)comm_n_nodes(ranks);
    job->about.replicas = part->replicas;
    bench_job_describe(job, &info);
    for (size_t i = 0; i < part->n_runs && fail->status == 0; i++) {
        bench_report_t report;
        job->about.options = part->runs[i];
        job->about.options.read_bytes = read_bytes;
        job->about.options.beside = part->replicas > 1 ? ranks : NULL;
        job->about.options.progress = NULL;
        bench_run(engine, &job->about.options, &report, fail);
        if (fail->status == 0 && comm_rank(ranks) == 0)
            part->take(part->context, i, &report, fail);
        bench_clear(&report);
        comm_agree(ranks, fail);
    }
    return fail->status;
}

/* Collective over the part. */
static void measure(bench_job_t *job, const bench_part_t *part, comm_t *ranks, fail_t *fail)
{
    replica_t replica;
    const replica_options_t options =
        bench_job_replicas(job, part->replicas, part->threads, part->runs, part->n_runs);
    if (replica_open(&replica, ranks, &options, fail) == 0) {
        signals_install(replica.engine);
        run_all(job, part, ranks, replica.engine, fail);
        signals_remove();
    }
    replica_close(&replica);
}

int bench_part_run(bench_job_t *job, const bench_part_t *part, fail_t *fail)
{
    comm_t *all = job->comm, *ranks;
    char bell = 0;
    if (comm_split(all, part->color, job->flags->common.path, &ranks, fail) != 0)
        return fail->status;
    if (part->color == 0) {
        comm_take_host(ranks, all);
        measure(job, part, ranks, fail);
    }
    /* The other ranks sleep here and leave their cores free. */
    comm_bcast_idle(all, &bell, sizeof bell);
    comm_close(ranks);
    return comm_agree(all, fail);
}
