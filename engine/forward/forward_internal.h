/* What a step works with. Internal to engine/forward.
 *
 * A step, with embedding and logits, is step.c; a layer, phase by phase, layer.c. Below them lie
 * panels.h (matrices), attend.c (attention), activation.h and exchange.h (what ranks see of each
 * other's work) and show.h (what a tap sees). */
#ifndef CHOIR_FORWARD_FORWARD_INTERNAL_H
#define CHOIR_FORWARD_FORWARD_INTERNAL_H

#include <stdatomic.h>

#include "comm/watch/progress_record.h"
#include "engine/forward/activation.h"
#include "engine/forward/forward.h"
#include "engine/kernels/fold.h"
#include "engine/model/tap.h"

typedef struct forward_buffer {
    char *data;
    size_t bytes;
} forward_buffer_t;

/* What a thread owns. */
typedef struct thread_scratch {
    char *products; /* panels of [rows, KERNEL_PANEL] accumulator */
    char *shown;    /* the same, once a tap was set: products as rounded, to look at */
    char *attention;
    char *outputs;  /* panels of [pairs, KERNEL_PANEL] element (mixture.c) */
    char *unpacked; /* of packed weights (kernels.h, matrix_product); else NULL */
    size_t product_bytes, attention_bytes, output_bytes, unpacked_bytes;
    uint64_t kv_bytes; /* forward_kv_bytes, of this thread */
} thread_scratch_t;

/* Buffers of a rank for itself. */
typedef enum forward_place {
    PLACE_NORMED,  /* [max(max_rows, max_logits), hidden stride] element; or in K-blocks */
    PLACE_Q,       /* [max_rows, local heads * head_dim] element */
    PLACE_K,       /* [max_rows, local KV heads * head_dim] element */
    PLACE_V,       /* as PLACE_K */
    PLACE_PARTIAL, /* [max_rows, hidden] accumulator: --combine reduce; else empty */
    PLACE_LOGITS,  /* [max_logits, local vocabulary] accumulator */
    PLACE_ROUTER,  /* [max_rows, experts] element */
    PLACE_ROUTED, /* [max_rows x chosen, stride] element: rows by expert, those of one in rows or K-blocks */
    /* [max_rows, head_dim / 2] accumulator: of rows whose frequencies follow their call's length
     * (rope.h); empty where there are none. */
    PLACE_COS,
    PLACE_SIN,
    /* [max(max_rows, max_logits), most fold_row_elements] element: rows of a product, permuted; empty
     * but with DOT_FOLD. */
    PLACE_FOLDED,
    /* [max_rows, most folded_stride] element: rows of a product as the checkpoint quantises them; empty where it
     * does not. */
    PLACE_QUANTISED,
    PLACE_COUNT
} forward_place_t;

/* Which pairs of a row and an expert the current layer has (routing.h). */
typedef struct routing {
    bool by_call;      /* a pair's order depends on its call's choices */
    int32_t *experts;  /* [max_rows, chosen] */
    double *weights;   /* [max_rows, chosen] as rounded to the mode */
    uint32_t *pairs;   /* [max_rows x chosen] by expert */
    uint8_t *single;   /* [max_rows x chosen] by pair */
    size_t *first;     /* [experts + 1] where an expert's pairs begin */
    size_t *n_single;  /* [experts] */
    size_t *counts[2]; /* [experts] scratch */
    uint32_t *active;  /* [n_active] experts that have rows, ascending */
    size_t n_active;
    matrix_rows_t rows; /* of the step, as products want them */
} routing_t;

/* Which sequences of the step attend together (groups.h). */
typedef struct groups {
    size_t *members; /* [n] of max_rows: numbers of the batch's sequences, group by group */
    size_t *begins;  /* [n_groups + 1] of max_rows + 1: where each group begins in members */
    size_t *
        common; /* [n] of max_rows: blocks that a member has in common with the one before it in its group */
    size_t n, n_groups;
    size_t n_grouped; /* members of groups of several */
    size_t *next;     /* [max_rows] the next sequence of the same group, or NO_SEQUENCE */
    size_t *last;     /* [n_blocks] the last sequence of the step that begins with a block */
    uint64_t *steps;  /* [n_blocks] in which `last` was written */
    uint64_t step;
} groups_t;

