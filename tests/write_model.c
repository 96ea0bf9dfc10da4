/* Writes a model directory with the random weights that the tests use in memory, so that the
 * reference can load them: write_model CONFIG.json SEED DIRECTORY config.json is copied;
 * model.safetensors holds bf16. Peak memory is one tensor. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/json.h"
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
    size_t heads = c->num_attention_heads * c->head_dim, kv = c->num_key_value_heads * c->head_dim;
    put(w, "model.embed_tokens.weight", c->vocab_size, c->hidden_size);
    for (size_t l = 0; l < c->num_hidden_layers; l++) {
        const struct {
            const char *suffix;
            size_t rows, columns;
        } tensors[] = {
            {"input_layernorm.weight", c->hidden_size, 0},
            {"self_attn.q_proj.weight", heads, c->hidden_size},
            {"self_attn.q_proj.bias", heads, 0},
            {"self_attn.k_proj.weight", kv, c->hidden_size},
            {"self_attn.k_proj.bias", kv, 0},
            {"self_attn.v_proj.weight", kv, c->hidden_size},
            {"self_attn.v_proj.bias", kv, 0},
            {"self_attn.o_proj.weight", c->hidden_size, heads},
            {"post_attention_layernorm.weight", c->hidden_size, 0},
            {"mlp.gate_proj.weight", c->intermediate_size, c->hidden_size},
            {"mlp.up_proj.weight", c->intermediate_size, c->hidden_size},
            {"mlp.down_proj.weight", c->hidden_size, c->intermediate_size},
        };
        for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
            char name[128];
            snprintf(name, sizeof name, "model.layers.%zu.%s", l, tensors[i].suffix);
            put(w, name, tensors[i].rows, tensors[i].columns);
        }
    }
    put(w, "model.norm.weight", c->hidden_size, 0);
    if (!c->tie_word_embeddings)
        put(w, "lm_head.weight", c->vocab_size, c->hidden_size);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        die("usage", "write_model CONFIG.json SEED DIRECTORY");
    fail_t fail = {0};
    config_t config;
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
