/* quantization_config: the schemes of the writers of public checkpoints (docs/quantised.md). */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "engine/base/json.h"
#include "engine/model/arch/arch.h"
#include "engine/model/config_internal.h"
#include "engine/model/name_pattern.h"

#define MAX_GROUP ((size_t)1 << 20)

_Static_assert(WEIGHT_COUNT <= 64, "a word has a bit for each role");

/* quantization_config, its path for messages, and what is made of it. */
typedef struct reader {
    config_t *config;
    json_t *root; /* quantization_config */
    char path[CONFIG_NOTE_BYTES];
    /* Of each scheme: the modules that have it; of all: those that have none. */
    name_patterns_t targets[QUANTIZATION_MAX_SCHEMES], ignored;
    bool by_target;
    json_t *in_blocks; /* ends of names that alone are quantised, or NULL */
    bool lm_head;
} reader_t;

static int unknown(
    const reader_t *r, const char *key, const char *expected, const char *found, fail_t *fail)
{
    return fail_set(fail, FAIL_MODEL, "%s: %s: expected %s, found %.64s", r->path, key, expected,
        found != NULL ? found : "none");
}

static int refuse_given(const reader_t *r, const char *key, fail_t *fail)
{
    json_t *value = member(r->root, key);
    bool empty = value == NULL || (json_is_object(value) && json_object_size(value) == 0) ||
                 (json_is_array(value) && json_array_size(value) == 0);
    return empty ? 0 : unknown(r, key, "none, as Choir has no use for it", "some", fail);
}

static int read_bits(
    const reader_t *r, json_t *object, const char *key, bool eight, unsigned *bits, fail_t *fail)
{
    size_t found = 0;
    char text[32];
    if (json_get_size(object, r->path, key, 1, 64, &found, fail) != 0)
        return fail->status;
    snprintf(text, sizeof text, "%zu", found);
    if (found != 4 && !(eight && found == 8))
        return unknown(r, key, eight ? "4 or 8" : "4", text, fail);
    *bits = (unsigned)found;
    return 0;
}

/* group_size; -1: the whole row. */
static int read_group(const reader_t *r, json_t *object, size_t *group, fail_t *fail)
{
    json_t *value = member(object, "group_size");
    *group = 0;
    if (json_is_integer(value) && json_integer_value(value) == -1)
        return 0;
    return json_get_size(object, r->path, "group_size", 8, MAX_GROUP, group, fail);
}

static const char *text_of(json_t *object, const char *key)
{
    return json_string_value(member(object, key));
}

/* ---- GPTQ and AWQ ---------------------------------------------------------------------------- */

static int read_awq(reader_t *r, fail_t *fail)
{
    quantised_scheme_t *scheme = &r->config->quantization.schemes[0];
    bool symmetric = false; /* where nothing is said, zeros are looked at */
    scheme->layout = QUANTISED_AWQ;
    const char *version = text_of(r->root, "version");
    if (version != NULL && strcasecmp(version, "gemm") != 0)
        return unknown(r, "version", "gemm", version, fail);
    if (read_bits(r, r->root, "bits", false, &scheme->bits, fail) != 0 ||
        read_group(r, r->root, &scheme->group, fail) != 0 ||
        json_opt_bool(r->root, r->path, "sym", &symmetric, fail) != 0)
        return fail->status;
    scheme->zeros = !symmetric && !json_is_false(json_object_get(r->root, "zero_point"));
    return name_patterns_open(
        &r->ignored, NAMES_TRANSFORMERS, member(r->root, "modules_to_not_convert"), r->path, fail);
}

/* gptqmodel's `dynamic`: "-:" and an expression leaves modules out; other settings for some are not supported. */
static int read_dynamic(reader_t *r, fail_t *fail)
{
    json_t *dynamic = member(r->root, "dynamic"), *value, *left_out = json_array();
    const char *key;
    json_object_foreach (dynamic, key, value) {
        if (strncmp(key, "-:", 2) != 0) {
            json_decref(left_out);
            return unknown(r, "dynamic", "modules to leave out alone (\"-:...\")", key, fail);
        }
        json_array_append_new(left_out, json_sprintf("re:%s", key + 2));
    }
    /* The patterns point into the list. */
    json_object_set_new(r->root, "dynamic", left_out);
    return name_patterns_open(&r->ignored, NAMES_COMPRESSED_TENSORS, left_out, r->path, fail);
}

