#include "engine/model/model.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/kernels/fold.h"
#include "engine/model/model_internal.h"
#include "engine/model/rope.h"
#include "engine/model/weights_digest.h"

/* Of a thread's stage: quantised matrices that lie [K, N] are read in runs of some hundred bytes then. */
#define STAGE_BYTES ((size_t)8 << 20)

/* The matrices to fill of one weight of a layer, one or one for each expert, or a vector
 * (shape_columns 0). */
typedef struct load_item {
    const arch_weight_t *weight;
    size_t layer, n_experts; /* 1 without experts */
    model_part_t part;       /* of each; name is filled in when used */
    model_weight_t *weight_of;
    matrix_t *matrices; /* [n_experts] of it; NULL for a vector */
    void *vector;
    size_t slot_bytes; /* of a matrix, as the plan counts it */
    model_weight_t
        *late;     /* of a bias that counts after the sum's rounding: its matrix; else NULL */
    size_t staged; /* panels that are read together; 0: not quantised */
    size_t first_digested; /* row */
} load_item_t;

typedef struct loader {
    model_t *model;
    const model_source_t *source;
    const model_options_t *options;
    team_t *team;
    load_item_t *items;
    size_t n_items;
    size_t stage_bytes;  /* of a thread */
    size_t buffer_bytes; /* of a thread: one panel's rows, and as much again in f64 */
    size_t dense_bytes;  /* of a thread: a dense panel that is to be packed; 0: none is */
    uint64_t total_bytes;
    atomic_uint_fast64_t done_bytes, matrices_digest;
    atomic_int failed;
    fail_t *fails; /* [threads] */
} loader_t;

/* The bias of a matrix; that of int4 counts after the sum's rounding. */
static void add_bias(load_item_t *item, model_weight_t *matrix, size_t rows, fail_t *fail)
{
    if (matrix->matrix.format->kind != FORMAT_INT4) {
        matrix->matrix.bias = item->vector;
        return;
    }
    matrix->late_bias =
        memory_alloc(kernel_padded_outputs(rows) * sizeof(float), "model vector", fail);
    matrix->matrix.late_bias = matrix->late_bias;
    item->late = matrix;
}

static void set_matrices(loader_t *loader, load_item_t *item, plan_part_t part)
{
    const model_t *model = loader->model;
    const format_t *format =
        quantization_format(&model->config.quantization, item->part.scheme, model->mode,
            item->weight->shape.per_layer, item->part.shape_rows, item->part.shape_columns);
    matrix_t matrix = {.format = format != NULL ? format : model->format,
        .rows = plan_count(part.columns) == 0 ? 0 : plan_count(part.rows),
        .columns = plan_count(part.columns)};
    if (matrix.rows > 0)
        matrix.bytes = format_matrix_bytes(matrix.format, matrix.rows, matrix.columns);
    for (size_t e = 0; e < item->n_experts; e++)
        item->matrices[e] = matrix;
}

/* Adds a weight to the list. A vector's memory is taken here, since it is small; a matrix's later,
 * when all names and shapes have been checked. */
static void add_weight(
    loader_t *loader, model_weights_t *place, size_t number, size_t layer, fail_t *fail)
{
    const arch_weight_t *weight = arch_weight(&loader->model->config, number);
    model_t *model = loader->model;
    const plan_model_t *sizes = &model->plan.model;
    const plan_part_t part = plan_weight_part(&model->plan, model->rank, &weight->shape);
    load_item_t *item = &loader->items[loader->n_items++];
    model_weight_t *to = &place->of[weight->role];
    bool is_vector = weight->shape.columns == PLAN_DIM_NONE;
    item->weight = weight;
    item->layer = layer;
    item->first_digested = weights_digest_first_row(&model->plan, model->rank, &weight->shape);
    item->n_experts = arch_weight_experts(&model->config, weight);
    item->part = (model_part_t){.shape_rows = plan_dim(sizes, weight->shape.rows),
        .shape_columns = is_vector ? 0 : plan_dim(sizes, weight->shape.columns),
        .row_begin = part.rows.begin,
        .row_end = part.rows.end,
        .col_begin = part.columns.begin,
        .col_end = part.columns.end,
        .scheme = quantization_scheme(
            &model->config.quantization, (int)weight->role, weight->shape.per_layer, layer)};
    if (is_vector) {
        item->vector =
            memory_alloc(model->format->vector_bytes(model->format, plan_count(part.rows)),
                "model vector", fail);
        to->vector = item->vector;
        if (weight->adds != weight->role)
            add_bias(item, &place->of[weight->adds], plan_count(part.rows), fail);
        return;
    }
    item->weight_of = to;
    item->matrices = &to->matrix;
    if (weight->shape.per_expert) {
        item->matrices = to->experts = calloc(item->n_experts, sizeof *to->experts);
        if (to->experts == NULL)
            fail_set(fail, FAIL_MEMORY, "model: out of memory for %zu experts", item->n_experts);
    }
    item->slot_bytes = plan_part_bytes(sizes, &sizes->weights[number], part);
    if (item->matrices != NULL)
        set_matrices(loader, item, part);
}

