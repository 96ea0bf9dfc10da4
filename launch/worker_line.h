/* A line of choir worker, before anything is done about it: which operation it asks for, whether
 * its fields are those of the operation, and whose it is. Pure functions. */
#ifndef CHOIR_LAUNCH_WORKER_LINE_H
#define CHOIR_LAUNCH_WORKER_LINE_H

#include <jansson.h>
#include <stddef.h>

#include "engine/base/status.h"

typedef enum worker_op {
    WORKER_INFO,
    WORKER_TOKENIZE,
    WORKER_CHAT,
    WORKER_LOGLIKELIHOOD,
    WORKER_ROLLING,
    WORKER_GENERATE
} worker_op_t;

/* Reads and checks a line. *document: a new reference, or NULL when it is no JSON. name: what
 * messages call the line. FAIL_FORMAT, FAIL_USAGE. */
int worker_line_read(const char *line, size_t bytes, const char *name, json_t **document,
    worker_op_t *op, fail_t *fail);

/* The value of the member "id" of a line that is not valid JSON, or is only the beginning of one,
 * as far as it can be read; else null. A new reference. */
json_t *worker_line_id(const char *line, size_t bytes);

#endif
