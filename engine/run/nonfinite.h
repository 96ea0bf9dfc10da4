/* Logits that are NaN or infinite: detecting them, and finding where they begin. */
#ifndef CHOIR_RUN_NONFINITE_H
#define CHOIR_RUN_NONFINITE_H

#include <stdbool.h>
#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/base/team.h"
#include "engine/forward/forward.h"

/* Local. Whether this rank's part of any row of logits of the last step has a value that is not
 * finite. Uses the team for many values. */
bool nonfinite_logits(
    const forward_t *forward, const model_t *model, size_t n_logits, team_t *team);

/* Collective, after a step whose logits are not finite on some rank: runs the batch once more,
 * checks every component, and fails with FAIL_MODEL, naming the first layer, component and rank
 * with a value that is not finite. */
int nonfinite_locate(forward_t *forward, const model_t *model, comm_t *comm,
    const forward_batch_t *batch, fail_t *fail);

#endif