/* Lists every weight of this rank. */
static int list_weights(loader_t *loader, fail_t *fail)
{
    model_t *model = loader->model;
    const arch_weight_t *weight;
    for (size_t i = 0; (weight = arch_weight(&model->config, i)) != NULL; i++)
        if (!weight->shape.per_layer)
            add_weight(loader, &model->outside, i, 0, fail);
    for (size_t l = 0; l < model->config.num_hidden_layers && fail->status == 0; l++)
        for (size_t i = 0; (weight = arch_weight(&model->config, i)) != NULL; i++)
            if (weight->shape.per_layer && arch_layer_is(&model->config, weight->shape.layers, l))
                add_weight(loader, &model->layers[l], i, l, fail);
    return fail->status;
}

static void name_part(const load_item_t *item, size_t expert, char *name, model_part_t *part)
{
    arch_weight_name(item->weight, item->layer, expert, name);
    part->name = name;
}

/* Whether a matrix is kept as it is quantised. */
static bool has_codes(const matrix_t *matrix)
{
    return matrix->format->kind == FORMAT_INT4 || matrix->format->kind == FORMAT_CODED;
}

/* Also checks parts that this rank does not own, so that all ranks agree about a broken
 * checkpoint. */
static int check_items(loader_t *loader, fail_t *fail)
{
    char name[ARCH_NAME_BYTES];
    for (size_t i = 0; i < loader->n_items; i++)
        for (size_t e = 0; e < loader->items[i].n_experts; e++) {
            model_part_t part = loader->items[i].part;
            int converted = 0;
            name_part(&loader->items[i], e, name, &part);
            if (loader->source->check(
                    loader->source->context, &part, loader->model->mode, &converted, fail) != 0)
                return fail->status;
            loader->model->n_converted += converted != 0;
            loader->model->n_quantised += part.scheme != NULL;
            loader->model->n_packed +=
                loader->items[i].matrices != NULL && has_codes(&loader->items[i].matrices[0]);
        }
    return 0;
}

/* How many panels of a quantised matrix are read together, and the memory that this takes. */
static void plan_stage(loader_t *loader, load_item_t *item)
{
    model_part_t part = item->part;
    size_t (*bytes)(void *, const model_part_t *) = loader->source->stage_bytes;
    char name[ARCH_NAME_BYTES];
    name_part(item, 0, name, &part);
    if (item->matrices[0].rows == 0 || part.scheme == NULL)
        return;
    part.row_end = size_min(part.row_begin + KERNEL_PANEL, part.row_end);
    size_t one = bytes(loader->source->context, &part);
    if (one == 0)
        return;
    item->staged = size_min(size_max(STAGE_BYTES / one, 1), matrix_n_panels(&item->matrices[0]));
    part.row_end = part.row_begin + item->staged * KERNEL_PANEL;
    loader->stage_bytes = size_max(loader->stage_bytes, bytes(loader->source->context, &part));
}

/* Bytes of the matrices of a weight; in shared memory as many as the plan counts. */
static size_t slot_of(const loader_t *loader, const load_item_t *item)
{
    if (item->matrices == NULL)
        return 0;
    size_t each = loader->options->shared != NULL ? item->slot_bytes : item->matrices[0].bytes;
    return size_round_up(item->n_experts * each, MODEL_ALIGN);
}

