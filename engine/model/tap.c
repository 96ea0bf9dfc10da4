#include "engine/model/tap.h"

const char *component_name(component_t component)
{
    static const char *const names[COMPONENT_COUNT] = {"embedding_output", "normalized_input",
        "q_proj", "k_proj", "v_proj", "q_rope", "k_rope", "attn_weights", "attn_output", "o_proj",
        "hidden_after_attn", "normalized_after_attn", "gate_proj", "up_proj", "mlp_activation",
        "mlp_output", "layer_output", "final_norm", "logits"};
    return names[component];
}
