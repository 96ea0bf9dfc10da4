#include "engine/model/model.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/model/rope.h"

#define MATRICES_PER_LAYER 7
#define NAME_BYTES 96
#define SHARED_ALIGN 64

/* One matrix to fill, or a vector (shape_columns 0). */
typedef struct load_item {
    char name[NAME_BYTES];
    model_part_t part; /* name is filled in when used */
    matrix_t *matrix;  /* NULL for a vector */
    void *vector;
} load_item_t;

typedef struct loader {
    model_t *model;
    const model_source_t *source;
    const model_options_t *options;
    team_t *team;
    load_item_t *items;
    size_t n_items;
    size_t buffer_bytes; /* of a thread: one panel's rows, and as much again in f64 */
    uint64_t total_bytes;
    atomic_uint_fast64_t done_bytes;
    atomic_int failed;
    fail_t *fails; /* [threads] */
} loader_t;

static void add_matrix(loader_t *loader, matrix_t *matrix, const char *name, size_t shape_rows,
    size_t shape_columns, plan_range_t rows, plan_range_t columns)
{
    load_item_t *item = &loader->items[loader->n_items++];
    snprintf(item->name, sizeof item->name, "%s", name);
    item->part = (model_part_t){.shape_rows = shape_rows,
        .shape_columns = shape_columns,
        .row_begin = rows.begin,
        .row_end = rows.end,
        .col_begin = columns.begin,
        .col_end = columns.end};
    item->matrix = matrix;
    matrix->rows = plan_count(columns) == 0 ? 0 : plan_count(rows);
    matrix->columns = plan_count(columns);
    matrix->bytes = matrix_panel_bytes(loader->model->mode, matrix->rows, matrix->columns);
}

static void add_vector(
    loader_t *loader, void *vector, const char *name, size_t length, plan_range_t rows)
{
    load_item_t *item = &loader->items[loader->n_items++];
    snprintf(item->name, sizeof item->name, "%s", name);
    item->part = (model_part_t){
        .shape_rows = length, .row_begin = rows.begin, .row_end = rows.end, .col_end = 1};
    item->vector = vector;
}

static void add_projection(loader_t *loader, matrix_t *matrix, size_t layer, const char *suffix,
    size_t shape_rows, size_t shape_columns, plan_range_t rows, plan_range_t columns)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "model.layers.%zu.%s.weight", layer, suffix);
    add_matrix(loader, matrix, name, shape_rows, shape_columns, rows, columns);
}

static plan_range_t scaled(plan_range_t range, size_t factor)
{
    return (plan_range_t){range.begin * factor, range.end * factor};
}

/* Lists every matrix of this rank. Memory comes later, when all names and shapes have been checked.
 */
static void list_matrices(loader_t *loader)
{
    model_t *model = loader->model;
    const config_t *c = &model->config;
    const plan_share_t *share = model_share(model);
    size_t d = c->head_dim, heads = c->num_attention_heads * d, kv = c->num_key_value_heads * d;
    plan_range_t all_hidden = {0, c->hidden_size}, all_heads = {0, heads};
    plan_range_t all_columns = {0, c->intermediate_size};
    bool reduce = loader->options->combine == PLAN_REDUCE;
    plan_range_t out = reduce ? all_hidden : share->hidden;
    add_matrix(loader, &model->embedding, "model.embed_tokens.weight", c->vocab_size,
        c->hidden_size, share->vocab, all_hidden);
    if (!c->tie_word_embeddings)
        add_matrix(loader, &model->lm_head, "lm_head.weight", c->vocab_size, c->hidden_size,
            share->vocab, all_hidden);
    for (size_t l = 0; l < c->num_hidden_layers; l++) {
        model_layer_t *layer = &model->layers[l];
        add_projection(loader, &layer->q, l, "self_attn.q_proj", heads, c->hidden_size,
            scaled(share->heads, d), all_hidden);
        add_projection(loader, &layer->k, l, "self_attn.k_proj", kv, c->hidden_size,
            scaled(share->kv_heads, d), all_hidden);
        add_projection(loader, &layer->v, l, "self_attn.v_proj", kv, c->hidden_size,
            scaled(share->kv_heads, d), all_hidden);
        add_projection(loader, &layer->o, l, "self_attn.o_proj", c->hidden_size, heads, out,
            reduce ? scaled(share->heads, d) : all_heads);
        add_projection(loader, &layer->gate, l, "mlp.gate_proj", c->intermediate_size,
            c->hidden_size, share->columns, all_hidden);
        add_projection(loader, &layer->up, l, "mlp.up_proj", c->intermediate_size, c->hidden_size,
            share->columns, all_hidden);
        add_projection(loader, &layer->down, l, "mlp.down_proj", c->hidden_size,
            c->intermediate_size, out, reduce ? share->columns : all_columns);
    }
}

