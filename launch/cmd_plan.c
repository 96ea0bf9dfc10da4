#include <stdio.h>

#include "engine/model/config.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "sharding/plan.h"

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
    else if (model_dir_find(options->model, directory, sizeof directory, fail) == 0)
        config_load(&config, directory, fail);
    if (fail->status != 0)
        return fail->status;
    plan_model_t sizes = config_plan_model(&config, modes[options->dtype]);
    size_t ranks = options->ranks != 0 ? options->ranks : (size_t)comm_size(invocation->comm);
    plan_combine_t combine = options->combine == 0 ? PLAN_GATHER : PLAN_REDUCE;
    if (plan_open(&plan, &sizes, combine, ranks, fail) != 0)
        return fail->status;
    plan_print(&plan, stdout);
    plan_close(&plan);
    return 0;
}
