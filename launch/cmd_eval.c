#include <stdio.h>
#include <string.h>

#include "engine/base/size.h"
#include "launch/command.h"
#include "launch/eval_compare.h"
#include "launch/eval_run.h"
#include "launch/mesh.h"
#include "launch/model_dir.h"
#include "launch/prompts.h"

#define MODEL_DIR_BYTES 4096
#define LOGITS_ROWS 128 /* of a step, for tasks that score texts */

/* What every rank has to know before it opens the model. */
typedef struct brief {
    fail_t fail;
    size_t n_jobs;
    bool scores;
} brief_t;

static int check_options(const invocation_t *invocation, fail_t *fail)
{
    const options_t *options = &invocation->options;
    bool compares = options->compare[0] != NULL, prints = options->canonical != NULL;
    if (options->task != NULL && (compares || prints))
        return fail_set(fail, FAIL_USAGE, "--task: runs, but --compare and --canonical do not");
    if (compares && prints)
        return fail_set(fail, FAIL_USAGE, "expected --compare or --canonical, found both");
    if (options->task == NULL && !compares && !prints)
        return fail_set(
            fail, FAIL_USAGE, "expected --task NAME or FILE.json, --compare A B, or --canonical A");
    return 0;
}

/* Collective. What runs no model: the first rank does it, and all end as it does. */
static int look_at_results(const invocation_t *invocation, fail_t *fail)
{
    const options_t *options = &invocation->options;
    size_t n_different = 0;
    if (comm_rank(invocation->comm) == 0) {
        if (options->canonical != NULL)
            eval_canonical(options->canonical, fail);
        else if (eval_compare(options->compare[0], options->compare[1], &n_different, fail) == 0 &&
                 n_different > 0)
            fail_set(fail, FAIL_MODEL, "%s and %s differ in %zu items", options->compare[0],
                options->compare[1], n_different);
    }
    comm_bcast(invocation->comm, fail, sizeof *fail);
    return fail->status;
}

static int read_task(
    const invocation_t *invocation, const char *directory, eval_task_t *task, brief_t *brief)
{
    const options_t *options = &invocation->options;
    const eval_overrides_t overrides = {.data = options->data,
        .limit = options->limit,
        .has_shots = args_was_given(&invocation->given, "--shots"),
        .shots = options->shots,
        .has_max_tokens = args_was_given(&invocation->given, "--max-tokens"),
        .max_tokens = options->max_tokens,
        .chat = prompts_chat_choice(options)};
    tokenizer_t *tokenizer = NULL;
    if (prompts_open_tokenizer(&tokenizer, directory, &brief->fail) == 0)
        eval_task_open(task, options->task, &overrides, directory, tokenizer, &brief->fail);
    tokenizer_close(tokenizer);
    for (size_t i = 0; i < task->n_items; i++)
        brief->n_jobs += task->items[i].n_jobs;
    brief->scores = task->kind != EVAL_GENERATE;
    return brief->fail.status;
}

static void run_folder(
    const options_t *options, const eval_task_t *task, char *folder, size_t bytes)
{
    if (options->out != NULL)
        snprintf(folder, bytes, "%s", options->out);
    else
        snprintf(folder, bytes, "eval-%s", task->name);
}

/* Collective. */
static int evaluate(invocation_t *invocation, const char *directory, eval_task_t *task,
    const brief_t *brief, fail_t *fail)
{
    mesh_t mesh;
    char folder[4096];
    size_t logits_rows = brief->scores ? LOGITS_ROWS : 0, n_replicas = 1;
    mesh_parse(invocation->options.mesh, (size_t)comm_size(invocation->comm), &n_replicas, fail);
    size_t n_sequences = (brief->n_jobs + n_replicas - 1) / n_replicas;
    if (mesh_open(&mesh, invocation, directory, n_sequences, logits_rows, fail) == 0) {
        if (mesh.coordinates) {
            run_folder(&invocation->options, task, folder, sizeof folder);
            eval_run(&mesh, task, directory, folder, fail);
        } else {
            fleet_serve(mesh.fleet, fail);
        }
    }
    return mesh_close(&mesh, fail);
}

int cmd_eval(invocation_t *invocation, fail_t *fail)
{
    char directory[MODEL_DIR_BYTES];
    eval_task_t task = {0};
    brief_t brief = {0};
    size_t n_replicas;
    comm_t *comm = invocation->comm;
    if (check_options(invocation, fail) == 0 && invocation->options.task != NULL) {
        mesh_parse(invocation->options.mesh, (size_t)comm_size(comm), &n_replicas, fail);
        model_dir_find(invocation->options.model, directory, sizeof directory, fail);
    }
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    if (invocation->options.task == NULL)
        return look_at_results(invocation, fail);
    if (comm_rank(comm) == 0)
        read_task(invocation, directory, &task, &brief);
    comm_bcast_patient(comm, &brief, sizeof brief);
    if (brief.fail.status != 0)
        *fail = brief.fail;
    else
        evaluate(invocation, directory, &task, &brief, fail);
    eval_task_close(&task);
    return fail->status;
}
