#include "engine/verify/verify_weights.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"

/* A matrix (columns > 0) or a vector of this rank, and where it comes from. */
typedef struct item {
    size_t role, layer, expert;
    model_part_t part; /* of the whole, its rows this rank's */
    char name[ARCH_NAME_BYTES];
    const matrix_t *matrix;
    const void *vector;
    size_t first_row, n_rows, columns; /* in the file's tensor; columns 1 for a vector */
} item_t;

typedef struct checker {
    const model_t *model;
    model_source_t source;
    team_t *team;
    report_t *report;
    item_t item;
    pthread_mutex_t lock; /* of report and fail */
    fail_t *fail;
} checker_t;

static void fail_on(checker_t *checker, const fail_t *fail)
{
    pthread_mutex_lock(&checker->lock);
    fail_set(checker->fail, fail->status, "%s", fail->message);
    pthread_mutex_unlock(&checker->lock);
}

static void add(checker_t *checker, const compare_t *compare)
{
    const item_t *item = &checker->item;
    report_divergence_t where = {.order = item->layer * WEIGHT_COUNT + item->role,
        .place = {.layer = item->layer, .kind = item->role},
        .rank = checker->model->rank,
        .seen_by = checker->model->rank,
        .n_dims = item->matrix != NULL ? 2 : 1,
        .dims = {item->part.shape_rows, item->columns}};
    pthread_mutex_lock(&checker->lock);
    report_add(checker->report, REPORT_WEIGHTS, compare, &where);
    pthread_mutex_unlock(&checker->lock);
}

/* What the inputs of a packed matrix are multiplied with: fma(code - 8, scale, R((8 - zero) scale)),
 * in the order of the chain. */
static void expected_weights(
    const coded_rows_t *rows, const uint32_t *order, size_t group, float *to)
{
    for (size_t r = 0; r < rows->n; r++)
        for (size_t i = 0; i < rows->columns; i++) {
            size_t at = r * rows->n_groups + i / group;
            float scale = f32_round_bf16(rows->scales[at]);
            uint8_t code = rows->codes[r * rows->codes_stride + (order != NULL ? order[i] : i)];
            to[r * rows->columns + i] = fmaf(
                (float)code - 8.0f, scale, f32_round_bf16((8.0f - (float)rows->zeros[at]) * scale));
        }
}

/* Rows [from, from + n) of the matrix, from the file. */
static int read_rows(
    const checker_t *checker, size_t from, size_t n, void *rows, void *scratch, fail_t *fail)
{
    const model_source_t *source = &checker->source;
    model_part_t part = checker->item.part;
    part.name = checker->item.name;
    part.row_begin = from;
    part.row_end = from + n;
    size_t bytes = part.scheme == NULL ? 0 : source->stage_bytes(source->context, &part);
    void *stage = bytes == 0 ? NULL : memory_alloc(bytes, "rows of a quantised matrix", fail);
    if (fail->status == 0 && bytes > 0)
        source->stage(source->context, &part, stage, fail);
    const matrix_t *matrix = checker->item.matrix;
    coded_rows_t coded;
    bool packed = matrix != NULL && matrix->format->kind == FORMAT_INT4;
    if (fail->status == 0 && !packed)
        source->read(source->context, &part, checker->model->mode, rows, scratch, fail);
    else if (fail->status == 0 && source->codes(source->context, &part, &coded, fail) == 0)
        expected_weights(&coded, matrix->code_order, matrix->format->group, rows);
    memory_free(stage, bytes);
    return fail->status;
}

/* Rows [first, first + n) of this rank's: got from memory, expected from the file. rows: of n rows;
 * scratch: as many doubles */
static void check_rows(checker_t *checker, size_t first, size_t n, char *rows, void *scratch,
    char *unpacked, compare_t *compare)
{
    const item_t *item = &checker->item;
    const model_t *model = checker->model;
    dtype_t type = item->matrix != NULL ? item->matrix->format->row_dtype : model->mode;
    size_t e = dtype_bytes(type), from = item->first_row + first;
    fail_t fail = {0};
    if (read_rows(checker, from, n, rows, scratch, &fail) != 0) {
        fail_on(checker, &fail);
        return;
    }
    for (size_t r = 0; r < n; r++) {
        const void *got = (const char *)item->vector + (first + r) * e;
        if (item->matrix != NULL) {
            size_t p = (first + r) / KERNEL_PANEL;
            item->matrix->format->unpack_row(item->matrix->format, item->columns,
                matrix_panel(item->matrix, p, 0), matrix_panel_width(item->matrix, p),
                (first + r) % KERNEL_PANEL, unpacked);
            got = unpacked;
        }
        compare_values(compare, got, type, rows + r * item->columns * e, type, item->columns,
            (uint64_t)(from + r) * item->columns, 0);
    }
}

