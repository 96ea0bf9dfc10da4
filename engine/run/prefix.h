/* Cache blocks by what is in them, so that prompts which begin alike share the blocks of their
 * beginning: bookkeeping only, no ranks, no clock.
 *
 * A block is free, or held by one or more sequences, or kept: nobody holds it, but it is ready to
 * be found again until its place is needed, longest unused first. A block that holds tokens of a
 * prompt is known by them, by the block before it, and by its class: rows of the same tokens have
 * the same bits only where their prompts' lengths put them into the same class (prefix_class). Owns
 * its arrays; one thread at a time. */
#ifndef CHOIR_RUN_PREFIX_H
#define CHOIR_RUN_PREFIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "engine/model/order.h"

/* Which orders of additions the first `end` tokens of a prompt of n_prompt tokens meet
 * (docs/pytorch-orders.md, 10.6): equal tokens of equal class have equal keys and values in the
 * cache, bit for bit. end: a multiple of 64, less than n_prompt or equal. */
uint32_t prefix_class(
    dtype_t mode, order_t order, attention_t attention, size_t end, size_t n_prompt);

typedef struct prefix prefix_t;

#define PREFIX_NONE (-1)
#define PREFIX_NOBODY UINT64_MAX

int prefix_open(prefix_t **prefix, size_t n_blocks, size_t block_tokens, fail_t *fail);
/* NULL is allowed. */
void prefix_close(prefix_t *prefix);

/* Blocks that prefix_take can give: free and kept ones. */
size_t prefix_available(const prefix_t *prefix);

/* A free or kept block, held from now on by the caller; there must be one. */
int32_t prefix_take(prefix_t *prefix);
void prefix_hold(prefix_t *prefix, int32_t block);
void prefix_release(prefix_t *prefix, int32_t block);

/* The block with these tokens behind block `before` (PREFIX_NONE: at the beginning), or
 * PREFIX_NONE. tokens: [block_tokens] */
int32_t prefix_find(const prefix_t *prefix, int32_t before, const int32_t *tokens, uint32_t class_);

/* Makes a held block known by its future tokens; `owner` is going to compute it. */
void prefix_register(prefix_t *prefix, int32_t block, int32_t before, const int32_t *tokens,
    uint32_t class_, uint64_t owner);

/* Whether a known block has been computed. */
bool prefix_is_ready(const prefix_t *prefix, int32_t block);
/* The owner has computed it; ignored for blocks that are not known. */
void prefix_set_ready(prefix_t *prefix, int32_t block);
/* The owner of a known block; PREFIX_NOBODY after prefix_disown. */
uint64_t prefix_owner(const prefix_t *prefix, int32_t block);
void prefix_set_owner(prefix_t *prefix, int32_t block, uint64_t owner);

#endif
