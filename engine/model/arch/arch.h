/* What is particular to an architecture, as data: its weights, and how its config.json is read.
 *
 * Loading, plan, memory estimates, cost model, verify, benchmarks, tests and the oracle's model
 * maker go through these tables; a list of weights anywhere else is a mistake. Immutable, so any
 * thread may read them. */
#ifndef CHOIR_MODEL_ARCH_ARCH_H
#define CHOIR_MODEL_ARCH_ARCH_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/model/config.h"
#include "sharding/plan.h"

/* What a weight is for, in the order of use. */
typedef enum weight_role {
    WEIGHT_EMBEDDING,
    WEIGHT_INPUT_NORM,
    WEIGHT_Q,
    WEIGHT_Q_BIAS,
    WEIGHT_K,
    WEIGHT_K_BIAS,
    WEIGHT_V,
    WEIGHT_V_BIAS,
    WEIGHT_Q_NORM,
    WEIGHT_K_NORM,
    WEIGHT_O,
    WEIGHT_O_BIAS,
    WEIGHT_POST_NORM,
    WEIGHT_GATE,
    WEIGHT_GATE_BIAS,
    WEIGHT_UP,
    WEIGHT_UP_BIAS,
    WEIGHT_DOWN,
    WEIGHT_DOWN_BIAS,
    WEIGHT_ROUTER,
    WEIGHT_EXPERT_GATE,
    WEIGHT_EXPERT_UP,
    WEIGHT_EXPERT_DOWN,
    WEIGHT_FINAL_NORM,
    WEIGHT_LM_HEAD,
    WEIGHT_COUNT
} weight_role_t;

/* Parts that a model may lack; bits of config_t.parts and of arch_weight_t.needs. */
enum {
    ARCH_QKV_BIAS = 1 << 0,
    ARCH_O_BIAS = 1 << 1,
    ARCH_QK_NORM = 1 << 2, /* RMSNorm of every head of q and k, before RoPE */
    ARCH_UNTIED = 1 << 3,  /* lm_head is not the embedding; arch_parts() tells */
    ARCH_MLP_BIAS = 1 << 4 /* of gate, up and down */
};

#define ARCH_NAME_BYTES 96
/* Stands for the expert's number in names of weights. */
#define ARCH_EXPERT_MARK '*'

typedef struct arch_weight {
    weight_role_t role;
    const char *name;  /* of the tensor; in layers what follows "model.layers.N." */
    const char *label; /* in tables; one role has one label in all architectures */
    plan_weight_t shape;
    unsigned needs;     /* the part that it belongs to; 0: always there */
    weight_role_t adds; /* a bias: the matrix whose outputs it is added to; else its own role */
} arch_weight_t;

struct document;

typedef struct arch {
    const char *architecture; /* "Qwen2ForCausalLM" */
    const char *model_type;   /* "qwen2" */
    const arch_weight_t *weights;
    size_t n_weights;
    /* Where config.json has none: */
    size_t head_dim;        /* 0: hidden_size / num_attention_heads */
    size_t max_positions;   /* max_position_embeddings */
    bool kv_heads_follow;   /* as many KV heads as query heads; else they must be given */
    int32_t bos_id, eos_id; /* 0: none */
    /* Reads what other architectures lack or mean otherwise, config->parts and the sliding window
     * among it, after the sizes. FAIL_FORMAT, FAIL_MODEL. */
    int (*read)(config_t *config, const struct document *document, fail_t *fail);
} arch_t;

/* By model_type, or by a name of `architectures`; NULL when it is not supported. */
const arch_t *arch_find(const char *model_type, const char *architecture);
/* "qwen2, qwen3": all model_types, or all names of `architectures`. */
void arch_list(bool model_types, char *text, size_t text_bytes);

/* The parts that the model has. */
unsigned arch_parts(const config_t *config);
/* Whether it has what needs such a part; 0 is always there. */
static inline bool arch_has(const config_t *config, unsigned needs)
{
    return needs == 0 || (needs & arch_parts(config)) != 0;
}
/* Weight i of those that the model has; NULL when there are no more. */
const arch_weight_t *arch_weight(const config_t *config, size_t i);
/* The weight with that role, whether or not the model has it; NULL when its architecture hasn't. */
const arch_weight_t *arch_weight_of(const config_t *config, weight_role_t role);

/* Whether a layer is one of these. */
static inline bool arch_layer_is(const config_t *config, plan_layers_t layers, size_t layer)
{
    return layers == PLAN_ALL_LAYERS ||
           (layers == PLAN_SPARSE_LAYERS) == config_layer_is_sparse(config, layer);
}
/* Whether the model has any of them. */
bool arch_has_layers(const config_t *config, plan_layers_t layers);
/* How many there are of a weight in a layer that has it. */
static inline size_t arch_weight_experts(const config_t *config, const arch_weight_t *weight)
{
    return weight->shape.per_expert ? config->n_experts : 1;
}

/* The tensor's name. name: [ARCH_NAME_BYTES]. layer, expert: ignored for what has none */
void arch_weight_name(const arch_weight_t *weight, size_t layer, size_t expert, char *name);
/* "q_proj", "q_proj.bias"; "" for a role that no architecture has. */
const char *arch_role_label(weight_role_t role);
/* Whether a tensor of that name, with or without "model." before it, is used, or known to be
 * without use. */
bool arch_knows(const config_t *config, const char *name);
/* Whether a tensor of that name is a weight of an expert whose number, written to *expert, is num_experts or more. */
bool arch_is_beyond_experts(const config_t *config, const char *name, size_t *expert);

/* ---- decoder.c: the table of decoders with an MLP or a mixture of experts in each layer ------- */

#define ARCH_DECODER_WEIGHTS 25
extern const arch_weight_t arch_decoder_weights[ARCH_DECODER_WEIGHTS];

extern const arch_t arch_llama, arch_mistral, arch_qwen2, arch_qwen3, arch_qwen3_moe;

#endif
