#include <string.h>

#include "engine/base/size.h"
#include "engine/verify/verify_forward_internal.h"

/* Elements of the reference that are read at once. */
#define PIECE 512

size_t verify_row_elements(const checkpoint_tensor_t *tensor)
{
    size_t n = 1;
    for (size_t d = 1; d < tensor->n_dims; d++)
        n *= tensor->shape[d];
    return n;
}

void verify_record_failure(pass_t *pass, const fail_t *fail)
{
    pthread_mutex_lock(&pass->lock);
    fail_set(&pass->fail, fail->status, "%s", fail->message);
    pthread_mutex_unlock(&pass->lock);
}

/* A run of values within one row of the reference, seen as a matrix as checkpoint_read does. */
typedef struct run {
    const target_t *target;
    size_t row, column, n;
    char *values; /* NULL: zeros, only compared */
    dtype_t type;
} run_t;

static double largest_of(const target_t *target, size_t row)
{
    return target->largest == NULL ? 0 : target->largest[row - target->first_measured];
}

/* values: NULL for zeros */
static void compare_run(const run_t *run, const char *values, const void *expected, size_t n,
    uint64_t index, compare_t *compare)
{
    static const double zeros[PIECE];
    const checkpoint_tensor_t *tensor = run->target->tensor;
    float narrow[PIECE];
    const void *got = values == NULL ? (const void *)zeros : values;
    dtype_t type = run->type;
    /* generate() gives its logits in f32, whatever the model's type. */
    bool generate = run->target->place.kind == KIND_GENERATE_LOGITS;
    if (generate && type == DTYPE_F64 && tensor->dtype == DTYPE_F32) {
        dtype_convert(narrow, DTYPE_F32, got, type, n);
        got = narrow;
        type = DTYPE_F32;
    }
    compare_values(compare, got, type, expected, tensor->dtype, n, index,
        largest_of(run->target, (size_t)index / tensor->shape[tensor->n_dims - 1]));
}

static void look_at_run(pass_t *pass, const run_t *run, compare_t *compare, bool writes)
{
    const checkpoint_tensor_t *tensor = run->target->tensor;
    double expected[PIECE];
    size_t bytes = dtype_bytes(run->type);
    fail_t fail = {0};
    for (size_t done = 0; done < run->n; done += PIECE) {
        size_t n = size_min(PIECE, run->n - done), column = run->column + done;
        uint64_t index = (uint64_t)run->row * verify_row_elements(tensor) + column;
        if (checkpoint_read(pass->verify->reference->file, tensor, run->row, run->row + 1, column,
                column + n, expected, tensor->dtype, NULL, &fail) != 0) {
            verify_record_failure(pass, &fail);
            return;
        }
        char *values = run->values == NULL ? NULL : run->values + done * bytes;
        if (compare != NULL)
            compare_run(run, values, expected, n, index, compare);
        if (writes && values != NULL)
            dtype_convert(values, run->type, expected, tensor->dtype, n);
    }
}

/* The rank that computed a part that another may have checked. */
static size_t owner_of(const pass_t *pass, const tap_part_t *part)
{
    const model_t *model = pass->verify->model;
    const component_info_t *info = component_info(part->component);
    if (part->component == COMPONENT_EMBEDDING_OUTPUT)
        return plan_vocab_owner(&model->plan, (size_t)pass->batch.token_ids[part->row]);
    for (size_t r = 0; info->exchanged && r < model->plan.n_ranks; r++) {
        plan_range_t slice = plan_dim_share(&model->plan, r, info->width);
        if (part->column >= slice.begin && part->column < slice.end)
            return r;
    }
    return model->rank;
}

