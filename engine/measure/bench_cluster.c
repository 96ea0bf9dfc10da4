#include "engine/measure/bench_cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/ping.h"
#include "comm/topology.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/out_file.h"
#include "engine/base/size.h"
#include "engine/measure/calibrate.h"
#include "engine/measure/cluster_file.h"
#include "engine/measure/sweep.h"
#include "engine/run/weights_choice.h"

#define CHUNK 512 /* prompt tokens of a step unless told (engine.h) */

typedef struct cluster_job {
    const bench_cluster_t *options;
    predict_cluster_t cluster; /* rank 0's */
    out_file_t *file;          /* rank 0's */
    size_t node_ranks, node_cores, memory_bytes;
    bool on_first_node;
    uint64_t begin_ns; /* of the part that is measured */
    size_t n_runs;
    bench_options_t *runs;       /* [n_runs] all kinds, then all again */
    calibrate_sample_t *samples; /* [n_runs] */
    double packed_speed;         /* of the part, as in predict_rates_t */
} cluster_job_t;

static void take_sample(void *context, const bench_taken_t *taken, fail_t *fail)
{
    cluster_job_t *c = context;
    size_t chunk = c->options->part.replica.engine.prefill_chunk, threads = taken->info->threads;
    size_t done = taken->run + 1;
    (void)fail;
    c->samples[taken->run] =
        calibrate_sample(taken->options, taken->report, chunk != 0 ? chunk : CHUNK);
    log_write(LOG_INFO, "%zu rank%s x %zu thread%s, run %zu of %zu, %.0f s left for these ranks",
        taken->ranks, plural(taken->ranks), threads, plural(threads), done, c->n_runs,
        (double)(clock_ns() - c->begin_ns) * 1e-9 * (double)(c->n_runs - done) / (double)done);
}

/* All ranks of the part at once. Unknown where nothing is packed, or memory is short. */
static double measure_packed(engine_info_t info)
{
    weights_rates_t rates = {.dense = 1};
    fail_t fail = {0};
    team_t *team = NULL;
    if (info.mode == DTYPE_BF16 && info.dot != DOT_FOLD &&
        team_open(&team, info.threads, false, &fail) == 0)
        weights_rates_measure(team, info.kernels, info.dot, &rates, &fail);
    team_close(team);
    return fail.status == 0 ? rates.packed / rates.dense : 0;
}

/* The context is the caller's. */
static void tell_opened(void *context, engine_t *engine)
{
    cluster_job_t *c = context;
    const bench_part_t *part = &c->options->part;
    if (engine != NULL)
        c->packed_speed = measure_packed(engine_info(engine));
    part->opened(part->context, engine);
}

/* Rank 0. */
static int add_rates(cluster_job_t *c, size_t ranks, size_t threads, fail_t *fail)
{
    const engine_options_t *engine = &c->options->part.replica.engine;
    config_t config = *c->options->config;
    config.num_hidden_layers = c->options->n_layers;
    plan_model_t model = config_plan_model(&config, engine->mode);
    predict_rates_t rates = {.ranks = ranks,
        .threads = threads,
        .hidden = model.hidden,
        .head_dim = model.head_dim,
        .packed_speed = c->packed_speed};
    snprintf(rates.model, sizeof rates.model, "%s", c->options->model);
    plan_t plan;
    if (plan_open(&plan, &model, engine->combine, ranks, fail) != 0)
        return fail->status;
    calibrate_sample_t medians[CALIBRATE_RUNS];
    calibrate_medians(c->samples, c->n_runs / CALIBRATE_RUNS, medians);
    calibrate_fit(&plan, medians, CALIBRATE_RUNS, &rates);
    plan_close(&plan);
    return cluster_add_rates(&c->cluster, &rates, fail);
}

/* Collective. Every number of ranks on the first node, with every number of threads that it has
 * cores for. */
static int measure_parts(cluster_job_t *c, fail_t *fail)
{
    bench_part_t part = c->options->part;
    comm_t *comm = part.comm;
    size_t node_rank = c->on_first_node ? (size_t)comm_node_rank(comm) : SIZE_MAX;
    const char *text = c->options->sweep != NULL ? c->options->sweep : "auto";
    sweep_part_t one;
    sweep_t sweep;
    part.runs = c->runs;
    part.n_runs = c->n_runs;
    part.opened = tell_opened;
    part.take = take_sample;
    part.context = c;
    if (sweep_parse(text, c->node_ranks, c->node_cores, 1, 1, &sweep, fail) != 0)
        return fail->status;
    for (size_t i = 0; sweep_part(&sweep, i, c->node_ranks, c->node_cores, &one); i++) {
        part.measures = node_rank < one.ranks;
        part.replica.engine.threads = one.threads;
        c->begin_ns = clock_ns();
        if (bench_part_run(&part, fail) != 0)
            return fail->status;
        if (comm_rank(comm) == 0)
            add_rates(c, one.ranks, one.threads, fail);
        if (comm_agree(comm, fail) != 0)
            return fail->status;
    }
    return 0;
}

