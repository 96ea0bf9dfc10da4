/* The settings that the results of an evaluation depend on: run.json. The coordinator's work,
 * Local. */
#ifndef CHOIR_EVAL_EVAL_SETTINGS_H
#define CHOIR_EVAL_EVAL_SETTINGS_H

#include <jansson.h>

#include "engine/eval/eval_task.h"
#include "engine/run/fleet.h"

/* Version, model, task and settings, by name. Reads the whole checkpoint for its digest. version:
 * of Choir. A new reference; NULL and a failure otherwise. */
json_t *eval_settings(fleet_t *fleet, const eval_task_t *task, const char *version,
    const char *directory, fail_t *fail);

#endif
