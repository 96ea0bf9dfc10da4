/* Writes a model directory with the random weights that the tests use in memory, so that the
 * reference can load them:
 *   write_model CONFIG.json SEED DIRECTORY
 *   write_model --list CONFIG.json
 * config.json is copied; model.safetensors holds bf16. Peak memory is one tensor. --list prints the
 * weights that such a model has. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/json.h"
#include "engine/model/arch/arch.h"
#include "engine/model/config.h"
#include "engine/model/model_source.h"

typedef struct writer {
    FILE *file;
    char *header;
    size_t header_bytes;
    uint64_t offset;
    uint64_t seed;
    int pass; /* 0: header, 1: data */
} writer_t;

static void die(const char *what, const char *name)
{
    fprintf(stderr, "write_model: %s: %s\n", what, name);
    exit(1);
}

static void put(writer_t *w, const char *name, size_t rows, size_t columns)
{
    size_t n = rows * (columns == 0 ? 1 : columns);
    if (w->pass == 0) {
        w->header = realloc(w->header, w->header_bytes + 512);
        if (w->header == NULL)
            die("out of memory", name);
        char shape[64];
        snprintf(shape, sizeof shape, columns == 0 ? "%zu" : "%zu,%zu", rows, columns);
        w->header_bytes += (size_t)sprintf(w->header + w->header_bytes,
            "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
            w->header_bytes == 0 ? "{" : ",", name, shape, (unsigned long long)w->offset,
            (unsigned long long)(w->offset + n * 2));
        w->offset += n * 2;
        return;
    }
    fail_t fail = {0};
    model_source_t source = model_source_random(&w->seed);
    model_part_t part = {.name = name,
        .shape_rows = rows,
        .shape_columns = columns,
        .row_end = rows,
        .col_end = columns == 0 ? 1 : columns};
    void *values = malloc(n * 2), *scratch = malloc(n * sizeof(double));
    if (values == NULL || scratch == NULL)
        die("out of memory", name);
    if (source.read(source.context, &part, DTYPE_BF16, values, scratch, &fail) != 0)
        die(fail.message, name);
    if (fwrite(values, 2, n, w->file) != n)
        die("cannot write", name);
    free(values);
    free(scratch);
}

static void put_all(writer_t *w, const config_t *c)
{
    const plan_model_t sizes = config_plan_model(c, DTYPE_BF16);
    const arch_weight_t *weight;
    for (size_t i = 0; (weight = arch_weight(c, i)) != NULL; i++)
        for (size_t l = 0; l < (weight->shape.per_layer ? c->num_hidden_layers : 1); l++)
            for (size_t e = 0; e < arch_weight_experts(c, weight); e++) {
                char name[ARCH_NAME_BYTES];
                bool is_vector = weight->shape.columns == PLAN_DIM_NONE;
                if (!arch_layer_is(c, weight->shape.layers, l))
                    continue;
                arch_weight_name(weight, l, e, name);
                put(w, name, plan_dim(&sizes, weight->shape.rows),
                    is_vector ? 0 : plan_dim(&sizes, weight->shape.columns));
            }
}

/* A line of JSON for each tensor of a weight, in a layer or outside of all. */
static void list_weight(const config_t *c, const arch_weight_t *weight, size_t layer)
{
    const plan_model_t sizes = config_plan_model(c, DTYPE_BF16);
    for (size_t e = 0; e < arch_weight_experts(c, weight); e++) {
        char name[ARCH_NAME_BYTES];
        arch_weight_name(weight, layer, e, name);
        printf("{\"name\": \"%s\", \"label\": \"%s\", \"shape\": [%zu", name, weight->label,
            plan_dim(&sizes, weight->shape.rows));
        if (weight->shape.columns != PLAN_DIM_NONE)
            printf(", %zu", plan_dim(&sizes, weight->shape.columns));
        printf("]}\n");
    }
}

/* What oracle/make_model.py reads: tensors in the order of a forward pass. */
static void list_all(const config_t *c)
{
    const arch_weight_t *weight;
    size_t i = 0, first;
    for (; (weight = arch_weight(c, i)) != NULL && !weight->shape.per_layer; i++)
        list_weight(c, weight, 0);
    first = i;
    for (size_t l = 0; l < c->num_hidden_layers; l++)
        for (i = first; (weight = arch_weight(c, i)) != NULL && weight->shape.per_layer; i++)
            if (arch_layer_is(c, weight->shape.layers, l))
                list_weight(c, weight, l);
    for (; (weight = arch_weight(c, i)) != NULL; i++)
        list_weight(c, weight, 0);
}

int main(int argc, char **argv)
{
    fail_t fail = {0};
    config_t config;
    if (argc == 3 && strcmp(argv[1], "--list") == 0) {
        if (config_load_file(&config, argv[2], &fail) != 0)
            die(fail.message, argv[2]);
        list_all(&config);
        return 0;
    }
    if (argc != 4)
        die("usage", "write_model CONFIG.json SEED DIRECTORY | --list CONFIG.json");
    char *text, path[4096];
    size_t bytes;
    if (config_load_file(&config, argv[1], &fail) != 0 ||
        file_read(argv[1], 1 << 20, &text, &bytes, &fail) != 0)
        die(fail.message, argv[1]);
    mkdir(argv[3], 0777);
    snprintf(path, sizeof path, "%s/config.json", argv[3]);
    FILE *copy = fopen(path, "wb");
    if (copy == NULL || fwrite(text, 1, bytes, copy) != bytes || fclose(copy) != 0)
        die("cannot write", path);
    free(text);
    snprintf(path, sizeof path, "%s/model.safetensors", argv[3]);
    writer_t w = {.file = fopen(path, "wb"), .seed = strtoull(argv[2], NULL, 10)};
    if (w.file == NULL)
        die("cannot write", path);
    put_all(&w, &config);
    strcpy(w.header + w.header_bytes++, "}");
    while (w.header_bytes % 8 != 0)
        w.header[w.header_bytes++] = ' ';
    uint64_t length = w.header_bytes; /* little-endian hosts only, as Choir itself */
    if (fwrite(&length, 8, 1, w.file) != 1 ||
        fwrite(w.header, 1, w.header_bytes, w.file) != w.header_bytes)
        die("cannot write", path);
    w.pass = 1;
    put_all(&w, &config);
    if (fclose(w.file) != 0)
        die("cannot write", path);
    free(w.header);
    return 0;
}
