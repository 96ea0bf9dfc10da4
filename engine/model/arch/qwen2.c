/* Qwen2 and Qwen2.5 (transformers' Qwen2ForCausalLM): q, k and v have biases. */
#include "engine/model/arch/arch.h"
#include "engine/model/config_internal.h"

static int read_qwen2(config_t *config, const document_t *document, fail_t *fail)
{
    config->parts = ARCH_QKV_BIAS;
    return config_read_window(config, *document, fail);
}

const arch_t arch_qwen2 = {.architecture = "Qwen2ForCausalLM",
    .model_type = "qwen2",
    .weights = arch_decoder_weights,
    .n_weights = ARCH_DECODER_WEIGHTS,
    .max_positions = 32768,
    .read = read_qwen2};
