#include "engine/model/kv_cache.h"

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/kernels/kernels.h"

static size_t k_block_bytes(dtype_t dtype, size_t head_dim)
{
    return kernel_padded_inputs(dtype, head_dim) * KV_BLOCK * dtype_bytes(dtype);
}

static size_t v_block_bytes(dtype_t dtype, size_t head_dim)
{
    return kernel_padded_outputs(head_dim) * KV_BLOCK * dtype_bytes(dtype);
}

size_t kv_cache_bytes(
    dtype_t dtype, size_t n_layers, size_t n_heads, size_t head_dim, size_t n_blocks)
{
    size_t block = k_block_bytes(dtype, head_dim) + v_block_bytes(dtype, head_dim);
    return n_layers * n_heads * n_blocks * block;
}

int kv_cache_open(kv_cache_t *cache, dtype_t dtype, size_t n_layers, size_t n_heads,
    size_t head_dim, size_t n_blocks, fail_t *fail)
{
    *cache = (kv_cache_t){.dtype = dtype,
        .n_layers = n_layers,
        .n_heads = n_heads,
        .head_dim = head_dim,
        .n_blocks = n_blocks,
        .k_block_bytes = k_block_bytes(dtype, head_dim),
        .v_block_bytes = v_block_bytes(dtype, head_dim),
        .bytes = kv_cache_bytes(dtype, n_layers, n_heads, head_dim, n_blocks)};
    size_t n = n_layers * n_heads * n_blocks;
    cache->k = memory_alloc(n * cache->k_block_bytes, "KV cache", fail);
    cache->v = memory_alloc(n * cache->v_block_bytes, "KV cache", fail);
    if (fail->status != 0)
        kv_cache_close(cache);
    return fail->status;
}

void kv_cache_close(kv_cache_t *cache)
{
    size_t n = cache->n_layers * cache->n_heads * cache->n_blocks;
    memory_free(cache->k, n * cache->k_block_bytes);
    memory_free(cache->v, n * cache->v_block_bytes);
    cache->k = cache->v = NULL;
}
