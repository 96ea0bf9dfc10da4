/* choir plan --predict: predictions of the cost model (engine/measure/predict.h), as tables and
 * JSON lines. */
#ifndef CHOIR_LAUNCH_PLAN_PREDICT_H
#define CHOIR_LAUNCH_PLAN_PREDICT_H

#include "engine/base/status.h"
#include "engine/model/config.h"
#include "engine/run/engine_options.h"
#include "launch/flags.h"

/* choir plan's. */
typedef struct plan_flags {
    common_flags_t common;
    const char *config, *shares;
    size_t ranks, node_ranks, threads;
    plan_combine_t combine;
    dtype_t mode;
    weights_kind_t weights;
    bool predict;
    const char *cluster, *what_if, *against, *json_file;
    size_t layers, prompt_tokens, gen_tokens, batch, context;
} plan_flags_t;

/* Local, for one rank. config: as the file has it. FAIL_USAGE, FAIL_FILE, FAIL_FORMAT. */
int plan_predict(const plan_flags_t *flags, const config_t *config, fail_t *fail);

#endif
