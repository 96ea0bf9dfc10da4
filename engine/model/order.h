/* Orders of operations: which sequence of additions a sum follows (docs/numerics.md,
 * docs/pytorch-orders.md). Pure functions. */
#ifndef CHOIR_MODEL_ORDER_H
#define CHOIR_MODEL_ORDER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/dtype.h"
#include "engine/kernels/kernels.h"

/* --order */
typedef enum order {
    ORDER_TORCH,   /* as Hugging Face transformers on PyTorch: prompt rows and single rows differ */
    ORDER_UNIFORM, /* one rule for every row */
    ORDER_TORCH_AVX2 /* as there on CPUs with AVX2 only; mode bf16 */
} order_t;

/* --attention: transformers' attn_implementation */
typedef enum attention {
    ATTENTION_EAGER,
    ATTENTION_SDPA, /* transformers' default; in bf16 an order of its own, with --order torch only
                     */
    ATTENTION_AUTO  /* sdpa where its order is defined, else eager */
} attention_t;

/* f32 and f64: short leaves keep rounding errors small. Linear layers group them (kernels_t,
 * tile_groups). Keys come in blocks of KV_BLOCK, so 64 there. */
#define ORDER_WIDE_LEAF KERNEL_LEAF
#define ORDER_WIDE_KEY_LEAF 64

/* Whether transformers' sdpa attention is defined in this order. */
static inline bool order_has_sdpa(order_t order)
{
    return order != ORDER_UNIFORM;
}

/* Lanes of the vectors of PyTorch's own kernels. */
static inline size_t order_lanes(order_t order)
{
    return order == ORDER_TORCH_AVX2 ? 8 : 16;
}

/* Inputs of one leaf of a linear layer's sum over `inputs` inputs. single: a single row (M = 1),
 * alone in its call. With the dot products amx and fold a leaf is the whole row in every order. */
static inline size_t order_linear_leaf(
    order_t order, dot_t dot, dtype_t mode, size_t inputs, bool single_row)
{
    if (mode != DTYPE_BF16)
        return ORDER_WIDE_LEAF;
    if (dot == DOT_AMX || dot == DOT_FOLD)
        return MATRIX_ONE_LEAF;
    if (single_row && order == ORDER_TORCH)
        return 512;
    return inputs <= 1024 ? 512 : 1024;
}

/* Dimensions of one leaf of a score's sum. */
static inline size_t order_score_leaf(dtype_t mode, size_t head_dim)
{
    return mode == DTYPE_BF16 ? head_dim : ORDER_WIDE_LEAF;
}

/* Keys of one leaf of eager attention's output. call_keys: all keys of the call, masked ones
 * included. */
static inline size_t order_output_leaf(
    order_t order, dtype_t mode, size_t call_keys, bool single_row)
{
    if (mode != DTYPE_BF16)
        return ORDER_WIDE_KEY_LEAF;
    return order == ORDER_UNIFORM || single_row || call_keys <= 1024 ? 512 : 1024;
}

/* Lanes that eager attention sums its exponentials in; 1: left to right. */
static inline size_t order_softmax_lanes(order_t order, size_t call_keys)
{
    size_t lanes = order_lanes(order);
    return order == ORDER_UNIFORM || call_keys >= lanes ? lanes : 1;
}

#endif
