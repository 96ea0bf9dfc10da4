/* What the results of an evaluation depend on: run.json. The coordinator's work, Local. */
#ifndef CHOIR_LAUNCH_EVAL_SETTINGS_H
#define CHOIR_LAUNCH_EVAL_SETTINGS_H

#include <jansson.h>

#include "launch/eval_task.h"
#include "launch/mesh.h"

/* Version, model, task and settings, by name. Reads the whole checkpoint for its digest. A new
 * reference; NULL and a failure otherwise. */
json_t *eval_settings(
    const mesh_t *mesh, const eval_task_t *task, const char *directory, fail_t *fail);

#endif
