/* Attention of one KV head's query heads for some rows of one sequence: the unit of work that
 * forward deals out to threads.
 *
 * Each order of operations has a file of its own: attention_eager.c, attention_sdpa.c. Pure
 * functions of their arguments; the cache holds K and V of all keys up to the last row's position.
 */
#ifndef CHOIR_MODEL_ATTENTION_H
#define CHOIR_MODEL_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/kernels.h"
#include "engine/model/kv_cache.h"
#include "engine/model/order.h"
#include "engine/model/tap.h"

/* Rows (tokens x query heads) of one unit, about. */
#define ATTENTION_UNIT_ROWS 48

typedef struct attention_unit {
    /* The unit that the thread probably computes next, or NULL: its keys and values can be
     * prefetched. */
    const struct attention_unit *next;
    const kernels_t *kernels;
    order_t order;
    dot_t dot;          /* of sdpa's products of 4 queries or more */
    size_t total_heads; /* query heads of the whole model: the reference's small products depend on
                           it */
    size_t head_dim;
    double scale;
    const kv_cache_t *cache;
    size_t layer, kv_head;    /* kv_head: local */
    const int32_t *blocks;    /* of the sequence */
    size_t first_position;    /* of the first token */
    size_t n_tokens, n_heads; /* rows: token-major, then query heads of this KV head */
    size_t ref_q_len;         /* tokens of the reference's call */
    size_t window;            /* keys a row sees, itself included; 0: all */
    size_t kv_group;          /* query heads that read a KV head, of the whole model */
    const void *q;            /* [n_tokens] rows q_stride apart, each [n_heads, head_dim] element */
    size_t q_stride;
    const tap_t *tap;         /* NULL: none; only eager attention can show weights */
    size_t tap_row, tap_rows; /* the first token's row in the batch, and the batch's rows */
    size_t tap_head;          /* the first query head's number in the model */
    void *out;                /* the same shape, out_stride apart, written */
    size_t out_stride;
    /* Of attention_window.h; 0 for callers. */
    size_t dropped_keys; /* of the sequence, that the reference's call no longer has */
    size_t packed_rows;  /* query heads that are rows of one head there, or 0 */
    void *panel;
} attention_unit_t;

/* Rows of units together, at most, and units: attention_sdpa. */
#define ATTENTION_TOGETHER_ROWS 384
#define ATTENTION_TOGETHER 64

/* Bytes of scratch for a unit with up to max_keys keys. */
size_t attention_eager_scratch_bytes(
    const kernels_t *kernels, size_t head_dim, size_t max_heads, size_t max_keys);

size_t attention_sdpa_scratch_bytes(size_t head_dim, size_t max_heads);

/* scratch: 64-byte aligned. */
void attention_eager(const attention_unit_t *unit, void *scratch);

/* [n] units, one after another: the same bits whatever their number. They take turns at blocks of keys, so that keys and
 * values that their sequences share, next to each other, come from memory once. At most ATTENTION_TOGETHER, of
 * ATTENTION_TOGETHER_ROWS together, where there are several. scratch: 64-byte aligned.
 *
 * Mode bf16, orders torch and torch-avx2. The two inputs of every pair (of dimensions in K, of keys in
 * V) lie swapped in the cache. A unit's tokens lie within one of the reference's query blocks,
 * which begin at multiples of 32. */
void attention_sdpa(const attention_unit_t *units, size_t n, void *scratch);

/* Tokens of a unit at most: units begin at multiples of it. A power of two up to 32, so that the
 * unit's rows are at most ATTENTION_UNIT_ROWS where that is possible. */
static inline size_t attention_unit_tokens(size_t n_heads)
{
    size_t tokens = 32;
    while (tokens > 1 && tokens * n_heads > ATTENTION_UNIT_ROWS)
        tokens /= 2;
    return tokens;
}

/* Rows of any unit with up to max_heads heads: scratch is sized by it. */
static inline size_t attention_unit_max_rows(size_t max_heads)
{
    return max_heads > ATTENTION_UNIT_ROWS ? max_heads : ATTENTION_UNIT_ROWS;
}

#endif
