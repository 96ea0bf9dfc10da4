#include "engine/verify/reference.h"
#include "engine/base/size.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PROMPTS 1000000
#define SDPA_PREFIX "sdpa."
#define DECODE_PREFIX "decode."

static const attention_t attentions[REFERENCE_ATTENTIONS] = {ATTENTION_EAGER, ATTENTION_SDPA};
static const char *const attention_names[REFERENCE_ATTENTIONS] = {"eager", "sdpa"};

/* ---- Names ----------------------------------------------------------------------------------- */

const char *reference_kind_name(size_t kind)
{
    static const char *const logits[] = {"decode_logits", "stepwise_logits", "generate_logits"};
    return kind < COMPONENT_COUNT ? component_name((component_t)kind)
                                  : logits[kind - COMPONENT_COUNT];
}

bool reference_kind_has_layer(size_t kind)
{
    return kind < COMPONENT_COUNT && component_info((component_t)kind)->per_layer;
}

void reference_name(const reference_place_t *place, char *name)
{
    char layer[32] = "";
    if (reference_kind_has_layer(place->kind))
        snprintf(layer, sizeof layer, "layer.%zu.", place->layer);
    snprintf(name, REFERENCE_NAME_BYTES, "prompt.%zu.%s%s%s%s", place->prompt,
        place->attention == ATTENTION_SDPA ? SDPA_PREFIX : "", place->decode ? DECODE_PREFIX : "",
        layer, reference_kind_name(place->kind));
}

/* Moves *text past the prefix. */
static bool skip(const char **text, const char *prefix)
{
    size_t length = strlen(prefix);
    if (strncmp(*text, prefix, length) != 0)
        return false;
    *text += length;
    return true;
}

/* Moves *text past a number and its dot. */
static bool skip_number(const char **text, size_t *number)
{
    char *end;
    if (**text < '0' || **text > '9')
        return false;
    *number = strtoull(*text, &end, 10);
    if (*end != '.')
        return false;
    *text = end + 1;
    return true;
}

bool reference_parse_name(const char *name, reference_place_t *place)
{
    *place = (reference_place_t){0};
    if (!skip(&name, "prompt.") || !skip_number(&name, &place->prompt))
        return false;
    if (skip(&name, SDPA_PREFIX))
        place->attention = ATTENTION_SDPA;
    place->decode = skip(&name, DECODE_PREFIX);
    bool has_layer = skip(&name, "layer.");
    if (has_layer && !skip_number(&name, &place->layer))
        return false;
    for (size_t kind = 0; kind < KIND_COUNT; kind++)
        if (strcmp(name, reference_kind_name(kind)) == 0) {
            place->kind = kind;
            return has_layer == reference_kind_has_layer(kind);
        }
    return false;
}

uint64_t reference_order(const reference_place_t *place, size_t n_layers)
{
    if (place->kind == COMPONENT_EMBEDDING_OUTPUT)
        return 0;
    size_t layer = reference_kind_has_layer(place->kind) ? place->layer : n_layers;
    return layer * KIND_COUNT + place->kind;
}

/* ---- Tensors --------------------------------------------------------------------------------- */

size_t reference_shape(const reference_t *reference, const config_t *config,
    const reference_place_t *place, size_t *dims)
{
    const reference_prompt_t *prompt = &reference->prompts[place->prompt];
    dims[0] = place->decode ? 1 : prompt->n_ids;
    dims[1] = config->vocab_size;
    if (place->kind == COMPONENT_ATTN_WEIGHTS) {
        dims[2] = prompt->n_ids + place->decode;
        /* A decode step sees the keys that a layer with a window keeps. */
        if (place->decode && config->use_sliding_window &&
            place->layer >= config->max_window_layers)
            dims[2] = size_min(dims[2], config->sliding_window);
        dims[1] = dims[0];
        dims[0] = config->num_attention_heads;
        return 3;
    }
    if (place->kind == KIND_DECODE_LOGITS || place->kind == KIND_GENERATE_LOGITS) {
        dims[0] = prompt->n_new[place->attention];
        return dims[0] > 0 ? 2 : 0;
    }
    if (place->kind < COMPONENT_COUNT) {
        plan_model_t sizes = config_plan_model(config, DTYPE_BF16);
        dims[0] *= component_rows(config, (component_t)place->kind);
        dims[1] = plan_dim(&sizes, component_info((component_t)place->kind)->width);
    }
    return 2;
}