/* Memory for all matrices: one block, as each of its own would end in a huge page that is half empty. */
static char *alloc_panels(loader_t *loader, fail_t *fail)
{
    model_t *model = loader->model;
    if (loader->options->shared != NULL)
        return loader->options->shared;
    for (size_t i = 0; i < loader->n_items; i++)
        model->own_bytes += slot_of(loader, &loader->items[i]);
    model->own = memory_alloc(model->own_bytes, "weights", fail);
    return model->own;
}

/* The orders of int4's inputs, where groups are not in order or rows are permuted: of each expert that of
 * codes, and that of rows. */
static int load_orders(loader_t *loader, load_item_t *item, fail_t *fail)
{
    const bool fold = loader->options->dot == DOT_FOLD,
               act = item->part.scheme != NULL && item->part.scheme->act_order;
    size_t columns = item->part.shape_columns;
    char name[ARCH_NAME_BYTES];
    model_weight_t *weight = item->weight_of;
    if (item->matrices[0].format->kind != FORMAT_INT4 || (!fold && !act))
        return 0;
    weight->orders = memory_alloc(
        item->n_experts * 2 * columns * sizeof *weight->orders, "order of inputs", fail);
    for (size_t e = 0; e < item->n_experts && fail->status == 0; e++) {
        uint32_t *codes = weight->orders + e * 2 * columns, *rows = codes + columns;
        model_part_t part = item->part;
        name_part(item, e, name, &part);
        for (size_t k = 0; k < columns; k++)
            codes[k] = (uint32_t)k;
        if (act)
            loader->source->order(loader->source->context, &part, codes, fail);
        for (size_t k = 0; k < columns; k++)
            rows[k] = fold ? (uint32_t)fold_position(columns, codes[k]) : codes[k];
        item->matrices[e].code_order = codes;
        item->matrices[e].order = rows;
    }
    return fail->status;
}

/* Memory for blocks of packed matrices that have too many different exponents: all could be such, but pages of the
 * model's own memory are taken as they are written. In shared memory each sharer has its part. */
static int open_spill(loader_t *loader, size_t matrix_bytes, fail_t *fail)
{
    const model_options_t *options = loader->options;
    model_t *model = loader->model;
    spill_t *spill = &model->spill;
    if (model->format->kind != FORMAT_PACKED)
        return 0;
    if (options->shared == NULL) {
        /* Of the 3 bytes of two weights, 2 lie there again. */
        spill->bytes = matrix_bytes / 3 * 2 + 1;
        spill->at = memory_alloc(spill->bytes, "packed weights", fail);
        return fail->status;
    }
    size_t bytes = model_shared_spill_bytes(&model->plan, model->rank);
    spill->bytes = bytes / options->n_sharers;
    spill->at = (char *)options->shared + model_shared_bytes(&model->plan, model->rank) - bytes +
                options->sharer * spill->bytes;
    return 0;
}

static int alloc_matrices(loader_t *loader, fail_t *fail)
{
    const model_t *model = loader->model;
    char *shared = loader->options->shared, *memory = alloc_panels(loader, fail);
    size_t shared_bytes = model_shared_bytes(&model->plan, model->rank), used = 0;
    loader->model->shared = shared != NULL;
    for (size_t i = 0; i < loader->n_items && fail->status == 0; i++) {
        const load_item_t *item = &loader->items[i];
        if (item->matrices == NULL)
            continue;
        char *panels = memory + used;
        used += slot_of(loader, item);
        plan_stage(loader, &loader->items[i]);
        if (load_orders(loader, &loader->items[i], fail) != 0)
            return fail->status;
        for (size_t e = 0; e < item->n_experts; e++)
            item->matrices[e].panels = panels + e * item->matrices[0].bytes;
        loader->total_bytes += item->n_experts * item->matrices[0].bytes;
        size_t panel = KERNEL_PANEL * item->matrices[0].columns;
        loader->buffer_bytes = size_max(loader->buffer_bytes, panel * sizeof(double));
        const matrix_t *matrix = &item->matrices[0];
        if (matrix->rows > 0 && matrix->format->kind == FORMAT_PACKED)
            loader->dense_bytes =
                size_max(loader->dense_bytes, format_matrix_bytes(format_of_packed(matrix->format),
                                                  KERNEL_PANEL, matrix->columns));
    }
    if (fail->status != 0 || open_spill(loader, loader->total_bytes, fail) != 0)
        return fail->status;
    used += model_shared_spill_bytes(&model->plan, model->rank);
    if (shared != NULL && used != shared_bytes)
        return fail_set(fail, FAIL_INTERNAL, "model: matrices take %zu bytes, %zu are shared", used,
            shared_bytes);
    if (shared != NULL)
        loader->total_bytes /= loader->options->n_sharers;
    return 0;
}

