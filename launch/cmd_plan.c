#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/config.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/plan_predict.h"
#include "sharding/plan.h"
#include "sharding/store/store.h"
#include "sharding/weights.h"

/* The numbers of --shares say how many ranks are meant, unless --ranks does. */
static size_t count_ranks(const invocation_t *invocation)
{
    const options_t *options = &invocation->options;
    size_t n = 1;
    if (options->ranks != 0)
        return options->ranks;
    if (options->shares == NULL || strchr(options->shares, ',') == NULL)
        return (size_t)comm_size(invocation->comm);
    for (const char *c = options->shares; *c != '\0'; c++)
        n += *c == ',';
    return n;
}

static int open_plan(
    const invocation_t *invocation, const plan_model_t *sizes, plan_t *plan, fail_t *fail)
{
    const options_t *options = &invocation->options;
    plan_combine_t combine = options->combine == 0 ? PLAN_GATHER : PLAN_REDUCE;
    size_t n_ranks = count_ranks(invocation);
    if (options->shares == NULL || strcmp(options->shares, "even") == 0)
        return plan_open(plan, sizes, combine, n_ranks, fail);
    if (strcmp(options->shares, "auto") == 0)
        return fail_set(fail, FAIL_USAGE,
            "--shares auto is measured when a model runs; choir plan takes numbers, such as those that choir doctor proposes");
    size_t *weights = calloc(n_ranks, sizeof *weights);
    if (weights == NULL)
        return fail_set(fail, FAIL_MEMORY, "plan: no memory for the shares of %zu ranks", n_ranks);
    if (weights_parse(options->shares, n_ranks, weights, fail) == 0)
        plan_open_weighted(plan, sizes, combine, n_ranks, weights, fail);
    free(weights);
    return fail->status;
}

int cmd_plan(invocation_t *invocation, fail_t *fail)
{
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    const options_t *options = &invocation->options;
    char directory[4096];
    config_t config;
    plan_t plan;
    if (comm_rank(invocation->comm) != 0)
        return 0;
    if (options->config != NULL && options->model != NULL)
        return fail_set(fail, FAIL_USAGE, "expected --config or --model, found both");
    if (options->config != NULL)
        config_load_file(&config, options->config, fail);
    else if (model_dir_find(options->model, directory, sizeof directory, fail) == 0 &&
             store_check_copied(directory, fail) == 0)
        config_load(&config, directory, fail);
    if (fail->status != 0)
        return fail->status;
    if (options->predict || options->against != NULL)
        return plan_predict(options, &config, fail);
    plan_model_t sizes = config_plan_model(&config, modes[options->dtype]);
    if (open_plan(invocation, &sizes, &plan, fail) != 0)
        return fail->status;
    plan_print(&plan, stdout);
    if (options->node_ranks != 0)
        plan_print_nodes(&plan, options->node_ranks, stdout);
    plan_close(&plan);
    return 0;
}
