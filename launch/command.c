#include "launch/command.h"

#include <string.h>

static const arg_group_t *const generate_groups[] = {&options_model_dir, &options_prompt,
    &options_template, &options_answer, &options_output, &options_mesh, &options_model,
    &options_run, &options_batch, &options_common, NULL};
static const arg_group_t *const chat_groups[] = {&options_model_dir, &options_chat_prompt,
    &options_template, &options_answer, &options_model, &options_run, &options_batch,
    &options_common, NULL};
static const arg_group_t *const tokenize_groups[] = {
    &options_model_dir, &options_tokenize, &options_common, NULL};
static const arg_group_t *const render_groups[] = {
    &options_model_dir, &options_render, &options_common, NULL};
static const arg_group_t *const plan_groups[] = {
    &options_model_dir, &options_plan, &options_common, NULL};
static const arg_group_t *const verify_groups[] = {
    &options_model_dir, &options_verify, &options_common, NULL};
static const arg_group_t *const bench_groups[] = {&options_model_dir, &options_bench, &options_mesh,
    &options_model, &options_run, &options_common, NULL};
static const arg_group_t *const doctor_groups[] = {&options_doctor, &options_common, NULL};
static const arg_group_t *const eval_groups[] = {&options_model_dir, &options_eval,
    &options_template, &options_mesh, &options_model, &options_run, &options_batch, &options_common,
    NULL};
static const arg_group_t *const worker_groups[] = {&options_model_dir, &options_template,
    &options_mesh, &options_model, &options_run, &options_batch, &options_common, NULL};
static const arg_group_t *const shard_groups[] = {
    &options_model_dir, &options_shard, &options_common, NULL};
static const arg_group_t *const no_groups[] = {&options_common, NULL};

const command_t commands[] = {
    {"generate", "choir generate [--model DIR] [TEXT] [flags]", "answer prompts, or continue them",
        generate_groups, cmd_generate},
    {"chat", "choir chat [--model DIR] [flags]", "talk with a model", chat_groups, cmd_chat},
    {"tokenize", "choir tokenize [--model DIR] [--lines] [--decode] < TEXT",
        "text to token ids and back", tokenize_groups, cmd_tokenize},
    {"render", "choir render [--model DIR | --template FILE] < CONVERSATIONS.jsonl",
        "conversations to text by a chat template", render_groups, cmd_render},
    {"plan", "choir plan [--config FILE | --model DIR] [--ranks N]",
        "show how a model is split over ranks", plan_groups, cmd_plan},
    {"verify", "choir verify [--model DIR] --reference REF.safetensors [flags]",
        "compare a model with Hugging Face's, component by component", verify_groups, cmd_verify},
    {"bench", "choir bench [--config FILE | --model DIR] [flags]",
        "measure speed beside the limits of this machine", bench_groups, cmd_bench},
    {"doctor", "choir doctor [--config FILE | --model DIR] [flags]",
        "look for what slows or stops a run on these ranks", doctor_groups, cmd_doctor},
    {"eval", "choir eval --task NAME|FILE [--out DIR] [--mesh DxT] [flags]",
        "score a model on a task, resumably", eval_groups, cmd_eval},
    {"worker", "choir worker [--model DIR] [--mesh DxT] [flags]",
        "answer JSON lines of other programs over pipes", worker_groups, cmd_worker},
    {"shard", "choir shard --model DIR --out STORE | --check STORE | --unpack STORE --out DIR",
        "make a compressed, checksummed store of a model, or check one", shard_groups, cmd_shard},
    {"help", "choir help [COMMAND]", "explain a command and its flags", no_groups, cmd_help},
    {"version", "choir --version", "versions of Choir and its libraries, instruction sets",
        no_groups, cmd_version},
    {NULL, NULL, NULL, NULL, NULL},
};

const command_t *command_find(const char *name)
{
    for (const command_t *command = commands; command->name != NULL; command++)
        if (strcmp(command->name, name) == 0)
            return command;
    return NULL;
}

int command_unknown(const char *name, fail_t *fail)
{
    const char *names[sizeof commands / sizeof *commands];
    size_t n = 0;
    for (const command_t *command = commands; command->name != NULL; command++)
        names[n++] = command->name;
    const char *nearest = args_nearest(name, names, n);
    if (nearest != NULL)
        return fail_set(fail, FAIL_USAGE, "unknown command %s; did you mean %s?", name, nearest);
    return fail_set(fail, FAIL_USAGE, "unknown command %s; choir help lists them", name);
}