static int read_gptq(reader_t *r, fail_t *fail)
{
    quantised_scheme_t *scheme = &r->config->quantization.schemes[0];
    const char *format = text_of(r->root, "checkpoint_format"),
               *word = text_of(r->root, "pack_dtype");
    if (format == NULL)
        format = text_of(r->root, "format");
    if (format != NULL && strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0)
        return unknown(r, "checkpoint_format", "gptq or gptq_v2", format, fail);
    if (word != NULL && strcmp(word, "int32") != 0)
        return unknown(r, "pack_dtype", "int32", word, fail);
    bool symmetric = false;
    scheme->layout = QUANTISED_GPTQ;
    scheme->zeros_minus_one = format == NULL || strcmp(format, "gptq") == 0;
    if (read_bits(r, r->root, "bits", true, &scheme->bits, fail) != 0 ||
        read_group(r, r->root, &scheme->group, fail) != 0 ||
        json_opt_bool(r->root, r->path, "sym", &symmetric, fail) != 0 ||
        json_opt_bool(r->root, r->path, "desc_act", &scheme->act_order, fail) != 0 ||
        json_opt_bool(r->root, r->path, "lm_head", &r->lm_head, fail) != 0)
        return fail->status;
    scheme->zeros = !symmetric;
    r->in_blocks = member(r->root, "modules_in_block_to_quantize");
    return read_dynamic(r, fail);
}

static int read_auto_round(reader_t *r, fail_t *fail)
{
    const char *packing = text_of(r->root, "packing_format");
    if (refuse_given(r, "extra_config", fail) != 0)
        return fail->status;
    if (packing != NULL && strstr(packing, "awq") != NULL)
        return read_awq(r, fail);
    if (packing != NULL && strstr(packing, "gptq") != NULL)
        return read_gptq(r, fail);
    return unknown(
        r, "packing_format", "auto_round:auto_gptq or auto_round:auto_awq", packing, fail);
}

/* ---- FP8 ------------------------------------------------------------------------------------- */

static int read_fp8(reader_t *r, fail_t *fail)
{
    quantised_scheme_t *scheme = &r->config->quantization.schemes[0];
    const char *fmt = text_of(r->root, "fmt");
    json_t *ignored = member(r->root, "modules_to_not_convert"),
           *block = member(r->root, "weight_block_size");
    *scheme = (quantised_scheme_t){.layout = QUANTISED_FP8_INV, .bits = 8};
    /* For people: the grid of scales says what a block is. */
    if (json_is_integer(json_array_get(block, 1)) &&
        json_integer_value(json_array_get(block, 1)) > 0)
        scheme->group = (size_t)json_integer_value(json_array_get(block, 1));
    if (fmt != NULL && strcmp(fmt, "e4m3") != 0)
        return unknown(r, "fmt", "e4m3", fmt, fail);
    if (ignored == NULL)
        ignored = member(r->root, "ignored_layers");
    r->lm_head = ignored != NULL;
    return name_patterns_open(&r->ignored, NAMES_TRANSFORMERS, ignored, r->path, fail);
}

/* ---- compressed-tensors ---------------------------------------------------------------------- */

static bool is_word(json_t *object, const char *key, const char *word)
{
    const char *text = text_of(object, key);
    return text != NULL && strcmp(text, word) == 0;
}

