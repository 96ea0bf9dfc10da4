/* The items of a task through a fleet: the coordinator's part of choir eval. */
#ifndef CHOIR_EVAL_EVAL_RUN_H
#define CHOIR_EVAL_EVAL_RUN_H

#include "engine/eval/eval_task.h"
#include "engine/run/fleet.h"

typedef struct eval_options {
    const char *version;   /* of Choir, for run.json */
    const char *directory; /* of the model */
    const char *folder;    /* of the results */
    bool strict;           /* an item that cannot run is a failure */
    bool shows_progress;
} eval_options_t;

typedef struct eval_outcome {
    char scores[512]; /* in a few words */
    size_t n_done, n_errors,
        n_kept; /* items: all, those that could not run, those of earlier runs */
    double seconds;
} eval_outcome_t;

/* Coordinator. Runs the remaining items of the task and writes the results. tokenizer: the model's.
 * Calls fleet_end. *outcome: written on success. */
int eval_run(fleet_t *fleet, const tokenizer_t *tokenizer, const eval_task_t *task,
    const eval_options_t *options, eval_outcome_t *outcome, fail_t *fail);

#endif
