/* Qwen3 dense (transformers' Qwen3ForCausalLM): RMSNorm of every head of q and k, biases of
 * attention only on request, a head_dim of its own. */
#include "engine/model/arch/arch.h"
#include "engine/model/config_internal.h"

static int read_qwen3(config_t *config, const document_t *document, fail_t *fail)
{
    bool bias = false;
    if (json_opt_bool(document->root, document->path, "attention_bias", &bias, fail) != 0)
        return fail->status;
    config->parts = ARCH_QK_NORM | (bias ? ARCH_QKV_BIAS | ARCH_O_BIAS : 0);
    return config_read_window(config, *document, fail);
}

const arch_t arch_qwen3 = {.architecture = "Qwen3ForCausalLM",
    .model_type = "qwen3",
    .weights = arch_decoder_weights,
    .n_weights = ARCH_DECODER_WEIGHTS,
    .head_dim = 128,
    .max_positions = 32768,
    .read = read_qwen3};
