/* Qwen3 mixtures of experts (transformers' Qwen3MoeForCausalLM): Qwen3's attention, and in the layers
 * that are not dense a router that sends each token to some of the experts. */
#include "engine/model/arch/arch.h"
#include "engine/model/config_internal.h"
#include "engine/model/router.h"

#define MAX_EXPERTS ((size_t)1 << 16)
#define MAX_CHOSEN ((size_t)ROUTER_MAX_CHOSEN) /* the order of longer sums is not programmed */
#define MAX_COLUMNS ((size_t)1 << 22)

/* transformers 5 writes num_local_experts, which counts where both are given. */
static int read_experts(config_t *config, const document_t *document, fail_t *fail)
{
    json_t *root = document->root;
    const char *path = document->path;
    config->n_experts = 128;
    config->n_experts_per_token = 8;
    config->expert_intermediate_size = 768;
    if (json_opt_size(root, path, "num_experts", 0, MAX_EXPERTS, &config->n_experts, fail) != 0 ||
        json_opt_size(root, path, "num_local_experts", 0, MAX_EXPERTS, &config->n_experts, fail) !=
            0 ||
        json_opt_size(root, path, "num_experts_per_tok", 1, MAX_CHOSEN,
            &config->n_experts_per_token, fail) != 0 ||
        json_opt_size(root, path, "moe_intermediate_size", 1, MAX_COLUMNS,
            &config->expert_intermediate_size, fail) != 0 ||
        json_opt_bool(root, path, "norm_topk_prob", &config->norm_topk_prob, fail) != 0)
        return fail->status;
    if (config->n_experts > 0 && config->n_experts_per_token > config->n_experts)
        return fail_set(fail, FAIL_MODEL,
            "%s: num_experts_per_tok: expected at most num_experts %zu, found %zu", path,
            config->n_experts, config->n_experts_per_token);
    return 0;
}

/* A layer is dense if mlp_only_layers names it or the step does not reach it. */
static int read_layers(config_t *config, const document_t *document, fail_t *fail)
{
    size_t step = 1, i;
    json_t *dense = member(document->root, "mlp_only_layers"), *value;
    if (json_opt_size(document->root, document->path, "decoder_sparse_step", 1, CONFIG_MAX_LAYERS,
            &step, fail) != 0)
        return fail->status;
    for (size_t l = 0; l < config->num_hidden_layers && config->n_experts > 0; l++)
        if ((l + 1) % step == 0)
            config->sparse_layers[l / 8] |= (uint8_t)(1 << l % 8);
    if (dense != NULL && !json_is_array(dense))
        return fail_set(fail, FAIL_FORMAT,
            "%s: mlp_only_layers: expected an array of layers, found something else",
            document->path);
    json_array_foreach (dense, i, value) {
        if (!json_is_integer(value))
            return fail_set(fail, FAIL_FORMAT,
                "%s: mlp_only_layers[%zu]: expected a layer's number, found something else",
                document->path, i);
        json_int_t layer = json_integer_value(value);
        if (layer >= 0 && (size_t)layer < config->num_hidden_layers)
            config->sparse_layers[layer / 8] &= (uint8_t) ~(1 << layer % 8);
    }
    return 0;
}

/* A window, where it is used, is one of all layers; layer_types and max_window_layers do not count. */
static int read_window(config_t *config, const document_t *document, fail_t *fail)
{
    bool used = false;
    if (json_opt_bool(document->root, document->path, "use_sliding_window", &used, fail) != 0)
        return fail->status;
    return config_read_one_window(config, document, used, fail);
}

static int read_qwen3_moe(config_t *config, const document_t *document, fail_t *fail)
{
    bool bias = false;
    if (json_opt_bool(document->root, document->path, "attention_bias", &bias, fail) != 0)
        return fail->status;
    config->parts = ARCH_QK_NORM | (bias ? ARCH_QKV_BIAS | ARCH_O_BIAS : 0);
    if (read_experts(config, document, fail) != 0 || read_layers(config, document, fail) != 0)
        return fail->status;
    return read_window(config, document, fail);
}

const arch_t arch_qwen3_moe = {.architecture = "Qwen3MoeForCausalLM",
    .model_type = "qwen3_moe",
    .weights = arch_decoder_weights,
    .n_weights = ARCH_DECODER_WEIGHTS,
    .max_positions = 32768,
    .read = read_qwen3_moe};
