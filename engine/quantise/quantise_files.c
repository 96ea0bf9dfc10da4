/* The small files of a quantised copy. */
#include "engine/quantise/quantise_files.h"

#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/out_file.h"
#include "engine/base/path.h"

#define MAX_COPIED_BYTES ((size_t)64 << 20)

static json_t *gptq_config(const quantise_options_t *o, json_int_t group)
{
    json_t *config = json_pack("{s:s, s:i, s:I, s:b, s:b, s:b, s:s, s:s, s:{s:[s]}}",
        "quant_method", "gptq", "bits", (int)o->bits, "group_size", group, "desc_act",
        (int)o->desc_act, "sym", 1, "lm_head", 0, "checkpoint_format", "gptq", "pack_dtype",
        "int32", "meta", "quantizer", "choir");
    if (o->texts.n > 0 && config != NULL)
        json_object_set_new(json_object_get(config, "meta"), "damp_percent", json_real(o->damping));
    return config;
}

static json_t *compressed_config(const quantise_options_t *o, json_int_t group)
{
    json_t *weights = json_pack("{s:i, s:s, s:b, s:s, s:o, s:b}", "num_bits", (int)o->bits, "type",
        "int", "symmetric", 1, "strategy", o->group == 0 ? "channel" : "group", "group_size",
        o->group == 0 ? json_null() : json_integer(group), "dynamic", 0);
    return json_pack("{s:s, s:s, s:s, s:[s], s:n, s:{s:{s:[s], s:o, s:n, s:n}}}", "quant_method",
        "compressed-tensors", "format", "pack-quantized", "quantization_status", "compressed",
        "ignore", "lm_head", "kv_cache_scheme", "config_groups", "group_0", "targets", "Linear",
        "weights", weights, "input_activations", "output_activations");
}

/* config.json with quantization_config. */
static int write_config(const quantise_options_t *o, fail_t *fail)
{
    char *from = path_join(o->model_dir, "config.json"), *to = path_join(o->out, "config.json");
    json_t *root = NULL;
    json_int_t group = o->group == 0 ? -1 : (json_int_t)o->group;
    if (from == NULL || to == NULL)
        fail_set(fail, FAIL_MEMORY, "quantize: out of memory");
    else if (json_python_file_read(from, &root, fail) == 0) {
        json_object_set_new(root, "quantization_config",
            o->layout == QUANTISE_GPTQ ? gptq_config(o, group) : compressed_config(o, group));
        char *text =
            json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
        if (text == NULL)
            fail_set(fail, FAIL_MEMORY, "quantize: out of memory");
        else
            out_file_write(to, text, strlen(text), fail);
        free(text);
    }
    json_decref(root);
    free(from);
    free(to);
    return fail->status;
}

/* Tokenizer, templates, licence: whatever is text beside the weights. */
static bool is_copied(const char *name)
{
    static const char *const endings[] = {".json", ".txt", ".jinja", ".model", ".md"};
    size_t n = strlen(name);
    if (name[0] == '.' || strcmp(name, "config.json") == 0 || strstr(name, ".index.json") != NULL ||
        strcmp(name, "choir-store.json") == 0)
        return false;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (n > strlen(endings[i]) && strcmp(name + n - strlen(endings[i]), endings[i]) == 0)
            return true;
    return strcmp(name, "LICENSE") == 0 || strcmp(name, "NOTICE") == 0;
}

static int copy_file(const quantise_options_t *o, const char *name, fail_t *fail)
{
    char *from = path_join(o->model_dir, name), *to = path_join(o->out, name), *text = NULL;
    size_t bytes;
    if (from == NULL || to == NULL)
        fail_set(fail, FAIL_MEMORY, "quantize: out of memory");
    else if (file_read(from, MAX_COPIED_BYTES, &text, &bytes, fail) == 0)
        out_file_write(to, text, bytes, fail);
    free(text);
    free(from);
    free(to);
    return fail->status;
}

int quantise_write_files(const quantise_options_t *options, fail_t *fail)
{
    DIR *directory = opendir(options->model_dir);
    if (directory == NULL)
        return fail_set(fail, FAIL_FILE, "%s: cannot list it", options->model_dir);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL && fail->status == 0;)
        if (is_copied(entry->d_name))
            copy_file(options, entry->d_name, fail);
    closedir(directory);
    return fail->status != 0 ? fail->status : write_config(options, fail);
}
