#include "engine/forward/show.h"

#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"

int forward_set_tap(forward_t *f, const tap_t *tap, fail_t *fail)
{
    if (tap != NULL && f->model->plan.combine == PLAN_REDUCE)
        return fail_set(fail, FAIL_USAGE,
            "--combine reduce adds across ranks, so its components are not comparable; use gather");
    for (size_t t = 0; tap != NULL && t < f->n_threads; t++) {
        thread_scratch_t *s = &f->threads[t];
        if (s->shown == NULL)
            s->shown = memory_alloc(s->product_bytes, "tap", fail);
    }
    f->tap = fail->status == 0 ? tap : NULL;
    return fail->status;
}

static void refill(const forward_t *f, component_t component, size_t layer, size_t row,
    size_t n_rows, size_t n_columns, void *values, size_t stride)
{
    const tap_part_t part = {component, layer, row, n_rows, 0, n_columns, stride, values};
    if (f->tap->refill != NULL)
        f->tap->refill(f->tap->context, &part);
}

void show_replicated(const forward_t *f, component_t component, size_t layer, size_t first_row,
    size_t n_rows, size_t n_columns, void *values, size_t stride)
{
    if (f->tap == NULL)
        return;
    char *row_values = values;
    for (size_t row = first_row; row < first_row + n_rows; row++) {
        if (row % f->model->plan.n_ranks == f->model->rank)
            show(f, component, layer, row, 1, 0, n_columns, row_values, n_columns);
        else
            refill(f, component, layer, row, 1, n_columns, row_values, n_columns);
        row_values += stride * element(f);
    }
}

/* pairs: numbers of the rows; NULL: 0, 1, ... */
static void show_rows(const forward_t *f, size_t thread, component_t component, size_t layer,
    const uint32_t *pairs, size_t n_rows, size_t column, size_t n_columns, void *c)
{
    const kernels_t *k = &f->model->kernels;
    char *shown = f->threads[thread].shown;
    dtype_t accumulator_type = k->accumulator_bytes == 8 ? DTYPE_F64 : DTYPE_F32;
    k->store(n_rows, n_columns, c, KERNEL_PANEL, NULL, shown, KERNEL_PANEL);
    if (pairs == NULL)
        show(f, component, layer, 0, n_rows, column, n_columns, shown, KERNEL_PANEL);
    for (size_t r = 0; pairs != NULL && r < n_rows; r++)
        show(f, component, layer, pairs[r], 1, column, n_columns,
            shown + r * KERNEL_PANEL * k->element_bytes, KERNEL_PANEL);
    /* Rounding again changes nothing, so the fused step continues from here. */
    for (size_t r = 0; r < n_rows; r++)
        dtype_convert((char *)c + r * KERNEL_PANEL * k->accumulator_bytes, accumulator_type,
            shown + r * KERNEL_PANEL * k->element_bytes, k->mode, n_columns);
}

void show_product(const forward_t *f, size_t thread, component_t component, size_t layer,
    size_t n_rows, size_t column, size_t n_columns, void *c)
{
    if (f->tap != NULL)
        show_rows(f, thread, component, layer, NULL, n_rows, column, n_columns, c);
}

void show_pairs(const forward_t *f, size_t thread, component_t component, size_t layer,
    const uint32_t *pairs, size_t n_rows, size_t column, size_t n_columns, void *c)
{
    if (f->tap != NULL)
        show_rows(f, thread, component, layer, pairs, n_rows, column, n_columns, c);
}

/* Every rank checks its left neighbour's slice, as it arrived here. */
static size_t shown_rank(const forward_t *f)
{
    return (f->model->rank + f->model->plan.n_ranks - 1) % f->model->plan.n_ranks;
}

/* After all have checked, every rank's copy gets the reference's values, and no rank goes on
 * before. */
static void refill_gathered(
    const forward_t *f, component_t component, size_t layer, const activation_t *a)
{
    if (f->tap->refill == NULL)
        return;
    comm_barrier(f->comm);
    if (a == &f->shared[SHARED_EXPERTS])
        for (size_t i = 0; i < f->rows.n * a->each; i++)
            refill(f, component, layer, f->routing.pairs[i], 1, a->width, activation_at(a, i, 0),
                a->stride);
    else
        refill(f, component, layer, 0, f->rows.n, a->width, activation_at(a, 0, 0), a->stride);
    comm_barrier(f->comm);
}

void show_gathered(const forward_t *f, component_t component, size_t layer, shared_t which)
{
    if (f->tap == NULL)
        return;
    const activation_t *a = &f->shared[which];
    size_t from = shown_rank(f), begin = activation_slice(a, from);
    size_t n = activation_slice(a, from + 1) - begin;
    if (which == SHARED_EXPERTS)
        for (size_t i = 0; i < f->rows.n * a->each; i++)
            show(f, component, layer, f->routing.pairs[i], 1, begin, n, activation_at(a, i, begin),
                a->stride);
    else
        show(f, component, layer, 0, f->rows.n, begin, n, activation_at(a, 0, begin), a->stride);
    refill_gathered(f, component, layer, a);
}

void show_embedding(const forward_t *f)
{
    if (f->tap == NULL)
        return;
    const activation_t *x = &f->shared[SHARED_X];
    for (size_t row = 0; row < f->rows.n; row++)
        if ((size_t)f->owners[row] == shown_rank(f))
            show(f, COMPONENT_EMBEDDING_OUTPUT, 0, row, 1, 0, x->width, activation_at(x, row, 0),
                x->stride);
    refill_gathered(f, COMPONENT_EMBEDDING_OUTPUT, 0, x);
}
