/* Weights of decoders with grouped-query attention and, in each layer, one SwiGLU MLP or a mixture of
 * them, as transformers names them. */
#include "engine/model/arch/arch.h"

#define VECTOR(rows, split)                                                                        \
    {                                                                                              \
        PLAN_DIM_##rows, PLAN_DIM_NONE, split, true, PLAN_ALL_LAYERS, false, NULL                  \
    }
#define MATRIX(rows, columns, split)                                                               \
    {                                                                                              \
        PLAN_DIM_##rows, PLAN_DIM_##columns, split, true, PLAN_ALL_LAYERS, false, NULL             \
    }
#define OUTSIDE(rows, columns, split)                                                              \
    {                                                                                              \
        PLAN_DIM_##rows, PLAN_DIM_##columns, split, false, PLAN_ALL_LAYERS, false, NULL            \
    }
/* Of layers with one MLP, and of layers with a mixture. */
#define DENSE_VECTOR(rows, split)                                                                  \
    {                                                                                              \
        PLAN_DIM_##rows, PLAN_DIM_NONE, split, true, PLAN_DENSE_LAYERS, false, NULL                \
    }
#define DENSE_MATRIX(rows, columns, split)                                                         \
    {                                                                                              \
        PLAN_DIM_##rows, PLAN_DIM_##columns, split, true, PLAN_DENSE_LAYERS, false, NULL           \
    }
#define ROUTER_MATRIX(rows, columns, split)                                                        \
    {                                                                                              \
        PLAN_DIM_##rows, PLAN_DIM_##columns, split, true, PLAN_SPARSE_LAYERS, false, NULL          \
    }
#define EXPERT_MATRIX(rows, columns, split)                                                        \
    {                                                                                              \
        PLAN_DIM_##rows, PLAN_DIM_##columns, split, true, PLAN_SPARSE_LAYERS, true, NULL           \
    }
#define WEIGHT(what) .role = WEIGHT_##what, .adds = WEIGHT_##what
#define BIAS(matrix) .role = WEIGHT_##matrix##_BIAS, .adds = WEIGHT_##matrix

