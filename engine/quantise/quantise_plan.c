/* Which tensors a quantised copy has, and where they lie in its file. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/digest.h"
#include "engine/base/size.h"
#include "engine/quantise/quantise_plan.h"

#define NAME_BYTES 256
#define HEADER_UNIT 8 /* the data begins at a multiple of it */

/* ---- Tensors --------------------------------------------------------------------------------- */

static int add_tensor(quantise_plan_t *plan, const char *name, const quantise_tensor_t *like,
    size_t *number, fail_t *fail)
{
    quantise_tensor_t *tensor = &plan->tensors[plan->n_tensors];
    *tensor = *like;
    tensor->name = strdup(name);
    if (tensor->name == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "quantize: out of memory for %zu tensors", plan->n_tensors);
    if (number != NULL)
        *number = plan->n_tensors;
    plan->n_tensors++;
    return 0;
}

static int add_part(quantise_plan_t *plan, quantise_matrix_t *m, int part, const char *suffix,
    const char *dtype, size_t bytes, size_t rows, size_t columns, fail_t *fail)
{
    char name[NAME_BYTES];
    int stem = (int)(strrchr(m->source->name, '.') - m->source->name);
    snprintf(name, sizeof name, "%.*s.%s", stem, m->source->name, suffix);
    const quantise_tensor_t like = {.dtype = dtype,
        .n_dims = columns == 0 ? 1 : 2,
        .shape = {rows, columns},
        .bytes = (uint64_t)bytes * rows * (columns == 0 ? 1 : columns),
        .source = m->source};
    return add_tensor(plan, name, &like, &m->parts[part], fail);
}

static int check_sizes(const quantise_plan_t *plan, const quantise_matrix_t *m, fail_t *fail)
{
    size_t group = quantise_group(plan, m);
    if (m->columns % group != 0 || m->columns % 8 != 0)
        return fail_set(fail, FAIL_MODEL,
            "tensor %s: expected inputs that groups of %zu divide, and 8, found %zu",
            m->source->name, group, m->columns);
    if (m->rows % 8 != 0)
        return fail_set(fail, FAIL_MODEL, "tensor %s: expected a multiple of 8 outputs, found %zu",
            m->source->name, m->rows);
    return 0;
}

/* A tensor of the checkpoint that is quantised. */
typedef struct mark {
    bool marked;
    size_t layer;
    weight_role_t role;
} mark_t;

static int add_matrix(
    quantise_plan_t *plan, const checkpoint_tensor_t *source, const mark_t *mark, fail_t *fail)
{
    quantise_matrix_t *m = &plan->matrices[plan->n_matrices++];
    size_t bits = plan->options->bits, n = source->shape[0], k = source->shape[1];
    *m = (quantise_matrix_t){.source = source,
        .rows = n,
        .columns = k,
        .layer = mark->layer,
        .role = mark->role,
        .first_block = plan->n_matrix_blocks};
    plan->n_matrix_blocks += (n + QUANTISE_BLOCK_ROWS - 1) / QUANTISE_BLOCK_ROWS;
    m->n_groups = k / quantise_group(plan, m);
    if (check_sizes(plan, m, fail) != 0)
        return fail->status;
    if (plan->options->layout == QUANTISE_GPTQ) {
        if (add_part(plan, m, PART_CODES, "qweight", "I32", 4, k * bits / 32, n, fail) == 0 &&
            add_part(plan, m, PART_SCALES, "scales", "F16", 2, m->n_groups, n, fail) == 0 &&
            add_part(plan, m, PART_ZEROS, "qzeros", "I32", 4, m->n_groups, n * bits / 32, fail) ==
                0)
            add_part(plan, m, PART_GROUPS, "g_idx", "I32", 4, k, 0, fail);
    } else if (add_part(plan, m, PART_CODES, "weight_packed", "I32", 4, n, k * bits / 32, fail) ==
                   0 &&
               add_part(plan, m, PART_SCALES, "weight_scale", "BF16", 2, n, m->n_groups, fail) == 0)
        add_part(plan, m, PART_SHAPE, "weight_shape", "I64", 8, 2, 0, fail);
    return fail->status;
}

/* Marks the matrices of layers, other than routers. marks: [tensors of the checkpoint] */
static void mark_matrices(const quantise_plan_t *plan, mark_t *marks)
{
    const config_t *c = &plan->config;
    const checkpoint_tensor_t *first = checkpoint_at(plan->checkpoint, 0), *tensor;
    const arch_weight_t *weight;
    char name[ARCH_NAME_BYTES];
    for (size_t i = 0; (weight = arch_weight(c, i)) != NULL; i++) {
        if (!weight->shape.per_layer || weight->shape.columns == PLAN_DIM_NONE ||
            weight->shape.rows == PLAN_DIM_EXPERTS)
            continue;
        for (size_t l = 0; l < c->num_hidden_layers; l++)
            for (size_t e = 0; e < arch_weight_experts(c, weight); e++) {
                arch_weight_name(weight, l, e, name);
                tensor = arch_layer_is(c, weight->shape.layers, l)
                             ? checkpoint_find_weight(plan->checkpoint, name)
                             : NULL;
                if (tensor != NULL && tensor->n_dims == 2 && tensor->readable)
                    marks[tensor - first] = (mark_t){true, l, weight->role};
            }
    }
}