const checkpoint_tensor_t *reference_find(const reference_t *reference, const config_t *config,
    const reference_place_t *place, bool *differs)
{
    char name[REFERENCE_NAME_BYTES];
    size_t dims[3];
    bool ignored;
    differs = differs == NULL ? &ignored : differs;
    *differs = false;
    reference_name(place, name);
    const checkpoint_tensor_t *tensor = checkpoint_find(reference->file, name);
    if (tensor == NULL)
        return NULL;
    size_t n_dims = reference_shape(reference, config, place, dims);
    *differs = !tensor->readable || tensor->n_dims != n_dims ||
               memcmp(tensor->shape, dims, n_dims * sizeof *dims) != 0;
    return *differs ? NULL : tensor;
}

/* ---- Metadata -------------------------------------------------------------------------------- */

/* Whether a comma-separated list has the item. */
static bool list_has(const char *list, const char *item)
{
    size_t length = strlen(item);
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, item, length) == 0 && (at[length] == 0 || at[length] == ','))
            return true;
    }
    return list == NULL;
}

bool reference_has_attention(const reference_t *reference, attention_t attention)
{
    return list_has(checkpoint_metadata(reference->file, "attention"), attention_names[attention]);
}

bool reference_has_run(const reference_t *reference, const char *run)
{
    return list_has(checkpoint_metadata(reference->file, "runs"), run);
}

bool reference_has_layer(const reference_t *reference, size_t layer)
{
    char number[24];
    snprintf(number, sizeof number, "%zu", layer);
    return list_has(checkpoint_metadata(reference->file, "layers"), number);
}

int reference_parse_layers(
    const char *list, const char *what, size_t n_layers, bool *layers, fail_t *fail)
{
    memset(layers, 0, n_layers * sizeof *layers);
    for (const char *at = list;;) {
        char *end;
        bool number = *at >= '0' && *at <= '9';
        size_t first = strtoull(at, &end, 10), last = first;
        if (number && *end == '-') {
            at = end + 1;
            number = *at >= '0' && *at <= '9';
            last = strtoull(at, &end, 10);
        }
        if (!number || (*end != 0 && *end != ',') || first > last || last >= n_layers)
            return fail_set(fail, FAIL_USAGE,
                "%s: expected layers from 0 to %zu such as 0,2-3, found %s", what, n_layers - 1,
                list);
        for (size_t l = first; l <= last; l++)
            layers[l] = true;
        if (*end == 0)
            return 0;
        at = end + 1;
    }
}

/* ---- Prompts --------------------------------------------------------------------------------- */

/* Ids are I64. The absence of the tensor is no failure. */
static int read_ids(
    const reference_t *reference, const char *name, int32_t **ids, size_t *n, fail_t *fail)
{
    const checkpoint_tensor_t *tensor = checkpoint_find(reference->file, name);
    if (tensor == NULL)
        return 0;
    if (strcmp(tensor->dtype_name, "I64") != 0 || tensor->n_dims != 1)
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: expected ids in one row of I64, found %zu dimensions of %s",
            reference->path, name, tensor->n_dims, tensor->dtype_name);
    size_t count = tensor->shape[0];
    int64_t *stored = malloc((count + 1) * sizeof *stored);
    *ids = malloc((count + 1) * sizeof **ids);
    if (stored == NULL || *ids == NULL)
        fail_set(fail, FAIL_MEMORY, "%s: no memory for %zu ids", reference->path, count);
    else
        checkpoint_read_bytes(reference->file, tensor, 0, count * sizeof *stored, stored, fail);
    for (size_t i = 0; i < count && fail->status == 0; i++) {
        if (stored[i] < 0 || stored[i] > INT32_MAX)
            fail_set(fail, FAIL_FORMAT,
                "%s: tensor %s: expected token ids, found %" PRId64 " at index %zu",
                reference->path, name, stored[i], i);
        (*ids)[i] = (int32_t)stored[i];
    }
    free(stored);
    *n = count;
    return fail->status;
}

