/* The items of a task through a mesh: the coordinator's part of choir eval. */
#ifndef CHOIR_LAUNCH_EVAL_RUN_H
#define CHOIR_LAUNCH_EVAL_RUN_H

#include "launch/eval_task.h"
#include "launch/mesh.h"

/* Coordinator. Runs what is left of the task and writes the results to `folder`. directory: of the
 * model. Calls mesh_end. */
int eval_run(
    mesh_t *mesh, const eval_task_t *task, const char *directory, const char *folder, fail_t *fail);

#endif
