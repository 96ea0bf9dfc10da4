/* What forward_open.c sets up and forward.c uses. Internal to engine/forward. */
#ifndef CHOIR_FORWARD_FORWARD_INTERNAL_H
#define CHOIR_FORWARD_FORWARD_INTERNAL_H

#include <stdatomic.h>

#include "comm/stream.h"
#include "engine/forward/forward.h"
#include "engine/model/tap.h"

/* Activations that all ranks see whole. The residual stream alternates between two of them, so that
 * no rank writes what another still reads (comm.h). */
typedef enum shared { SHARED_X, SHARED_X_MID, SHARED_ATTENTION, SHARED_MLP, SHARED_COUNT } shared_t;

/* What a thread owns. */
typedef struct thread_scratch {
    char *products; /* panels of [rows, KERNEL_PANEL] accumulator */
    char *shown;    /* the same, once a tap was set: products as rounded, to look at */
    char *attention;
    size_t product_bytes, attention_bytes;
} thread_scratch_t;

struct forward {
    const model_t *model;
    kv_cache_t *cache;
    team_t *team;
    comm_t *comm;
    forward_options_t options;
    size_t n_threads; /* of the team; a step may run on fewer */
    double scale;
    bool sdpa; /* attention in PyTorch's fused order; f32 and f64 have one order for both */
    comm_buffer_t
        *shared[SHARED_COUNT]; /* --combine reduce: only SHARED_X, for the embedding's exchange */
    comm_stream_t *streams[SHARED_COUNT]; /* of shared; NULL on one node */
    char *own[SHARED_COUNT];              /* the same for this rank alone; NULL where never used */
    char *data[SHARED_COUNT];             /* the activations of this step: of shared, or own */
    size_t strides[SHARED_COUNT];         /* elements */
    size_t *begins[SHARED_COUNT];         /* [ranks + 1] bytes; what comm_gather_columns needs */
    int *owners;                          /* [max_rows] rank of each row's embedding */
    bool mlp_slabs;                       /* MLP's activation may lie in slabs on every rank */
    char *normed;    /* [max(max_rows, max_logits), hidden stride] element; or in slabs */
    char *q, *k, *v; /* [max_rows, local heads * head_dim] element */
    char *partial;   /* [max_rows, hidden] accumulator: --combine reduce */
    char *logits;    /* [max_logits, local vocabulary] accumulator */
    size_t own_bytes[SHARED_COUNT];
    /* [max_rows, head_dim / 2] accumulator: of rows whose frequencies follow their call's length
     * (rope.h); NULL where there are none. */
    char *call_cos, *call_sin;
    size_t call_table_bytes;
    size_t normed_bytes, q_bytes, kv_bytes, partial_bytes, logits_bytes;
    thread_scratch_t *threads;
    const tap_t *tap; /* NULL: none */
    /* The current step. */
    const forward_batch_t *batch;
    size_t n_rows, n_lone; /* rows worked on; the first n_lone are alone in their calls */
    bool narrows;          /* the last layer goes on with the kept rows only */
    size_t *kept;          /* [max_rows] rows that logits are wanted of, ascending */
    size_t *kept_before;   /* [max_rows + 1] how many of them come before a row */
    int streaming;         /* the shared activation that travels now, or NOT_STREAMING */
    atomic_size_t next_unit;
    atomic_size_t *missing; /* [forward_max_tiles] of the gather under way; forward_gather.c */
    size_t n_tiles;
    uint64_t mark_ns;
    forward_times_t times;
};

/* Threads of the current step. */
static inline size_t active_threads(const forward_t *f)
{
    return team_active(f->team);
}

static inline size_t element(const forward_t *f)
{
    return f->model->kernels.element_bytes;
}

static inline size_t accumulator(const forward_t *f)
{
    return f->model->kernels.accumulator_bytes;
}

static inline size_t local_q(const model_t *m)
{
    return plan_count(model_share(m)->heads) * m->config.head_dim;
}

static inline size_t local_kv(const model_t *m)
{
    return plan_count(model_share(m)->kv_heads) * m->config.head_dim;
}

static inline size_t most_kv_group(const model_t *m)
{
    return m->config.num_attention_heads / m->config.num_key_value_heads;
}

static inline size_t shared_width(const model_t *m, shared_t which)
{
    const config_t *c = &m->config;
    return which == SHARED_ATTENTION ? c->num_attention_heads * c->head_dim
           : which == SHARED_MLP     ? c->intermediate_size
                                     : c->hidden_size;
}