/* Buffers of a thread. */
typedef struct buffers {
    char *rows, *scratch, *stage, *dense;
} buffers_t;

/* Panels that a matrix of the item has, of which panels of all are counted. */
static size_t panels_each(const load_item_t *item)
{
    return matrix_n_panels(&item->matrices[0]);
}

/* Rows of panels [begin, end) of one matrix. */
static model_part_t part_of(const load_item_t *item, size_t begin, size_t end, char *name)
{
    size_t each = panels_each(item), expert = begin / each;
    model_part_t part = item->part;
    name_part(item, expert, name, &part);
    begin -= expert * each;
    end -= expert * each;
    part.row_begin += begin * KERNEL_PANEL;
    part.row_end = size_min(item->part.row_begin + end * KERNEL_PANEL, part.row_end);
    return part;
}

/* Whether groups are as the format has them: from the file itself, which may have others than its config says. */
static int check_groups(
    const format_t *format, const coded_rows_t *rows, const char *name, fail_t *fail)
{
    size_t expected = format->group == 0 ? 1 : (rows->columns + format->group - 1) / format->group;
    if (format->kind != FORMAT_CODED ||
        (rows->in_order && expected % rows->n_groups == 0 &&
            (expected == rows->n_groups || rows->columns % rows->n_groups == 0)))
        return 0;
    return fail_set(fail, FAIL_MODEL,
        "tensor %s: expected %zu groups of inputs in order, as quantization_config says, found %zu%s (--quantised-order dequantize reads it)",
        name, expected, rows->n_groups, rows->in_order ? "" : " out of order");
}

/* The rows that were read, n of them; packed without loss from a dense panel. */
static void pack_rows(loader_t *loader, size_t n, const matrix_t *matrix, void *panel, size_t width,
    const buffers_t *buffers, fail_t *fail)
{
    const format_t *format = matrix->format;
    const format_t *dense = format->kind == FORMAT_PACKED ? format_of_packed(format) : format;
    bool packs = format_packs(format, width);
    void *to = packs ? buffers->dense : panel;
    if (packs)
        memset(to, 0, format_matrix_bytes(dense, width, matrix->columns));
    dense->pack_rows(dense, n, matrix->columns, buffers->rows, to, width, 0);
    if (packs)
        format->pack_panel(format, matrix->columns, to, panel, &loader->model->spill, fail);
}

static int pack_panel(loader_t *loader, const load_item_t *item, const model_part_t *part,
    const matrix_t *matrix, void *panel, size_t width, const buffers_t *buffers, fail_t *fail)
{
    const model_source_t *source = loader->source;
    dtype_t mode = loader->model->mode;
    if (!has_codes(matrix)) {
        if (source->read(source->context, part, mode, buffers->rows, buffers->scratch, fail) != 0)
            return fail->status;
        pack_rows(loader, part->row_end - part->row_begin, matrix, panel, width, buffers, fail);
        if (loader->options->digests)
            atomic_fetch_add(&loader->matrices_digest,
                weights_digest_rows(part, item->first_digested, mode, buffers->rows));
        return fail->status;
    }
    coded_rows_t rows;
    if (source->codes(source->context, part, &rows, fail) != 0 ||
        check_groups(matrix->format, &rows, part->name, fail) != 0)
        return fail->status;
    rows.order = matrix->code_order;
    matrix->format->pack_codes(matrix->format, &rows, panel, width, 0);
    return 0;
}

