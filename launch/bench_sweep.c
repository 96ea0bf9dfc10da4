#include "launch/bench_sweep.h"

#include <stdlib.h>
#include <string.h>

#include "comm/topology.h"
#include "engine/base/log.h"
#include "engine/base/printable.h"
#include "engine/base/size.h"
#include "engine/measure/sweep_runs.h"
#include "launch/bench_part.h"

typedef struct rates {
    double prefill, decode;
} rates_t;

typedef struct sweep_job {
    bench_job_t *job;
    sweep_t sweep;
    size_t ranks_per_node, node_cores;
    sweep_part_t base, part;
    sweep_runs_t runs;
    rates_t bases[SWEEP_MAX][SWEEP_MAX]; /* [context][batch] of the smallest part */
    uint64_t digests[SWEEP_MAX];         /* [context]; 0: none yet */
} sweep_job_t;

/* What all runs have in common: prompts as long as the context, unless --prompt-tokens says
 * otherwise. */
static bench_options_t each_run(const sweep_job_t *s)
{
    const bench_flags_t *flags = s->job->flags;
    bool given = args_was_given(s->job->given, "--prompt-tokens");
    return (bench_options_t){.prompt_tokens = given ? flags->prompt_tokens : 0,
        .gen_tokens = flags->gen_tokens,
        .repeat = flags->repeat,
        .warmup = flags->warmup};
}

