#include "engine/model/component.h"

#include "engine/model/arch/arch.h"

#define SAME(component)                                                                            \
    {                                                                                              \
        FROM_SAME, COMPONENT_##component                                                           \
    }
#define BEFORE                                                                                     \
    {                                                                                              \
        FROM_BEFORE, COMPONENT_LAYER_OUTPUT                                                        \
    }
#define LAST                                                                                       \
    {                                                                                              \
        FROM_LAST, COMPONENT_LAYER_OUTPUT                                                          \
    }
#define CACHED(component)                                                                          \
    {                                                                                              \
        FROM_CACHE, COMPONENT_##component                                                          \
    }
#define IN_LAYER(label, dim) .name = label, .width = PLAN_DIM_##dim, .per_layer = true
#define IN_DENSE(label, dim) IN_LAYER(label, dim), .layers = PLAN_DENSE_LAYERS
#define IN_SPARSE(label, dim) IN_LAYER(label, dim), .layers = PLAN_SPARSE_LAYERS

/* clang-format off */
static const component_info_t components[COMPONENT_COUNT] = {
    [COMPONENT_EMBEDDING_OUTPUT]      = {.name = "embedding_output", .width = PLAN_DIM_HIDDEN, .exchanged = true},
    [COMPONENT_NORMALIZED_INPUT]      = {IN_LAYER("normalized_input", HIDDEN), .inputs = {BEFORE}},
    [COMPONENT_Q_PROJ]                = {IN_LAYER("q_proj", HEADS), .inputs = {SAME(NORMALIZED_INPUT)}},
    [COMPONENT_K_PROJ]                = {IN_LAYER("k_proj", KV_HEADS), .inputs = {SAME(NORMALIZED_INPUT)}},
    [COMPONENT_V_PROJ]                = {IN_LAYER("v_proj", KV_HEADS), .of_fused = true, .inputs = {SAME(NORMALIZED_INPUT)}},
    [COMPONENT_Q_NORM]                = {IN_LAYER("q_norm", HEADS), .needs = ARCH_QK_NORM, .inputs = {SAME(Q_PROJ)}},
    [COMPONENT_K_NORM]                = {IN_LAYER("k_norm", KV_HEADS), .needs = ARCH_QK_NORM, .inputs = {SAME(K_PROJ)}},
    [COMPONENT_Q_ROPE]                = {IN_LAYER("q_rope", HEADS), .of_fused = true, .inputs = {SAME(Q_NORM)}},
    [COMPONENT_K_ROPE]                = {IN_LAYER("k_rope", KV_HEADS), .of_fused = true, .inputs = {SAME(K_NORM)}},
    [COMPONENT_ATTN_WEIGHTS]          = {IN_LAYER("attn_weights", NONE), .inputs = {SAME(Q_ROPE), CACHED(K_ROPE), CACHED(V_PROJ)}},
    [COMPONENT_ATTN_OUTPUT]           = {IN_LAYER("attn_output", HEADS), .exchanged = true, .of_fused = true, .inputs = {SAME(Q_ROPE), CACHED(K_ROPE), CACHED(V_PROJ)}},
    [COMPONENT_O_PROJ]                = {IN_LAYER("o_proj", HIDDEN), .inputs = {SAME(ATTN_OUTPUT)}},
    [COMPONENT_HIDDEN_AFTER_ATTN]     = {IN_LAYER("hidden_after_attn", HIDDEN), .exchanged = true, .inputs = {SAME(O_PROJ), BEFORE}},
    [COMPONENT_NORMALIZED_AFTER_ATTN] = {IN_LAYER("normalized_after_attn", HIDDEN), .inputs = {SAME(HIDDEN_AFTER_ATTN)}},
    [COMPONENT_GATE_PROJ]             = {IN_DENSE("gate_proj", MLP), .inputs = {SAME(NORMALIZED_AFTER_ATTN)}},
    [COMPONENT_UP_PROJ]               = {IN_DENSE("up_proj", MLP), .inputs = {SAME(NORMALIZED_AFTER_ATTN)}},
    [COMPONENT_MLP_ACTIVATION]        = {IN_DENSE("mlp_activation", MLP), .exchanged = true, .inputs = {SAME(GATE_PROJ), SAME(UP_PROJ)}},
    [COMPONENT_ROUTER_LOGITS]         = {IN_SPARSE("router_logits", EXPERTS), .inputs = {SAME(NORMALIZED_AFTER_ATTN)}},
    [COMPONENT_CHOSEN_EXPERTS]        = {IN_SPARSE("chosen_experts", CHOSEN), .wide = true, .inputs = {SAME(ROUTER_LOGITS)}},
    [COMPONENT_ROUTING_WEIGHTS]       = {IN_SPARSE("routing_weights", CHOSEN), .inputs = {SAME(ROUTER_LOGITS), SAME(CHOSEN_EXPERTS)}},
    [COMPONENT_EXPERT_GATE_PROJ]      = {IN_SPARSE("expert_gate_proj", EXPERT_MLP), .of_pairs = true, .inputs = {SAME(NORMALIZED_AFTER_ATTN), SAME(CHOSEN_EXPERTS)}},
    [COMPONENT_EXPERT_UP_PROJ]        = {IN_SPARSE("expert_up_proj", EXPERT_MLP), .of_pairs = true, .inputs = {SAME(NORMALIZED_AFTER_ATTN), SAME(CHOSEN_EXPERTS)}},
    [COMPONENT_EXPERT_ACTIVATION]     = {IN_SPARSE("expert_activation", EXPERT_MLP), .exchanged = true, .of_pairs = true, .inputs = {SAME(EXPERT_GATE_PROJ), SAME(EXPERT_UP_PROJ)}},
    [COMPONENT_EXPERT_DOWN_PROJ]      = {IN_SPARSE("expert_down_proj", HIDDEN), .of_pairs = true, .inputs = {SAME(EXPERT_ACTIVATION), SAME(CHOSEN_EXPERTS)}},
    [COMPONENT_EXPERT_OUTPUT]         = {IN_SPARSE("expert_output", HIDDEN), .of_pairs = true, .inputs = {SAME(EXPERT_DOWN_PROJ), SAME(ROUTING_WEIGHTS)}},
    [COMPONENT_MLP_OUTPUT]            = {IN_LAYER("mlp_output", HIDDEN), .inputs = {SAME(MLP_ACTIVATION), SAME(EXPERT_OUTPUT)}},
    [COMPONENT_LAYER_OUTPUT]          = {IN_LAYER("layer_output", HIDDEN), .exchanged = true, .inputs = {SAME(MLP_OUTPUT), SAME(HIDDEN_AFTER_ATTN)}},
    [COMPONENT_FINAL_NORM]            = {.name = "final_norm", .width = PLAN_DIM_HIDDEN, .inputs = {LAST}},
    [COMPONENT_LOGITS]                = {.name = "logits", .width = PLAN_DIM_VOCAB, .inputs = {SAME(FINAL_NORM)}},
};
/* clang-format on */

const component_info_t *component_info(component_t component)
{
    return &components[component];
}

bool component_is_in(const config_t *config, component_t component, size_t layer)
{
    return arch_has(config, components[component].needs) &&
           arch_layer_is(config, components[component].layers, layer);
}
