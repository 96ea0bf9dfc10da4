/* Rotary embedding: reads the keys like transformers' RotaryEmbeddingConfigMixin. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/config_internal.h"

#define MAX_FACTOR 1e6

/* The object of RoPE's parameters and its name in messages. */
typedef struct rope_object {
    json_t *object;
    const char *path;
} rope_object_t;

/* As transformers' _compute_yarn_parameters. */
static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* The factor of every type but the default. 0: null, which only yarn allows. */
static int read_factor(config_t *config, rope_object_t rope, const char *type, fail_t *fail)
{
    if (json_object_get(rope.object, "factor") == NULL)
        return fail_set(
            fail, FAIL_MODEL, "%s: factor: expected a number for %s, found none", rope.path, type);
    double *factor = &config->rope.factor;
    if (json_opt_double(rope.object, rope.path, "factor", 0, MAX_FACTOR, factor, fail) != 0)
        return fail->status;
    if (*factor == 0 && (config->rope.type != ROPE_YARN || member(rope.object, "factor") != NULL))
        return fail_set(fail, FAIL_MODEL, "%s: factor: expected a number above 0 for %s, found %s",
            rope.path, type, member(rope.object, "factor") == NULL ? "null" : "0");
    if (*factor != 0 && *factor < 1)
        config_note(
            config, "%s: factor: expected at least 1, found %g, which is used", rope.path, *factor);
    return 0;
}

/* The original length of yarn and llama3: the config's own field counts before the one beside the factor. */
static int read_original(config_t *config, document_t document, rope_object_t rope, fail_t *fail)
{
    static const char key[] = "original_max_position_embeddings";
    size_t *original = &config->rope.original_max_position_embeddings;
    *original = config->max_position_embeddings;
    if (json_opt_size(rope.object, rope.path, key, 1, MAX_POSITIONS, original, fail) != 0)
        return fail->status;
    size_t beside = *original;
    if (json_opt_size(document.root, document.path, key, 1, MAX_POSITIONS, original, fail) != 0)
        return fail->status;
    if (*original != beside && member(rope.object, key) != NULL)
        config_note(config, "%s: %s: %zu is used, and %zu of %s is not", document.path, key,
            *original, beside, rope.path);
    return 0;
}