/* clang-format off */
const arch_weight_t arch_decoder_weights[ARCH_DECODER_WEIGHTS] = {
    {WEIGHT(EMBEDDING),  .name = "model.embed_tokens.weight",        .label = "embed_tokens",              .shape = OUTSIDE(VOCAB, HIDDEN, PLAN_ROWS)},
    {WEIGHT(INPUT_NORM), .name = "input_layernorm.weight",           .label = "input_layernorm",           .shape = VECTOR(HIDDEN, PLAN_WHOLE)},
    {WEIGHT(Q),          .name = "self_attn.q_proj.weight",          .label = "q_proj",                    .shape = MATRIX(HEADS, HIDDEN, PLAN_ROWS)},
    {BIAS(Q),            .name = "self_attn.q_proj.bias",            .label = "q_proj.bias",               .shape = VECTOR(HEADS, PLAN_ROWS),        .needs = ARCH_QKV_BIAS},
    {WEIGHT(K),          .name = "self_attn.k_proj.weight",          .label = "k_proj",                    .shape = MATRIX(KV_HEADS, HIDDEN, PLAN_ROWS)},
    {BIAS(K),            .name = "self_attn.k_proj.bias",            .label = "k_proj.bias",               .shape = VECTOR(KV_HEADS, PLAN_ROWS),     .needs = ARCH_QKV_BIAS},
    {WEIGHT(V),          .name = "self_attn.v_proj.weight",          .label = "v_proj",                    .shape = MATRIX(KV_HEADS, HIDDEN, PLAN_ROWS)},
    {BIAS(V),            .name = "self_attn.v_proj.bias",            .label = "v_proj.bias",               .shape = VECTOR(KV_HEADS, PLAN_ROWS),     .needs = ARCH_QKV_BIAS},
    {WEIGHT(Q_NORM),     .name = "self_attn.q_norm.weight",          .label = "q_norm",                    .shape = VECTOR(HEAD, PLAN_WHOLE),        .needs = ARCH_QK_NORM},
    {WEIGHT(K_NORM),     .name = "self_attn.k_norm.weight",          .label = "k_norm",                    .shape = VECTOR(HEAD, PLAN_WHOLE),        .needs = ARCH_QK_NORM},
    {WEIGHT(O),          .name = "self_attn.o_proj.weight",          .label = "o_proj",                    .shape = MATRIX(HIDDEN, HEADS, PLAN_ROWS_OR_COLUMNS)},
    {BIAS(O),            .name = "self_attn.o_proj.bias",            .label = "o_proj.bias",               .shape = VECTOR(HIDDEN, PLAN_WHOLE),      .needs = ARCH_O_BIAS},
    {WEIGHT(POST_NORM),  .name = "post_attention_layernorm.weight",  .label = "post_attention_layernorm",  .shape = VECTOR(HIDDEN, PLAN_WHOLE)},
    {WEIGHT(GATE),       .name = "mlp.gate_proj.weight",             .label = "gate_proj",                 .shape = DENSE_MATRIX(MLP, HIDDEN, PLAN_ROWS)},
    {BIAS(GATE),         .name = "mlp.gate_proj.bias",               .label = "gate_proj.bias",            .shape = DENSE_VECTOR(MLP, PLAN_ROWS),          .needs = ARCH_MLP_BIAS},
    {WEIGHT(UP),         .name = "mlp.up_proj.weight",               .label = "up_proj",                   .shape = DENSE_MATRIX(MLP, HIDDEN, PLAN_ROWS)},
    {BIAS(UP),           .name = "mlp.up_proj.bias",                 .label = "up_proj.bias",              .shape = DENSE_VECTOR(MLP, PLAN_ROWS),          .needs = ARCH_MLP_BIAS},
    {WEIGHT(DOWN),       .name = "mlp.down_proj.weight",             .label = "down_proj",                 .shape = DENSE_MATRIX(HIDDEN, MLP, PLAN_ROWS_OR_COLUMNS)},
    {BIAS(DOWN),         .name = "mlp.down_proj.bias",               .label = "down_proj.bias",            .shape = DENSE_VECTOR(HIDDEN, PLAN_WHOLE),      .needs = ARCH_MLP_BIAS},
    {WEIGHT(ROUTER),     .name = "mlp.gate.weight",                  .label = "router",                    .shape = ROUTER_MATRIX(EXPERTS, HIDDEN, PLAN_WHOLE)},
    {WEIGHT(EXPERT_GATE), .name = "mlp.experts.*.gate_proj.weight",  .label = "experts.gate_proj",         .shape = EXPERT_MATRIX(EXPERT_MLP, HIDDEN, PLAN_ROWS)},
    {WEIGHT(EXPERT_UP),  .name = "mlp.experts.*.up_proj.weight",     .label = "experts.up_proj",           .shape = EXPERT_MATRIX(EXPERT_MLP, HIDDEN, PLAN_ROWS)},
    {WEIGHT(EXPERT_DOWN), .name = "mlp.experts.*.down_proj.weight",  .label = "experts.down_proj",         .shape = EXPERT_MATRIX(HIDDEN, EXPERT_MLP, PLAN_ROWS_OR_COLUMNS)},
    {WEIGHT(FINAL_NORM), .name = "model.norm.weight",                .label = "norm",                      .shape = OUTSIDE(HIDDEN, NONE, PLAN_WHOLE)},
    {WEIGHT(LM_HEAD),    .name = "lm_head.weight",                   .label = "lm_head",                   .shape = OUTSIDE(VOCAB, HIDDEN, PLAN_ROWS), .needs = ARCH_UNTIED},
};
/* clang-format on */
