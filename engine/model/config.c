#include "engine/model/config.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/json.h"
#include "sharding/digest.h"

#define ARCHITECTURE "Qwen2ForCausalLM"

/* Far above any model of the family; absurd sizes are errors here and not failed allocations later.
 */
#define MAX_HIDDEN ((size_t)1 << 20)
#define MAX_INTERMEDIATE ((size_t)1 << 22)
#define MAX_LAYERS ((size_t)1000)
#define MAX_HEADS ((size_t)1 << 14)
#define MAX_HEAD_DIM ((size_t)1024)
#define MAX_VOCAB ((size_t)1 << 24)
#define MAX_POSITIONS ((size_t)1 << 30)

/* A document and what messages call it. */
typedef struct document {
    json_t *root;
    const char *path;
} document_t;

/* NULL for null as for absent. */
static json_t *member(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

/* ---- What kind of model -----------------------------------------------------------------------
 */

static int check_architecture(document_t document, fail_t *fail)
{
    json_t *architectures = member(document.root, "architectures");
    const char *found = "none";
    size_t i;
    json_t *value;
    json_array_foreach(architectures, i, value)
    {
        const char *name = json_is_string(value) ? json_string_value(value) : "something else";
        if (strcmp(name, ARCHITECTURE) == 0)
            return 0;
        if (i == 0)
            found = name;
    }
    return fail_set(fail, FAIL_MODEL,
        "%s: architectures: expected " ARCHITECTURE " (the one that is supported), found %.64s",
        document.path, found);
}

static int check_kind(document_t document, fail_t *fail)
{
    if (check_architecture(document, fail) != 0)
        return fail->status;
    const char *activation = "silu";
    if (json_opt_string(document.root, document.path, "hidden_act", &activation, fail) != 0)
        return fail->status;
    if (strcmp(activation, "silu") != 0)
        return fail_set(fail, FAIL_MODEL, "%s: hidden_act: expected silu, found %.64s",
            document.path, activation);
    json_t *quantization = member(document.root, "quantization_config");
    if (quantization != NULL) {
        const char *method = json_string_value(json_object_get(quantization, "quant_method"));
        return fail_set(fail, FAIL_MODEL,
            "%s: quantization_config: expected weights in bf16, f16 or f32 and no such key, found "
            "quantization %.64s",
            document.path, method != NULL ? method : "of an unnamed method");
    }
    return 0;
}

/* ---- Sizes ------------------------------------------------------------------------------------
 */

static int read_heads(config_t *config, document_t document, fail_t *fail)
{
    json_t *root = document.root;
    const char *path = document.path;
    if (json_get_size(root, path, "num_attention_heads", 1, MAX_HEADS, &config->num_attention_heads,
            fail) != 0)
        return fail->status;
    size_t heads = config->num_attention_heads;
    config->num_key_value_heads = heads; /* null means one for each */
    if (!json_is_null(json_object_get(root, "num_key_value_heads")) &&
        json_get_size(root, path, "num_key_value_heads", 1, MAX_HEADS, &config->num_key_value_heads,
            fail) != 0)
        return fail->status;
    if (heads % config->num_key_value_heads != 0)
        return fail_set(fail, FAIL_MODEL,
            "%s: num_attention_heads: expected a multiple of num_key_value_heads %zu, found %zu",
            path, config->num_key_value_heads, heads);
    if (member(root, "head_dim") == NULL) {
        if (config->hidden_size % heads != 0)
            return fail_set(fail, FAIL_MODEL,
                "%s: hidden_size: expected a multiple of num_attention_heads %zu, as head_dim is "
                "not given, found %zu",
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
    config->max_position_embeddings = 32768;
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

/* ---- Sliding window ---------------------------------------------------------------------------
 */

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
    json_array_foreach(types, i, value)
    {
        const char *type = json_is_string(value) ? json_string_value(value) : "something else";
        if (strcmp(type, "sliding_attention") == 0)
            sliding++;
        else if (strcmp(type, "full_attention") == 0 && sliding == 0)
            full++;
        else
            return fail_set(fail, FAIL_MODEL,
                "%s: layer_types[%zu]: expected full_attention in the first layers, then "
                "sliding_attention, found %.64s",
                document.path, i, type);
    }
    if (sliding > 0 && !config->use_sliding_window)
        return fail_set(fail, FAIL_MODEL,
            "%s: layer_types: expected full_attention only, as use_sliding_window and "
            "sliding_window give no window, found sliding_attention from layer %zu",
            document.path, full);
    config->max_window_layers = full;
    return 0;
}

static int read_window(config_t *config, document_t document, fail_t *fail)
{
    json_t *root = document.root;
    if (json_opt_bool(
            root, document.path, "use_sliding_window", &config->use_sliding_window, fail) != 0)
        return fail->status;
    bool null_window = json_is_null(json_object_get(root, "sliding_window"));
    config->use_sliding_window = config->use_sliding_window && !null_window;
    /* Qwen2.5 ships values for a window that is off; they mean nothing. */
    if (config->use_sliding_window) {
        config->sliding_window = 4096;
        config->max_window_layers = 28;
        if (json_opt_size(root, document.path, "sliding_window", 1, MAX_POSITIONS,
                &config->sliding_window, fail) != 0 ||
            json_opt_size(root, document.path, "max_window_layers", 0, MAX_POSITIONS,
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

/* ---- Rotary embedding -------------------------------------------------------------------------
 */

/* As transformers' _compute_yarn_parameters. */
static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static int read_yarn(config_t *config, json_t *rope, const char *path, fail_t *fail)
{
    config_yarn_t *yarn = &config->yarn;
    *yarn = (config_yarn_t){.enabled = true,
        .original_max_position_embeddings = config->max_position_embeddings,
        .truncate = true};
    double attention_factor = -1, mscale = 0, mscale_all_dim = 0;
    if (json_opt_size(rope, path, "original_max_position_embeddings", 1, MAX_POSITIONS,
            &yarn->original_max_position_embeddings, fail) != 0 ||
        json_opt_double(rope, path, "factor", 1, 1e6, &yarn->factor, fail) != 0 ||
        json_opt_double(rope, path, "attention_factor", 0, 1e6, &attention_factor, fail) != 0 ||
        json_opt_double(rope, path, "mscale", 0, 1e6, &mscale, fail) != 0 ||
        json_opt_double(rope, path, "mscale_all_dim", 0, 1e6, &mscale_all_dim, fail) != 0 ||
        json_opt_double(rope, path, "beta_fast", 0, 1e6, &yarn->beta_fast, fail) != 0 ||
        json_opt_double(rope, path, "beta_slow", 0, 1e6, &yarn->beta_slow, fail) != 0 ||
        json_opt_bool(rope, path, "truncate", &yarn->truncate, fail) != 0)
        return fail->status;
    if (json_object_get(rope, "factor") == NULL)
        return fail_set(
            fail, FAIL_MODEL, "%s: factor: expected a number for yarn, found none", path);
    if (yarn->factor == 0) /* null: the ratio of the two lengths */
        yarn->factor = (double)config->max_position_embeddings /
                       (double)yarn->original_max_position_embeddings;
    /* Zero means the default, as there. */
    if (yarn->beta_fast == 0)
        yarn->beta_fast = 32;
    if (yarn->beta_slow == 0)
        yarn->beta_slow = 1;
    if (yarn->beta_fast < yarn->beta_slow)
        return fail_set(fail, FAIL_MODEL, "%s: beta_fast: expected at least beta_slow %g, found %g",
            path, yarn->beta_slow, yarn->beta_fast);
    if (attention_factor >= 0)
        yarn->attention_factor = attention_factor;
    else if (mscale != 0 && mscale_all_dim != 0)
        yarn->attention_factor =
            yarn_scale(yarn->factor, mscale) / yarn_scale(yarn->factor, mscale_all_dim);
    else
        yarn->attention_factor = yarn_scale(yarn->factor, 1);
    return 0;
}

/* rope: the object at `key`: rope_scaling of transformers 4, rope_parameters of transformers 5. */
static int read_rope(config_t *config, document_t document, const char *key, fail_t *fail)
{
    json_t *rope = member(document.root, key);
    char path[FAIL_MESSAGE_BYTES];
    snprintf(path, sizeof path, "%s: %s", document.path, key);
    if (!json_is_object(rope))
        return fail_set(fail, FAIL_FORMAT, "%s: expected an object, found something else", path);
    const char *nested;
    json_t *value;
    json_object_foreach(rope, nested, value) if (json_is_object(value)) return fail_set(
        fail, FAIL_MODEL, "%s: expected one set for all layers, found one for %.64s", path, nested);
    const char *type = "default";
    double partial = 1;
    if (json_opt_string(rope, path, "type", &type, fail) != 0 ||
        json_opt_string(rope, path, "rope_type", &type, fail) != 0 ||
        json_opt_double(rope, path, "rope_theta", 1, 1e30, &config->rope_theta, fail) != 0 ||
        json_opt_double(rope, path, "partial_rotary_factor", 0, 1, &partial, fail) != 0)
        return fail->status;
    if (partial != 1)
        return fail_set(
            fail, FAIL_MODEL, "%s: partial_rotary_factor: expected 1, found %g", path, partial);
    if (strcmp(type, "yarn") == 0)
        return read_yarn(config, rope, path, fail);
    if (strcmp(type, "default") != 0)
        return fail_set(
            fail, FAIL_MODEL, "%s: rope_type: expected default or yarn, found %.64s", path, type);
    return 0;
}

static int read_positions(config_t *config, document_t document, fail_t *fail)
{
    config->rope_theta = 10000;
    if (json_opt_double(
            document.root, document.path, "rope_theta", 1, 1e30, &config->rope_theta, fail) != 0)
        return fail->status;
    /* As transformers: rope_scaling wins unless it is null or empty. */
    json_t *scaling = member(document.root, "rope_scaling");
    if (scaling != NULL && !(json_is_object(scaling) && json_object_size(scaling) == 0))
        return read_rope(config, document, "rope_scaling", fail);
    if (member(document.root, "rope_parameters") != NULL)
        return read_rope(config, document, "rope_parameters", fail);
    return 0;
}

/* The dtype of the checkpoint only informs; one that is unknown is left to the tensors themselves.
 */
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

/* ---- Generation -------------------------------------------------------------------------------
 */

static int check_id(document_t document, const char *key, const json_t *value, fail_t *fail)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > INT32_MAX)
        return fail_set(fail, FAIL_FORMAT, "%s: %s: expected token ids from 0 to %d, found %s",
            document.path, key, INT32_MAX, json_is_integer(value) ? "another" : "something else");
    return 0;
}

static int add_stop_id(
    config_generation_t *generation, document_t document, const json_t *value, fail_t *fail)
{
    if (check_id(document, "eos_token_id", value, fail) != 0)
        return fail->status;
    int32_t id = (int32_t)json_integer_value(value);
    for (size_t i = 0; i < generation->n_stop_ids; i++)
        if (generation->stop_ids[i] == id)
            return 0;
    if (generation->n_stop_ids == CONFIG_MAX_STOP_IDS)
        return fail_set(fail, FAIL_MODEL,
            "%s: eos_token_id: expected at most %d different ids, found more", document.path,
            CONFIG_MAX_STOP_IDS);
    generation->stop_ids[generation->n_stop_ids++] = id;
    return 0;
}

/* One id or an array; when the document gives any, they replace those of an earlier document. */
static int read_stop_ids(config_generation_t *generation, document_t document, fail_t *fail)
{
    json_t *eos = member(document.root, "eos_token_id");
    if (eos == NULL)
        return 0;
    generation->n_stop_ids = 0;
    if (!json_is_array(eos))
        return add_stop_id(generation, document, eos, fail);
    size_t i;
    json_t *value;
    json_array_foreach(
        eos, i, value) if (add_stop_id(generation, document, value, fail) != 0) return fail->status;
    return 0;
}

/* Files write null or -1 for "none". */
static int read_id(document_t document, const char *key, int32_t *id, fail_t *fail)
{
    json_t *value = member(document.root, key);
    if (value == NULL)
        return 0;
    if (json_is_integer(value) && json_integer_value(value) == -1)
        *id = -1;
    else if (check_id(document, key, value, fail) == 0)
        *id = (int32_t)json_integer_value(value);
    return fail->status;
}

/* Ids stand in config.json too. */
static int read_ids(config_generation_t *generation, document_t document, fail_t *fail)
{
    if (read_stop_ids(generation, document, fail) != 0 ||
        read_id(document, "pad_token_id", &generation->pad_id, fail) != 0)
        return fail->status;
    return read_id(document, "bos_token_id", &generation->bos_id, fail);
}

static int read_generation(config_generation_t *generation, document_t document, fail_t *fail)
{
    json_t *root = document.root;
    const char *path = document.path;
    if (read_ids(generation, document, fail) != 0 ||
        json_opt_bool(root, path, "do_sample", &generation->do_sample, fail) != 0 ||
        json_opt_double(root, path, "temperature", 0, 1000, &generation->temperature, fail) != 0 ||
        json_opt_double(root, path, "top_p", 0, 1, &generation->top_p, fail) != 0 ||
        json_opt_size(root, path, "top_k", 0, INT32_MAX, &generation->top_k, fail) != 0 ||
        json_opt_double(root, path, "repetition_penalty", 0x1p-10, 0x1p10,
            &generation->repetition_penalty, fail) != 0)
        return fail->status;
    return 0;
}

/* ---- Files ------------------------------------------------------------------------------------
 */

/* The caller owns document->root. */
static int read_document(document_t *document, const char *path, fail_t *fail)
{
    document->path = path;
    if (json_file_read(path, &document->root, fail) == 0 && !json_is_object(document->root))
        fail_set(fail, FAIL_FORMAT, "%s: expected a JSON object, found something else", path);
    return fail->status;
}

static int read_config(config_t *config, document_t document, fail_t *fail)
{
    if (check_kind(document, fail) != 0 || read_sizes(config, document, fail) != 0 ||
        read_window(config, document, fail) != 0 || read_positions(config, document, fail) != 0)
        return fail->status;
    read_dtype(config, document);
    return read_ids(&config->generation, document, fail);
}

static const config_t nothing_given = {.generation = {.pad_id = -1,
                                           .bos_id = -1,
                                           .temperature = 1,
                                           .top_p = 1,
                                           .repetition_penalty = 1,
                                           .top_k = 50}};

int config_load_file(config_t *config, const char *path, fail_t *fail)
{
    *config = nothing_given;
    document_t document = {0};
    if (read_document(&document, path, fail) == 0)
        read_config(config, document, fail);
    json_decref(document.root);
    return fail->status;
}

int config_load_text(config_t *config, const char *text, const char *name, fail_t *fail)
{
    *config = nothing_given;
    document_t document = {.path = name};
    if (json_text_read(text, strlen(text), name, &document.root, fail) == 0)
        read_config(config, document, fail);
    json_decref(document.root);
    return fail->status;
}

/* Reads generation_config.json where there is one. */
static int load_generation(config_t *config, const char *path, fail_t *fail)
{
    struct stat info;
    if (stat(path, &info) != 0 && errno == ENOENT)
        return 0;
    document_t document = {0};
    if (read_document(&document, path, fail) == 0)
        read_generation(&config->generation, document, fail);
    json_decref(document.root);
    return fail->status;
}

int config_load(config_t *config, const char *directory, fail_t *fail)
{
    static const char file[] = "/config.json", generation_file[] = "/generation_config.json";
    struct stat info;
    if (stat(directory, &info) != 0)
        return fail_set(
            fail, FAIL_FILE, "%s: expected a model directory: %s", directory, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return fail_set(fail, FAIL_FILE, "%s: expected a model directory, found a file", directory);
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

/* ---- For others -------------------------------------------------------------------------------
 */

plan_model_t config_plan_model(const config_t *config, dtype_t mode)
{
    return (plan_model_t){.hidden = config->hidden_size,
        .intermediate = config->intermediate_size,
        .n_layers = config->num_hidden_layers,
        .n_heads = config->num_attention_heads,
        .n_kv_heads = config->num_key_value_heads,
        .head_dim = config->head_dim,
        .vocab_size = config->vocab_size,
        .tied = config->tie_word_embeddings,
        .weight_bytes = dtype_bytes(mode),
        .cache_bytes = dtype_bytes(mode)};
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
    return digest_u64(digest, generation->top_k);
}

static uint64_t digest_yarn(uint64_t digest, const config_yarn_t *yarn)
{
    digest = digest_u64(digest, yarn->enabled);
    digest = digest_f64(digest, yarn->factor);
    digest = digest_u64(digest, yarn->original_max_position_embeddings);
    digest = digest_f64(digest, yarn->beta_fast);
    digest = digest_f64(digest, yarn->beta_slow);
    digest = digest_f64(digest, yarn->attention_factor);
    return digest_u64(digest, yarn->truncate);
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
    digest = digest_yarn(digest, &config->yarn);
    return digest_generation(digest, &config->generation);
}