static int read_activations(
    const reader_t *r, json_t *group, quantised_scheme_t *scheme, fail_t *fail)
{
    json_t *input = member(group, "input_activations");
    static const char expected[] =
        "8 bits, for each token, or static for all, or f8 of groups of 128";
    if (member(group, "output_activations") != NULL)
        return unknown(r, "output_activations", "none", "some", fail);
    if (input == NULL)
        return 0;
    bool dynamic = json_is_true(json_object_get(input, "dynamic")),
         zeros = json_is_false(json_object_get(input, "symmetric"));
    bool is_int = is_word(input, "type", "int"), token = is_word(input, "strategy", "token"),
         whole = is_word(input, "strategy", "tensor"),
         of_group = is_word(input, "strategy", "group");
    if (json_integer_value(json_object_get(input, "num_bits")) != 8 || (zeros && !is_int))
        return unknown(r, "input_activations", expected, "others", fail);
    if (dynamic && token)
        scheme->activation = !is_int ? QUANTISED_FP8_TOKEN
                             : zeros ? QUANTISED_INT8_TOKEN_ZERO
                                     : QUANTISED_INT8_TOKEN;
    else if (dynamic && of_group && !is_int &&
             json_integer_value(json_object_get(input, "group_size")) == 128)
        scheme->activation = QUANTISED_FP8_GROUP;
    else if (!dynamic && whole && !zeros)
        scheme->activation = is_int ? QUANTISED_INT8_STATIC : QUANTISED_FP8_STATIC;
    else
        return unknown(r, "input_activations", expected, "others", fail);
    return 0;
}

/* strategy: what has a scale in common. */
static int read_strategy(
    const reader_t *r, json_t *weights, quantised_scheme_t *scheme, fail_t *fail)
{
    json_t *block = member(weights, "block_structure");
    if (is_word(weights, "strategy", "group"))
        return read_group(r, weights, &scheme->group, fail);
    if (is_word(weights, "strategy", "channel") || is_word(weights, "strategy", "tensor"))
        return 0;
    bool square = (json_integer_value(json_array_get(block, 0)) == 128 &&
                      json_integer_value(json_array_get(block, 1)) == 128) ||
                  is_word(weights, "block_structure", "128x128");
    if (!is_word(weights, "strategy", "block") || !square)
        return unknown(r, "weights: strategy", "tensor, channel, group, or block of 128 x 128",
            text_of(weights, "strategy"), fail);
    scheme->group = 128;
    return 0;
}

static int read_format(const reader_t *r, json_t *group, quantised_scheme_t *scheme, fail_t *fail)
{
    json_t *weights = member(group, "weights");
    const char *format = text_of(group, "format");
    if (format == NULL)
        format = text_of(r->root, "format");
    if (weights == NULL || format == NULL)
        return unknown(r, "config_groups", "a format and weights in each", NULL, fail);
    bool is_int = is_word(weights, "type", "int"), naive = strcmp(format, "naive-quantized") == 0;
    scheme->zeros = json_is_false(json_object_get(weights, "symmetric"));
    if (strcmp(format, "pack-quantized") == 0 && is_int)
        scheme->layout = QUANTISED_PACKED;
    else if ((strcmp(format, "int-quantized") == 0 || naive) && is_int)
        scheme->layout = QUANTISED_INT8;
    else if ((strcmp(format, "float-quantized") == 0 || naive) && !is_int && !scheme->zeros)
        scheme->layout = QUANTISED_FP8;
    else
        return unknown(r, "format",
            "pack-quantized or int-quantized of type int, or float-quantized of type float, symmetric",
            format, fail);
    if (read_bits(r, weights, "num_bits", true, &scheme->bits, fail) != 0)
        return fail->status;
    if (scheme->layout != QUANTISED_PACKED && scheme->bits != 8)
        return unknown(r, "weights: num_bits", "8", "4", fail);
    return read_strategy(r, weights, scheme, fail);
}

static int read_compressed_tensors(reader_t *r, fail_t *fail)
{
    quantization_t *q = &r->config->quantization;
    json_t *groups = member(r->root, "config_groups"), *group,
           *sparsity = member(r->root, "sparsity_config");
    const char *name;
    if (refuse_given(r, "kv_cache_scheme", fail) != 0 ||
        refuse_given(r, "transform_config", fail) != 0 ||
        (!is_word(sparsity, "format", "dense") && refuse_given(r, "sparsity_config", fail) != 0))
        return fail->status;
    q->n_schemes = 0;
    r->by_target = true;
    json_object_foreach (groups, name, group) {
        if (q->n_schemes == QUANTIZATION_MAX_SCHEMES)
            return unknown(r, "config_groups", "at most 4", "more", fail);
        quantised_scheme_t *scheme = &q->schemes[q->n_schemes];
        if (read_format(r, group, scheme, fail) != 0 ||
            read_activations(r, group, scheme, fail) != 0 ||
            name_patterns_open(&r->targets[q->n_schemes++], NAMES_COMPRESSED_TENSORS,
                member(group, "targets"), r->path, fail) != 0)
            return fail->status;
    }
    if (q->n_schemes == 0)
        return unknown(r, "config_groups", "at least one", NULL, fail);
    r->lm_head = true;
    return name_patterns_open(
        &r->ignored, NAMES_COMPRESSED_TENSORS, member(r->root, "ignore"), r->path, fail);
}

