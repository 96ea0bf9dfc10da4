/* The KV cache of one rank: blocks of KV_BLOCK tokens, for this rank's KV heads, in all layers.
 *
 * Blocks are handed out by the scheduler of the coordinator; block ids mean the same on every rank.
 * A block of a layer and head is laid out for the matrix kernels (kernels.h), so that scores and
 * outputs are products with packed panels:
 *
 *   K  a panel of KV_BLOCK keys over head_dim inputs
 *   V  panels of head_dim outputs over KV_BLOCK keys
 *
 * KV_GROUP blocks lie together, all layers and heads, so that tokens wait for fresh pages of one
 * group alone, and memory is taken as blocks are used; within a group those of a layer and head,
 * so that a long context is read in pieces that are long enough for the memory.
 *
 * Not thread safe across writers of the same block; forward assigns them. */
#ifndef CHOIR_MODEL_KV_CACHE_H
#define CHOIR_MODEL_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/size.h"
#include "engine/base/status.h"

#define KV_BLOCK 64
#define KV_GROUP 32

typedef struct kv_cache {
    dtype_t dtype; /* of elements; weights may have another format */
    size_t n_layers, n_kv_heads, head_dim, n_blocks;
    size_t k_block_bytes, v_block_bytes; /* one block of one head and layer */
    size_t bytes;                        /* of blocks */
    char *blocks; /* [group][n_layers][n_kv_heads][K, V][block of the group]; the last group may be
                     smaller */
} kv_cache_t;

/* n_kv_heads: this rank's KV heads, may be 0. */
int kv_cache_open(kv_cache_t *cache, dtype_t dtype, size_t n_layers, size_t n_kv_heads,
    size_t head_dim, size_t n_blocks, fail_t *fail);
void kv_cache_close(kv_cache_t *cache);

/* Bytes that kv_cache_open would allocate. */
size_t kv_cache_bytes(
    dtype_t dtype, size_t n_layers, size_t n_kv_heads, size_t head_dim, size_t n_blocks);

/* Writes a token's key and value of one head into its place in a block. swapped: pairs of inputs of
 * keys, and of tokens of values, lie swapped, as the sdpa order wants them (kernels.h).
 * key, value: [head_dim] element; the key's pairs are swapped in place, too */
void kv_cache_append(const kv_cache_t *cache, size_t layer, size_t head, size_t block, size_t slot,
    bool swapped, void *key, const void *value);

/* The keys of a layer and head in a block's group, of n blocks; their values lie behind them. */
static inline char *kv_cache_group(
    const kv_cache_t *cache, size_t layer, size_t head, size_t block, size_t *n)
{
    size_t first = block / KV_GROUP * KV_GROUP;
    *n = size_min(cache->n_blocks - first, KV_GROUP);
    return cache->blocks +
           (first * cache->n_layers * cache->n_kv_heads + (layer * cache->n_kv_heads + head) * *n) *
               (cache->k_block_bytes + cache->v_block_bytes);
}

static inline char *kv_cache_k(const kv_cache_t *cache, size_t layer, size_t head, size_t block)
{
    size_t n;
    return kv_cache_group(cache, layer, head, block, &n) + block % KV_GROUP * cache->k_block_bytes;
}

static inline char *kv_cache_v(const kv_cache_t *cache, size_t layer, size_t head, size_t block)
{
    size_t n;
    char *keys = kv_cache_group(cache, layer, head, block, &n);
    return keys + n * cache->k_block_bytes + block % KV_GROUP * cache->v_block_bytes;
}

#endif
