/* The folder of a run's results: results.jsonl, run.json and summary.json.
 *
 * results.jsonl: a JSON object an item, in the order in which they ended. A line is appended by
 * one write, so what was written is kept when a process is killed; it is synced to the disk
 * (fdatasync) a second later at most, and at the end, so a machine that fails loses the last
 * second. run.json: what the results depend on (eval_settings). Both it and summary.json appear
 * whole or not at all. The coordinator's work, Local. */
#ifndef CHOIR_EVAL_EVAL_RESULTS_H
#define CHOIR_EVAL_EVAL_RESULTS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct eval_results {
    char folder[4096];
    char path[4200]; /* of results.jsonl */
    int file;        /* -1 when closed; locked against other runs */
    uint64_t bytes;  /* of whole lines */
    uint64_t synced_ns;
    uint64_t synced_bytes;
} eval_results_t;

/* Lines of a results file, in its order. */
typedef struct eval_lines {
    json_t **lines; /* [count] */
    size_t count;
    uint64_t bytes; /* of whole lines; what follows is a torn one */
} eval_lines_t;

/* Reads a results file, or the one in a folder. A last line that is torn (no newline, or no JSON)
 * is left out; anything else that is no object is FAIL_FORMAT naming the line. */
int eval_lines_read(eval_lines_t *lines, const char *path, fail_t *fail);
void eval_lines_clear(eval_lines_t *lines);
/* By "index". */
void eval_lines_sort(eval_lines_t *lines);
/* A line as text without its "timings" and without newline: the same for the same item, whatever
 * the mesh. The caller frees; NULL when out of memory. */
char *eval_line_text(const json_t *line);

/* Opens the folder, making it where there is none, and locks it. settings: what results depend on;
 * a folder that has other ones is refused, FAIL_USAGE naming the first field that differs. *lines:
 * the results that are there already; a torn last line is cut off the file. FAIL_FILE, also when
 * another run uses the folder. */
int eval_results_open(eval_results_t *results, const char *folder, json_t *settings,
    eval_lines_t *lines, fail_t *fail);
/* Appends a line. FAIL_FILE when the disk is full; the file then ends with the line before. */
int eval_results_append(eval_results_t *results, const json_t *line, fail_t *fail);
/* Syncs what was appended to the disk. */
int eval_results_sync(eval_results_t *results, fail_t *fail);
/* Writes folder/name, whole or not at all. */
int eval_results_write(
    const eval_results_t *results, const char *name, const json_t *value, fail_t *fail);
void eval_results_close(eval_results_t *results);

#endif
