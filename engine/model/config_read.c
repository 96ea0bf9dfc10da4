#include "engine/model/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/digest.h"
#include "engine/base/input.h"
#include "engine/base/json.h"
#include "engine/kernels/format.h"
#include "engine/model/arch/arch.h"
#include "engine/model/config_internal.h"

#define MAX_LIST_BYTES 256 /* of names in a message */

/* Far above any model of the family; absurd sizes are errors here and not failed allocations later.
 */
#define MAX_HIDDEN ((size_t)1 << 20)
#define MAX_INTERMEDIATE ((size_t)1 << 22)
#define MAX_LAYERS ((size_t)CONFIG_MAX_LAYERS)
#define MAX_HEADS ((size_t)1 << 14)
#define MAX_HEAD_DIM ((size_t)1024)
#define MAX_VOCAB ((size_t)1 << 24)
#define DEFAULT_WINDOW 4096
#define MAX_GENERATION_BYTES ((size_t)16 << 20)

void config_note(config_t *config, const char *format, ...)
{
    va_list arguments;
    if (config->n_notes == CONFIG_MAX_NOTES)
        return;
    va_start(arguments, format);
    vsnprintf(config->notes[config->n_notes++], CONFIG_NOTE_BYTES, format, arguments);
    va_end(arguments);
}

/* ---- What kind of model ---------------------------------------------------------------------- */

/* The architecture that `architectures` names. *found: its first name, or "none". */
static const arch_t *named_architecture(document_t document, const char **found)
{
    json_t *architectures = member(document.root, "architectures");
    *found = "none";
    size_t i;
    json_t *value;
    json_array_foreach (architectures, i, value) {
        const char *name = json_is_string(value) ? json_string_value(value) : "something else";
        const arch_t *arch = arch_find(NULL, name);
        if (arch != NULL)
            return arch;
        if (i == 0)
            *found = name;
    }
    return NULL;
}

/* As transformers: model_type decides the kind of model and architectures does not count. Without
 * model_type, which transformers refuses, architectures decides. */
static int find_architecture(config_t *config, document_t document, fail_t *fail)
{
    const char *found, *type = json_string_value(member(document.root, "model_type"));
    char supported[MAX_LIST_BYTES];
    const arch_t *named = named_architecture(document, &found);
    config->arch = type != NULL ? arch_find(type, NULL) : named;
    arch_list(type != NULL, supported, sizeof supported);
    if (config->arch == NULL && type != NULL)
        return fail_set(fail, FAIL_MODEL,
            "%s: model_type: expected one that is supported (%s), found %.64s (architectures: %.64s)",
            document.path, supported, type, found);
    if (config->arch == NULL)
        return fail_set(fail, FAIL_MODEL,
            "%s: architectures: expected one that is supported (%s), found %.64s", document.path,
            supported, found);
    if (named != config->arch && (named != NULL || strcmp(found, "none") != 0))
        config_note(config, "%s: architectures names %.64s; by its model_type it is read as %s",
            document.path, named != NULL ? named->architecture : found, config->arch->architecture);
    if (member(document.root, "text_config") != NULL)
        return fail_set(fail, FAIL_MODEL,
            "%s: text_config: expected the language model's fields beside model_type, as %s has them, found them inside of it",
            document.path, config->arch->model_type);
    return 0;
}

