/* What became of an item, as a JSON line: its output, what was found in it, and whether that is
 * right. docs/eval.md describes the lines. The coordinator's work, Local.
 *
 * Everything in a line but "timings" is a function of model, task and item alone. */
#ifndef CHOIR_LAUNCH_EVAL_RECORD_H
#define CHOIR_LAUNCH_EVAL_RECORD_H

#include <jansson.h>

#include "engine/run/fleet.h"
#include "launch/eval_task.h"

/* The line of an item. results: [item->n_jobs], in the order of its jobs. Freshly allocated; NULL
 * and a failure when out of memory. */
json_t *eval_record(const eval_task_t *task, const eval_item_t *item, const fleet_result_t *results,
    const tokenizer_t *tokenizer, fail_t *fail);

/* Names of the scores that a task's lines have in "correct": at most EVAL_MAX_PATTERNS; none for
 * perplexity. */
size_t eval_score_names(const eval_task_t *task, const char **names);

/* What the model wrote, up to the first of the texts that end an answer. Appends. */
int eval_output_text(const fleet_result_t *result, const tokenizer_t *tokenizer,
    const char *const *stops, size_t n_stops, text_buffer_t *text, fail_t *fail);

/* 16 hexadecimal digits. A new reference. */
json_t *eval_hex(uint64_t value);

#endif
