/* How many tokens the KV cache of a run holds, and whether all of it fits into memory. Pure
 * functions; every figure is of one rank. */
#ifndef CHOIR_RUN_CAPACITY_H
#define CHOIR_RUN_CAPACITY_H

#include <stddef.h>

#include "engine/base/status.h"

typedef struct capacity {
    size_t max_positions;         /* of the model */
    size_t max_batch;             /* sequences at once */
    size_t weight_bytes;          /* RoPE tables included */
    size_t cache_bytes_per_token; /* 0 on a rank without KV heads; a draft model's included */
    size_t draft_bytes;           /* weights and buffers of a draft model; 0: there is none */
    size_t available_bytes;       /* this rank's part of what its node has free; 0: unknown */
    const char *advice;           /* advice for the message; NULL: fewer --kv-tokens or more
                                   * machines */
} capacity_t;

/* Tokens of the cache by default: one sequence as long as the model allows (at most 32768), or 1024
 * for every sequence of a full batch while that takes at most a quarter of the memory. Less where
 * half of the memory beside the weights is smaller, but at least 1024 or the model's positions. A
 * multiple of block_tokens. */
size_t capacity_choose_tokens(const capacity_t *capacity, size_t block_tokens);

/* FAIL_MEMORY when weights, cache and scratch of a node's ranks (n_ranks, each as this one) are
 * more than the node has free; the message has all of these figures. */
int capacity_check(const capacity_t *capacity, size_t cache_tokens, size_t scratch_bytes,
    size_t n_ranks, fail_t *fail);

#endif