/* p: of the panels of all matrices; stage: NULL, or what was read of this one and others */
static void load_panel(loader_t *loader, load_item_t *item, size_t p, const void *stage,
    const buffers_t *buffers, fail_t *fail)
{
    matrix_t *matrix = &item->matrices[p / panels_each(item)];
    char name[ARCH_NAME_BYTES];
    model_part_t part = part_of(item, p, p + 1, name);
    part.stage = stage;
    p %= panels_each(item);
    size_t width = matrix_panel_width(matrix, p);
    void *panel = (char *)matrix->panels +
                  matrix->format->offset(matrix->format, matrix->columns, width, p, 0);
    if (pack_panel(loader, item, &part, matrix, panel, width, buffers, fail) != 0) {
        atomic_store(&loader->failed, 1);
        return;
    }
    atomic_fetch_add(
        &loader->done_bytes, format_matrix_bytes(matrix->format, width, matrix->columns));
}

/* Panels that a thread packs: those that it will compute with, so that their pages are on its NUMA
 * node; of shared ones its share. */
static team_part_t panels_of(const loader_t *loader, const load_item_t *item, size_t thread)
{
    size_t n = item->n_experts * matrix_n_panels(&item->matrices[0]);
    team_part_t mine = {0, n};
    if (loader->options->shared != NULL)
        mine = team_part(n, loader->options->sharer, loader->options->n_sharers);
    team_part_t part = team_part(mine.end - mine.begin, thread, team_size(loader->team));
    return (team_part_t){mine.begin + part.begin, mine.begin + part.end};
}

/* Whether panel p begins a stage: of each matrix, a thread's first panel and every staged one. */
static bool begins_stage(const load_item_t *item, size_t p, size_t staged_until)
{
    return item->staged > 0 && (p >= staged_until || p % panels_each(item) == 0);
}

static void load_matrices(
    loader_t *loader, load_item_t *item, size_t thread, const buffers_t *buffers, fail_t *fail)
{
    const model_options_t *options = loader->options;
    team_part_t mine = panels_of(loader, item, thread);
    model_part_t staged = {0};
    char name[ARCH_NAME_BYTES];
    size_t staged_until = 0;
    for (size_t p = mine.begin; p < mine.end && !atomic_load(&loader->failed); p++) {
        if (begins_stage(item, p, staged_until)) {
            size_t of_matrix = (p / panels_each(item) + 1) * panels_each(item);
            staged_until = size_min(p + item->staged, size_min(mine.end, of_matrix));
            staged = part_of(item, p, staged_until, name);
            if (loader->source->stage(loader->source->context, &staged, buffers->stage, fail) !=
                0) {
                atomic_store(&loader->failed, 1);
                return;
            }
        }
        load_panel(loader, item, p, staged.stage, buffers, fail);
        if (thread == 0 && options->progress != NULL)
            options->progress(
                options->progress_context, atomic_load(&loader->done_bytes), loader->total_bytes);
    }
}

static void load_vector(loader_t *loader, load_item_t *item, char *scratch, fail_t *fail)
{
    model_part_t part = item->part;
    char name[ARCH_NAME_BYTES];
    name_part(item, 0, name, &part);
    const model_source_t *source = loader->source;
    dtype_t mode = loader->model->mode;
    if (source->read(source->context, &part, mode, item->vector, scratch, fail) == 0 &&
        loader->options->digests)
        loader->model->vectors_digest +=
            weights_digest_rows(&part, item->first_digested, mode, item->vector);
    if (item->late != NULL && fail->status == 0) {
        /* f16, as gptqmodel keeps it. */
        float *bias = item->late->late_bias;
        source->read(source->context, &part, DTYPE_F32, bias, scratch, fail);
        for (size_t i = 0; i < part.row_end - part.row_begin; i++) {
            uint16_t half;
            dtype_convert(&half, DTYPE_F16, &bias[i], DTYPE_F32, 1);
            bias[i] = f32_from_f16(half);
        }
    }
    if (fail->status != 0)
        atomic_store(&loader->failed, 1);
}

