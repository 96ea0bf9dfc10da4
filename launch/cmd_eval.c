#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/base/out_file.h"
#include "engine/base/path.h"
#include "engine/base/progress.h"
#include "engine/base/size.h"
#include "engine/eval/eval_against.h"
#include "engine/eval/eval_run.h"
#include "launch/command.h"
#include "launch/engine_flags.h"
#include "launch/eval_print.h"
#include "launch/mesh.h"
#include "launch/model_dir.h"
#include "launch/prompts.h"

typedef struct eval_flags {
    common_flags_t common;
    run_flags_t run;
    chat_choice_t template;
    const char *task, *out, *data, *against, *canonical, *compare[2];
    size_t limit, shots, max_tokens;
    bool strict;
} eval_flags_t;

#define MODEL_DIR_BYTES 4096
#define LOGITS_ROWS 128 /* of a step, for tasks that score texts */

/* Values that every rank needs before it opens the model. */
typedef struct brief {
    fail_t fail;
    size_t n_jobs;
    bool scores;
} brief_t;

static int check_options(const invocation_t *invocation, fail_t *fail)
{
    const eval_flags_t *flags = invocation->flags;
    bool compares = flags->compare[0] != NULL, prints = flags->canonical != NULL;
    if (flags->task != NULL && (compares || prints))
        return fail_set(fail, FAIL_USAGE, "--task: runs, but --compare and --canonical do not");
    if (compares && prints)
        return fail_set(fail, FAIL_USAGE, "expected --compare or --canonical, found both");
    if (flags->task == NULL && !compares && !prints)
        return fail_set(
            fail, FAIL_USAGE, "expected --task NAME or FILE.json, --compare A B, or --canonical A");
    return 0;
}

/* Collective. Work without a model: the first rank does it, and all end with its status. */
static int look_at_results(const invocation_t *invocation, fail_t *fail)
{
    const eval_flags_t *flags = invocation->flags;
    size_t n_different = 0;
    if (comm_rank(invocation->comm) == 0) {
        if (flags->canonical != NULL)
            eval_print_canonical(flags->canonical, fail);
        else if (eval_print_comparison(flags->compare[0], flags->compare[1], &n_different, fail) ==
                     0 &&
                 n_different > 0)
            fail_set(fail, FAIL_MODEL, "%s and %s differ in %zu items", flags->compare[0],
                flags->compare[1], n_different);
    }
    comm_bcast(invocation->comm, fail, sizeof *fail);
    return fail->status;
}

static int read_task(
    const invocation_t *invocation, const char *directory, eval_task_t *task, brief_t *brief)
{
    const eval_flags_t *flags = invocation->flags;
    const eval_overrides_t overrides = {.data = flags->data,
        .limit = flags->limit,
        .has_shots = args_was_given(&invocation->given, "--shots"),
        .shots = flags->shots,
        .has_max_tokens = args_was_given(&invocation->given, "--max-tokens"),
        .max_tokens = flags->max_tokens,
        .chat = flags->template};
    tokenizer_t *tokenizer = NULL;
    if (tokenizer_open(&tokenizer, directory, &brief->fail) == 0)
        eval_task_open(task, flags->task, &overrides, directory, tokenizer, &brief->fail);
    tokenizer_close(tokenizer);
    for (size_t i = 0; i < task->n_items; i++)
        brief->n_jobs += task->items[i].n_jobs;
    brief->scores = task->kind != EVAL_GENERATE;
    return brief->fail.status;
}

static void run_folder(
    const eval_flags_t *flags, const eval_task_t *task, char *folder, size_t bytes)
{
    if (flags->out != NULL)
        snprintf(folder, bytes, "%s", flags->out);
    else
        snprintf(folder, bytes, "eval-%s", task->name);
}