struct forward {
    const model_t *model;
    kv_cache_t *cache;
    team_t *team;
    comm_t *comm;
    forward_options_t options;
    size_t n_threads; /* of the team; a step may run on fewer */
    double scale;     /* of scores */
    bool sdpa;        /* attention in PyTorch's fused order; f32 and f64 have one order for both */
    activation_t shared[SHARED_COUNT];
    routing_t routing; /* of the current layer; empty without experts */
    forward_buffer_t places[PLACE_COUNT];
    thread_scratch_t *threads; /* [n_threads] */
    const tap_t *tap;          /* NULL: none */
    int *owners;               /* [max_rows] rank of each row's embedding */
    /* The current step. */
    const forward_batch_t *batch;
    struct {
        size_t n,
            n_single_rows; /* current rows; the first n_single_rows are single rows (alone in their
                           * calls) */
    } rows;
    bool narrows;              /* the last layer continues with logit_rows only */
    size_t *logit_rows;        /* [max_rows] rows whose logits are needed, ascending */
    size_t *logit_rows_before; /* [max_rows + 1] how many of them come before a row */
    int streaming;             /* the shared activation that travels now, or NOT_STREAMING */
    atomic_size_t *missing;    /* [activation_max_tiles] of the gather under way; exchange.c */
    size_t n_tiles;
    groups_t groups;
    atomic_size_t next_unit;     /* of attention; attend.c */
    uint64_t mark_ns, n_experts; /* n_experts: forward_experts */
    forward_times_t times;
};

#define NOT_STREAMING (-1)

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

/* Rows that are normalised before they are laid into K-blocks. */
#define FORWARD_PACK_ROWS 4

/* Elements from row to row of PLACE_FOLDED, for products with so many inputs: an odd number of cache
 * lines. */
static inline size_t folded_stride(size_t inputs)
{
    enum { LINE = 32 };
    size_t lines = (fold_row_elements(inputs) + LINE - 1) / LINE;
    return (lines | 1) * LINE;
}

/* Whether this step's normalised rows lie in K-blocks (kernels.h). */
static inline bool normed_is_k_blocked(const forward_t *f)
{
    const model_t *m = f->model;
    return f->tap == NULL &&
           matrix_wants_k_blocked(&m->kernels, f->options.dot, f->rows.n, m->config.hidden_size);
}

/* Normalised rows, for a product. */
static inline matrix_rows_t forward_normed_rows(const forward_t *f)
{
    bool k_blocked = normed_is_k_blocked(f);
    return (matrix_rows_t){.x = f->places[PLACE_NORMED].data,
        .stride = k_blocked ? f->rows.n * KERNEL_K_BLOCK : f->shared[SHARED_X].stride,
        .k_blocked = k_blocked,
        .n = f->rows.n,
        .n_single_rows = f->rows.n_single_rows};
}

/* Whether the last layer will have other rows after attention than before, so that its attention's
 * output does not travel while it is computed. */
static inline bool forward_narrows_at(const forward_t *f, size_t layer)
{
    return f->narrows && layer + 1 == f->model->config.num_hidden_layers;
}

/* Whether it has them now. */
static inline bool forward_has_narrowed(const forward_t *f)
{
    return f->rows.n < f->batch->n_rows;
}

/* ---- Time, and threads of a step ------------------------------------------------------------- */

/* Thread 0 charges the time since the last mark to one kind of work. */
void forward_charge(forward_t *f, size_t thread, uint64_t *kind);
/* Ends a phase: charges its time, and the waiting. */
void forward_barrier(forward_t *f, size_t thread, uint64_t *kind);
/* All threads have come; true on thread 0, which goes on alone. The others wait until it ends that
 * with forward_go_on. */
bool forward_alone(forward_t *f, size_t thread);
void forward_go_on(forward_t *f, uint64_t *kind);

/* Thread 0 records the phase that begins, and its layer (0 outside of layers), for the watchdog. */
void forward_mark(const forward_t *f, size_t thread, progress_phase_t phase, size_t layer);

/* ---- Phases: each runs on all threads -------------------------------------------------------- */

/* layer.c: one layer over the rows of the step. */
void forward_layer(forward_t *f, size_t thread, size_t layer);
/* RoPE tables of rows whose frequencies follow their call's length, before the first layer. */
void forward_call_tables(forward_t *f, size_t thread);

/* attend.c: units of attention are dealt out as threads become free. */
void forward_attend(forward_t *f, size_t thread, size_t layer);

/* narrow.c: which rows the last layer continues with, before a step; and after its attention, which
 * computes no more than that: lays this rank's part of their outputs side by side. */
void forward_choose_logit_rows(forward_t *f);
void forward_narrow(forward_t *f, size_t thread);

#endif