static void check_thread(void *context, size_t thread)
{
    checker_t *checker = context;
    const item_t *item = &checker->item;
    size_t unit = item->matrix != NULL ? KERNEL_PANEL : item->n_rows;
    size_t n_units = item->n_rows == 0 ? 0 : (item->n_rows + unit - 1) / unit;
    team_part_t part = team_part(n_units, thread, team_size(checker->team));
    size_t values = unit * item->columns;
    if (part.begin == part.end)
        return;
    char *rows = malloc(values * sizeof(double)), *scratch = malloc(values * sizeof(double));
    char *unpacked = malloc(item->columns * sizeof(double));
    compare_t compare = {0};
    fail_t fail = {0};
    if (rows == NULL || scratch == NULL || unpacked == NULL)
        fail_set(&fail, FAIL_MEMORY, "verify: out of memory for %zu weights", values);
    for (size_t u = part.begin; u < part.end && fail.status == 0; u++)
        check_rows(checker, u * unit, size_min(unit, item->n_rows - u * unit), rows, scratch,
            unpacked, &compare);
    if (fail.status != 0)
        fail_on(checker, &fail);
    add(checker, &compare);
    free(rows);
    free(scratch);
    free(unpacked);
}

/* A tensor whose rows [range] this rank has. */
static void check_item(checker_t *checker, const item_t *item)
{
    const size_t shape[] = {item->part.shape_rows, item->part.shape_columns};
    checker->item = *item;
    if (item->expert == 0)
        report_add_shape(
            checker->report, REPORT_WEIGHTS, item->role, item->matrix != NULL ? 2 : 1, shape);
    team_run(checker->team, check_thread, checker);
}

/* layer: the number of layers for what comes after them */
static void check_weight(
    checker_t *checker, const arch_weight_t *weight, size_t layer, size_t expert)
{
    const model_t *model = checker->model;
    const model_weight_t *packed = model_weight(model, weight, layer);
    const plan_part_t part = plan_weight_part(&model->plan, model->rank, &weight->shape);
    item_t item = {.role = weight->role,
        .layer = layer,
        .expert = expert,
        .matrix = weight->shape.columns == PLAN_DIM_NONE ? NULL : model_matrix(packed, expert),
        .vector = packed->vector,
        .first_row = part.rows.begin,
        .n_rows = plan_count(part.rows),
        .columns = plan_count(part.columns)};
    bool vector = item.matrix == NULL;
    item.part = (model_part_t){.shape_rows = plan_dim(&model->plan.model, weight->shape.rows),
        .shape_columns = vector ? 0 : plan_dim(&model->plan.model, weight->shape.columns),
        .col_end = item.columns,
        .scheme = quantization_scheme(
            &model->config.quantization, (int)weight->role, weight->shape.per_layer, layer)};
    arch_weight_name(weight, layer, expert, item.name);
    check_item(checker, &item);
}

int verify_weights(
    const model_t *model, checkpoint_t *checkpoint, team_t *team, report_t *report, fail_t *fail)
{
    checker_t checker = {.model = model,
        .source = model_source_checkpoint(checkpoint),
        .team = team,
        .report = report,
        .fail = fail};
    pthread_mutex_init(&checker.lock, NULL);
    size_t n_layers = model->config.num_hidden_layers;
    const arch_weight_t *weight;
    for (size_t i = 0; (weight = arch_weight(&model->config, i)) != NULL; i++) {
        size_t end = weight->shape.per_layer ? n_layers : 1;
        size_t after = weight->role == WEIGHT_EMBEDDING ? 0 : n_layers;
        size_t n_experts = arch_weight_experts(&model->config, weight);
        for (size_t l = 0; l < end; l++)
            for (size_t e = 0; e < n_experts && fail->status == 0; e++)
                if (!weight->shape.per_layer ||
                    arch_layer_is(&model->config, weight->shape.layers, l))
                    check_weight(&checker, weight, weight->shape.per_layer ? l : after, e);
    }
    pthread_mutex_destroy(&checker.lock);
    return fail->status;
}
