/* config.json and generation_config.json of a Hugging Face model directory.
 *
 * Plain data, no ownership. Names follow the keys of transformers' configuration classes. */
#ifndef CHOIR_MODEL_CONFIG_H
#define CHOIR_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "engine/model/quantization.h"
#include "sharding/plan.h"

#define CONFIG_MAX_STOP_IDS 256
#define CONFIG_MAX_NOTES 4
#define CONFIG_NOTE_BYTES 320
#define CONFIG_MAX_LAYERS QUANTIZATION_MAX_LAYERS

typedef enum rope_type {
    ROPE_DEFAULT,
    ROPE_YARN,
    ROPE_LINEAR,  /* frequencies divided by the factor */
    ROPE_DYNAMIC, /* NTK: frequencies of a call follow its length, see rope.h */
    ROPE_LLAMA3   /* long waves divided by the factor, short ones kept, see rope.c */
} rope_type_t;

/* How RoPE is scaled, as transformers' modeling_rope_utils.py reads it. All 0 for the default;
 * linear and dynamic have a factor; llama3 that, the original length and its own two factors; yarn
 * (https://arxiv.org/abs/2309.00071) all but these two. */
typedef struct config_rope {
    rope_type_t type;
    double factor;
    size_t original_max_position_embeddings;
    double beta_fast, beta_slow; /* 32 and 1 by default */
    double attention_factor; /* 0.1 ln(factor) + 1 by default (or from mscale, mscale_all_dim) */
    bool truncate;           /* true by default */
    double low_freq_factor, high_freq_factor; /* of llama3 */
} config_rope_t;

/* Defaults that the checkpoint's authors recommend: of generation_config.json where there is one,
 * else of config.json. */
typedef struct config_generation {
    size_t n_stop_ids;
    int32_t stop_ids[CONFIG_MAX_STOP_IDS]; /* eos_token_id */
    int32_t pad_id, bos_id;                /* -1 when not given */
    bool do_sample;
    /* As in the file, valid or not, NaN for what is no number; config_use_... checks. 1, 1, 0, 1
     * and 50, as in transformers, when absent. */
    double temperature, top_p, min_p, repetition_penalty;
    double top_k;
    /* "typical_p, eta_cutoff": what transformers would draw with and Choir does not have; "" none. */
    char unread[CONFIG_NOTE_BYTES];
} config_generation_t;

struct arch;

typedef struct config {
    const struct arch *arch; /* arch/arch.h */
    unsigned parts;          /* ARCH_...: optional parts that the model has */
    size_t hidden_size, intermediate_size, num_hidden_layers;
    size_t num_attention_heads, num_key_value_heads, head_dim;
    size_t vocab_size, max_position_embeddings;
    double rope_theta;
    double rms_norm_eps;
    bool tie_word_embeddings;
    bool use_sliding_window;
    /* Layers >= max_window_layers look back sliding_window keys. Without a window, whatever the
     * file's unused values are, these are 0 and num_hidden_layers. layer_types of the file is
     * folded in. */
    size_t sliding_window, max_window_layers;
    /* Of a mixture of experts; all 0 without. Which layers have one: config_layer_is_sparse */
    size_t n_experts, n_experts_per_token, expert_intermediate_size;
    bool norm_topk_prob; /* the chosen experts' weights are divided by their sum */
    uint8_t sparse_layers[(CONFIG_MAX_LAYERS + 7) / 8]; /* a bit for each layer */
    config_rope_t rope;
    quantization_t quantization;
    dtype_t torch_dtype; /* of the checkpoint, informative; bf16 when not given */
    config_generation_t generation;
    /* Warnings on loading: fields that contradict each other, and which one counts. */
    size_t n_notes;
    char notes[CONFIG_MAX_NOTES][CONFIG_NOTE_BYTES];
} config_t;

/* Reads directory/config.json and, if present, directory/generation_config.json, as Python's json
 * module does (json.h). What wins where two fields say the same: docs/compatibility.md.
 * FAIL_FILE, FAIL_FORMAT, FAIL_MODEL (another architecture, sizes that contradict each other). */
int config_load(config_t *config, const char *directory, fail_t *fail);

/* Reads one config.json alone (shapes of configs/). */
int config_load_file(config_t *config, const char *path, fail_t *fail);

/* The text of a config.json from elsewhere; name: for messages. */
int config_load_text(config_t *config, const char *text, const char *name, fail_t *fail);

/* Whether a layer has a mixture of experts in place of one MLP; how many have. */
static inline bool config_layer_is_sparse(const config_t *config, size_t layer)
{
    return (config->sparse_layers[layer / 8] >> layer % 8 & 1) != 0;
}
size_t config_sparse_layers(const config_t *config);

/* Whether positions reach beyond max_position_embeddings: llama3's length is the scaled one. */
static inline bool config_scales(const config_t *config)
{
    return config->rope.type != ROPE_DEFAULT && config->rope.type != ROPE_LLAMA3;
}

/* Whether a sequence of n tokens has positions. Known from the file alone unless RoPE is scaled,
 * which counts as having them here. */
static inline bool config_has_positions(const config_t *config, size_t n)
{
    return config_scales(config) || n <= config->max_position_embeddings;
}

/* Values of the checkpoint's sampling for a run that uses them, handled as transformers does: a
 * top_p above 1 is off. FAIL_MODEL names the field and the flag that replaces it. */
int config_use_temperature(const config_generation_t *generation, double *value, fail_t *fail);
int config_use_top_p(const config_generation_t *generation, double *value, fail_t *fail);
int config_use_min_p(const config_generation_t *generation, double *value, fail_t *fail);
int config_use_top_k(const config_generation_t *generation, size_t *value, fail_t *fail);
int config_use_penalty(const config_generation_t *generation, double *value, fail_t *fail);

/* The sizes a plan needs, weights and cache in the given mode. */
plan_model_t config_plan_model(const config_t *config, dtype_t mode);

/* Has the matrices of all layers, but routers, quantised in this way, or as they are, in place of what the file says. */
void config_quantise(config_t *config, quantised_kind_t kind);

/* A digest of every field, to compare between ranks. */
uint64_t config_digest(const config_t *config);

#endif