static void *vector_alloc(model_t *model, size_t n, fail_t *fail)
{
    return memory_alloc(
        kernel_padded_outputs(n) * model->kernels.element_bytes, "model vector", fail);
}

/* Norms and biases: allocated here, since they are small. */
static int list_vectors(loader_t *loader, fail_t *fail)
{
    model_t *model = loader->model;
    const config_t *c = &model->config;
    const plan_share_t *share = model_share(model);
    size_t d = c->head_dim, hidden = c->hidden_size;
    plan_range_t all = {0, hidden};
    model->final_norm = vector_alloc(model, hidden, fail);
    add_vector(loader, model->final_norm, "model.norm.weight", hidden, all);
    for (size_t l = 0; l < c->num_hidden_layers && fail->status == 0; l++) {
        model_layer_t *layer = &model->layers[l];
        struct {
            void **vector;
            const char *suffix;
            size_t length;
            plan_range_t rows;
        } vectors[] = {
            {&layer->input_norm, "input_layernorm.weight", hidden, all},
            {&layer->post_norm, "post_attention_layernorm.weight", hidden, all},
            {&layer->q.bias, "self_attn.q_proj.bias", c->num_attention_heads * d,
                scaled(share->heads, d)},
            {&layer->k.bias, "self_attn.k_proj.bias", c->num_key_value_heads * d,
                scaled(share->kv_heads, d)},
            {&layer->v.bias, "self_attn.v_proj.bias", c->num_key_value_heads * d,
                scaled(share->kv_heads, d)},
        };
        for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
            char name[NAME_BYTES];
            snprintf(name, sizeof name, "model.layers.%zu.%s", l, vectors[i].suffix);
            *vectors[i].vector = vector_alloc(model, plan_count(vectors[i].rows), fail);
            add_vector(loader, *vectors[i].vector, name, vectors[i].length, vectors[i].rows);
        }
    }
    return fail->status;
}

/* Also checks the parts that this rank does not own, so that all ranks agree about a broken
 * checkpoint. */
static int check_items(loader_t *loader, fail_t *fail)
{
    for (size_t i = 0; i < loader->n_items; i++) {
        load_item_t *item = &loader->items[i];
        int converted = 0;
        item->part.name = item->name;
        if (loader->source->check(
                loader->source->context, &item->part, loader->model->mode, &converted, fail) != 0)
            return fail->status;
        loader->model->n_converted += converted != 0;
    }
    return 0;
}

static int alloc_matrices(loader_t *loader, fail_t *fail)
{
    const model_t *model = loader->model;
    char *shared = loader->options->shared;
    size_t shared_bytes = model_shared_bytes(&model->plan, model->rank, model->mode), used = 0;
    loader->model->shared = shared != NULL;
    for (size_t i = 0; i < loader->n_items; i++) {
        matrix_t *matrix = loader->items[i].matrix;
        if (matrix == NULL)
            continue;
        if (shared != NULL) {
            matrix->panels = shared + used;
            used += size_round_up(matrix->bytes, SHARED_ALIGN);
        } else {
            matrix->panels = memory_alloc(matrix->bytes, loader->items[i].name, fail);
        }
        if (matrix->panels == NULL)
            return fail->status;
        loader->total_bytes += matrix->bytes;
        size_t panel = KERNEL_PANEL * matrix->columns;
        loader->buffer_bytes = size_max(loader->buffer_bytes, panel * sizeof(double));
    }
    if (shared != NULL && used != shared_bytes)
        return fail_set(fail, FAIL_INTERNAL, "model: matrices take %zu bytes, %zu are shared", used,
            shared_bytes);
    if (shared != NULL)
        loader->total_bytes /= loader->options->n_sharers;
    return 0;
}