static int read_yarn(config_t *config, document_t document, rope_object_t rope, fail_t *fail)
{
    config_rope_t *yarn = &config->rope;
    double attention_factor = -1, mscale = 0, mscale_all_dim = 0;
    yarn->truncate = true;
    json_t *object = rope.object;
    const char *path = rope.path;
    if (read_factor(config, rope, "yarn", fail) != 0 ||
        read_original(config, document, rope, fail) != 0 ||
        json_opt_double(object, path, "attention_factor", 0, 1e6, &attention_factor, fail) != 0 ||
        json_opt_double(object, path, "mscale", 0, 1e6, &mscale, fail) != 0 ||
        json_opt_double(object, path, "mscale_all_dim", 0, 1e6, &mscale_all_dim, fail) != 0 ||
        json_opt_double(object, path, "beta_fast", 0, 1e6, &yarn->beta_fast, fail) != 0 ||
        json_opt_double(object, path, "beta_slow", 0, 1e6, &yarn->beta_slow, fail) != 0 ||
        json_opt_bool(object, path, "truncate", &yarn->truncate, fail) != 0)
        return fail->status;
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

/* A wavelength is the original length divided by one of these. */
static int read_wave_factor(rope_object_t rope, const char *key, double *factor, fail_t *fail)
{
    if (json_opt_double(rope.object, rope.path, key, 0, MAX_FACTOR, factor, fail) != 0)
        return fail->status;
    if (*factor == 0)
        return fail_set(fail, FAIL_MODEL, "%s: %s: expected a number above 0 for llama3, found %s",
            rope.path, key, member(rope.object, key) == NULL ? "none" : "0");
    return 0;
}

static int read_llama3(config_t *config, document_t document, rope_object_t rope, fail_t *fail)
{
    config_rope_t *r = &config->rope;
    if (read_factor(config, rope, "llama3", fail) != 0 ||
        read_original(config, document, rope, fail) != 0 ||
        read_wave_factor(rope, "low_freq_factor", &r->low_freq_factor, fail) != 0 ||
        read_wave_factor(rope, "high_freq_factor", &r->high_freq_factor, fail) != 0)
        return fail->status;
    if (r->high_freq_factor <= r->low_freq_factor)
        config_note(config,
            "%s: high_freq_factor: expected more than low_freq_factor %g, found %g, which is used",
            rope.path, r->low_freq_factor, r->high_freq_factor);
    return 0;
}

/* Only types other than the default use it. */
static int check_partial(document_t document, rope_object_t rope, fail_t *fail)
{
    double partial = 1;
    if (json_opt_double(
            document.root, document.path, "partial_rotary_factor", 0, 1, &partial, fail) != 0 ||
        json_opt_double(rope.object, rope.path, "partial_rotary_factor", 0, 1, &partial, fail) != 0)
        return fail->status;
    if (partial != 1)
        return fail_set(fail, FAIL_MODEL, "%s: partial_rotary_factor: expected 1, found %g",
            rope.path, partial);
    return 0;
}

/* rope_type counts before type; rope_theta of the object before that of the config. */
static int read_parameters(config_t *config, document_t document, rope_object_t rope, fail_t *fail)
{
    static const struct {
        const char *name;
        rope_type_t type;
    } types[] = {{"default", ROPE_DEFAULT}, {"linear", ROPE_LINEAR}, {"dynamic", ROPE_DYNAMIC},
        {"yarn", ROPE_YARN}, {"llama3", ROPE_LLAMA3}};
    const char *name = "default", *nested;
    json_t *value;
    json_object_foreach (rope.object, nested, value)
        if (json_is_object(value))
            return fail_set(fail, FAIL_MODEL,
                "%s: expected one set for all layers, found one for %.64s", rope.path, nested);
    if (json_opt_string(rope.object, rope.path, "type", &name, fail) != 0 ||
        json_opt_string(rope.object, rope.path, "rope_type", &name, fail) != 0 ||
        json_opt_double(rope.object, rope.path, "rope_theta", 1, 1e30, &config->rope_theta, fail) !=
            0)
        return fail->status;
    size_t i = 0, n = sizeof types / sizeof *types;
    while (i < n && strcmp(types[i].name, name) != 0)
        i++;
    if (i == n)
        return fail_set(fail, FAIL_MODEL,
            "%s: rope_type: expected default, linear, dynamic, yarn or llama3, found %.64s",
            rope.path, name);
    config->rope.type = types[i].type;
    if (config->rope.type == ROPE_DEFAULT)
        return 0;
    if (check_partial(document, rope, fail) != 0)
        return fail->status;
    if (config->rope.type == ROPE_YARN)
        return read_yarn(config, document, rope, fail);
    if (config->rope.type == ROPE_LLAMA3)
        return read_llama3(config, document, rope, fail);
    if (config->rope.type == ROPE_DYNAMIC && config->head_dim < 4)
        return fail_set(fail, FAIL_MODEL,
            "%s: rope_type: expected a head_dim of at least 4 for dynamic, found %zu", rope.path,
            config->head_dim);
    return read_factor(config, rope, name, fail);
}

/* Values that Python's `or` skips: null, false, 0, and empty ones. */
static bool is_falsy(const json_t *value)
{
    return value == NULL || json_is_null(value) || json_is_false(value) ||
           (json_is_number(value) && json_number_value(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0);
}

int config_read_rope(config_t *config, document_t document, fail_t *fail)
{
    config->rope_theta = 10000;
    if (json_opt_double(
            document.root, document.path, "rope_theta", 1, 1e30, &config->rope_theta, fail) != 0)
        return fail->status;
    /* rope_scaling of transformers 4 counts before rope_parameters of transformers 5. */
    json_t *scaling = json_object_get(document.root, "rope_scaling");
    json_t *parameters = json_object_get(document.root, "rope_parameters");
    bool old = !is_falsy(scaling);
    json_t *object = old ? scaling : parameters;
    char path[FAIL_MESSAGE_BYTES];
    snprintf(path, sizeof path, "%s: %s", document.path, old ? "rope_scaling" : "rope_parameters");
    if (object == NULL || json_is_null(object))
        return 0;
    if (!json_is_object(object))
        return fail_set(fail, FAIL_FORMAT, "%s: expected an object, found something else", path);
    if (old && !is_falsy(parameters) && !json_equal(scaling, parameters))
        config_note(config, "%s: rope_scaling is used, and rope_parameters, which differs, is not",
            document.path);
    return read_parameters(config, document, (rope_object_t){object, path}, fail);
}
