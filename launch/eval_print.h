/* What choir eval --compare and --canonical print. One rank's work, Local. */
#ifndef CHOIR_LAUNCH_EVAL_PRINT_H
#define CHOIR_LAUNCH_EVAL_PRINT_H

#include <stddef.h>

#include "engine/base/status.h"

/* Prints the items in which two results differ, timings apart. *n_different: their number. a, b:
 * files or folders. */
int eval_print_comparison(const char *a, const char *b, size_t *n_different, fail_t *fail);

/* Prints the lines of a result in the order of the items, without timings. */
int eval_print_canonical(const char *path, fail_t *fail);

#endif