/* The coordinator's part. */
static void coordinate(mesh_t *mesh, const eval_flags_t *flags, const eval_task_t *task,
    const char *directory, const char *folder, fail_t *fail)
{
    const eval_options_t options = {.version = CHOIR_VERSION,
        .directory = directory,
        .folder = folder,
        .strict = flags->strict,
        .shows_progress = !flags->common.quiet};
    eval_outcome_t outcome;
    if (eval_run(mesh->fleet, mesh->tokenizer, task, &options, &outcome, fail) != 0)
        return;
    log_write(LOG_INFO, "%s: %s over %zu items, %zu of them errors; %zu were there, results in %s",
        task->name, outcome.scores, outcome.n_done, outcome.n_errors, outcome.n_kept, folder);
    mesh_report(mesh, outcome.seconds, true);
}

/* Collective. */
static int evaluate(const invocation_t *invocation, const char *directory, eval_task_t *task,
    const brief_t *brief, fail_t *fail)
{
    const eval_flags_t *flags = invocation->flags;
    mesh_t mesh;
    char folder[4096];
    size_t n_replicas = 1;
    mesh_parse(flags->run.mesh, (size_t)comm_size(invocation->comm), &n_replicas, fail);
    const mesh_options_t options = {.directory = directory,
        .needs_tokenizer = true,
        .n_sequences = (brief->n_jobs + n_replicas - 1) / n_replicas,
        .logits_rows = brief->scores ? LOGITS_ROWS : 0};
    if (mesh_open(&mesh, invocation, &flags->run, &options, fail) == 0) {
        if (mesh.coordinates) {
            run_folder(flags, task, folder, sizeof folder);
            coordinate(&mesh, flags, task, directory, folder, fail);
        } else {
            fleet_serve(mesh.fleet, fail);
        }
    }
    return mesh_close(&mesh, fail);
}

/* ---- Beside another model -------------------------------------------------------------------- */

static void show_against(void *context, uint64_t done, uint64_t total)
{
    progress_bar(context, "comparing", done, total, "tokens", 1);
}

