/* How forward shows its components to a tap. Internal to engine/forward; every function does nothing
 * without a tap. */
#ifndef CHOIR_FORWARD_SHOW_H
#define CHOIR_FORWARD_SHOW_H

#include "engine/forward/forward_internal.h"

/* A part that only this rank has. values: [n_rows, n_columns] element, stride apart */
static inline void show(const forward_t *f, component_t component, size_t layer, size_t row,
    size_t n_rows, size_t column, size_t n_columns, void *values, size_t stride)
{
    if (f->tap == NULL || n_rows == 0 || n_columns == 0)
        return;
    const tap_part_t part = {component, layer, row, n_rows, column, n_columns, stride, values};
    f->tap->part(f->tap->context, &part);
}

/* Rows from first_row on that every rank has computed for itself: each is shown on one rank, and
 * refilled on the others. values: [n_rows, n_columns] element, stride apart */
void show_replicated(const forward_t *f, component_t component, size_t layer, size_t first_row,
    size_t n_rows, size_t n_columns, void *values, size_t stride);

/* A product still in accumulators, as it is after rounding; what the tap wrote goes back.
 * c: [n_rows, n_columns], KERNEL_PANEL apart */
void show_product(const forward_t *f, size_t thread, component_t component, size_t layer,
    size_t n_rows, size_t column, size_t n_columns, void *c);

/* The same for rows that are some pairs of a row and an expert. pairs: [n_rows] */
void show_pairs(const forward_t *f, size_t thread, component_t component, size_t layer,
    const uint32_t *pairs, size_t n_rows, size_t column, size_t n_columns, void *c);

/* Collective, thread 0 alone, right after a gather: shows each slice on a rank that received it. */
void show_gathered(const forward_t *f, component_t component, size_t layer, shared_t which);

/* The same after the embedding's rows were exchanged. */
void show_embedding(const forward_t *f);

#endif
