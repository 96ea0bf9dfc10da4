#include "launch/bench_sweep.h"

#include <string.h>

#include "engine/base/log.h"
#include "engine/base/printable.h"
#include "engine/measure/bench_sweep.h"

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

static void set_phase(json_t *row, const char *name, const sweep_phase_t *phase)
{
    for (int t = 0; t < SWEEP_TIMES; t++) {
        char key[32];
        snprintf(key, sizeof key, "%s_s_mean", sweep_time_name((sweep_time_t)t));
        set_real(row, name, key, phase->mean_s[t]);
        snprintf(key, sizeof key, "%s_s_max", sweep_time_name((sweep_time_t)t));
        set_real(row, name, key, phase->max_s[t]);
    }
    set_real(row, name, "exchange_bytes", phase->rank_bytes);
    set_real(row, name, "network_bytes", phase->node_bytes);
    set_real_or_null(row, name, "exchange_bytes_per_s", phase->bytes_per_s > 0, phase->bytes_per_s);
}

static json_t *row_json(const bench_about_t *about, const bench_sweep_row_t *row)
{
    const sweep_part_t *base = &row->base, *part = &row->part;
    const struct {
        const char *name;
        size_t value;
    } counts[] = {{"cores", part->ranks * part->threads},
        {"base_cores", base->ranks * base->threads}, {"base_batch", row->base_batch},
        {"total_batch", row->taken->options->batch * part->replicas}};
    json_t *json = bench_json(about, row->taken->report);
    if (json == NULL)
        return NULL;
    json_object_set_new(json, "scaling", json_string(sweep_scaling_name(row->scaling)));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(json, counts[i].name, json_integer((json_int_t)counts[i].value));
    set_gain(json, "prefill", &row->gains[BENCH_PREFILL]);
    set_gain(json, "decode", &row->gains[BENCH_DECODE]);
    set_phase(json, "prefill", &row->phases[BENCH_PREFILL]);
    set_phase(json, "decode", &row->phases[BENCH_DECODE]);
    return json;
}

static void take_row(void *context, const bench_sweep_row_t *row, fail_t *fail)
{
    bench_job_t *job = context;
    const sweep_part_t *part = &row->part;
    const sweep_gain_t *prefill = &row->gains[BENCH_PREFILL], *decode = &row->gains[BENCH_DECODE];
    bench_job_describe(job, row->taken);
    if (!bench_job_write(job, row_json(&job->about, row), fail))
        return;
    printf("%-6s %5zu %7zu %4zux%-4zu %5zu %7zu %10.1f %7.2f %6.2f %10.2f %7.2f %6.2f\n",
        sweep_scaling_name(row->scaling), part->ranks, part->threads, part->replicas,
        part->ranks / part->replicas, row->taken->options->batch * part->replicas,
        row->taken->options->context, row->rates[BENCH_PREFILL], prefill->speedup,
        prefill->efficiency, row->rates[BENCH_DECODE], decode->speedup, decode->efficiency);
    fflush(stdout);
}

/* From here on the table's rows show progress; only warnings are printed between them. */
static void print_head(void *context)
{
    const bench_job_t *job = context;
    const common_flags_t *flags = &job->flags->common;
    if (job->json.file == stdout || job->csv.file == stdout)
        return;
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

int bench_sweep(bench_job_t *job, fail_t *fail)
{
    const bench_flags_t *flags = job->flags;
    bool given = args_was_given(job->given, "--prompt-tokens");
    const bench_sweep_t options = {.part = bench_job_part(job),
        .config = &job->config,
        .n_layers = job->about.n_layers,
        .sweep = flags->sweep,
        .batch = flags->batch,
        .context = flags->context,
        .each = {.prompt_tokens = given ? flags->prompt_tokens : 0,
            .gen_tokens = flags->gen_tokens,
            .repeat = flags->repeat,
            .warmup = flags->warmup},
        .begin = print_head,
        .take = take_row};
    return bench_sweep_run(&options, fail);
}
