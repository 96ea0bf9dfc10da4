/* Llama 2 and 3 (transformers' LlamaForCausalLM): biases of attention (q, k, v and o) and of the MLP only
 * on request, no windows. pretraining_tp and attention_dropout change nothing that is computed. */
#include "engine/model/arch/arch.h"
#include "engine/model/config_internal.h"

static int read_llama(config_t *config, const document_t *document, fail_t *fail)
{
    bool attention = false, mlp = false;
    if (json_opt_bool(document->root, document->path, "attention_bias", &attention, fail) != 0 ||
        json_opt_bool(document->root, document->path, "mlp_bias", &mlp, fail) != 0)
        return fail->status;
    config->parts =
        (attention ? ARCH_QKV_BIAS | ARCH_O_BIAS : 0u) | (mlp ? (unsigned)ARCH_MLP_BIAS : 0u);
    config->max_window_layers = config->num_hidden_layers;
    return 0;
}

const arch_t arch_llama = {.architecture = "LlamaForCausalLM",
    .model_type = "llama",
    .weights = arch_decoder_weights,
    .n_weights = ARCH_DECODER_WEIGHTS,
    .max_positions = 2048,
    .kv_heads_follow = true,
    .bos_id = 1,
    .eos_id = 2,
    .read = read_llama};
