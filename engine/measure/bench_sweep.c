#include "engine/measure/bench_sweep.h"

#include <stdlib.h>

#include "comm/topology.h"
#include "engine/base/log.h"
#include "engine/base/size.h"

typedef struct sweep_job {
    const bench_sweep_t *options;
    sweep_t sweep;
    size_t ranks_per_node, node_cores;
    sweep_part_t base, part;
    sweep_runs_t runs;
    double bases[SWEEP_MAX][SWEEP_MAX]
                [BENCH_PHASES];  /* [context][batch] rates of the smallest part */
    uint64_t digests[SWEEP_MAX]; /* [context]; 0: none yet */
} sweep_job_t;

static int check_lengths(const sweep_job_t *s, fail_t *fail)
{
    const config_t *config = s->options->config;
    for (size_t c = 0; c < s->sweep.contexts.n; c++) {
        bench_options_t run = sweep_run(&s->options->each, 1, s->sweep.contexts.items[c]);
        size_t needed = size_max(run.prompt_tokens, run.context + run.gen_tokens);
        if (!config_has_positions(config, needed))
            return fail_set(fail, FAIL_LIMIT,
                "--sweep: context %zu, --prompt-tokens %zu, --gen-tokens %zu: %zu positions, and the model has %zu",
                run.context, run.prompt_tokens, run.gen_tokens, needed,
                config->max_position_embeddings);
    }
    return 0;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* The last prompt of a context is the same everywhere, and so must its logits be. */
static int check_digest(sweep_job_t *s, size_t context, uint64_t digest, fail_t *fail)
{
    if (s->digests[context] == 0)
        s->digests[context] = digest;
    if (s->digests[context] != digest && s->options->part.replica.engine.combine == PLAN_GATHER)
        fail_set(fail, FAIL_INTERNAL,
            "--sweep: %zu rank%s x %zu thread%s, context %zu: expected logits of digest %016llx, found %016llx",
            s->part.ranks, plural(s->part.ranks), s->part.threads, plural(s->part.threads),
            s->sweep.contexts.items[context], (unsigned long long)s->digests[context],
            (unsigned long long)digest);
    return fail->status;
}

static void fill_phase(
    const sweep_job_t *s, bench_sweep_row_t *row, bench_phase_t phase, const double *base_rates)
{
    const bench_options_t *run = row->taken->options;
    const engine_options_t *engine = &s->options->part.replica.engine;
    config_t config = *s->options->config;
    config.num_hidden_layers = s->options->n_layers;
    const plan_model_t model = config_plan_model(&config, engine->mode);
    size_t rows = phase == BENCH_PREFILL ? run->batch * run->prompt_tokens : run->batch;
    row->gains[phase] =
        sweep_gain(&s->base, base_rates[phase], &s->part, row->rates[phase], row->scaling);
    row->phases[phase] = sweep_phase(row->taken->report, phase, &model, engine->combine,
        s->ranks_per_node, (double)rows, (double)run->batch);
}

static void take_run(void *context, const bench_taken_t *taken, fail_t *fail)
{
    sweep_job_t *s = context;
    const sweep_cell_t *cell = &s->runs.cells[taken->run];
    double *base = s->bases[cell->context][cell->batch];
    bench_sweep_row_t row = {.taken = taken,
        .base = s->base,
        .part = s->part,
        .base_batch = s->sweep.batches.items[cell->batch],
        .rates = {bench_spread(taken->report, BENCH_PREFILL_TOKENS).median,
            bench_spread(taken->report, BENCH_DECODE_TOKENS).median}};
    for (int phase = 0; phase < BENCH_PHASES && base[BENCH_DECODE] <= 0; phase++)
        base[phase] = row.rates[phase];
    if (check_digest(s, cell->context, taken->report->logits_digest, fail) != 0)
        return;
    for (int scaling = 0; scaling < SWEEP_SCALINGS; scaling++) {
        row.scaling = (sweep_scaling_t)scaling;
        fill_phase(s, &row, BENCH_PREFILL, base);
        fill_phase(s, &row, BENCH_DECODE, base);
        if (cell->scalings[scaling])
            s->options->take(s->options->part.context, &row, fail);
    }
    log_write(LOG_INFO,
        "%zu rank%s x %zu thread%s, run %zu of %zu: prefill %.1f, decode %.2f tokens/s",
        s->part.ranks, plural(s->part.ranks), s->part.threads, plural(s->part.threads),
        taken->run + 1, s->runs.n, row.rates[BENCH_PREFILL], row.rates[BENCH_DECODE]);
}

/* The context is the caller's. */
static void tell_opened(void *context, engine_t *engine)
{
    const bench_part_t *part = &((sweep_job_t *)context)->options->part;
    part->opened(part->context, engine);
}

/* ---- All ------------------------------------------------------------------------------------- */

/* Collective. The number of cores that every rank of a node sees. */
static int read_cores(sweep_job_t *s, fail_t *fail)
{
    comm_t *comm = s->options->part.comm;
    topology_t topology = {0};
    topology_read(&topology, fail);
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    s->node_cores = (size_t)comm_min(comm, (int64_t)topology_usable_cores(&topology));
    s->ranks_per_node = (size_t)comm_max(comm, comm_node_size(comm));
    return 0;
}

static int run_parts(sweep_job_t *s, fail_t *fail)
{
    bench_part_t part = s->options->part;
    part.runs = s->runs.runs;
    part.opened = tell_opened;
    part.take = take_run;
    part.context = s;
    sweep_part(&s->sweep, 0, s->ranks_per_node, s->node_cores, &s->base);
    for (size_t i = 0; sweep_part(&s->sweep, i, s->ranks_per_node, s->node_cores, &s->part); i++) {
        sweep_runs_list(&s->runs, &s->sweep, &s->base, &s->part, &s->options->each);
        part.n_runs = s->runs.n;
        part.measures = (size_t)comm_rank(part.comm) < s->part.ranks;
        part.replica.n_replicas = s->part.replicas;
        part.replica.engine.threads = s->part.threads;
        if (part.n_runs > 0 && bench_part_run(&part, fail) != 0)
            return fail->status;
    }
    return 0;
}

int bench_sweep_run(const bench_sweep_t *options, fail_t *fail)
{
    comm_t *comm = options->part.comm;
    sweep_job_t *s = calloc(1, sizeof *s);
    if (s == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    if (comm_agree(comm, fail) == 0) {
        s->options = options;
        if (read_cores(s, fail) == 0 &&
            sweep_parse(options->sweep, (size_t)comm_size(comm), s->node_cores, options->batch,
                options->context, &s->sweep, fail) == 0)
            check_lengths(s, fail);
        if (comm_agree(comm, fail) == 0) {
            if (comm_rank(comm) == 0)
                options->begin(options->part.context);
            run_parts(s, fail);
        }
    }
    free(s);
    return fail->status;
}
