#include "engine/model/arch/arch.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS "model.layers."

static const arch_t *const archs[] = {
    &arch_llama, &arch_mistral, &arch_qwen2, &arch_qwen3, &arch_qwen3_moe};

#define N_ARCHS (sizeof archs / sizeof *archs)

const arch_t *arch_find(const char *model_type, const char *architecture)
{
    for (size_t i = 0; i < N_ARCHS; i++) {
        if (model_type != NULL && strcmp(archs[i]->model_type, model_type) == 0)
            return archs[i];
        if (architecture != NULL && strcmp(archs[i]->architecture, architecture) == 0)
            return archs[i];
    }
    return NULL;
}

void arch_list(bool model_types, char *text, size_t text_bytes)
{
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < N_ARCHS && used < text_bytes; i++)
        used += (size_t)snprintf(text + used, text_bytes - used, "%s%s", i == 0 ? "" : ", ",
            model_types ? archs[i]->model_type : archs[i]->architecture);
}

unsigned arch_parts(const config_t *config)
{
    return config->parts | (config->tie_word_embeddings ? 0 : ARCH_UNTIED);
}

bool arch_has_layers(const config_t *config, plan_layers_t layers)
{
    size_t n_sparse = config_sparse_layers(config);
    return layers == PLAN_ALL_LAYERS ||
           (layers == PLAN_SPARSE_LAYERS ? n_sparse > 0 : n_sparse < config->num_hidden_layers);
}

const arch_weight_t *arch_weight(const config_t *config, size_t i)
{
    const arch_t *arch = config->arch;
    for (size_t w = 0; w < arch->n_weights; w++)
        if (arch_has(config, arch->weights[w].needs) &&
            arch_has_layers(config, arch->weights[w].shape.layers) && i-- == 0)
            return &arch->weights[w];
    return NULL;
}

const arch_weight_t *arch_weight_of(const config_t *config, weight_role_t role)
{
    const arch_t *arch = config->arch;
    for (size_t w = 0; w < arch->n_weights; w++)
        if (arch->weights[w].role == role)
            return &arch->weights[w];
    return NULL;
}

/* ---- Names ----------------------------------------------------------------------------------- */

void arch_weight_name(const arch_weight_t *weight, size_t layer, size_t expert, char *name)
{
    const char *mark = weight->shape.per_expert ? strchr(weight->name, ARCH_EXPERT_MARK) : NULL;
    if (mark != NULL)
        snprintf(name, ARCH_NAME_BYTES, LAYERS "%zu.%.*s%zu%s", layer, (int)(mark - weight->name),
            weight->name, expert, mark + 1);
    else if (weight->shape.per_layer)
        snprintf(name, ARCH_NAME_BYTES, LAYERS "%zu.%s", layer, weight->name);
    else
        snprintf(name, ARCH_NAME_BYTES, "%s", weight->name);
}

const char *arch_role_label(weight_role_t role)
{
    for (size_t i = 0; i < N_ARCHS; i++)
        for (size_t w = 0; w < archs[i]->n_weights; w++)
            if (archs[i]->weights[w].role == role)
                return archs[i]->weights[w].label;
    return "";
}

static const char *skip(const char *name, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(name, prefix, n) == 0 ? name + n : NULL;
}

/* The name of the matrix that a quantised one's tensor belongs to: "...qweight" is "...weight". text: [ARCH_NAME_BYTES] */
static const char *quantised_matrix(const char *name, char *text)
{
    static const char *const endings[] = {"qweight", "qzeros", "scales", "g_idx", "weight_packed",
        "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx", "input_scale",
        "input_zero_point", "weight_scale_inv", "activation_scale", "scale", "qscale_weight"};
    const char *last = strrchr(name, '.');
    if (last == NULL || strlen(name) + sizeof "weight" > ARCH_NAME_BYTES)
        return name;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (strcmp(last + 1, endings[i]) == 0) {
            snprintf(text, ARCH_NAME_BYTES, "%.*s.weight", (int)(last - name), name);
            return text;
        }
    return name;
}