static void add_to_report(
    pass_t *pass, const target_t *target, const compare_t *compare, size_t owner)
{
    const checkpoint_tensor_t *tensor = target->tensor;
    report_divergence_t where = {
        .order = pass->step << 24 | reference_order(&target->place, pass->n_layers),
        .place = target->place,
        .rank = owner,
        .seen_by = pass->verify->model->rank,
        .n_dims = tensor->n_dims};
    memcpy(where.dims, tensor->shape, tensor->n_dims * sizeof *tensor->shape);
    pthread_mutex_lock(&pass->lock);
    report_add(pass->report, pass->table, compare, &where);
    pthread_mutex_unlock(&pass->lock);
}

/* Keys behind the last visible one have no weight; the reference holds them as zeros. Of those before a
 * window, which also weigh nothing, it has no column where a decode step has dropped them. */
static void look_at_weights(
    pass_t *pass, const target_t *target, const tap_part_t *part, compare_t *compare, bool writes)
{
    size_t bytes = dtype_bytes(pass->mode), n_rows = pass->batch.n_rows;
    size_t keys = target->tensor->shape[2];
    size_t dropped = part->n_columns > keys ? part->n_columns - keys : 0;
    size_t n = part->n_columns - dropped;
    for (size_t r = 0; r < part->n_rows; r++) {
        size_t head = (part->row + r) / n_rows, token = (part->row + r) % n_rows;
        size_t first = (pass->first_row + token) * keys, end = part->column + n;
        run_t run = {target, head, first + part->column, n,
            (char *)part->values + (r * part->stride + dropped) * bytes, pass->mode};
        look_at_run(pass, &run, compare, writes);
        run_t hidden = {target, head, first + end, keys - end, NULL, pass->mode};
        if (compare != NULL)
            look_at_run(pass, &hidden, compare, false);
    }
}

static void look_at_rows(
    pass_t *pass, const target_t *target, const tap_part_t *part, compare_t *compare, bool writes)
{
    size_t first = pass->first_row * component_rows(&pass->verify->model->config, part->component);
    dtype_t type = component_info(part->component)->wide ? pass->logits_type : pass->mode;
    for (size_t r = 0; r < part->n_rows; r++) {
        const logits_target_t *logits =
            part->component == COMPONENT_FINAL_NORM ? &pass->logits[part->row + r] : NULL;
        size_t row = logits != NULL ? logits->norm_row : first + part->row + r;
        run_t run = {target, row, part->column, part->n_columns,
            (char *)part->values + r * part->stride * dtype_bytes(type), type};
        look_at_run(pass, &run, logits != NULL && logits->again ? NULL : compare, writes);
    }
}

void verify_look_at_logits(pass_t *pass, size_t i, size_t column, size_t n, const void *values)
{
    const logits_target_t *logits = &pass->logits[i];
    for (size_t t = 0; t < logits->n; t++) {
        const target_t *target = &logits->of[t].target;
        run_t run = {
            target, logits->of[t].row, column, n, (char *)(uintptr_t)values, pass->logits_type};
        compare_t compare = {0};
        if (target->tensor == NULL || !target->compares)
            continue;
        look_at_run(pass, &run, &compare, false);
        add_to_report(pass, target, &compare, pass->verify->model->rank);
    }
}

static void look(pass_t *pass, const tap_part_t *part, bool compares)
{
    const target_t *target = verify_target_at(pass, part->layer, part->component);
    compare_t compare = {0};
    if (part->component == COMPONENT_LOGITS) {
        for (size_t r = 0; r < part->n_rows; r++)
            verify_look_at_logits(pass, part->row + r, part->column, part->n_columns,
                (char *)part->values + r * part->stride * dtype_bytes(pass->logits_type));
        return;
    }
    compares = compares && target->compares;
    if (target->tensor == NULL || (!compares && !pass->isolates))
        return;
    (part->component == COMPONENT_ATTN_WEIGHTS ? look_at_weights : look_at_rows)(
        pass, target, part, compares ? &compare : NULL, pass->isolates);
    if (compares)
        add_to_report(pass, target, &compare, owner_of(pass, part));
}

void verify_tap(void *context, const tap_part_t *part)
{
    look(context, part, true);
}

void verify_tap_refill(void *context, const tap_part_t *part)
{
    look(context, part, false);
}
