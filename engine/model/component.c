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
    [COMPONENT_GATE_PROJ]             = {IN_LAYER("gate_proj", MLP), .inputs = {SAME(NORMALIZED_AFTER_ATTN)}},
    [COMPONENT_UP_PROJ]               = {IN_LAYER("up_proj", MLP), .inputs = {SAME(NORMALIZED_AFTER_ATTN)}},
    [COMPONENT_MLP_ACTIVATION]        = {IN_LAYER("mlp_activation", MLP), .exchanged = true, .inputs = {SAME(GATE_PROJ), SAME(UP_PROJ)}},
    [COMPONENT_MLP_OUTPUT]            = {IN_LAYER("mlp_output", HIDDEN), .inputs = {SAME(MLP_ACTIVATION)}},
    [COMPONENT_LAYER_OUTPUT]          = {IN_LAYER("layer_output", HIDDEN), .exchanged = true, .inputs = {SAME(MLP_OUTPUT), SAME(HIDDEN_AFTER_ATTN)}},
    [COMPONENT_FINAL_NORM]            = {.name = "final_norm", .width = PLAN_DIM_HIDDEN, .inputs = {LAST}},
    [COMPONENT_LOGITS]                = {.name = "logits", .width = PLAN_DIM_VOCAB, .inputs = {SAME(FINAL_NORM)}},
};
/* clang-format on */

const component_info_t *component_info(component_t component)
{
    return &components[component];
}

bool component_is_in(const config_t *config, component_t component)
{
    return arch_has(config, components[component].needs);
}