/* Whether a name, inside of a layer or outside of all, is the weight's. expert: the number in a name of an expert's,
 * else 0. */
static bool is_name_of(const arch_weight_t *weight, const char *name, size_t *expert)
{
    const char *own = weight->name, *outside = skip(own, "model.");
    const char *mark = weight->shape.per_expert ? strchr(own, ARCH_EXPERT_MARK) : NULL;
    *expert = 0;
    if (mark == NULL)
        return strcmp(name, weight->shape.per_layer || outside == NULL ? own : outside) == 0;
    size_t before = (size_t)(mark - own);
    char *end = NULL;
    if (strncmp(name, own, before) != 0 || !isdigit((unsigned char)name[before]))
        return false;
    *expert = strtoul(name + before, &end, 10);
    return strcmp(end, mark + 1) == 0;
}

/* A tensor's name without what may stand before it. */
typedef struct inner_name {
    const char *outside;  /* "norm.weight", "layers.0.mlp.gate.weight" */
    const char *in_layer; /* "mlp.gate.weight"; NULL outside of the model's layers */
    size_t layer;
} inner_name_t;

/* matrix: memory for the name of a quantised matrix's tensor, as the matrix's */
static inner_name_t inner_name(
    const config_t *config, const char *name, char matrix[ARCH_NAME_BYTES])
{
    if (config->quantization.n_schemes > 0)
        name = quantised_matrix(name, matrix);
    inner_name_t found = {.outside = name};
    for (const char *inner; (inner = skip(found.outside, "model.")) != NULL;)
        found.outside = inner;
    const char *number = skip(found.outside, "layers.");
    if (number != NULL && isdigit((unsigned char)*number)) {
        char *end;
        found.layer = strtoul(number, &end, 10);
        found.in_layer = found.layer < config->num_hidden_layers && *end == '.' ? end + 1 : NULL;
    }
    return found;
}

/* The weight of the model with that name; expert: as above, also beyond those that the model has. */
static const arch_weight_t *find_weight(
    const config_t *config, const inner_name_t *name, size_t *expert)
{
    for (size_t w = 0; w < config->arch->n_weights; w++) {
        const arch_weight_t *weight = &config->arch->weights[w];
        /* lm_head of a tied model is known. */
        if (!arch_has(config, weight->needs) && weight->needs != ARCH_UNTIED)
            continue;
        if (weight->shape.per_layer &&
            (name->in_layer == NULL || !arch_layer_is(config, weight->shape.layers, name->layer)))
            continue;
        if (is_name_of(weight, weight->shape.per_layer ? name->in_layer : name->outside, expert))
            return weight;
    }
    return NULL;
}

bool arch_knows(const config_t *config, const char *name)
{
    /* Older versions wrote it, and nobody reads it. */
    static const char unread[] = "rotary_emb.inv_freq",
                      unread_of_layer[] = "self_attn.rotary_emb.inv_freq";
    char matrix[ARCH_NAME_BYTES];
    size_t expert;
    inner_name_t inner = inner_name(config, name, matrix);
    if (strcmp(inner.outside, unread) == 0 ||
        (inner.in_layer != NULL && strcmp(inner.in_layer, unread_of_layer) == 0))
        return true;
    const arch_weight_t *weight = find_weight(config, &inner, &expert);
    return weight != NULL && expert < arch_weight_experts(config, weight);
}

bool arch_is_beyond_experts(const config_t *config, const char *name, size_t *expert)
{
    char matrix[ARCH_NAME_BYTES];
    inner_name_t inner = inner_name(config, name, matrix);
    const arch_weight_t *weight = find_weight(config, &inner, expert);
    return weight != NULL && *expert >= arch_weight_experts(config, weight);
}
