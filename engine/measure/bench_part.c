#include "engine/measure/bench_part.h"

#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"

#define MIB ((size_t)1 << 20)
#define LEAST_READ (64 * MIB) /* what a cache may hold is no measure of memory */

/* Collective over the part's ranks. */
static size_t read_bytes(const bench_part_t *part, comm_t *ranks)
{
    size_t wish = part->read_bytes, bytes = wish;
    size_t half = memory_available_bytes() / 2 / (size_t)comm_node_size(ranks);
    if (half != 0 && bytes > half)
        bytes = size_max(half / MIB * MIB, size_min(wish, LEAST_READ));
    bytes = (size_t)comm_min(ranks, (int64_t)bytes);
    if (bytes < wish)
        log_write(LOG_WARN, "memory is short: the bandwidth is measured on %zu MiB of each rank",
            bytes / MIB);
    return bytes;
}

/* Collective over the part's ranks. */
static int run_all(const bench_part_t *part, comm_t *ranks, engine_t *engine, fail_t *fail)
{
    size_t bytes = read_bytes(part, ranks);
    bool first = comm_rank(ranks) == 0;
    engine_info_t info = engine_info(engine);
    for (size_t i = 0; i < part->n_runs && fail->status == 0; i++) {
        bench_report_t report;
        bench_options_t options = part->runs[i];
        options.read_bytes = bytes;
        options.all_replicas = part->replica.n_replicas > 1 ? ranks : NULL;
        if (!first)
            options.progress = NULL;
        bench_run(engine, &options, &report, fail);
        const bench_taken_t taken = {.run = i,
            .options = &options,
            .report = &report,
            .info = &info,
            .ranks = (size_t)comm_size(ranks),
            .nodes = (size_t)comm_n_nodes(ranks),
            .replicas = part->replica.n_replicas};
        if (fail->status == 0 && first)
            part->take(part->context, &taken, fail);
        bench_clear(&report);
        comm_agree(ranks, fail);
    }
    return fail->status;
}

/* Collective over the part's ranks. */
static void measure(const bench_part_t *part, comm_t *ranks, fail_t *fail)
{
    replica_t replica;
    replica_options_t options = part->replica;
    options.engine.max_batch = options.engine.kv_tokens = 0;
    for (size_t i = 0; i < part->n_runs; i++) {
        options.engine.max_batch = size_max(options.engine.max_batch, part->runs[i].batch);
        options.engine.kv_tokens =
            size_max(options.engine.kv_tokens, bench_kv_tokens(&part->runs[i]));
    }
    if (replica_open(&replica, ranks, &options, fail) == 0) {
        part->opened(part->context, replica.engine);
        run_all(part, ranks, replica.engine, fail);
        part->opened(part->context, NULL);
    }
    replica_close(&replica);
}

int bench_part_run(const bench_part_t *part, fail_t *fail)
{
    comm_t *all = part->comm, *ranks;
    char bell = 0;
    if (comm_min(all, part->measures) != 0) {
        measure(part, all, fail);
        return comm_agree(all, fail);
    }
    if (comm_split(all, part->measures ? 0 : 1, part->replica.path, &ranks, fail) != 0)
        return fail->status;
    if (part->measures) {
        comm_take_host(ranks, all);
        measure(part, ranks, fail);
    }
    /* The other ranks sleep here and leave their cores free. */
    comm_bcast_idle(all, &bell, sizeof bell);
    comm_close(ranks);
    return comm_agree(all, fail);
}
