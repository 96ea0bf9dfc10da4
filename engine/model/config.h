/* config.json and generation_config.json of a Hugging Face model directory of the Qwen2 family.
 *
 * Plain data, no ownership. Names follow the keys of transformers' Qwen2Config. */
#ifndef CHOIR_MODEL_CONFIG_H
#define CHOIR_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "sharding/plan.h"

#define CONFIG_MAX_STOP_IDS 16

/* RoPE scaling of type yarn (https://arxiv.org/abs/2309.00071) as transformers'
 * _compute_yarn_parameters reads it. */
typedef struct config_yarn {
    bool enabled;
    double factor;
    size_t original_max_position_embeddings;
    double beta_fast, beta_slow; /* 32 and 1 by default */
    double attention_factor; /* 0.1 ln(factor) + 1 by default (or from mscale, mscale_all_dim) */
    bool truncate;           /* true by default */
} config_yarn_t;

/* Defaults that the checkpoint's authors recommend. */
typedef struct config_generation {
    size_t n_stop_ids;
    int32_t stop_ids[CONFIG_MAX_STOP_IDS]; /* eos_token_id of generation_config.json, else of
                                              config.json */
    int32_t pad_id, bos_id;                /* -1 when not given */
    bool do_sample;
    double temperature, top_p, repetition_penalty; /* 1 when not given */
    size_t top_k;                                  /* 50 when not given, as transformers */
} config_generation_t;

typedef struct config {
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
    config_yarn_t yarn;
    dtype_t torch_dtype; /* of the checkpoint, informative; bf16 when not given */
    config_generation_t generation;
} config_t;

/* Reads directory/config.json and, if present, directory/generation_config.json.
 * FAIL_FILE, FAIL_FORMAT, FAIL_MODEL (another architecture, sizes that contradict each other). */
int config_load(config_t *config, const char *directory, fail_t *fail);

/* Reads one config.json alone (shapes of configs/). */
int config_load_file(config_t *config, const char *path, fail_t *fail);

/* The text of a config.json that is kept elsewhere; name is what messages call it. */
int config_load_text(config_t *config, const char *text, const char *name, fail_t *fail);

/* Whether a sequence of n tokens has positions. Known from the file alone unless RoPE is stretched,
 * which counts as having them here. */
static inline bool config_has_positions(const config_t *config, size_t n)
{
    return config->yarn.enabled || n <= config->max_position_embeddings;
}

/* The sizes a plan needs, weights and cache in the given mode. */
plan_model_t config_plan_model(const config_t *config, dtype_t mode);

/* A digest of every field, to compare between ranks. */
uint64_t config_digest(const config_t *config);

#endif
