/* Sizes of a dense model as tests write them down, and what a plan depends on for them. */
#ifndef CHOIR_TESTS_PLAN_FIXTURE_H
#define CHOIR_TESTS_PLAN_FIXTURE_H

#include "engine/model/arch/arch.h"
#include "engine/model/config.h"

typedef struct plan_shape {
    size_t hidden, intermediate, n_layers;
    size_t n_heads, n_kv_heads, head_dim;
    size_t vocab_size;
    bool tied;
    size_t weight_bytes; /* 2, 4 or 8 */
    size_t cache_bytes;
} plan_shape_t;

static inline plan_model_t plan_sizes(const plan_shape_t *shape)
{
    const config_t config = {.arch = &arch_qwen2,
        .parts = ARCH_QKV_BIAS,
        .hidden_size = shape->hidden,
        .intermediate_size = shape->intermediate,
        .num_hidden_layers = shape->n_layers,
        .num_attention_heads = shape->n_heads,
        .num_key_value_heads = shape->n_kv_heads,
        .head_dim = shape->head_dim,
        .vocab_size = shape->vocab_size,
        .tie_word_embeddings = shape->tied};
    dtype_t mode = shape->weight_bytes == 8   ? DTYPE_F64
                   : shape->weight_bytes == 4 ? DTYPE_F32
                                              : DTYPE_BF16;
    plan_model_t sizes = config_plan_model(&config, mode);
    sizes.cache_bytes = shape->cache_bytes;
    return sizes;
}

#endif
