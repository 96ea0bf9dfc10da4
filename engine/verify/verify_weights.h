/* Whether a model's weights in memory equal those of the checkpoint. */
#ifndef CHOIR_VERIFY_VERIFY_WEIGHTS_H
#define CHOIR_VERIFY_VERIFY_WEIGHTS_H

#include "engine/base/progress.h"
#include "engine/base/team.h"
#include "engine/model/model.h"
#include "engine/verify/verify_report.h"
#include "sharding/checkpoint/checkpoint.h"

/* Local. Unpacks every tensor of this rank and compares it with the file, rounded to the model's
 * type where that differs. Fills REPORT_WEIGHTS. FAIL_FILE, FAIL_MEMORY. */
int verify_weights(
    const model_t *model, checkpoint_t *checkpoint, team_t *team, report_t *report, fail_t *fail);

#endif
