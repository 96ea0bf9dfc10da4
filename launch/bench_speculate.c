/* choir bench --speculate: what drafts would gain. */
#include <stdio.h>
#include <string.h>

#include "engine/measure/bench_drafts.h"
#include "launch/bench_speculate.h"
#include "launch/engine_flags.h"
#include "launch/model_dir.h"
#include "launch/signals.h"

static json_t *rows_json(const bench_drafts_t *drafts)
{
    json_t *array = json_array();
    for (size_t i = 0; i < BENCH_DRAFTS_ROWS; i++)
        json_array_append_new(
            array, json_pack("{sI sf sf}", "rows", (json_int_t)drafts->rows[i], "seconds",
                       drafts->seconds[i], "relative", drafts->seconds[i] / drafts->seconds[0]));
    return array;
}

static json_t *gains_json(const bench_drafts_t *drafts)
{
    json_t *array = json_array();
    for (size_t i = 0; i < BENCH_DRAFTS_CHANCES; i++)
        json_array_append_new(
            array, json_pack("{sf sI sf}", "acceptance", drafts->chances[i], "drafts",
                       (json_int_t)drafts->drafts[i], "speedup", drafts->speedups[i]));
    return array;
}

static void print_drafts(const bench_about_t *about, const bench_drafts_t *drafts, FILE *out)
{
    fprintf(out, "%s, %zu of its %zu layers, %s, %s, dot %s; context %zu, median of %zu rounds\n\n",
        about->model, about->n_layers, about->model_layers, about->dtype, about->isa, about->dot,
        about->options.context, about->options.repeat * about->options.gen_tokens);
    fprintf(out, "%8s %12s %9s\n", "rows", "ms a step", "of 1 row");
    for (size_t i = 0; i < BENCH_DRAFTS_ROWS; i++)
        fprintf(out, "%8zu %12.2f %8.2fx\n", drafts->rows[i], drafts->seconds[i] * 1e3,
            drafts->seconds[i] / drafts->seconds[0]);
    if (drafts->draft_seconds > 0)
        fprintf(out, "\na drafted token takes %.2f ms\n", drafts->draft_seconds * 1e3);
    fprintf(out, "\n%8s %12s %9s\n", "accepted", "best drafts", "speed-up");
    for (size_t i = 0; i < BENCH_DRAFTS_CHANCES; i++)
        fprintf(out, "%8.2f %12zu %8.2fx\n", drafts->chances[i], drafts->drafts[i],
            drafts->speedups[i]);
    if (drafts->measured > 0)
        fprintf(out, "%8.2f %12zu %8.2fx measured\n", drafts->chances[BENCH_DRAFTS_CHANCES - 1],
            drafts->drafts[BENCH_DRAFTS_CHANCES - 1], drafts->measured);
}

static void report(bench_job_t *job, const bench_drafts_t *drafts, fail_t *fail)
{
    json_t *row = bench_about_json(&job->about);
    if (row != NULL) {
        json_object_set_new(row, "context", json_integer((json_int_t)job->about.options.context));
        json_object_set_new(row, "verification", rows_json(drafts));
        json_object_set_new(row, "speculation", gains_json(drafts));
        if (drafts->draft_seconds > 0)
            json_object_set_new(row, "draft_model",
                json_pack("{sf sf}", "seconds_a_token", drafts->draft_seconds, "measured_speedup",
                    drafts->measured));
    }
    if (bench_job_write(job, row, fail))
        print_drafts(&job->about, drafts, stdout);
}

/* Collective. The model that drafts: a config.json's shape with random weights, or a directory. */
static int find_draft_model(bench_job_t *job, engine_options_t *engine, fail_t *fail)
{
    const char *draft = job->flags->draft;
    size_t length = draft != NULL ? strlen(draft) : 0;
    engine->draft_layers = job->flags->draft_layers;
    if (length > 5 && strcmp(draft + length - 5, ".json") == 0)
        engine->draft_config = draft;
    else if (draft != NULL && model_dir_resolve(job->comm, "--draft", &draft, job->draft_directory,
                                  sizeof job->draft_directory, fail) == 0)
        engine->draft_dir = draft;
    return fail->status;
}

int bench_speculate(bench_job_t *job, fail_t *fail)
{
    const bench_flags_t *flags = job->flags;
    const bench_drafts_options_t options = {.context = flags->context,
        .rounds = flags->repeat * flags->gen_tokens,
        .warmup = flags->warmup,
        .n_tokens = flags->draft != NULL ? flags->gen_tokens : 0,
        .chance = flags->acceptance};
    bench_part_t part = bench_job_part(job);
    bench_drafts_t drafts;
    replica_t replica = {0};
    job->about.options = (bench_options_t){.context = flags->context,
        .repeat = flags->repeat,
        .gen_tokens = flags->gen_tokens,
        .batch = 1};
    if (find_draft_model(job, &part.replica.engine, fail) != 0)
        return fail->status;
    bench_drafts_set(&options, &part.replica.engine);
    engine_flags_show_loading(&job->loading, job->comm, &flags->common, &part.replica.engine);
    replica_open(&replica, job->comm, &part.replica, fail);
    progress_close(&job->loading);
    if (fail->status == 0) {
        engine_info_t info = engine_info(replica.engine);
        bench_job_describe(job, &(bench_taken_t){.options = &job->about.options,
                                    .info = &info,
                                    .ranks = job->about.ranks,
                                    .nodes = job->about.nodes,
                                    .replicas = 1});
        signals_install(replica.engine);
        if (bench_drafts_run(replica.engine, &options, &drafts, fail) == 0 &&
            comm_rank(job->comm) == 0)
            report(job, &drafts, fail);
        signals_remove();
    }
    replica_close(&replica);
    return comm_agree(job->comm, fail);
}
