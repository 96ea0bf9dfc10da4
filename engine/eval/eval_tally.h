/* Scores of a run, from its lines: accuracies, or perplexities, with their uncertainty.
 *
 * Values are kept by item and added up in the order of the data, so a score does not depend on the
 * order in which items ended. The coordinator's work, Local. */
#ifndef CHOIR_EVAL_EVAL_TALLY_H
#define CHOIR_EVAL_EVAL_TALLY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/eval/eval_task.h"

typedef struct eval_value {
    bool there;
    bool error;
    bool correct[EVAL_MAX_PATTERNS];
    double logprob, tokens, words, bytes; /* EVAL_PERPLEXITY */
} eval_value_t;

typedef struct eval_tally {
    const eval_task_t *task;
    eval_value_t *values; /* [task->n_items] */
    size_t n_done, n_errors;
} eval_tally_t;

/* FAIL_MEMORY. The task is borrowed. */
int eval_tally_open(eval_tally_t *tally, const eval_task_t *task, fail_t *fail);
void eval_tally_close(eval_tally_t *tally);

/* Takes an item's line; its index is known to be one of the task's. */
void eval_tally_add(eval_tally_t *tally, json_t *line);

/* The scores so far in a few words: "strict 93.0% ± 1.3". Writes at most `bytes` of it. */
void eval_tally_describe(const eval_tally_t *tally, char *text, size_t bytes);

/* Every score with standard error and a 95% interval of 1,000 bootstrap samples (percentiles; the
 * draws are the same in every run). A new reference; NULL when out of memory. */
json_t *eval_tally_json(const eval_tally_t *tally);

#endif