/* First column of rank r's slice. */
static inline size_t slice_begin(const model_t *m, shared_t which, size_t r)
{
    if (r == m->plan.n_ranks)
        return shared_width(m, which);
    const plan_share_t *share = &m->plan.shares[r];
    return which == SHARED_ATTENTION ? share->heads.begin * m->config.head_dim
           : which == SHARED_MLP     ? share->columns.begin
                                     : share->hidden.begin;
}

static inline char *shared_row(const forward_t *f, shared_t which, size_t row)
{
    return f->data[which] + row * f->strides[which] * element(f);
}

/* ---- Slabs ----------------------------------------------------------------------------------- */

/* Where AMX multiplies many rows, what is multiplied lies in slabs (kernels.h): normalised rows,
 * and MLP's activation, which is the widest of those that are exchanged. There the slabs of a rank
 * follow each other, and the ranks' too, so that a part begins at n_rows times the part's first
 * column; a tile that travels to another node is one piece. A tap sees rows, so with one there are
 * none. */

/* Rows that are normalised before they are laid into slabs. */
#define FORWARD_SLAB_ROWS 4

static inline bool normed_in_slabs(const forward_t *f)
{
    const model_t *m = f->model;
    return f->tap == NULL &&
           matrix_wants_slabs(&m->kernels, f->options.dot, f->n_rows, m->config.hidden_size);
}

/* The same on all ranks. */
bool forward_in_slabs(const forward_t *f, shared_t which);

#define NOT_STREAMING (-1)

/* Whether the last layer will have other rows after attention than before, so that its attention's
 * output does not travel while it is computed. */
static inline bool forward_narrows_at(const forward_t *f, size_t layer)
{
    return f->narrows && layer + 1 == f->model->config.num_hidden_layers;
}

/* Whether it has them now. */
static inline bool forward_has_narrowed(const forward_t *f)
{
    return f->n_rows < f->batch->n_rows;
}

/* One of the two projections back into the residual stream. */
typedef struct residual {
    const matrix_t *matrix;
    shared_t input, from, to; /* to = from + matrix input */
    component_t product, sum; /* what the product and the new residual stream are called */
    size_t layer;
} residual_t;

/* ---- Phases of a step: each runs on all threads ---------------------------------------------- */

/* Thread 0 books the time since the last mark to one kind of work. */
void forward_book(forward_t *f, size_t thread, uint64_t *kind);
/* Ends a phase: books its time, and the waiting. */
void forward_barrier(forward_t *f, size_t thread, uint64_t *kind);

/* ---- forward_gather.c ------------------------------------------------------------------------ */

/* How an activation is cut into tiles: panels, or, where units of attention write it, rows. */
comm_tiling_t forward_tiling(const forward_t *f, shared_t which);
/* Tiles of any activation's part. */
size_t forward_max_tiles(const forward_t *f);
/* Thread 0, between phases: all ranks write the attention of that layer next, if there is one. */
void forward_begin_attention(forward_t *f, size_t layer);
/* This thread has written panels [begin, end) of the rank's part of `which`, or some heads of rows
 * of attention's output. Books its own time, and before that the time of the work so far to `kind`.
 */
void forward_panels_written(
    forward_t *f, size_t thread, shared_t which, size_t begin, size_t end, uint64_t *kind);
void forward_heads_written(
    forward_t *f, size_t thread, size_t row, size_t n_rows, size_t n_heads, uint64_t *kind);
/* Ends a phase in which every rank wrote its slice of a component into a shared activation. */
void forward_gather(forward_t *f, size_t thread, shared_t which, component_t component,
    size_t layer, uint64_t *kind);

/* forward_linear.c: products with the matrices of layer `index`. */
void forward_project_qkv(forward_t *f, size_t thread, size_t index);
void forward_project_back(forward_t *f, size_t thread, const residual_t *r);
void forward_mlp(forward_t *f, size_t thread, size_t index);
/* Final norm and lm_head of the rows that logits are wanted of. */
void forward_compute_logits(forward_t *f, size_t thread);

/* forward_narrow.c: which rows the last layer goes on with, before a step; and after its attention,
 * which computes no more than that: lays this rank's part of their outputs side by side. */
void forward_choose_kept(forward_t *f);
void forward_narrow(forward_t *f, size_t thread);

/* forward_attend.c: units of attention are dealt out as threads become free. */
void forward_attend(forward_t *f, size_t thread, size_t layer);

#endif
