/* What a forward pass computes, as data: the components that `choir verify` compares, in the order
 * of computation, with their shapes and inputs (docs/numerics.md). Taps, references, dumps, reports
 * and the search for values that are not finite go through this table. */
#ifndef CHOIR_MODEL_COMPONENT_H
#define CHOIR_MODEL_COMPONENT_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/model/config.h"
#include "sharding/plan.h"

typedef enum component {
    COMPONENT_EMBEDDING_OUTPUT,  /* [rows, hidden] */
    COMPONENT_NORMALIZED_INPUT,  /* [rows, hidden] */
    COMPONENT_Q_PROJ,            /* [rows, heads * head_dim] with bias */
    COMPONENT_K_PROJ,            /* [rows, KV heads * head_dim] */
    COMPONENT_V_PROJ,            /* [rows, KV heads * head_dim] */
    COMPONENT_Q_NORM,            /* as q_proj, each head normalised */
    COMPONENT_K_NORM,            /* as k_proj */
    COMPONENT_Q_ROPE,            /* as q_proj */
    COMPONENT_K_ROPE,            /* as k_proj */
    COMPONENT_ATTN_WEIGHTS,      /* [heads * rows, keys]: row h * rows + r; eager attention only */
    COMPONENT_ATTN_OUTPUT,       /* [rows, heads * head_dim] */
    COMPONENT_O_PROJ,            /* [rows, hidden] */
    COMPONENT_HIDDEN_AFTER_ATTN, /* [rows, hidden] */
    COMPONENT_NORMALIZED_AFTER_ATTN, /* [rows, hidden] */
    COMPONENT_GATE_PROJ,             /* [rows, intermediate] */
    COMPONENT_UP_PROJ,               /* [rows, intermediate] */
    COMPONENT_MLP_ACTIVATION,        /* [rows, intermediate]: silu(gate) * up */
    /* Of layers with experts; a pair is a row and one of its k experts, in order of probability. */
    COMPONENT_ROUTER_LOGITS,     /* [rows, experts] */
    COMPONENT_CHOSEN_EXPERTS,    /* [rows, k] numbers of experts; accumulator type */
    COMPONENT_ROUTING_WEIGHTS,   /* [rows, k] */
    COMPONENT_EXPERT_GATE_PROJ,  /* [rows * k, expert's columns]: row r * k + j */
    COMPONENT_EXPERT_UP_PROJ,    /* likewise */
    COMPONENT_EXPERT_ACTIVATION, /* likewise: silu(gate) * up */
    COMPONENT_EXPERT_DOWN_PROJ,  /* [rows * k, hidden] */
    COMPONENT_EXPERT_OUTPUT,     /* [rows * k, hidden]: times the weight */
    COMPONENT_MLP_OUTPUT,        /* [rows, hidden]; of experts: their sum */
    COMPONENT_LAYER_OUTPUT,      /* [rows, hidden] */
    COMPONENT_FINAL_NORM,        /* [logits rows, hidden] */
    COMPONENT_LOGITS,            /* [logits rows, vocabulary], accumulator type */
    COMPONENT_COUNT
} component_t;

/* Which layer's component is an input. */
typedef enum component_from {
    FROM_NOTHING, /* ends the list */
    FROM_SAME,
    FROM_BEFORE, /* of the layer before; in the first layer the embedding's output */
    FROM_LAST,   /* of the last layer */
    FROM_CACHE   /* of this call and of those before, through the KV cache */
} component_from_t;

typedef struct component_input {
    component_from_t from;
    component_t component;
} component_input_t;

#define COMPONENT_MAX_INPUTS 3

typedef struct component_info {
    const char *name; /* "normalized_input", ... as in reference files */
    plan_dim_t width; /* columns of the whole matrix; attn_weights: PLAN_DIM_NONE, it has keys */
    bool per_layer;
    bool exchanged; /* ranks send their slices of it to each other */
    bool
        of_fused; /* PyTorch's fused attention (sdpa) shows it too: attention's inputs and output */
    unsigned needs;       /* ARCH_...: the part that it belongs to; 0: always there */
    plan_layers_t layers; /* that have it */
    bool of_pairs;        /* rows are pairs of a row and an expert */
    bool wide;            /* values have the accumulator type, not the element's */
    component_input_t inputs[COMPONENT_MAX_INPUTS];
} component_info_t;

const component_info_t *component_info(component_t component);

static inline const char *component_name(component_t component)
{
    return component_info(component)->name;
}

/* Whether a layer of the model computes it; layer: 0 for those outside of layers. Where it doesn't, its
 * first input is used in its place. */
bool component_is_in(const config_t *config, component_t component, size_t layer);

/* Rows of it for each row of a batch. */
static inline size_t component_rows(const config_t *config, component_t component)
{
    return component_info(component)->of_pairs ? config->n_experts_per_token : 1;
}

#endif