static int list_tensors(quantise_plan_t *plan, fail_t *fail)
{
    size_t n = checkpoint_count(plan->checkpoint);
    plan->tensors = calloc(n * PART_COUNT + 1, sizeof *plan->tensors);
    plan->matrices = calloc(n + 1, sizeof *plan->matrices);
    mark_t *marks = calloc(n + 1, sizeof *marks);
    if (plan->tensors == NULL || plan->matrices == NULL || marks == NULL) {
        free(marks);
        return fail_set(fail, FAIL_MEMORY, "quantize: out of memory for %zu tensors", n);
    }
    if (n > 0)
        mark_matrices(plan, marks);
    for (size_t i = 0; i < n && fail->status == 0; i++) {
        const checkpoint_tensor_t *source = checkpoint_at(plan->checkpoint, i);
        if (marks[i].marked) {
            add_matrix(plan, source, &marks[i], fail);
            continue;
        }
        quantise_tensor_t like = {.dtype = source->dtype_name,
            .n_dims = source->n_dims,
            .bytes = source->size_bytes,
            .source = source};
        memcpy(like.shape, source->shape, sizeof like.shape);
        add_tensor(plan, source->name, &like, NULL, fail);
    }
    free(marks);
    plan->n_blocks = plan->n_matrix_blocks;
    for (size_t i = 0; i < plan->n_tensors; i++)
        if (quantise_is_copied(&plan->tensors[i]))
            plan->n_blocks +=
                (size_t)((plan->tensors[i].bytes + QUANTISE_COPY_BYTES - 1) / QUANTISE_COPY_BYTES);
    if (plan->n_matrices == 0)
        fail_set(fail, FAIL_MODEL, "%s: expected matrices of layers, found none",
            plan->options->model_dir);
    return fail->status;
}

/* ---- The header ------------------------------------------------------------------------------ */

static json_t *describe(const quantise_tensor_t *t)
{
    json_t *shape = json_array();
    for (size_t d = 0; d < t->n_dims; d++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", t->dtype, "shape", shape, "data_offsets",
        (json_int_t)t->offset, (json_int_t)(t->offset + t->bytes));
}

static size_t element_bytes(const quantise_tensor_t *t)
{
    uint64_t count = 1;
    for (size_t d = 0; d < t->n_dims; d++)
        count *= t->shape[d];
    return count == 0 ? 1 : (size_t)(t->bytes / count);
}

/* Wide elements first, so that all are aligned. */
static uint64_t place_tensors(quantise_plan_t *plan)
{
    uint64_t offset = 0;
    for (size_t bytes = 8; bytes > 0; bytes /= 2)
        for (size_t i = 0; i < plan->n_tensors; i++)
            if (element_bytes(&plan->tensors[i]) == bytes) {
                plan->tensors[i].offset = offset;
                offset += plan->tensors[i].bytes;
            }
    return offset;
}

static int write_header(quantise_plan_t *plan, fail_t *fail)
{
    uint64_t data_bytes = place_tensors(plan);
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    for (size_t i = 0; i < plan->n_tensors; i++)
        json_object_set_new(root, plan->tensors[i].name, describe(&plan->tensors[i]));
    char *text = json_dumps(root, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(root);
    size_t n = text == NULL ? 0 : size_round_up(strlen(text), HEADER_UNIT);
    plan->header_bytes = sizeof(uint64_t) + n;
    plan->header = malloc(plan->header_bytes + 1);
    if (text == NULL || plan->header == NULL) {
        free(text);
        return fail_set(fail, FAIL_MEMORY, "quantize: out of memory for the header");
    }
    uint64_t length = n;
    memcpy(plan->header, &length, sizeof length);
    memset(plan->header + sizeof length, ' ', n);
    memcpy(plan->header + sizeof length, text, strlen(text));
    free(text);
    for (size_t i = 0; i < plan->n_tensors; i++)
        plan->tensors[i].offset += plan->header_bytes;
    plan->file_bytes = plan->header_bytes + data_bytes;
    plan->digest =
        digest_bytes(checkpoint_digest(plan->checkpoint), plan->header, plan->header_bytes);
    return 0;
}

int quantise_plan_open(quantise_plan_t *plan, const quantise_options_t *options, fail_t *fail)
{
    *plan = (quantise_plan_t){.options = options};
    if (config_load(&plan->config, options->model_dir, fail) != 0)
        return fail->status;
    if (plan->config.quantization.n_schemes > 0)
        return fail_set(fail, FAIL_MODEL,
            "%s/config.json: quantization_config: expected none, as weights are to be quantised, found one",
            options->model_dir);
    if (checkpoint_open(&plan->checkpoint, options->model_dir, fail) == 0 &&
        list_tensors(plan, fail) == 0)
        write_header(plan, fail);
    return fail->status;
}

void quantise_plan_close(quantise_plan_t *plan)
{
    for (size_t i = 0; i < plan->n_tensors; i++)
        free(plan->tensors[i].name);
    free(plan->tensors);
    free(plan->matrices);
    free(plan->header);
    if (plan->checkpoint != NULL)
        checkpoint_close(plan->checkpoint);
    *plan = (quantise_plan_t){0};
}
