/* Results of two runs side by side. One rank's work, Local. */
#ifndef CHOIR_EVAL_EVAL_COMPARE_H
#define CHOIR_EVAL_EVAL_COMPARE_H

#include <jansson.h>
#include <stddef.h>

#include "engine/base/status.h"

/* An item whose lines are not the same, timings apart. */
typedef struct eval_difference {
    json_int_t index;
    json_t *a, *b; /* its lines, borrowed for the call; NULL in the results that lack it */
} eval_difference_t;

typedef void (*eval_difference_fn)(void *context, const eval_difference_t *difference);

typedef struct eval_comparison {
    size_t n_same, n_different; /* items */
} eval_comparison_t;

/* Calls tell with every item that differs, in the order of the items. a, b: files or folders.
 * FAIL_FILE, FAIL_FORMAT, FAIL_MEMORY; FAIL_MODEL when neither has an item. */
int eval_compare(const char *a, const char *b, eval_difference_fn tell, void *context,
    eval_comparison_t *comparison, fail_t *fail);

/* The first place at which the tokens of two lines, or of one choice of theirs, or their
 * log-probabilities differ; the number of the longer one's tokens when none does. */
size_t eval_first_difference(json_t *a, json_t *b);

#endif