/* Adds the comparison to the summary of the run. */
static int write_against(const eval_flags_t *flags, const eval_task_t *task, const char *parent,
    const eval_against_t *result, fail_t *fail)
{
    char folder[4096];
    json_t *summary = NULL;
    run_folder(flags, task, folder, sizeof folder);
    char *path = path_join(folder, "summary.json");
    if (path == NULL)
        return fail_set(fail, FAIL_MEMORY, "--against: out of memory");
    if (json_file_read(path, &summary, fail) == 0) {
        json_t *against = json_pack("{s:s, s:I, s:o, s:o, s:o, s:o, s:o}", "parent", parent,
            "tokens", (json_int_t)result->n_tokens, "kl_mean", json_from_double(result->kl_mean),
            "kl_p99", json_from_double(result->kl_p99), "same_top",
            json_from_double(result->same_top), "perplexity", json_from_double(result->perplexity),
            "parent_perplexity", json_from_double(result->parent_perplexity));
        json_object_set_new(summary, "against", against);
        char *text =
            json_dumps(summary, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
        if (against == NULL || text == NULL)
            fail_set(fail, FAIL_MEMORY, "--against: out of memory");
        else
            out_file_write(path, text, strlen(text), fail);
        free(text);
    }
    json_decref(summary);
    free(path);
    return fail->status;
}

/* Collective. */
static int run_against(const invocation_t *invocation, const char *directory, const char *parent,
    const eval_task_t *task, fail_t *fail)
{
    const eval_flags_t *flags = invocation->flags;
    comm_t *comm = invocation->comm;
    const engine_options_t options = engine_flags_options(&flags->run, directory, 1, 1);
    eval_against_t result;
    progress_t progress;
    progress_open(&progress, comm_rank(comm) == 0 && !flags->common.quiet);
    eval_against(&result, comm, &options, parent, task, show_against, &progress, fail);
    progress_close(&progress);
    if (fail->status == 0 && comm_rank(comm) == 0 &&
        write_against(flags, task, parent, &result, fail) == 0)
        log_write(LOG_INFO,
            "beside %s: KL divergence %.5f, 99th percentile %.4f; the same likeliest token at %.2f%% of %zu; perplexity %.4f, its %.4f",
            parent, result.kl_mean, result.kl_p99, 100 * result.same_top, result.n_tokens,
            result.perplexity, result.parent_perplexity);
    return comm_agree(comm, fail);
}

static int cmd_eval(invocation_t *invocation, fail_t *fail)
{
    const eval_flags_t *flags = invocation->flags;
    const char *parent = flags->against;
    char directory[MODEL_DIR_BYTES], parent_directory[MODEL_DIR_BYTES];
    eval_task_t task = {0};
    brief_t brief = {0};
    size_t n_replicas;
    comm_t *comm = invocation->comm;
    if (check_options(invocation, fail) == 0 && flags->task != NULL) {
        mesh_parse(flags->run.mesh, (size_t)comm_size(comm), &n_replicas, fail);
        model_dir_find(flags->common.model, directory, sizeof directory, fail);
    }
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    if (flags->task == NULL)
        return look_at_results(invocation, fail);
    if (model_dir_resolve(
            comm, "--against", &parent, parent_directory, sizeof parent_directory, fail) != 0)
        return fail->status;
    if (comm_rank(comm) == 0)
        read_task(invocation, directory, &task, &brief);
    comm_bcast_idle(comm, &brief, sizeof brief);
    if (brief.fail.status != 0)
        *fail = brief.fail;
    else if (parent != NULL && !brief.scores)
        fail_set(fail, FAIL_USAGE,
            "--against: expected a task that scores texts (perplexity, choice), found one that generates");
    else if (evaluate(invocation, directory, &task, &brief, fail) == 0 && parent != NULL)
        run_against(invocation, directory, parent, &task, fail);
    eval_task_close(&task);
    return fail->status;
}

#define AT(member) offsetof(eval_flags_t, member)

static const arg_t eval_args[] = {
    FLAG_TEXT("--task", AT(task), "NAME|FILE.json",
        "What to evaluate: a task of configs/tasks by its name, or a file like those "
        "(docs/eval.md)."),
    FLAG_TEXT("--out", AT(out), "DIR",
        "Folder of the results: results.jsonl, one line for each item when it ends; run.json, the settings; summary.json. The same command resumes where it stopped, on any mesh. Default: eval-NAME, by the task's name."),
    FLAG_TEXT("--data", AT(data), "FILE", "Items, in place of the task's."),
    FLAG_SIZE("--limit", AT(limit), "N", 1, 4294967296.0, "Only the first N items. Default: all."),
    FLAG_SIZE("--shots", AT(shots), "N", 0, 1000,
        "Solved examples before each item. Default: the task's."),
    FLAG_SIZE("--max-tokens", AT(max_tokens), "N", 1, 4294967296.0,
        "Tokens to generate at most. Default: as the task says."),
    FLAG_SWITCH("--strict", AT(strict),
        "Fail at an item that cannot run, such as one longer than the KV cache, in place of scoring it as wrong."),
    FLAG_TEXT("--against", AT(against), "DIR",
        "Then compare with this model, such as the one that a quantised model was made from, on the same texts: mean and 99th percentile of the KL divergence, share of tokens whose likeliest one is the same; in summary.json as against. For tasks that score texts. Both models are in memory."),
    FLAG_PAIR("--compare", AT(compare), "A B",
        "Run nothing: print the items in which two results (files or folders) differ, without timings. Exit status 1 when any does."),
    FLAG_TEXT("--canonical", AT(canonical), "A",
        "Run nothing: print the lines of a result in the order of the items, without timings: "
        "equal results give equal bytes."),
};
static const arg_group_t own = ARG_GROUP("Evaluation", eval_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&own, 0},
    PARTS_OF_MANY_TEXTS(AT(template), AT(run)),
};

static const arg_rule_t rules[] = {
    {.why = "with --compare", .with = " --compare ", .reads = true, .flags = " --compare "},
    {.why = "with --canonical", .with = " --canonical ", .reads = true, .flags = " --canonical "},
    RULES_OF_MANY_TEXTS(AT(run)),
};

static const eval_flags_t defaults = {.common = COMMON_DEFAULTS, .run = RUN_DEFAULTS};

const command_t command_eval = {"eval",
    "choir eval --task NAME|FILE [--out DIR] [--mesh DxT] [--against DIR] [flags]",
    "score a model on a task, resumably", parts, &defaults, sizeof defaults, rules, cmd_eval};