static int read_text(const reference_t *reference, size_t number, fail_t *fail)
{
    reference_prompt_t *prompt = &reference->prompts[number];
    char name[REFERENCE_NAME_BYTES];
    snprintf(name, sizeof name, "prompt.%zu.text", number);
    const checkpoint_tensor_t *tensor = checkpoint_find(reference->file, name);
    if (tensor == NULL)
        return 0;
    const char *whole = checkpoint_metadata(reference->file, "special_tokens");
    snprintf(name, sizeof name, "%zu", number);
    prompt->is_whole = whole != NULL && list_has(whole, name);
    prompt->text_bytes = (size_t)tensor->size_bytes;
    prompt->text = malloc(prompt->text_bytes + 1);
    if (prompt->text == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "%s: no memory for the text of prompt %zu", reference->path, number);
    return checkpoint_read_bytes(
        reference->file, tensor, 0, tensor->size_bytes, prompt->text, fail);
}

static int read_prompt(const reference_t *reference, size_t number, fail_t *fail)
{
    reference_prompt_t *prompt = &reference->prompts[number];
    char name[REFERENCE_NAME_BYTES];
    snprintf(name, sizeof name, "prompt.%zu.ids", number);
    if (read_ids(reference, name, &prompt->ids, &prompt->n_ids, fail) != 0)
        return fail->status;
    if (prompt->n_ids == 0)
        return fail_set(fail, FAIL_FORMAT,
            "%s: expected tensor %s with at least one id, found none", reference->path, name);
    for (size_t i = 0; i < REFERENCE_ATTENTIONS; i++) {
        attention_t a = attentions[i];
        snprintf(name, sizeof name, "prompt.%zu.%snew_ids", number,
            a == ATTENTION_SDPA ? SDPA_PREFIX : "");
        if (read_ids(reference, name, &prompt->new_ids[a], &prompt->n_new[a], fail) != 0)
            return fail->status;
    }
    return read_text(reference, number, fail);
}

static int read_prompts(reference_t *reference, fail_t *fail)
{
    const char *count = checkpoint_metadata(reference->file, "prompts");
    char *end = NULL;
    size_t n = count == NULL ? 0 : strtoull(count, &end, 10);
    if (n == 0 || n > MAX_PROMPTS || *end != 0)
        return fail_set(fail, FAIL_FORMAT,
            "%s: prompts: expected the number of prompts in the metadata, found %.64s",
            reference->path, count == NULL ? "none" : count);
    reference->prompts = calloc(n, sizeof *reference->prompts);
    if (reference->prompts == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: no memory for %zu prompts", reference->path, n);
    reference->n_prompts = n;
    for (size_t i = 0; i < n && fail->status == 0; i++)
        read_prompt(reference, i, fail);
    return fail->status;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static int read_dtype(reference_t *reference, fail_t *fail)
{
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    const char *name = checkpoint_metadata(reference->file, "dtype");
    for (size_t i = 0; name != NULL && i < sizeof modes / sizeof *modes; i++)
        if (strcmp(name, dtype_name(modes[i])) == 0) {
            reference->dtype = modes[i];
            return 0;
        }
    return fail_set(fail, FAIL_FORMAT, "%s: dtype: expected bf16, f32 or f64, found %.64s",
        reference->path, name == NULL ? "none" : name);
}

static int check_format(const reference_t *reference, fail_t *fail)
{
    const char *format = checkpoint_metadata(reference->file, "format");
    if (format == NULL || strncmp(format, "choir-reference ", 16) != 0)
        return fail_set(fail, FAIL_FORMAT,
            "%s: expected a reference made by tests/oracle/reference.py, found a safetensors file of another kind (its metadata has no format " REFERENCE_FORMAT
            ")",
            reference->path);
    if (strcmp(format, REFERENCE_FORMAT) != 0)
        return fail_set(fail, FAIL_FORMAT,
            "%s: format: expected " REFERENCE_FORMAT ", found %.64s: another version",
            reference->path, format);
    return 0;
}

int reference_open(reference_t *reference, const char *path, fail_t *fail)
{
    *reference = (reference_t){.path = path};
    if (checkpoint_open_file(&reference->file, path, fail) == 0 &&
        check_format(reference, fail) == 0 && read_dtype(reference, fail) == 0)
        read_prompts(reference, fail);
    if (fail->status != 0)
        reference_close(reference);
    return fail->status;
}

void reference_close(reference_t *reference)
{
    for (size_t i = 0; i < reference->n_prompts; i++) {
        reference_prompt_t *prompt = &reference->prompts[i];
        free(prompt->ids);
        free(prompt->text);
        for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++)
            free(prompt->new_ids[a]);
    }
    free(reference->prompts);
    checkpoint_close(reference->file);
    *reference = (reference_t){0};
}
