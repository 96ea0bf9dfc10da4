#include <stdlib.h>
#include <string.h>

#include "engine/verify/verify_forward_internal.h"

reference_place_t verify_place(const pass_t *pass, bool decode, size_t layer, size_t kind)
{
    return (reference_place_t){pass->verify->attention, pass->prompt, decode, layer, kind};
}

const checkpoint_tensor_t *verify_find_target(const pass_t *pass, const reference_place_t *place)
{
    return reference_find(pass->verify->reference, &pass->verify->model->config, place, NULL);
}

const target_t *verify_target_at(const pass_t *pass, size_t layer, component_t component)
{
    size_t l = reference_kind_has_layer(component) ? layer : pass->n_layers;
    return &pass->targets[l * COMPONENT_COUNT + component];
}

static bool held(const pass_t *pass, size_t layer, component_t component)
{
    return verify_target_at(pass, layer, component)->tensor != NULL;
}

/* Whether the reference has what the component is computed from, in the layer and, through the
 * cache, of the prompt: a component that the model lacks is what it would be computed from. */
static bool input_held(const pass_t *pass, size_t layer, component_input_t input)
{
    const component_info_t *info = component_info(input.component);
    if (!component_is_in(&pass->verify->model->config, input.component, layer))
        return input_held(pass, layer, info->inputs[0]);
    if (input.from == FROM_BEFORE && layer == 0)
        return held(pass, 0, COMPONENT_EMBEDDING_OUTPUT);
    if (input.from == FROM_BEFORE || input.from == FROM_LAST)
        layer = (input.from == FROM_LAST ? pass->n_layers : layer) - 1;
    reference_place_t prompts = verify_place(pass, false, layer, input.component);
    return held(pass, layer, input.component) &&
           (input.from != FROM_CACHE || verify_find_target(pass, &prompts) != NULL);
}

/* Whether the component's inputs are in the reference, so that it can be fed with them. */
static bool inputs_held(const pass_t *pass, size_t layer, component_t component)
{
    const component_input_t *inputs = component_info(component)->inputs;
    for (size_t i = 0; i < COMPONENT_MAX_INPUTS && inputs[i].from != FROM_NOTHING; i++)
        if (!input_held(pass, layer, inputs[i]))
            return false;
    return true;
}

/* Largest magnitudes of n rows of a tensor, along its last dimension. */
static void measure_rows(pass_t *pass, target_t *target, size_t first, size_t n, fail_t *fail)
{
    const checkpoint_tensor_t *tensor = target->tensor;
    size_t last = tensor->shape[tensor->n_dims - 1], elements = verify_row_elements(tensor);
    char *row = malloc(last * dtype_bytes(tensor->dtype));
    target->first_measured = first;
    target->largest = calloc(n, sizeof *target->largest);
    if (row == NULL || target->largest == NULL)
        fail_set(fail, FAIL_MEMORY, "verify: out of memory for a row of %zu values", last);
    for (size_t i = 0; i < n && fail->status == 0; i++) {
        size_t at = (first + i) * last;
        if (checkpoint_read(pass->verify->reference->file, tensor, at / elements, at / elements + 1,
                at % elements, at % elements + last, row, tensor->dtype, NULL, fail) == 0)
            target->largest[i] = compare_largest(row, tensor->dtype, last);
    }
    free(row);
}

/* A tensor that will be compared from row `first` on. */
static void prepare_target(pass_t *pass, target_t *target, size_t first, size_t n, bool is_new)
{
    fail_t fail = {0};
    if (target->tensor == NULL || !target->compares)
        return;
    if (is_new)
        report_add_shape(pass->report, pass->table, target->place.kind, target->tensor->n_dims,
            target->tensor->shape);
    if (pass->report->relative)
        measure_rows(pass, target, first, n, &fail);
    if (fail.status != 0)
        verify_record_failure(pass, &fail);
}

static void note_unfed(pass_t *pass, const target_t *target)
{
    char name[REFERENCE_NAME_BYTES];
    /* With sdpa the reference has attention's inputs and output only. */
    if (target->place.attention != ATTENTION_EAGER)
        return;
    reference_name(&target->place, name);
    json_array_append_new(pass->report->unfed, json_string(name));
}

static size_t n_rows_of(const checkpoint_tensor_t *tensor)
{
    return tensor->shape[0] * (verify_row_elements(tensor) / tensor->shape[tensor->n_dims - 1]);
}

void verify_set_targets(pass_t *pass, bool decode, bool none, bool first)
{
    const verify_forward_t *v = pass->verify;
    for (size_t l = 0; l <= pass->n_layers; l++)
        for (size_t c = 0; c < COMPONENT_COUNT; c++) {
            target_t *target = &pass->targets[l * COMPONENT_COUNT + c];
            *target = (target_t){.place = verify_place(pass, decode, l, c)};
            bool layered = reference_kind_has_layer(c);
            if (!none && layered == (l < pass->n_layers) && c != COMPONENT_LOGITS)
                target->tensor = verify_find_target(pass, &target->place);
        }
    for (size_t l = 0; l <= pass->n_layers; l++)
        for (size_t c = 0; c < COMPONENT_COUNT; c++) {
            target_t *target = &pass->targets[l * COMPONENT_COUNT + c];
            bool wanted = l == pass->n_layers || v->layers == NULL || v->layers[l];
            if (target->tensor == NULL || !wanted)
                continue;
            target->compares = !pass->isolates || inputs_held(pass, l, (component_t)c);
            if (!target->compares && first)
                note_unfed(pass, target);
            prepare_target(pass, target, 0, n_rows_of(target->tensor), first);
        }
}

void verify_free_targets(pass_t *pass)
{
    for (size_t i = 0; i < (pass->n_layers + 1) * COMPONENT_COUNT; i++)
        free(pass->targets[i].largest);
    for (size_t i = 0; i < pass->batch.n_logits; i++)
        for (size_t t = 0; t < pass->logits[i].n; t++)
            free(pass->logits[i].of[t].target.largest);
    memset(pass->targets, 0, (pass->n_layers + 1) * COMPONENT_COUNT * sizeof *pass->targets);
    pass->batch = (forward_batch_t){0};
}

void verify_want_logits(pass_t *pass, size_t row, bool single_row, size_t norm_row)
{
    pass->logits[pass->batch.n_logits] = (logits_target_t){.norm_row = norm_row};
    pass->logits_rows[pass->batch.n_logits++] = (forward_logits_row_t){row, single_row};
}

void verify_expect_logits(pass_t *pass, size_t kind, size_t as, bool decode, size_t row)
{
    logits_target_t *logits = &pass->logits[pass->batch.n_logits - 1];
    reference_place_t place = verify_place(pass, false, 0, kind);
    target_t target = {
        .tensor = verify_find_target(pass, &place), .place = verify_place(pass, decode, 0, as)};
    if (target.tensor == NULL || row >= target.tensor->shape[0])
        return;
    target.compares = !pass->isolates || inputs_held(pass, 0, COMPONENT_LOGITS);
    prepare_target(pass, &target, row, 1, row == 0);
    logits->of[logits->n].target = target;
    logits->of[logits->n++].row = row;
}