static void load_panel(
    loader_t *loader, load_item_t *item, size_t p, char *rows, char *scratch, fail_t *fail)
{
    matrix_t *matrix = item->matrix;
    model_t *model = loader->model;
    model_part_t part = item->part;
    part.row_begin += p * KERNEL_PANEL;
    part.row_end = size_min(part.row_begin + KERNEL_PANEL, part.row_end);
    if (loader->source->read(loader->source->context, &part, model->mode, rows, scratch, fail) !=
        0) {
        atomic_store(&loader->failed, 1);
        return;
    }
    void *panel = (char *)matrix->panels + p * KERNEL_PANEL *
                                               kernel_padded_inputs(model->mode, matrix->columns) *
                                               model->kernels.element_bytes;
    size_t width = matrix_panel_width(matrix, p);
    panel_pack_rows(
        model->mode, part.row_end - part.row_begin, matrix->columns, rows, panel, width, 0);
    atomic_fetch_add(&loader->done_bytes, width * matrix->columns * model->kernels.element_bytes);
}

/* Panels that a thread packs: those that it will compute with, so that their pages lie on its NUMA
 * node; of shared ones its share. */
static team_part_t panels_of(const loader_t *loader, const matrix_t *matrix, size_t thread)
{
    size_t n = matrix_n_panels(matrix);
    team_part_t mine = {0, n};
    if (loader->options->shared != NULL)
        mine = team_part(n, loader->options->sharer, loader->options->n_sharers);
    team_part_t part = team_part(mine.end - mine.begin, thread, team_size(loader->team));
    return (team_part_t){mine.begin + part.begin, mine.begin + part.end};
}

static void load_thread(void *context, size_t thread)
{
    loader_t *loader = context;
    const model_options_t *options = loader->options;
    fail_t *fail = &loader->fails[thread];
    char *rows = memory_alloc(loader->buffer_bytes, "loading buffer", fail);
    char *scratch = memory_alloc(loader->buffer_bytes, "loading buffer", fail);
    if (fail->status != 0)
        atomic_store(&loader->failed, 1);
    for (size_t i = 0; i < loader->n_items; i++) {
        load_item_t *item = &loader->items[i];
        if (item->matrix == NULL) {
            if (thread == 0 && !atomic_load(&loader->failed) &&
                loader->source->read(loader->source->context, &item->part, loader->model->mode,
                    item->vector, scratch, fail) != 0)
                atomic_store(&loader->failed, 1);
            continue;
        }
        team_part_t part = panels_of(loader, item->matrix, thread);
        for (size_t p = part.begin; p < part.end && !atomic_load(&loader->failed); p++) {
            load_panel(loader, item, p, rows, scratch, fail);
            if (thread == 0 && options->progress != NULL)
                options->progress(options->progress_context, atomic_load(&loader->done_bytes),
                    loader->total_bytes);
        }
    }
    memory_free(rows, loader->buffer_bytes);
    memory_free(scratch, loader->buffer_bytes);
}

static int load_items(loader_t *loader, fail_t *fail)
{
    size_t n_threads = team_size(loader->team);
    /* Vectors are read through the same buffers. */
    size_t longest = size_max(loader->model->config.hidden_size,
        loader->model->config.num_attention_heads * loader->model->config.head_dim);
    loader->buffer_bytes = size_max(loader->buffer_bytes, longest * sizeof(double));
    loader->fails = calloc(n_threads, sizeof *loader->fails);
    if (loader->fails == NULL)
        return fail_set(fail, FAIL_MEMORY, "loading: out of memory");
    team_run(loader->team, load_thread, loader);
    for (size_t t = 0; t < n_threads; t++)
        if (loader->fails[t].status != 0)
            fail_set(fail, loader->fails[t].status, "%s", loader->fails[t].message);
    free(loader->fails);
    return fail->status;
}

static size_t rope_bytes(size_t head_dim, dtype_t mode, size_t positions)
{
    return positions * (head_dim / 2) * (mode == DTYPE_F64 ? sizeof(double) : sizeof(float));
}

static void rope_thread(void *context, size_t thread)
{
    loader_t *loader = context;
    model_t *model = loader->model;
    team_part_t part = team_part(model->rope_positions, thread, team_size(loader->team));
    size_t offset = rope_bytes(model->config.head_dim, model->mode, part.begin);
    rope_tables(&model->config, model->mode, part.begin, part.end - part.begin,
        (char *)model->rope_cos + offset, (char *)model->rope_sin + offset);
}

static int load_rope(loader_t *loader, fail_t *fail)
{
    model_t *model = loader->model;
    model->rope_positions = loader->options->max_positions;
    size_t bytes = rope_bytes(model->config.head_dim, model->mode, model->rope_positions);
    model->rope_cos = memory_alloc(bytes, "RoPE tables", fail);
    model->rope_sin = memory_alloc(bytes, "RoPE tables", fail);
    if (fail->status == 0)
        team_run(loader->team, rope_thread, loader);
    return fail->status;
}

