/* Standard output that detects a closed reader.
 *
 * A reader that has closed it (EPIPE) is no failure: output_write succeeds, `closed` is set, and
 * the command stops early. Any other error of writing is a failure. */
#ifndef CHOIR_LAUNCH_OUTPUT_H
#define CHOIR_LAUNCH_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

typedef struct output {
    bool closed;
} output_t;

/* Writes and flushes at once, so that generated text is visible. */
int output_write(output_t *output, const char *text, size_t bytes, fail_t *fail);

/* A JSON value on one line. NULL is out of memory. */
int output_json(output_t *output, const json_t *value, fail_t *fail);

/* At the start of the program: a standard descriptor that is closed is opened on nothing, from
 * which nothing is read and to which nothing can be written; else the next file opened becomes it.
 */
void output_start(void);

/* At the end of a command: writes what printf and output_write have not yet written. FAIL_FILE when
 * anything of all that was printed is lost, unless because its reader went away. */
int output_finish(fail_t *fail);

/* Before a message after an answer, on a run of several ranks: mpirun, which gives every rank a terminal,
 * reads answers and messages apart from each other and would show the message amid the answer's end. */
void output_let_through(void);

#endif
