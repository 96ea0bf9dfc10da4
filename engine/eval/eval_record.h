/* The result of an item as a JSON line: its output, what was found in it, and whether that is
 * right. docs/eval.md describes the lines. The coordinator's work, Local.
 *
 * Everything in a line but "timings" is a function of model, task and item alone. */
#ifndef CHOIR_EVAL_EVAL_RECORD_H
#define CHOIR_EVAL_EVAL_RECORD_H

#include <jansson.h>

#include "engine/eval/eval_task.h"
#include "engine/run/fleet.h"

/* The line of an item. results: [item->n_jobs], in the order of its jobs. Freshly allocated; NULL
 * and a failure when out of memory. */
json_t *eval_record(
    const eval_task_t *task, const eval_item_t *item, const fleet_result_t *results, fail_t *fail);

/* Names of the scores that a task's lines have in "correct": at most EVAL_MAX_PATTERNS; none for
 * perplexity. */
size_t eval_score_names(const eval_task_t *task, const char **names);

/* 16 hexadecimal digits. A new reference. */
json_t *eval_hex(uint64_t value);

#endif
