#include "launch/flag_rules.h"

#include <stdbool.h>
#include <string.h>

#include "engine/model/order.h"

typedef struct rule {
    const char *command;
    bool (*holds)(const options_t *options, const args_given_t *given);
    const char *why;
    bool reads;        /* whether `flags` are all that is read, or all that is not */
    const char *flags; /* with a space before and after each */
} rule_t;

/* ---- When a rule holds ----------------------------------------------------------------------- */

static bool compares(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->compare[0] != NULL;
}

static bool prints(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->canonical != NULL;
}

static bool has_one_replica(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->mesh == NULL && options->sweep == NULL;
}

/* Where weights are not bf16, products are added as by chain. */
static bool has_no_amx(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->dtype != 0 && (options->dot == DOT_AMX || options->verify_dot == DOT_AMX);
}

static bool has_no_template(const options_t *options, const args_given_t *given)
{
    (void)given;
    return !options->chat && options->prompts == NULL;
}

static bool is_raw(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->raw;
}

/* Lines of --prompts may say a temperature of their own; one that is given as 0 is meant. */
static bool is_greedy(const options_t *options, const args_given_t *given)
{
    return !options->sample && options->prompts == NULL && !args_was_given(given, "--temperature");
}

static bool has_candidate(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->candidate != NULL;
}

static bool predicts_nothing(const options_t *options, const args_given_t *given)
{
    (void)given;
    return !options->predict && options->against == NULL;
}

static bool predicts_rows(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->against != NULL;
}

static bool predicts_more(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->predict && options->against == NULL;
}

static bool measures_matrices(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->gemm && !options->kernels;
}

static bool measures_kernels(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->kernels && !options->gemm;
}

static bool measures_rates(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->cluster != NULL;
}

static bool sweeps(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->sweep != NULL;
}

static bool has_random_weights(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->config != NULL;
}

static bool has_no_model(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->model == NULL && options->config == NULL;
}

static bool checks(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->check != NULL;
}

static bool lists(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->list != NULL;
}

static bool unpacks(const options_t *options, const args_given_t *given)
{
    (void)given;
    return options->unpack != NULL;
}

/* ---- Rules ----------------------------------------------------------------------------------- */

static const rule_t rules[] = {
    {"generate", has_no_template, "without --chat or --prompts", false,
        " --chat-template --template-vars "},
    {"generate", is_greedy, "without --temperature or --sample", false,
        " --top-k --top-p --min-p --seed "},
    {"chat", is_raw, "with --raw", false, " --chat-template --template-vars "},
    {"verify", has_candidate, "with --candidate", true,
        " --candidate --reference --layers --tolerance --partial --json "},
    {"plan", predicts_nothing, "without --predict or --against", false,
        " --cluster --what-if --threads --layers --prompt-tokens --gen-tokens --batch --context --json "},
    {"plan", predicts_more, "with --predict", false, " --shares "},
    {"plan", predicts_rows, "with --against", true,
        " --against --predict --cluster --what-if --config --model --dtype --combine "},
    {"bench", measures_matrices, "with --gemm", true,
        " --gemm --config --model --dtype --dot --order --threads --bind --repeat --json --csv "},
    {"bench", measures_kernels, "with --kernels", true,
        " --kernels --dtype --repeat --json --csv "},
    {"bench", measures_rates, "with --cluster", false,
        " --prompt-tokens --gen-tokens --batch --context --threads --own-weights --json --csv "},
    {"bench", sweeps, "with --sweep, which has threads=", false, " --threads "},
    {"bench", has_random_weights, "with --config", false, " --stage "},
    {"doctor", has_no_model, "without --model or --config", false, " --dtype --kv-tokens "},
    {"eval", compares, "with --compare", true, " --compare "},
    {"eval", prints, "with --canonical", true, " --canonical "},
    {"shard", checks, "with --check", false, " --level --file-size --layers "},
    {"shard", lists, "with --list", false, " --level --file-size --layers --threads "},
    {"shard", unpacks, "with --unpack", false, " --level --file-size --layers "},
    {"*", has_one_replica, "without --mesh", false, " --own-weights "},
    {"*", has_no_amx, "with --dtype f32 or f64", false, " --dot "},
};

static const char everywhere[] = " --quiet --verbose --trace --watchdog-seconds --help ";

static bool is_in(const char *flags, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = strstr(flags, name); at != NULL; at = strstr(at + 1, name))
        if (at[-1] == ' ' && at[length] == ' ')
            return true;
    return false;
}

int flag_rules_check(
    const char *command, const options_t *options, const args_given_t *given, fail_t *fail)
{
    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
        const rule_t *rule = &rules[r];
        if (strcmp(rule->command, command) != 0 && rule->command[0] != '*')
            continue;
        if (!rule->holds(options, given))
            continue;
        for (size_t i = 0; i < given->count; i++) {
            const char *name = given->args[i]->name;
            if (!is_in(everywhere, name) && is_in(rule->flags, name) != rule->reads)
                return fail_set(fail, FAIL_USAGE, "%s: has no effect %s", name, rule->why);
        }
    }
    return 0;
}
