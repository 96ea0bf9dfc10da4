/* choir plan --predict: what the cost model (engine/measure/predict.h) says, as tables and JSON lines.
 */
#ifndef CHOIR_LAUNCH_PLAN_PREDICT_H
#define CHOIR_LAUNCH_PLAN_PREDICT_H

#include "engine/base/status.h"
#include "engine/model/config.h"
#include "launch/options.h"

/* Local, for one rank. config: as the file has it. FAIL_USAGE, FAIL_FILE, FAIL_FORMAT. */
int plan_predict(const options_t *options, const config_t *config, fail_t *fail);

#endif