/* ---- Modules --------------------------------------------------------------------------------- */

static bool in_blocks(const reader_t *r, const char *module)
{
    size_t i, j, n = strlen(module);
    json_t *some, *value;
    if (r->in_blocks == NULL)
        return true;
    json_array_foreach (r->in_blocks, i, some)
        json_array_foreach (some, j, value) {
            const char *end = json_string_value(value);
            if (end != NULL && strlen(end) <= n && strcmp(module + n - strlen(end), end) == 0)
                return true;
        }
    return false;
}

/* The scheme of a module; n_schemes: none. */
static size_t scheme_of(const reader_t *r, const char *module)
{
    const quantization_t *q = &r->config->quantization;
    size_t best = q->n_schemes;
    int how = 0;
    if (name_patterns_match(&r->ignored, module) > 0 || !in_blocks(r, module))
        return best;
    if (!r->by_target)
        return 0;
    for (size_t s = 0; s < q->n_schemes; s++) {
        int match = name_patterns_match(&r->targets[s], module);
        if (match > how) {
            how = match;
            best = s;
        }
    }
    return best;
}

/* A weight of a layer; all of its experts have one scheme. */
static int assign(reader_t *r, const arch_weight_t *weight, size_t layer, fail_t *fail)
{
    quantization_t *q = &r->config->quantization;
    char module[ARCH_NAME_BYTES];
    size_t s = 0;
    for (size_t e = 0; e < arch_weight_experts(r->config, weight); e++) {
        arch_weight_name(weight, layer, e, module);
        *strrchr(module, '.') = 0; /* ".weight" */
        size_t of_expert = scheme_of(r, module);
        if (e > 0 && of_expert != s)
            return fail_set(fail, FAIL_MODEL,
                "%s: expected one kind of quantisation for all experts of a layer, found another for %s",
                r->path, module);
        s = of_expert;
    }
    if (s == q->n_schemes)
        return 0;
    uint64_t *word = weight->shape.per_layer ? &q->in_layers[s][layer] : &q->outside[s];
    *word |= (uint64_t)1 << weight->role;
    return 0;
}

static int assign_all(reader_t *r, fail_t *fail)
{
    config_t *c = r->config;
    const arch_weight_t *weight;
    for (size_t i = 0; (weight = arch_weight(c, i)) != NULL; i++) {
        if (weight->shape.columns == PLAN_DIM_NONE || weight->role == WEIGHT_EMBEDDING ||
            (!weight->shape.per_layer && !r->lm_head))
            continue;
        for (size_t l = 0; l < (weight->shape.per_layer ? c->num_hidden_layers : 1); l++)
            if (arch_layer_is(c, weight->shape.layers, l) && assign(r, weight, l, fail) != 0)
                return fail->status;
    }
    return 0;
}

