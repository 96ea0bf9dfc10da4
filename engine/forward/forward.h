/* One forward step of this rank's share of the model over a ragged batch.
 *
 * A step runs rows (tokens) of several sequences: prompt chunks and decodes together. Which order
 * of operations a row follows depends on the row's own place in its sequence alone (see order.h),
 * which the batch states per sequence. forward_t owns scratch and gather buffers, sized at open;
 * borrows model, cache, team and comm. One step at a time. */
#ifndef CHOIR_FORWARD_FORWARD_H
#define CHOIR_FORWARD_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/base/team.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "engine/model/order.h"
#include "engine/model/tap.h"

typedef struct forward forward_t;

typedef struct forward_options {
    order_t order;
    attention_t attention;
    dot_t dot;          /* of linear layers and sdpa; not DOT_AUTO; DOT_CHAIN except in mode bf16 */
    size_t max_rows;    /* tokens of one step */
    size_t max_logits;  /* rows of logits of one step */
    size_t max_context; /* keys of one sequence */
} forward_options_t;

/* Some rows of one sequence. Sequences with `single` set (single rows) come first in a batch. */
typedef struct forward_sequence {
    size_t first_row; /* its rows are [first_row, first_row + n_rows) of the batch */
    size_t n_rows;
    size_t first_position; /* position in the sequence of its first row */
    size_t ref_q_len; /* tokens of the call that Hugging Face would make for these rows: the whole
                         * prompt's length for a chunk of a prompt, 1 for a decode step */
    bool single_row;  /* ref_q_len == 1: single rows (M = 1), each alone in its call (decode,
                       * one-token prompt); several of them only where tokens are drafted */
    const int32_t
        *blocks; /* block ids of the cache covering positions 0 .. first_position + n_rows - 1 */
} forward_sequence_t;

typedef struct forward_logits_row {
    size_t row;      /* of the batch */
    bool single_row; /* computed as a single row (generate()), or as one of its call's rows (plain
                 * forward) */
} forward_logits_row_t;

typedef struct forward_batch {
    size_t n_rows, n_sequences, n_logits;
    const int32_t *token_ids;                /* [n_rows] */
    const forward_sequence_t *sequences;     /* [n_sequences], rows ascending, single rows first */
    const forward_logits_row_t *logits_rows; /* [n_logits], single rows first */
} forward_batch_t;

/* The attention of ATTENTION_AUTO; other values are returned unchanged. */
attention_t forward_attention(const config_t *config, order_t order, attention_t attention);

/* Whether a step has to hold whole prompts: where an expert's row is summed in another order when it
 * is the only one of its call to choose the expert (docs/numerics.md, "Experts"). */
bool forward_wants_whole_prompts(const config_t *config, order_t order, dot_t dot, dtype_t mode);

/* Collective over the model's group. options->attention: not ATTENTION_AUTO. */
int forward_open(forward_t **forward, const model_t *model, kv_cache_t *cache, team_t *team,
    comm_t *comm, const forward_options_t *options, fail_t *fail);
/* Collective. */
void forward_close(forward_t *forward);

/* Bytes that forward_open would take on this rank, so that memory can be refused beforehand. */
size_t forward_bytes(
    const model_t *model, const forward_options_t *options, size_t n_threads, int comm_size);

/* Collective. Cannot fail: everything is checked before. Writes K and V of all rows into the cache;
 * without a tap, what follows them in the last layer is computed for the rows of logits_rows only.
 * Afterwards forward_logits gives this rank's part of the logits. */
void forward_step(forward_t *forward, const forward_batch_t *batch);

/* Local. Sets the tap of the following steps; NULL for none. Borrowed. Ranks must agree on whether
 * one is set and whether it refills. FAIL_MEMORY; FAIL_USAGE with --combine reduce. */
int forward_set_tap(forward_t *forward, const tap_t *tap, fail_t *fail);

/* This rank's rows of the vocabulary (the plan's share.vocab) for logits row i of the last step:
 * [plan_count(share.vocab)] f32 in modes bf16 (values are bf16, widened) and f32, f64 in mode f64.
 */
const void *forward_logits(const forward_t *forward, size_t i);

/* Where the time of the steps went so far, on this rank, in nanoseconds of thread 0. Waiting is for
 * the rank's other threads; what a gather waits for other ranks is part of the exchange, and so is
 * sending and receiving during other work. Transfers that overlap are in no number. */
typedef struct forward_times {
    uint64_t matrix_ns, attention_ns, elementwise_ns, exchange_ns, waiting_ns;
} forward_times_t;
forward_times_t forward_times(const forward_t *forward);

/* Bytes of keys and values that attention has read so far on this rank, by blocks: those that sequences share, once for
 * all that read them together. */
uint64_t forward_kv_bytes(const forward_t *forward);

/* Experts whose weights the steps have read so far, those of every layer counted. */
uint64_t forward_experts(const forward_t *forward);

#endif
