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
    dtype_t dtype, size_t n_layers, size_t n_kv_heads, size_t head_dim, size_t n_blocks)
{
    size_t block = k_block_bytes(dtype, head_dim) + v_block_bytes(dtype, head_dim);
    return n_layers * n_kv_heads * n_blocks * block;
}

int kv_cache_open(kv_cache_t *cache, dtype_t dtype, size_t n_layers, size_t n_kv_heads,
    size_t head_dim, size_t n_blocks, fail_t *fail)
{
    *cache = (kv_cache_t){.dtype = dtype,
        .n_layers = n_layers,
        .n_kv_heads = n_kv_heads,
        .head_dim = head_dim,
        .n_blocks = n_blocks,
        .k_block_bytes = k_block_bytes(dtype, head_dim),
        .v_block_bytes = v_block_bytes(dtype, head_dim),
        .bytes = kv_cache_bytes(dtype, n_layers, n_kv_heads, head_dim, n_blocks)};
    cache->blocks = memory_alloc(cache->bytes, "KV cache", fail);
    return fail->status;
}

void kv_cache_close(kv_cache_t *cache)
{
    memory_free(cache->blocks, cache->bytes);
    cache->blocks = NULL;
}

void kv_cache_append(const kv_cache_t *cache, size_t layer, size_t head, size_t block, size_t slot,
    bool swapped, void *key, const void *value)
{
    size_t d = cache->head_dim, e = dtype_bytes(cache->dtype);
    char *v_block = kv_cache_v(cache, layer, head, block);
    if (swapped)
        row_swap_pairs(d, key);
    panel_pack_rows(cache->dtype, 1, d, key, kv_cache_k(cache, layer, head, block), KV_BLOCK, slot);
    for (size_t first = 0; first < d; first += KERNEL_PANEL)
        panel_pack_input(cache->dtype, swapped, size_min(KERNEL_PANEL, d - first),
            (const char *)value + first * e, v_block + first * KV_BLOCK * e,
            size_min(KERNEL_PANEL, kernel_padded_outputs(d) - first), slot);
}
