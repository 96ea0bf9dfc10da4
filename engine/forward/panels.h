/* Multiplies rows with matrices, panel by panel: panels are dealt to threads, and each finished one is
 * handed to a function of the phase. Internal to engine/forward. */
#ifndef CHOIR_FORWARD_PANELS_H
#define CHOIR_FORWARD_PANELS_H

#include "engine/forward/forward_internal.h"

#define PANELS_MAX_MATRICES 3

typedef struct panels_work {
    matrix_rows_t rows;
    const matrix_t *matrices[PANELS_MAX_MATRICES]; /* with the same columns */
    size_t n_matrices;
    /* Panel p of all matrices, which have as many, goes together. Else matrix follows matrix. */
    bool side_by_side;
    size_t layer;
    const void *phase; /* what store wants to know besides */
    /* Takes panel p of matrices[m]. sums: [rows.n, KERNEL_PANEL] accumulator, scratch of the
     * thread; side by side: of the first matrix, those of the next `next` bytes behind. */
    void (*store)(forward_t *f, size_t thread, const struct panels_work *work, size_t m, size_t p,
        char *sums, size_t next);
    /* What the panels are slices of, told to the exchange; NOT_SHARED: nothing that travels. */
    int writes;
} panels_work_t;

#define NOT_SHARED (-1)

/* All threads. Rows for products with a matrix of a layer: where its checkpoint quantises activations, quantised
 * and dequantised, else as they are. All matrices that rows are multiplied with have the same. */
matrix_rows_t panels_layer_rows(forward_t *f, size_t thread, matrix_rows_t rows, size_t columns,
    weight_role_t role, size_t layer);

/* All threads. With DOT_FOLD rows are permuted before their products: the same rows, of so many columns,
 * as the product wants them. */
matrix_rows_t panels_rows(forward_t *f, size_t thread, matrix_rows_t rows, size_t columns);

/* Panels that a thread takes at once of each of n matrices with so many columns, for n_rows rows: as
 * many as its scratch holds; sums of few rows are rounded and written while they are in the
 * first-level cache. */
size_t panels_most(const forward_t *f, size_t n_rows, size_t columns, size_t n);

/* All threads; ends without a barrier. */
void panels_run(forward_t *f, size_t thread, const panels_work_t *work);

#endif
