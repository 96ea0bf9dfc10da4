#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/config.h"
#include "engine/model/model.h"
#include "engine/run/engine_choices.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/plan_predict.h"
#include "sharding/plan.h"
#include "sharding/rank_shares.h"
#include "sharding/store/store.h"

/* The numbers of --shares set the number of ranks, unless --ranks does. */
static size_t count_ranks(const invocation_t *invocation)
{
    const plan_flags_t *flags = invocation->flags;
    size_t n = 1;
    if (flags->ranks != 0)
        return flags->ranks;
    if (flags->shares == NULL || strchr(flags->shares, ',') == NULL)
        return (size_t)comm_size(invocation->comm);
    for (const char *c = flags->shares; *c != '\0'; c++)
        n += *c == ',';
    return n;
}

static int open_plan(
    const invocation_t *invocation, const plan_model_t *sizes, plan_t *plan, fail_t *fail)
{
    const plan_flags_t *flags = invocation->flags;
    size_t n_ranks = count_ranks(invocation);
    if (flags->shares == NULL || strcmp(flags->shares, "even") == 0)
        return plan_open(plan, sizes, flags->combine, n_ranks, fail);
    if (strcmp(flags->shares, "auto") == 0)
        return fail_set(fail, FAIL_USAGE,
            "--shares auto is measured when a model runs; choir plan takes numbers, such as those that choir doctor proposes");
    size_t *shares = calloc(n_ranks, sizeof *shares);
    if (shares == NULL)
        return fail_set(fail, FAIL_MEMORY, "plan: no memory for the shares of %zu ranks", n_ranks);
    if (rank_shares_parse(flags->shares, n_ranks, shares, fail) == 0)
        plan_open_shares(plan, sizes, flags->combine, n_ranks, shares, fail);
    free(shares);
    return fail->status;
}

static int cmd_plan(invocation_t *invocation, fail_t *fail)
{
    const plan_flags_t *flags = invocation->flags;
    char directory[4096];
    config_t config;
    plan_t plan;
    if (comm_rank(invocation->comm) != 0)
        return 0;
    if (flags->config != NULL && flags->common.model != NULL)
        return fail_set(fail, FAIL_USAGE, "expected --config or --model, found both");
    if (flags->config != NULL)
        config_load_file(&config, flags->config, fail);
    else if (model_dir_find(flags->common.model, directory, sizeof directory, fail) == 0 &&
             store_check_copied(directory, fail) == 0)
        config_load(&config, directory, fail);
    if (fail->status != 0)
        return fail->status;
    if (flags->predict || flags->against != NULL)
        return plan_predict(flags, &config, fail);
    if (flags->weights == WEIGHTS_AUTO)
        return fail_set(fail, FAIL_USAGE,
            "--weights auto is chosen by the ranks' memory and speed when a model runs: expected --predict, or dense or packed");
    plan_model_t sizes =
        model_sizes(&config, flags->mode, DOT_CHAIN, flags->weights == WEIGHTS_PACKED);
    if (open_plan(invocation, &sizes, &plan, fail) != 0)
        return fail->status;
    plan_print(&plan, stdout);
    if (flags->node_ranks != 0)
        plan_print_nodes(&plan, flags->node_ranks, stdout);
    plan_close(&plan);
    return 0;
}

#define AT(member) offsetof(plan_flags_t, member)

static const arg_t plan_args[] = {
    FLAG_TEXT(
        "--config", AT(config), "FILE", "A model's config.json; without it, the one of --model."),
    FLAG_SIZE("--ranks", AT(ranks), "N", 1, 65536,
        "Ranks to split the model over. Default: the ranks of this run."),
    FLAG_CHOICE("--combine", AT(combine), engine_combines,
        "How ranks combine activations. Default gather."),
    FLAG_TEXT("--shares", AT(shares), "even|2,1,1",
        "How much of the model each rank takes: a number for each rank. Default even."),
    FLAG_CHOICE("--dtype", AT(mode), engine_modes, "Numeric mode. Default bf16."),
    FLAG_CHOICE("--weights", AT(weights), engine_weights,
        "How bf16 weights are kept: dense (default), or packed in 12 bits each without loss. With --predict also auto: packed where "
        "the cluster file's rates say that it is faster, or dense ones do not fit."),
    FLAG_SWITCH("--predict", AT(predict),
        "Predict prefill and decode on 1 to 1,024 ranks, or on --ranks, and the best mesh of "
        "replicas; needs --cluster (docs/scaling.md)."),
    FLAG_TEXT(
        "--cluster", AT(cluster), "FILE", "Measured rates, as choir bench --cluster writes them."),
    FLAG_TEXT("--what-if", AT(what_if), "GBIT[:US]",
        "Predict for a network of so many Gbit/s, of latency US in microseconds (default 20), in "
        "place of the measured one; several with commas: 10,25,100:5."),
    FLAG_TEXT("--against", AT(against), "ROWS.jsonl",
        "Predict rows that choir bench --json or --sweep wrote, and print the errors."),
    FLAG_SIZE("--node-ranks", AT(node_ranks), "N", 1, 65536,
        "Ranks on a node; prints the bytes that nodes receive. Default with --predict: the most that the cluster file has rates of."),
    FLAG_SIZE("--threads", AT(threads), "N", 1, 4096,
        "Threads of a rank. Default: the most that the cluster file has rates of."),
    FLAG_SIZE("--layers", AT(layers), "N", 1, 65536, "Only the first N layers. Default: all."),
    FLAG_PROMPT_TOKENS(AT(prompt_tokens)),
    FLAG_SIZE("--gen-tokens", AT(gen_tokens), "N", 1, 16777216, "Default 32."),
    FLAG_SIZE("--batch", AT(batch), "N", 1, 65536,
        "Sequences at once, all replicas together. Default 1."),
    FLAG_SIZE("--context", AT(context), "N", 1, 16777216,
        "Keys in the cache when decoding begins. Default: the prompt's length."),
    FLAG_TEXT("--json", AT(json_file), "FILE",
        "Append predictions to a file as JSON lines; - for standard output in place of the table."),
};
static const arg_group_t own = ARG_GROUP("Split", plan_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&own, 0},
    PARTS_END,
};

static const arg_rule_t rules[] = {
    {.why = "without --predict or --against",
        .without = " --predict --against ",
        .flags =
            " --cluster --what-if --threads --layers --prompt-tokens --gen-tokens --batch --context --json "},
    {.why = "with --predict",
        .with = " --predict ",
        .without = " --against ",
        .flags = " --shares "},
    {.why = "with --against",
        .with = " --against ",
        .reads = true,
        .flags = " --against --predict --cluster --what-if --config --model --dtype --combine "},
    RULES_END,
};

static const plan_flags_t defaults = {
    .common = COMMON_DEFAULTS, .prompt_tokens = 512, .gen_tokens = 32, .batch = 1};

const command_t command_plan = {"plan", "choir plan [--config FILE | --model DIR] [--ranks N]",
    "show how a model is split over ranks", parts, &defaults, sizeof defaults, rules, cmd_plan};