static int check_lengths(const sweep_job_t *s, fail_t *fail)
{
    const config_t *config = &s->job->config;
    const bench_options_t each = each_run(s);
    for (size_t c = 0; c < s->sweep.contexts.n; c++) {
        bench_options_t run = sweep_run(&each, 1, s->sweep.contexts.items[c]);
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

static void set_real(json_t *row, const char *phase, const char *name, double value)
{
    char key[96];
    snprintf(key, sizeof key, "%s_%s", phase, name);
    json_object_set_new(row, key, json_real(value));
}

static void set_real_or_null(
    json_t *row, const char *phase, const char *name, bool is_known, double value)
{
    char key[96];
    snprintf(key, sizeof key, "%s_%s", phase, name);
    json_object_set_new(row, key, is_known ? json_real(value) : json_null());
}

static void set_gain(json_t *row, const char *phase, const sweep_gain_t *gain)
{
    set_real(row, phase, "speedup", gain->speedup);
    set_real(row, phase, "efficiency", gain->efficiency);
    set_real_or_null(row, phase, "serial_fraction", gain->has_fraction, gain->serial_fraction);
}

/* rows: of one prefill, or of a step, of one replica; draws: those with logits. */
static void set_phase(json_t *row, const sweep_job_t *s, const bench_report_t *report,
    bench_phase_t phase, double rows, double draws)
{
    const char *name = phase == BENCH_PREFILL ? "prefill" : "decode";
    const run_flags_t *flags = &s->job->flags->run;
    config_t config = s->job->config;
    config.num_hidden_layers = s->job->about.n_layers;
    const plan_model_t model = config_plan_model(&config, flags->mode);
    const sweep_phase_t told =
        sweep_phase(report, phase, &model, flags->combine, s->ranks_per_node, rows, draws);
    for (int t = 0; t < SWEEP_TIMES; t++) {
        char key[32];
        snprintf(key, sizeof key, "%s_s_mean", sweep_time_name((sweep_time_t)t));
        set_real(row, name, key, told.mean_s[t]);
        snprintf(key, sizeof key, "%s_s_max", sweep_time_name((sweep_time_t)t));
        set_real(row, name, key, told.max_s[t]);
    }
    set_real(row, name, "exchange_bytes", told.rank_bytes);
    set_real(row, name, "network_bytes", told.node_bytes);
    set_real_or_null(row, name, "exchange_bytes_per_s", told.bytes_per_s > 0, told.bytes_per_s);
}

static void write_row(sweep_job_t *s, const sweep_cell_t *cell, sweep_scaling_t scaling,
    const bench_report_t *report, const rates_t *rates, fail_t *fail)
{
    const bench_options_t *o = &s->job->about.options;
    const rates_t *base = &s->bases[cell->context][cell->batch];
    json_t *row = bench_json(&s->job->about, report);
    sweep_gain_t prefill = sweep_gain(&s->base, base->prefill, &s->part, rates->prefill, scaling);
    sweep_gain_t decode = sweep_gain(&s->base, base->decode, &s->part, rates->decode, scaling);
    if (row != NULL) {
        json_object_set_new(row, "scaling", json_string(sweep_scaling_name(scaling)));
        json_object_set_new(
            row, "cores", json_integer((json_int_t)(s->part.ranks * s->part.threads)));
        json_object_set_new(
            row, "base_cores", json_integer((json_int_t)(s->base.ranks * s->base.threads)));
        json_object_set_new(
            row, "base_batch", json_integer((json_int_t)s->sweep.batches.items[cell->batch]));
        json_object_set_new(
            row, "total_batch", json_integer((json_int_t)(o->batch * s->part.replicas)));
        set_gain(row, "prefill", &prefill);
        set_gain(row, "decode", &decode);
        set_phase(
            row, s, report, BENCH_PREFILL, (double)(o->batch * o->prompt_tokens), (double)o->batch);
        set_phase(row, s, report, BENCH_DECODE, (double)o->batch, (double)o->batch);
    }
    if (!bench_job_write(s->job, row, fail))
        return;
    printf("%-6s %5zu %7zu %4zux%-4zu %5zu %7zu %10.1f %7.2f %6.2f %10.2f %7.2f %6.2f\n",
        sweep_scaling_name(scaling), s->part.ranks, s->part.threads, s->part.replicas,
        s->part.ranks / s->part.replicas, o->batch * s->part.replicas, o->context, rates->prefill,
        prefill.speedup, prefill.efficiency, rates->decode, decode.speedup, decode.efficiency);
    fflush(stdout);
}

/* The last prompt of a context is the same everywhere, and so must its logits be. */
static int check_digest(sweep_job_t *s, size_t context, uint64_t digest, fail_t *fail)
{
    if (s->digests[context] == 0)
        s->digests[context] = digest;
    if (s->digests[context] != digest && s->job->flags->run.combine == PLAN_GATHER)
        fail_set(fail, FAIL_INTERNAL,
            "--sweep: %zu rank%s x %zu thread%s, context %zu: expected logits of digest %016llx, found %016llx",
            s->part.ranks, plural(s->part.ranks), s->part.threads, plural(s->part.threads),
            s->sweep.contexts.items[context], (unsigned long long)s->digests[context],
            (unsigned long long)digest);
    return fail->status;
}

static void take_run(void *context, size_t run, const bench_report_t *report, fail_t *fail)
{
    sweep_job_t *s = context;
    const sweep_cell_t *cell = &s->runs.cells[run];
    rates_t rates = {bench_spread(report, BENCH_PREFILL_TOKENS).median,
        bench_spread(report, BENCH_DECODE_TOKENS).median};
    rates_t *base = &s->bases[cell->context][cell->batch];
    if (base->decode <= 0)
        *base = rates;
    if (check_digest(s, cell->context, report->logits_digest, fail) != 0)
        return;
    for (int scaling = 0; scaling < SWEEP_SCALINGS; scaling++)
        if (cell->scalings[scaling])
            write_row(s, cell, (sweep_scaling_t)scaling, report, &rates, fail);
    log_write(LOG_INFO,
        "%zu rank%s x %zu thread%s, run %zu of %zu: prefill %.1f, decode %.2f tokens/s",
        s->part.ranks, plural(s->part.ranks), s->part.threads, plural(s->part.threads), run + 1,
        s->runs.n, rates.prefill, rates.decode);
}

/* ---- All ------------------------------------------------------------------------------------- */

static bool shows_table(const bench_job_t *job)
{
    return comm_rank(job->comm) == 0 && job->json.file != stdout && job->csv.file != stdout;
}

/* From here on the table's rows show progress; only warnings are printed between them. */
static void print_head(const sweep_job_t *s)
{
    const bench_job_t *job = s->job;
    const common_flags_t *flags = &job->flags->common;
    if (!flags->verbose && !flags->quiet)
        log_set_level(LOG_WARN);
    printf("%s, %zu", printable_name(job->about.model).text, job->about.n_layers);
    if (job->about.n_layers != job->about.model_layers)
        printf(" of its %zu", job->about.model_layers);
    printf(" layer%s, on %s\n\n%-6s %5s %7s %9s %5s %7s %26s %26s\n",
        plural(job->about.model_layers), job->about.cpu, "", "", "", "", "", "", "prefill",
        "decode");
    printf("%-6s %5s %7s %9s %5s %7s %10s %7s %6s %10s %7s %6s\n", "", "ranks", "threads", "mesh",
        "batch", "context", "tokens/s", "speedup", "eff.", "tokens/s", "speedup", "eff.");
}

/* Collective. The number of cores that every rank of a node sees. */
static int read_cores(sweep_job_t *s, fail_t *fail)
{
    comm_t *comm = s->job->comm;
    topology_t topology = {0};
    topology_read(&topology, fail);
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    size_t cores = topology.node_cores;
    if (topology.granted_cpus > 0)
        cores = size_min(cores, topology.granted_cpus);
    s->node_cores = (size_t)comm_min(comm, (int64_t)cores);
    s->ranks_per_node = (size_t)comm_max(comm, comm_node_size(comm));
    return 0;
}

static int run_parts(sweep_job_t *s, fail_t *fail)
{
    const bench_options_t each = each_run(s);
    sweep_part(&s->sweep, 0, s->ranks_per_node, s->node_cores, &s->base);
    for (size_t i = 0; sweep_part(&s->sweep, i, s->ranks_per_node, s->node_cores, &s->part); i++) {
        sweep_runs_list(&s->runs, &s->sweep, &s->base, &s->part, &each);
        const bench_part_t part = {.color = (size_t)comm_rank(s->job->comm) < s->part.ranks ? 0 : 1,
            .threads = s->part.threads,
            .replicas = s->part.replicas,
            .runs = s->runs.runs,
            .n_runs = s->runs.n,
            .take = take_run,
            .context = s};
        if (s->runs.n > 0 && bench_part_run(s->job, &part, fail) != 0)
            return fail->status;
    }
    return 0;
}

int bench_sweep(bench_job_t *job, fail_t *fail)
{
    const bench_flags_t *flags = job->flags;
    comm_t *comm = job->comm;
    sweep_job_t *s = calloc(1, sizeof *s);
    if (s == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    if (comm_agree(comm, fail) == 0) {
        s->job = job;
        if (read_cores(s, fail) == 0 &&
            sweep_parse(flags->sweep, (size_t)comm_size(comm), s->node_cores, flags->batch,
                flags->context, &s->sweep, fail) == 0)
            check_lengths(s, fail);
        if (comm_agree(comm, fail) == 0) {
            if (shows_table(job))
                print_head(s);
            run_parts(s, fail);
        }
    }
    free(s);
    return fail->status;
}