int model_load(model_t *model, const config_t *config, const model_source_t *source,
    const model_options_t *options, team_t *team, fail_t *fail)
{
    *model = (model_t){.config = *config, .rank = options->rank, .mode = options->mode};
    kernels_get(&model->kernels, options->isa, options->mode);
    loader_t loader = {.model = model, .source = source, .options = options, .team = team};
    size_t n_layers = config->num_hidden_layers;
    plan_model_t sizes = config_plan_model(config, options->mode);
    if (plan_open_weighted(
            &model->plan, &sizes, options->combine, options->n_ranks, options->weights, fail) != 0)
        return fail->status;
    model->layers = calloc(n_layers, sizeof *model->layers);
    loader.items = calloc(n_layers * (MATRICES_PER_LAYER + 5) + 3, sizeof *loader.items);
    if (model->layers == NULL || loader.items == NULL) {
        fail_set(fail, FAIL_MEMORY, "model: out of memory for %zu layers", n_layers);
    } else {
        list_matrices(&loader);
        if (list_vectors(&loader, fail) == 0 && check_items(&loader, fail) == 0 &&
            alloc_matrices(&loader, fail) == 0 && load_items(&loader, fail) == 0)
            load_rope(&loader, fail);
    }
    free(loader.items);
    if (fail->status != 0)
        model_close(model);
    return fail->status;
}

static void matrix_free(model_t *model, matrix_t *matrix)
{
    if (!model->shared)
        memory_free(matrix->panels, matrix->bytes);
    memory_free(matrix->bias, kernel_padded_outputs(matrix->rows) * model->kernels.element_bytes);
}

void model_close(model_t *model)
{
    size_t norm_bytes =
        kernel_padded_outputs(model->config.hidden_size) * model->kernels.element_bytes;
    for (size_t l = 0; model->layers != NULL && l < model->config.num_hidden_layers; l++) {
        model_layer_t *layer = &model->layers[l];
        matrix_t *matrices[] = {
            &layer->q, &layer->k, &layer->v, &layer->o, &layer->gate, &layer->up, &layer->down};
        for (size_t i = 0; i < MATRICES_PER_LAYER; i++)
            matrix_free(model, matrices[i]);
        memory_free(layer->input_norm, norm_bytes);
        memory_free(layer->post_norm, norm_bytes);
    }
    free(model->layers);
    matrix_free(model, &model->embedding);
    matrix_free(model, &model->lm_head);
    memory_free(model->final_norm, norm_bytes);
    size_t table = rope_bytes(model->config.head_dim, model->mode, model->rope_positions);
    memory_free(model->rope_cos, table);
    memory_free(model->rope_sin, table);
    plan_close(&model->plan);
    *model = (model_t){0};
}

size_t model_shared_bytes(const plan_t *plan, size_t rank, dtype_t mode)
{
    const plan_model_t *m = &plan->model;
    const plan_share_t *share = &plan->shares[rank];
    size_t heads = plan_count(share->heads) * m->head_dim, columns = plan_count(share->columns);
    size_t kv = plan_count(share->kv_heads) * m->head_dim, hidden = m->hidden;
    bool reduce = plan->combine == PLAN_REDUCE;
    size_t out = reduce ? hidden : plan_count(share->hidden);
    const size_t shapes[MATRICES_PER_LAYER][2] = {{heads, hidden}, {kv, hidden}, {kv, hidden},
        {out, reduce ? heads : m->n_heads * m->head_dim}, {columns, hidden}, {columns, hidden},
        {out, reduce ? columns : m->intermediate}};
    size_t layer = 0, table = matrix_panel_bytes(mode, plan_count(share->vocab), hidden);
    for (int i = 0; i < MATRICES_PER_LAYER; i++)
        layer += size_round_up(matrix_panel_bytes(mode, shapes[i][0], shapes[i][1]), SHARED_ALIGN);
    return m->n_layers * layer + (m->tied ? 1 : 2) * size_round_up(table, SHARED_ALIGN);
}

size_t model_bytes(const plan_t *plan, size_t rank, dtype_t mode, size_t max_positions)
{
    return plan_weight_bytes(plan, rank) +
           2 * rope_bytes(plan->model.head_dim, mode, max_positions);
}