/* Rows that several matrices are multiplied with are quantised once; what is not done is said. */
static int check_activations(const reader_t *r, fail_t *fail)
{
    static const weight_role_t pairs[][2] = {
        {WEIGHT_Q, WEIGHT_K}, {WEIGHT_Q, WEIGHT_V}, {WEIGHT_GATE, WEIGHT_UP}};
    const config_t *c = r->config;
    const quantization_t *q = &c->quantization;
    bool left = false;
    for (size_t s = 0; s < q->n_schemes; s++) {
        quantised_activation_t kind = q->schemes[s].activation;
        uint64_t of_experts = (uint64_t)1 << WEIGHT_EXPERT_GATE;
        left |= kind == QUANTISED_INT8_STATIC || kind == QUANTISED_FP8_STATIC;
        for (size_t l = 0; l < c->num_hidden_layers && kind != QUANTISED_AS_THEY_ARE; l++)
            left |= (q->in_layers[s][l] & of_experts) != 0 || q->outside[s] != 0;
    }
    for (size_t l = 0; l < c->num_hidden_layers; l++)
        for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
            if (quantization_activation(q, DTYPE_BF16, pairs[i][0], l) !=
                quantization_activation(q, DTYPE_BF16, pairs[i][1], l))
                return fail_set(fail, FAIL_MODEL,
                    "%s: input_activations: expected the same for q_proj, k_proj and v_proj, and for gate_proj and up_proj, found others in layer %zu",
                    r->path, l);
    if (left)
        config_note(r->config,
            "%s: it quantises activations with static scales, of experts or of lm_head, which Choir does not: logits are not those of Hugging Face",
            r->path);
    return 0;
}

int config_read_quantization(config_t *config, document_t document, fail_t *fail)
{
    static const struct {
        const char *method;
        int (*read)(reader_t *r, fail_t *fail);
    } methods[] = {{"gptq", read_gptq}, {"awq", read_awq},
        {"compressed-tensors", read_compressed_tensors}, {"fp8", read_fp8},
        {"auto-round", read_auto_round}, {"intel/auto-round", read_auto_round}};
    reader_t r = {.config = config, .root = member(document.root, "quantization_config")};
    if (r.root == NULL || json_object_size(r.root) == 0)
        return 0;
    snprintf(r.path, sizeof r.path, "%.250s: quantization_config", document.path);
    const char *method = text_of(r.root, "quant_method");
    size_t i = 0, n = sizeof methods / sizeof *methods;
    while (i < n && (method == NULL || strcmp(method, methods[i].method) != 0))
        i++;
    if (i == n)
        return unknown(
            &r, "quant_method", "gptq, awq, compressed-tensors, fp8 or auto-round", method, fail);
    config->quantization.n_schemes = 1;
    if (methods[i].read(&r, fail) == 0 && assign_all(&r, fail) == 0)
        check_activations(&r, fail);
    for (size_t s = 0; s < QUANTIZATION_MAX_SCHEMES; s++)
        name_patterns_close(&r.targets[s]);
    name_patterns_close(&r.ignored);
    return fail->status;
}

void config_quantise(config_t *config, quantised_kind_t kind)
{
    static const quantised_scheme_t schemes[] = {
        [QUANTISED_KIND_INT4_G32] = {.layout = QUANTISED_GPTQ, .bits = 4, .group = 32},
        [QUANTISED_KIND_INT4_G64] = {.layout = QUANTISED_GPTQ, .bits = 4, .group = 64},
        [QUANTISED_KIND_INT4_G128] = {.layout = QUANTISED_GPTQ, .bits = 4, .group = 128},
        [QUANTISED_KIND_INT8] = {.layout = QUANTISED_INT8, .bits = 8},
        [QUANTISED_KIND_INT8_G128] = {.layout = QUANTISED_GPTQ, .bits = 8, .group = 128},
        [QUANTISED_KIND_FP8] = {.layout = QUANTISED_FP8_INV, .bits = 8, .group = 128}};
    quantization_t *q = &config->quantization;
    uint64_t matrices = 0;
    const arch_weight_t *weight;
    if (kind == QUANTISED_KIND_OF_CONFIG)
        return;
    *q = (quantization_t){.order = q->order};
    if (kind == QUANTISED_KIND_NONE)
        return;
    for (size_t i = 0; (weight = arch_weight(config, i)) != NULL; i++)
        if (weight->shape.per_layer && weight->shape.columns != PLAN_DIM_NONE &&
            weight->role != WEIGHT_ROUTER)
            matrices |= (uint64_t)1 << weight->role;
    q->n_schemes = 1;
    q->schemes[0] = schemes[kind];
    for (size_t l = 0; l < config->num_hidden_layers; l++)
        q->in_layers[0][l] = matrices;
}
