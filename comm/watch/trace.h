/* A timeline of all ranks: steps, phases and waits (progress_record.h), recorded when they begin and written
 * to one file at the end.
 *
 * The file is in the JSON of Chrome's and Perfetto's traces (its "Trace Event Format", complete
 * events): an object with "traceEvents", a process per rank (pid: the rank), and in it slices of
 * category "step", "layer", "phase" and "collective", each within the one before; ts and dur in
 * microseconds since the trace was opened, by the clock of rank 0; a step's args have its number
 * and rows. "otherData" has the possible error of each rank's clock.
 *
 * An event costs one read of the clock and 16 bytes of a ring that is allocated at the start; when
 * it is full the oldest events are overwritten. Only the thread that communicates with other ranks
 * records. */
#ifndef CHOIR_COMM_TRACE_H
#define CHOIR_COMM_TRACE_H

#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"

typedef struct trace trace_t;

#define TRACE_EVENTS ((size_t)1 << 20) /* of a rank: some thousand steps of a large model */

/* Collective over the group of all ranks; groups that are split off it afterwards are recorded with
 * it. Compares clocks, and creates path.part on rank 0. path: NULL for no trace, *trace is NULL.
 * n_events: how many a rank keeps, at least 1. FAIL_FILE, FAIL_MEMORY, agreed on. */
int trace_open(trace_t **trace, comm_t *comm, const char *path, size_t n_events, fail_t *fail);

/* Collective. Gathers the ranks' events, one rank after the other, and renames the file. Does so
 * after a failure too and keeps that failure; a failure of its own is agreed on. NULL is
 * allowed (on all ranks). */
int trace_close(trace_t *trace, fail_t *fail);

/* Local. The step that runs now has so many rows (tokens). */
void comm_trace_rows(const comm_t *comm, size_t rows);

#endif