/* Collective. The first node and its resources. */
static int look_around(cluster_job_t *c, fail_t *fail)
{
    comm_t *comm = c->options->part.comm;
    topology_t topology = {0};
    int *nodes = calloc((size_t)comm_size(comm), sizeof *nodes);
    if (nodes == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    else
        topology_read(&topology, fail);
    if (comm_agree(comm, fail) == 0) {
        ping_nodes(comm, nodes);
        c->on_first_node = nodes[comm_rank(comm)] == nodes[0];
        int64_t told[] = {comm_node_size(comm), (int64_t)topology_usable_cores(&topology),
            (int64_t)topology.memory_bytes};
        comm_bcast(comm, told, sizeof told);
        c->node_ranks = (size_t)told[0];
        c->node_cores = (size_t)told[1];
        c->memory_bytes = (size_t)told[2];
    }
    free(nodes);
    return fail->status;
}

/* Rank 0. An existing file keeps what is not measured again, and is replaced when all is measured.
 * Whether it can be written is checked now, not after minutes. */
static int open_file(cluster_job_t *c, fail_t *fail)
{
    const char *path = c->options->path;
    if (access(path, F_OK) == 0 && cluster_file_read(&c->cluster, path, fail) != 0)
        return fail->status;
    if (c->cluster.n_rates > 0 && strcmp(c->cluster.cpu, c->options->cpu) != 0)
        return fail_set(fail, FAIL_USAGE, "%s: expected rates of %s, found those of %s", path,
            c->options->cpu, c->cluster.cpu);
    snprintf(c->cluster.cpu, sizeof c->cluster.cpu, "%s", c->options->cpu);
    c->cluster.node_cores = c->node_cores;
    c->cluster.node_memory_bytes = (double)c->memory_bytes;
    return out_file_open(&c->file, path, OUT_REPLACE, fail);
}

static int measure_all(cluster_job_t *c, fail_t *fail)
{
    comm_t *comm = c->options->part.comm;
    predict_network_t network;
    if (calibrate_network(comm, &network, fail) != 0 || measure_parts(c, fail) != 0)
        return fail->status;
    if (comm_rank(comm) != 0)
        return 0;
    if (network.bytes_per_s > 0)
        c->cluster.network = network;
    if (cluster_file_write(&c->cluster, out_file_stream(c->file), fail) == 0)
        out_file_close(c->file, fail);
    else
        out_file_drop(c->file);
    c->file = NULL;
    return fail->status;
}

/* Positions are known before anything is measured, unless RoPE is scaled. */
static int check_positions(const cluster_job_t *c, fail_t *fail)
{
    const config_t *config = c->options->config;
    size_t needed = 0;
    for (size_t i = 0; i < CALIBRATE_RUNS; i++)
        needed = size_max(
            needed, size_max(c->runs[i].prompt_tokens, c->runs[i].context + c->runs[i].gen_tokens));
    if (config_has_positions(config, needed))
        return 0;
    return fail_set(fail, FAIL_LIMIT,
        "--cluster: expected a model of at least %zu positions, which its runs need, and %s has %zu",
        needed, c->options->model, config->max_position_embeddings);
}

/* Every kind of run once, and then again, so that a disturbance affects one sample of each. */
static int list_runs(cluster_job_t *c, fail_t *fail)
{
    size_t repeat = c->options->repeat;
    c->n_runs = repeat * CALIBRATE_RUNS;
    c->runs = calloc(c->n_runs, sizeof *c->runs);
    c->samples = calloc(c->n_runs, sizeof *c->samples);
    if (c->runs == NULL || c->samples == NULL)
        return fail_set(fail, FAIL_MEMORY, "bench: out of memory for %zu runs", c->n_runs);
    for (size_t i = 0; i < c->n_runs; i++) {
        if (i % CALIBRATE_RUNS == 0)
            calibrate_runs(c->runs + i);
        c->runs[i].repeat = 1;
        /* A shape's first run is slow because of the first use of memory. */
        c->runs[i].warmup = i < CALIBRATE_RUNS ? c->options->warmup : 0;
    }
    return check_positions(c, fail);
}

int bench_cluster_run(const bench_cluster_t *options, fail_t *fail)
{
    comm_t *comm = options->part.comm;
    cluster_job_t *c = calloc(1, sizeof *c);
    if (c == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    if (comm_agree(comm, fail) == 0) {
        c->options = options;
        list_runs(c, fail);
        if (comm_agree(comm, fail) == 0 && look_around(c, fail) == 0 && comm_rank(comm) == 0)
            open_file(c, fail);
        if (comm_agree(comm, fail) == 0)
            measure_all(c, fail);
        comm_agree(comm, fail);
        out_file_drop(c->file);
        predict_cluster_clear(&c->cluster);
        free(c->samples);
        free(c->runs);
    }
    free(c);
    return fail->status;
}
