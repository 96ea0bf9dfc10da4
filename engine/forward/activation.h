/* An activation that all ranks see whole: every rank writes its slice of the columns, and an
 * exchange (exchange.h) brings the others'. Where it lies and how, is asked here alone.
 *
 * It lies in a window that ranks of a node share, or, where windows have small pages, for many rows
 * in this rank's own memory, from which the exchange copies. Its layout is rows, or K-blocks (kernels.h),
 * where AMX multiplies many of them: then the K-blocks of a rank follow each other, and the ranks' too,
 * so that a slice begins at n_rows times its first column, and a tile that travels to another node
 * is one piece. A tap sees rows, so with one there are no K-blocks. Internal to engine/forward. */
#ifndef CHOIR_FORWARD_ACTIVATION_H
#define CHOIR_FORWARD_ACTIVATION_H

#include <stdbool.h>
#include <stddef.h>

#include "comm/comm.h"
#include "comm/stream.h"
#include "engine/base/status.h"
#include "engine/model/model.h"

/* Which of them. The residual stream alternates between two, so that no rank writes what another
 * still reads (comm.h). */
typedef enum shared {
    SHARED_X,
    SHARED_X_MID,
    SHARED_ATTENTION,
    SHARED_MLP,
    SHARED_EXPERTS, /* of pairs of a row and an expert, by expert (routing.h) */
    SHARED_COUNT
} shared_t;

typedef struct activation {
    comm_buffer_t *window; /* NULL where ranks keep it to themselves */
    comm_stream_t *stream; /* of the window; NULL on one node */
    char *own;             /* this rank's memory; NULL where never used */
    size_t own_bytes;
    size_t each;   /* rows of it for a row of the step; 0: the model has no use for it */
    size_t width;  /* elements of a row */
    size_t stride; /* elements from row to row */
    size_t element_bytes;
    size_t *begins; /* [ranks + 1] bytes of a row: where slices begin (comm_gather_columns) */
    bool can_be_k_blocked; /* on every rank */
    /* Of the current step. */
    char *data; /* the window, or own */
    bool k_blocked;
} activation_t;

/* A slice that travels while it is written is cut into tiles: some panels and all rows, or, of
 * attention's output and of experts, some rows and all columns. Tiles of panels are a cache line's multiple wide
 * enough for the hardware to fetch ahead, and still many to a slice. */
#define TILE_PANELS ((size_t)4)
#define TILE_ROWS ((size_t)32)
/* Tiles of any activation's slice. */
size_t activation_max_tiles(const model_t *model, size_t max_rows);

/* Rows for each row of a step: as many as a row has experts, or 1; 0 where a model has no use for it. */
size_t activation_each(const model_t *model, shared_t which);

/* Elements from row to row. */
size_t activation_stride(const model_t *model, shared_t which);

/* Collective. Window and stream, or own memory, as the plan's way of combining wants them. */
int activation_open(activation_t *activation, const model_t *model, comm_t *comm, shared_t which,
    size_t max_rows, dot_t dot, fail_t *fail);
/* Collective. */
void activation_close(activation_t *activation);

/* Where this step's rows lie: in this rank's own memory, if in_own and it has some, or the window. */
void activation_place(activation_t *activation, bool in_own);
/* How n_rows rows lie from now on. */
void activation_lay(activation_t *activation, size_t n_rows, bool tapped);

/* First element of a rank's slice; of the number of ranks: the end. */
static inline size_t activation_slice(const activation_t *a, size_t rank)
{
    return a->begins[rank] / a->element_bytes;
}

/* Where an element lies, of an activation in rows. */
static inline char *activation_at(const activation_t *a, size_t row, size_t column)
{
    return a->data + (row * a->stride + column) * a->element_bytes;
}

/* Where the first row of a K-block lies, of n_rows in K-blocks. column: a multiple of KERNEL_K_BLOCK */
static inline char *activation_k_block(const activation_t *a, size_t n_rows, size_t column)
{
    return a->data + column * n_rows * a->element_bytes;
}

/* Whether it was written outside of the window, so that an exchange has to copy. */
static inline bool activation_is_copied(const activation_t *a)
{
    return a->window != NULL && a->data != comm_buffer_data(a->window);
}

#endif