static int check_kind(config_t *config, document_t document, fail_t *fail)
{
    if (find_architecture(config, document, fail) != 0)
        return fail->status;
    const char *activation = "silu";
    if (json_opt_string(document.root, document.path, "hidden_act", &activation, fail) != 0)
        return fail->status;
    if (strcmp(activation, "silu") != 0)
        return fail_set(fail, FAIL_MODEL, "%s: hidden_act: expected silu, found %.64s",
            document.path, activation);
    return 0;
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

static int read_heads(config_t *config, document_t document, fail_t *fail)
{
    json_t *root = document.root;
    const char *path = document.path;
    if (json_get_size(root, path, "num_attention_heads", 1, MAX_HEADS, &config->num_attention_heads,
            fail) != 0)
        return fail->status;
    size_t heads = config->num_attention_heads;
    config->num_key_value_heads = heads; /* null means one for each */
    bool follow = config->arch->kv_heads_follow && member(root, "num_key_value_heads") == NULL;
    if (!follow && !json_is_null(json_object_get(root, "num_key_value_heads")) &&
        json_get_size(root, path, "num_key_value_heads", 1, MAX_HEADS, &config->num_key_value_heads,
            fail) != 0)
        return fail->status;
    if (heads % config->num_key_value_heads != 0)
        return fail_set(fail, FAIL_MODEL,
            "%s: num_attention_heads: expected a multiple of num_key_value_heads %zu, found %zu",
            path, config->num_key_value_heads, heads);
    if (member(root, "head_dim") == NULL && config->arch->head_dim != 0) {
        config->head_dim = config->arch->head_dim;
    } else if (member(root, "head_dim") == NULL) {
        if (config->hidden_size % heads != 0)
            return fail_set(fail, FAIL_MODEL,
                "%s: hidden_size: expected a multiple of num_attention_heads %zu, as head_dim is not given, found %zu",
                path, heads, config->hidden_size);
        config->head_dim = config->hidden_size / heads;
    } else if (json_get_size(root, path, "head_dim", 2, MAX_HEAD_DIM, &config->head_dim, fail) !=
               0) {
        return fail->status;
    }
    if (config->head_dim % 2 != 0 || config->head_dim > MAX_HEAD_DIM)
        return fail_set(fail, FAIL_MODEL,
            "%s: head_dim: expected an even size of at most %zu, found %zu", path, MAX_HEAD_DIM,
            config->head_dim);
    return 0;
}

static int read_sizes(config_t *config, document_t document, fail_t *fail)
{
    const struct {
        const char *key;
        size_t max;
        size_t *value;
    } sizes[] = {
        {"hidden_size", MAX_HIDDEN, &config->hidden_size},
        {"intermediate_size", MAX_INTERMEDIATE, &config->intermediate_size},
        {"num_hidden_layers", MAX_LAYERS, &config->num_hidden_layers},
        {"vocab_size", MAX_VOCAB, &config->vocab_size},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (json_get_size(document.root, document.path, sizes[i].key, 1, sizes[i].max,
                sizes[i].value, fail) != 0)
            return fail->status;
    config->max_position_embeddings = config->arch->max_positions;
    config->rms_norm_eps = 1e-6;
    if (json_opt_size(document.root, document.path, "max_position_embeddings", 1, MAX_POSITIONS,
            &config->max_position_embeddings, fail) != 0 ||
        json_opt_double(
            document.root, document.path, "rms_norm_eps", 0, 1, &config->rms_norm_eps, fail) != 0 ||
        json_opt_bool(document.root, document.path, "tie_word_embeddings",
            &config->tie_word_embeddings, fail) != 0)
        return fail->status;
    return read_heads(config, document, fail);
}

/* ---- Sliding window -------------------------------------------------------------------------- */

/* layer_types, a kind for each layer, decides over max_window_layers. Qwen2's own rule makes the
 * first layers full and the others sliding, and only that shape is supported. */
static int read_layer_types(config_t *config, document_t document, fail_t *fail)
{
    json_t *types = member(document.root, "layer_types");
    if (types == NULL)
        return 0;
    if (!json_is_array(types) || json_array_size(types) != config->num_hidden_layers)
        return fail_set(fail, FAIL_FORMAT,
            "%s: layer_types: expected an array of %zu, one for each layer, found %zu",
            document.path, config->num_hidden_layers, json_array_size(types));
    size_t full = 0, sliding = 0, i;
    json_t *value;
    json_array_foreach (types, i, value) {
        const char *type = json_is_string(value) ? json_string_value(value) : "something else";
        if (strcmp(type, "sliding_attention") == 0)
            sliding++;
        else if (strcmp(type, "full_attention") == 0 && sliding == 0)
            full++;
        else
            return fail_set(fail, FAIL_MODEL,
                "%s: layer_types[%zu]: expected full_attention in the first layers, then sliding_attention, found %.64s",
                document.path, i, type);
    }
    if (sliding > 0 && !config->use_sliding_window)
        return fail_set(fail, FAIL_MODEL,
            "%s: layer_types: expected full_attention only, as use_sliding_window and sliding_window give no window, found sliding_attention from layer %zu",
            document.path, full);
    config->max_window_layers = full;
    return 0;
}

int config_read_one_window(config_t *config, const document_t *document, bool used, fail_t *fail)
{
    config->use_sliding_window =
        used && !json_is_null(json_object_get(document->root, "sliding_window"));
    config->max_window_layers = config->use_sliding_window ? 0 : config->num_hidden_layers;
    config->sliding_window = config->use_sliding_window ? DEFAULT_WINDOW : 0;
    return config->use_sliding_window
               ? json_opt_size(document->root, document->path, "sliding_window", 1, MAX_POSITIONS,
                     &config->sliding_window, fail)
               : 0;
}

int config_read_window(config_t *config, document_t document, fail_t *fail)
{
    json_t *root = document.root;
    bool used = false;
    /* Qwen2.5 has values for a window that is off; they are ignored. */
    if (json_opt_bool(root, document.path, "use_sliding_window", &used, fail) != 0 ||
        config_read_one_window(config, &document, used, fail) != 0)
        return fail->status;
    if (config->use_sliding_window) {
        config->max_window_layers = 28;
        if (json_opt_size(root, document.path, "max_window_layers", 0, MAX_POSITIONS,
                &config->max_window_layers, fail) != 0)
            return fail->status;
    }
    if (read_layer_types(config, document, fail) != 0)
        return fail->status;
    if (!config->use_sliding_window || config->max_window_layers >= config->num_hidden_layers) {
        config->use_sliding_window = false;
        config->sliding_window = 0;
        config->max_window_layers = config->num_hidden_layers;
    }
    return 0;
}

/* ---- Type ------------------------------------------------------------------------------------ */

/* The dtype of the checkpoint is information only; an unknown one is ignored, since tensors have
 * their own. */
static void read_dtype(config_t *config, document_t document)
{
    static const struct {
        const char *name;
        dtype_t dtype;
    } dtypes[] = {{"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}, {"float32", DTYPE_F32},
        {"float64", DTYPE_F64}};
    const char *name = json_string_value(json_object_get(document.root, "dtype"));
    if (name == NULL)
        name = json_string_value(json_object_get(document.root, "torch_dtype"));
    config->torch_dtype = DTYPE_BF16;
    for (size_t i = 0; name != NULL && i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(name, dtypes[i].name) == 0)
            config->torch_dtype = dtypes[i].dtype;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static int check_object(document_t document, fail_t *fail)
{
    if (!json_is_object(document.root))
        fail_set(
            fail, FAIL_FORMAT, "%s: expected a JSON object, found something else", document.path);
    return fail->status;
}

/* What the architecture's class in transformers has where the key is absent; null means none. */
static void take_default_ids(config_t *config, document_t document)
{
    config_generation_t *generation = &config->generation;
    if (config->arch->eos_id != 0 && json_object_get(document.root, "eos_token_id") == NULL)
        generation->stop_ids[generation->n_stop_ids++] = config->arch->eos_id;
    if (config->arch->bos_id != 0 && json_object_get(document.root, "bos_token_id") == NULL)
        generation->bos_id = config->arch->bos_id;
}

static int read_config(config_t *config, document_t document, fail_t *fail)
{
    if (check_kind(config, document, fail) != 0 || read_sizes(config, document, fail) != 0 ||
        config->arch->read(config, &document, fail) != 0 ||
        config_read_rope(config, document, fail) != 0 ||
        config_read_quantization(config, document, fail) != 0)
        return fail->status;
    read_dtype(config, document);
    if (config_read_generation(config, document, fail) != 0)
        return fail->status;
    take_default_ids(config, document);
    return 0;
}

static const config_t config_defaults = {.generation = {.pad_id = -1,
                                             .bos_id = -1,
                                             .temperature = 1,
                                             .top_p = 1,
                                             .repetition_penalty = 1,
                                             .top_k = 50}};

int config_load_file(config_t *config, const char *path, fail_t *fail)
{
    *config = config_defaults;
    document_t document = {.path = path};
    if (json_python_file_read(path, &document.root, fail) == 0 && check_object(document, fail) == 0)
        read_config(config, document, fail);
    json_decref(document.root);
    return fail->status;
}

int config_load_text(config_t *config, const char *text, const char *name, fail_t *fail)
{
    *config = config_defaults;
    document_t document = {.path = name};
    if (json_python_text_read(text, strlen(text), name, &document.root, fail) == 0 &&
        check_object(document, fail) == 0)
        read_config(config, document, fail);
    json_decref(document.root);
    return fail->status;
}

/* Reads generation_config.json where there is one. It counts whole: nothing that it lacks is taken
 * from config.json. One that is not JSON counts as absent. */
static int load_generation(config_t *config, const char *path, fail_t *fail)
{
    char *text;
    size_t bytes;
    struct stat info;
    document_t document = {.path = path};
    fail_t malformed = {0};
    if (stat(path, &info) != 0 && errno == ENOENT)
        return 0;
    if (file_read(path, MAX_GENERATION_BYTES, &text, &bytes, fail) != 0)
        return fail->status;
    if (json_python_text_read(text, bytes, path, &document.root, &malformed) != 0) {
        config_note(config, "%s; config.json's values count", malformed.message);
    } else if (check_object(document, fail) == 0) {
        bool stops = config->generation.n_stop_ids > 0;
        config->generation = config_defaults.generation;
        config_read_generation(config, document, fail);
        if (stops && config->generation.n_stop_ids == 0)
            config_note(config,
                "%s: it gives no eos_token_id, and that of config.json is then ignored: no token ends an answer",
                path);
    }
    json_decref(document.root);
    free(text);
    return fail->status;
}

int config_load(config_t *config, const char *directory, fail_t *fail)
{
    static const char file[] = "/config.json", generation_file[] = "/generation_config.json";
    if (input_check_directory(directory, "a model directory", fail) != 0)
        return fail->status;
    size_t bytes = strlen(directory) + sizeof generation_file;
    char *path = malloc(bytes);
    if (path == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: no memory for a file's name", directory);
    snprintf(path, bytes, "%s%s", directory, file);
    if (config_load_file(config, path, fail) == 0) {
        snprintf(path, bytes, "%s%s", directory, generation_file);
        load_generation(config, path, fail);
    }
    free(path);
    return fail->status;
}

/* ---- For others ------------------------------------------------------------------------------ */

size_t config_sparse_layers(const config_t *config)
{
    size_t n = 0;
    for (size_t l = 0; l < config->num_hidden_layers && config->n_experts > 0; l++)
        n += config_layer_is_sparse(config, l);
    return n;
}

plan_model_t config_plan_model(const config_t *config, dtype_t mode)
{
    const format_t *format = format_dense(mode);
    plan_model_t model = {.hidden = config->hidden_size,
        .intermediate = config->intermediate_size,
        .n_layers = config->num_hidden_layers,
        .n_sparse_layers = config_sparse_layers(config),
        .n_experts = config->n_experts,
        .n_chosen = config->n_experts_per_token,
        .expert_intermediate = config->expert_intermediate_size,
        .n_heads = config->num_attention_heads,
        .n_kv_heads = config->num_key_value_heads,
        .head_dim = config->head_dim,
        .vocab_size = config->vocab_size,
        .cache_bytes = dtype_bytes(mode),
        .format = format->name,
        .layout = format,
        .matrix_bytes = format->matrix_bytes,
        .vector_bytes = format->vector_bytes};
    for (const arch_weight_t *weight; (weight = arch_weight(config, model.n_weights)) != NULL;)
        model.weights[model.n_weights++] = weight->shape;
    for (size_t i = 0; i < model.n_weights; i++) {
        plan_weight_t *w = &model.weights[i];
        const format_t *packed = quantization_role_format(&config->quantization, mode,
            (int)arch_weight(config, i)->role, w->per_layer, model.n_layers,
            plan_dim(&model, w->rows), plan_dim(&model, w->columns));
        if (w->columns == PLAN_DIM_NONE || packed == NULL)
            continue;
        w->layout = packed;
        w->matrix_bytes = packed->matrix_bytes;
        w->format = packed->name;
    }
    return model;
}

static uint64_t digest_generation(uint64_t digest, const config_generation_t *generation)
{
    digest = digest_u64(digest, generation->n_stop_ids);
    for (size_t i = 0; i < generation->n_stop_ids; i++)
        digest = digest_u64(digest, (uint64_t)generation->stop_ids[i]);
    digest = digest_u64(digest, (uint64_t)generation->pad_id);
    digest = digest_u64(digest, (uint64_t)generation->bos_id);
    digest = digest_u64(digest, generation->do_sample);
    digest = digest_f64(digest, generation->temperature);
    digest = digest_f64(digest, generation->top_p);
    digest = digest_f64(digest, generation->repetition_penalty);
    if (generation->min_p != 0)
        digest = digest_f64(digest, generation->min_p);
    /* Recorded files contain digests of common values. */
    return generation->top_k >= 0 ? digest_u64(digest, (uint64_t)generation->top_k)
                                  : digest_f64(digest, generation->top_k);
}

static uint64_t digest_rope(uint64_t digest, const config_rope_t *rope)
{
    digest = digest_u64(digest, rope->type);
    digest = digest_f64(digest, rope->factor);
    digest = digest_u64(digest, rope->original_max_position_embeddings);
    digest = digest_f64(digest, rope->beta_fast);
    digest = digest_f64(digest, rope->beta_slow);
    digest = digest_f64(digest, rope->attention_factor);
    if (rope->type == ROPE_LLAMA3) {
        digest = digest_f64(digest, rope->low_freq_factor);
        digest = digest_f64(digest, rope->high_freq_factor);
    }
    return digest_u64(digest, rope->truncate);
}

static uint64_t digest_quantization(uint64_t digest, const quantization_t *q, size_t n_layers)
{
    if (q->n_schemes > 0)
        digest = digest_u64(digest, q->order);
    for (size_t s = 0; s < q->n_schemes; s++) {
        const quantised_scheme_t *scheme = &q->schemes[s];
        const uint64_t values[] = {scheme->layout, scheme->bits, scheme->group, scheme->zeros,
            scheme->zeros_minus_one, scheme->act_order, scheme->activation, q->outside[s]};
        digest = digest_bytes(digest, values, sizeof values);
        digest = digest_bytes(digest, q->in_layers[s], n_layers * sizeof *q->in_layers[s]);
    }
    return digest;
}

uint64_t config_digest(const config_t *config)
{
    const size_t sizes[] = {config->hidden_size, config->intermediate_size,
        config->num_hidden_layers, config->num_attention_heads, config->num_key_value_heads,
        config->head_dim, config->vocab_size, config->max_position_embeddings,
        config->tie_word_embeddings, config->use_sliding_window, config->sliding_window,
        config->max_window_layers, config->torch_dtype};
    uint64_t digest = DIGEST_START;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        digest = digest_u64(digest, sizes[i]);
    digest = digest_f64(digest, config->rope_theta);
    digest = digest_f64(digest, config->rms_norm_eps);
    digest = digest_rope(digest, &config->rope);
    /* Digests of Qwen2's are in recorded files, without the architecture. */
    if (config->arch != &arch_qwen2)
        for (const char *c = config->arch->model_type; *c != 0; c++)
            digest = digest_u64(digest, (unsigned char)*c);
    if (config->arch != &arch_qwen2)
        digest = digest_u64(digest, config->parts);
    digest = digest_quantization(digest, &config->quantization, config->num_hidden_layers);
    if (config->n_experts > 0) {
        digest = digest_u64(digest, config->n_experts);
        digest = digest_u64(digest, config->n_experts_per_token);
        digest = digest_u64(digest, config->expert_intermediate_size);
        digest = digest_u64(digest, config->norm_topk_prob);
        digest = digest_bytes(digest, config->sparse_layers, sizeof config->sparse_layers);
    }
    return digest_generation(digest, &config->generation);
}
