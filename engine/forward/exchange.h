/* How the parts of an activation come together: gathered, gathered tile by tile while the rest is
 * computed (comm/stream.h), or, with --combine reduce, sums of partial products. A phase of a layer
 * ends in one of the functions here and does not know which of them happens. Internal to
 * engine/forward. */
#ifndef CHOIR_FORWARD_EXCHANGE_H
#define CHOIR_FORWARD_EXCHANGE_H

#include "engine/forward/forward_internal.h"

/* This thread has written panels [begin, end) of the rank's slice; or of rows some heads of
 * attention's output, or some panels of experts. Books its own time, and before that the time of the work so far to `kind`. */
void exchange_panels_written(
    forward_t *f, size_t thread, shared_t which, size_t begin, size_t end, uint64_t *kind);
void exchange_rows_written(forward_t *f, size_t thread, shared_t which, size_t row, size_t n_rows,
    size_t n_items, uint64_t *kind);

/* All threads. Ends a phase in which every rank wrote its slice of a component: every rank sees it
 * whole. With --combine reduce ranks keep what they wrote to themselves. */
void exchange_gather(forward_t *f, size_t thread, shared_t which, component_t component,
    size_t layer, uint64_t *kind);

/* All threads. The sum over ranks of partial products, in place.
 * sums: [f->rows.n, width] accumulator, written by all threads before */
void exchange_sum(forward_t *f, size_t thread, char *sums, size_t width);

/* All threads. The rows of the embedding that their owners have written into the window of SHARED_X
 * go to all. row_bytes: from row to row */
void exchange_embedding(forward_t *f, size_t thread);

#endif