static void load_thread(void *context, size_t thread)
{
    loader_t *loader = context;
    fail_t *fail = &loader->fails[thread];
    const buffers_t buffers = {memory_alloc(loader->buffer_bytes, "loading buffer", fail),
        memory_alloc(loader->buffer_bytes, "loading buffer", fail),
        loader->stage_bytes == 0 ? NULL : memory_alloc(loader->stage_bytes, "loading buffer", fail),
        loader->dense_bytes == 0 ? NULL
                                 : memory_alloc(loader->dense_bytes, "loading buffer", fail)};
    if (fail->status != 0)
        atomic_store(&loader->failed, 1);
    for (size_t i = 0; i < loader->n_items; i++) {
        load_item_t *item = &loader->items[i];
        if (item->matrices != NULL)
            load_matrices(loader, item, thread, &buffers, fail);
        else if (thread == 0 && !atomic_load(&loader->failed))
            load_vector(loader, item, buffers.scratch, fail);
    }
    memory_free(buffers.rows, loader->buffer_bytes);
    memory_free(buffers.scratch, loader->buffer_bytes);
    memory_free(buffers.stage, loader->stage_bytes);
    memory_free(buffers.dense, loader->dense_bytes);
}

static int load_items(loader_t *loader, fail_t *fail)
{
    size_t n_threads = team_size(loader->team);
    /* Vectors are read through the same buffers. */
    for (size_t i = 0; i < loader->n_items; i++)
        if (loader->items[i].matrices == NULL)
            loader->buffer_bytes =
                size_max(loader->buffer_bytes, loader->items[i].part.shape_rows * sizeof(double));
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

void model_kernels(model_t *model, isa_t isa)
{
    kernels_get(&model->kernels, isa, model->mode);
    /* The int4 chain, and what quantises activations, take inputs as rows. */
    if (quantization_has_chain(&model->config.quantization, model->mode) ||
        quantization_has_activations(&model->config.quantization, model->mode))
        model->kernels.tile_amx_k_blocked = NULL;
}

static void rope_thread(void *context, size_t thread)
{
    loader_t *loader = context;
    model_t *model = loader->model;
    team_part_t part = team_part(model->rope_positions, thread, team_size(loader->team));
    size_t offset = model_rope_bytes(model->config.head_dim, model->mode, part.begin);
    rope_tables(&model->config, model->mode, part.begin, part.end - part.begin,
        (char *)model->rope_cos + offset, (char *)model->rope_sin + offset);
}

static int load_rope(loader_t *loader, fail_t *fail)
{
    model_t *model = loader->model;
    model->rope_positions = loader->options->max_positions;
    size_t bytes = model_rope_bytes(model->config.head_dim, model->mode, model->rope_positions);
    model->rope_cos = memory_alloc(bytes, "RoPE tables", fail);
    model->rope_sin = memory_alloc(bytes, "RoPE tables", fail);
    if (fail->status == 0)
        team_run(loader->team, rope_thread, loader);
    return fail->status;
}

int model_load(model_t *model, const config_t *config, const model_source_t *source,
    const model_options_t *options, team_t *team, fail_t *fail)
{
    *model = (model_t){.config = *config,
        .rank = options->rank,
        .mode = options->mode,
        .format = matrix_format(options->mode, options->dot, options->packed)};
    model_kernels(model, options->isa);
    kernels_get(
        &model->router_kernels, options->isa, options->mode == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32);
    if (options->combine == PLAN_REDUCE)
        model->config.quantization.order = QUANTISED_ORDER_DEQUANTIZE;
    config = &model->config;
    loader_t loader = {.model = model, .source = source, .options = options, .team = team};
    size_t n_layers = config->num_hidden_layers;
    plan_model_t sizes = model_sizes(config, options->mode, options->dot, options->packed);
    if (plan_open_shares(&model->plan, &sizes, options->combine, options->n_ranks,
            options->rank_shares, fail) != 0)
        return fail->status;
    model->layers = calloc(n_layers, sizeof *model->layers);
    loader.items = calloc((n_layers + 1) * sizes.n_weights, sizeof *loader.items);
    if (model->layers == NULL || loader.items == NULL) {
        fail_set(fail, FAIL_MEMORY, "model: out of memory for %zu layers", n_layers);
    } else {
        if (list_weights(&loader, fail) == 0 && check_items(&loader, fail) == 0 &&
            alloc_matrices(&loader, fail) == 0 && load_items(&loader, fail) == 0)
            load_rope(&loader, fail);
    }
    model->matrices_digest = atomic_load(&loader.matrices_digest);
    free(loader.items);
    if (fail->status != 0)
        model_close(model);
    return fail->status;
}
