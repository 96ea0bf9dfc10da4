#include "engine/verify/verify_forward.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/forward/forward.h"

/* Tokens of a prompt that one step takes. */
#define CHUNK 512
/* Elements of the reference that are read at once. */
#define PIECE 512

/* A tensor of the reference, and what to do with the values that belong there. */
typedef struct target {
    const checkpoint_tensor_t *tensor; /* NULL: none */
    reference_place_t place;
    bool compares;
    double *largest;       /* magnitude of each row along the last dimension; NULL: not needed */
    size_t first_measured; /* the row that these begin with */
} target_t;

/* Where the logits of one row belong: a row may be a prefill's and generate()'s as well. */
typedef struct logits_target {
    size_t norm_row; /* row of final_norm */
    bool again;      /* that row is in the batch once more, and compared there */
    size_t n;
    struct {
        target_t target;
        size_t row;
    } of[2];
} logits_target_t;

/* One way through all prompts. */
typedef struct pass {
    const verify_forward_t *verify;
    report_t *report;
    report_table_t table;
    bool isolates, taps;
    forward_t *forward;
    dtype_t mode, logits_type;
    size_t n_layers, max_rows;
    int32_t *blocks;
    /* The current step. */
    size_t prompt;
    size_t first_row, keys; /* row of the reference for the batch's first; keys of the call */
    forward_batch_t batch;
    uint64_t step;
    target_t *targets; /* [n_layers + 1][COMPONENT_COUNT]; the last for those outside of layers */
    logits_target_t *logits;           /* [max_rows + 1] */
    forward_logits_row_t *logits_rows; /* [max_rows + 1] */
    pthread_mutex_t lock;              /* of the report and of fail */
    fail_t fail;
    uint64_t done_tokens, total_tokens;
} pass_t;

/* ---- Comparing parts ------------------------------------------------------------------------- */

static size_t row_elements(const checkpoint_tensor_t *tensor)
{
    size_t n = 1;
    for (size_t d = 1; d < tensor->n_dims; d++)
        n *= tensor->shape[d];
    return n;
}

static void record_failure(pass_t *pass, const fail_t *fail)
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
        uint64_t index = (uint64_t)run->row * row_elements(tensor) + column;
        if (checkpoint_read(pass->verify->reference->file, tensor, run->row, run->row + 1, column,
                column + n, expected, tensor->dtype, NULL, &fail) != 0) {
            record_failure(pass, &fail);
            return;
        }
        char *values = run->values == NULL ? NULL : run->values + done * bytes;
        if (compare != NULL)
            compare_run(run, values, expected, n, index, compare);
        if (writes && values != NULL)
            dtype_convert(values, run->type, expected, tensor->dtype, n);
    }
}

/* The rank that computed a part which another may have looked at. */
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

/* Keys behind the last visible one have no weight; the reference holds them as zeros. */
static void look_at_weights(
    pass_t *pass, const target_t *target, const tap_part_t *part, compare_t *compare, bool writes)
{
    size_t bytes = dtype_bytes(pass->mode), n_rows = pass->batch.n_rows;
    for (size_t r = 0; r < part->n_rows; r++) {
        size_t head = (part->row + r) / n_rows, token = (part->row + r) % n_rows;
        size_t first = (pass->first_row + token) * pass->keys, end = part->column + part->n_columns;
        run_t run = {target, head, first + part->column, part->n_columns,
            (char *)part->values + r * part->stride * bytes, pass->mode};
        look_at_run(pass, &run, compare, writes);
        run_t hidden = {target, head, first + end, pass->keys - end, NULL, pass->mode};
        if (compare != NULL)
            look_at_run(pass, &hidden, compare, false);
    }
}

static void look_at_rows(
    pass_t *pass, const target_t *target, const tap_part_t *part, compare_t *compare, bool writes)
{
    for (size_t r = 0; r < part->n_rows; r++) {
        const logits_target_t *logits =
            part->component == COMPONENT_FINAL_NORM ? &pass->logits[part->row + r] : NULL;
        size_t row = logits != NULL ? logits->norm_row : pass->first_row + part->row + r;
        run_t run = {target, row, part->column, part->n_columns,
            (char *)part->values + r * part->stride * dtype_bytes(pass->mode), pass->mode};
        look_at_run(pass, &run, logits != NULL && logits->again ? NULL : compare, writes);
    }
}

static void look_at_logits(pass_t *pass, size_t i, size_t column, size_t n, const void *values)
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

static const target_t *target_at(const pass_t *pass, size_t layer, component_t component)
{
    size_t l = reference_kind_has_layer(component) ? layer : pass->n_layers;
    return &pass->targets[l * COMPONENT_COUNT + component];
}

static void look(pass_t *pass, const tap_part_t *part, bool compares)
{
    const target_t *target = target_at(pass, part->layer, part->component);
    compare_t compare = {0};
    if (part->component == COMPONENT_LOGITS) {
        for (size_t r = 0; r < part->n_rows; r++)
            look_at_logits(pass, part->row + r, part->column, part->n_columns,
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

static void tap_part(void *context, const tap_part_t *part)
{
    look(context, part, true);
}

static void tap_refill(void *context, const tap_part_t *part)
{
    look(context, part, false);
}

/* ---- Targets of a step ----------------------------------------------------------------------- */

static reference_place_t place_of(const pass_t *pass, bool decode, size_t layer, size_t kind)
{
    return (reference_place_t){pass->verify->attention, pass->prompt, decode, layer, kind};
}

static const checkpoint_tensor_t *find(const pass_t *pass, const reference_place_t *place)
{
    return reference_find(pass->verify->reference, &pass->verify->model->config, place, NULL);
}

static bool held(const pass_t *pass, size_t layer, component_t component)
{
    return target_at(pass, layer, component)->tensor != NULL;
}

/* Whether the reference has what the component is computed from, in the layer and, through the
 * cache, of the prompt: a component that the model lacks is what it would be computed from. */
static bool input_held(const pass_t *pass, size_t layer, component_input_t input)
{
    const component_info_t *info = component_info(input.component);
    if (!component_is_in(&pass->verify->model->config, input.component))
        return input_held(pass, layer, info->inputs[0]);
    if (input.from == FROM_BEFORE && layer == 0)
        return held(pass, 0, COMPONENT_EMBEDDING_OUTPUT);
    if (input.from == FROM_BEFORE || input.from == FROM_LAST)
        layer = (input.from == FROM_LAST ? pass->n_layers : layer) - 1;
    reference_place_t prompts = place_of(pass, false, layer, input.component);
    return held(pass, layer, input.component) &&
           (input.from != FROM_CACHE || find(pass, &prompts) != NULL);
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
    size_t last = tensor->shape[tensor->n_dims - 1], elements = row_elements(tensor);
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
        record_failure(pass, &fail);
}

static void note_unfed(pass_t *pass, const target_t *target)
{
    char name[REFERENCE_NAME_BYTES];
    /* With sdpa the reference holds attention's inputs and output alone. */
    if (target->place.attention != ATTENTION_EAGER)
        return;
    reference_name(&target->place, name);
    json_array_append_new(pass->report->unfed, json_string(name));
}

static size_t n_rows_of(const checkpoint_tensor_t *tensor)
{
    return tensor->shape[0] * (row_elements(tensor) / tensor->shape[tensor->n_dims - 1]);
}

/* Finds the components of the coming step. none: nobody looks at them; first: of the prompt's. */
static void set_targets(pass_t *pass, bool decode, bool none, bool first)
{
    const verify_forward_t *v = pass->verify;
    for (size_t l = 0; l <= pass->n_layers; l++)
        for (size_t c = 0; c < COMPONENT_COUNT; c++) {
            target_t *target = &pass->targets[l * COMPONENT_COUNT + c];
            *target = (target_t){.place = place_of(pass, decode, l, c)};
            bool layered = reference_kind_has_layer(c);
            if (!none && layered == (l < pass->n_layers) && c != COMPONENT_LOGITS)
                target->tensor = find(pass, &target->place);
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

static void free_targets(pass_t *pass)
{
    for (size_t i = 0; i < (pass->n_layers + 1) * COMPONENT_COUNT; i++)
        free(pass->targets[i].largest);
    for (size_t i = 0; i < pass->batch.n_logits; i++)
        for (size_t t = 0; t < pass->logits[i].n; t++)
            free(pass->logits[i].of[t].target.largest);
    memset(pass->targets, 0, (pass->n_layers + 1) * COMPONENT_COUNT * sizeof *pass->targets);
    pass->batch = (forward_batch_t){0};
}

/* Asks for the logits of a row of the batch. norm_row: of final_norm. */
static void want_logits(pass_t *pass, size_t row, bool lone, size_t norm_row)
{
    pass->logits[pass->batch.n_logits] = (logits_target_t){.norm_row = norm_row};
    pass->logits_rows[pass->batch.n_logits++] = (forward_logits_row_t){row, lone};
}

/* The logits last asked for are row `row` of a tensor. kind: the tensor's; as: the report's row */
static void expect_logits(pass_t *pass, size_t kind, size_t as, bool decode, size_t row)
{
    logits_target_t *logits = &pass->logits[pass->batch.n_logits - 1];
    reference_place_t place = place_of(pass, false, 0, kind);
    target_t target = {.tensor = find(pass, &place), .place = place_of(pass, decode, 0, as)};
    if (target.tensor == NULL || row >= target.tensor->shape[0])
        return;
    target.compares = !pass->isolates || inputs_held(pass, 0, COMPONENT_LOGITS);
    prepare_target(pass, &target, row, 1, row == 0);
    logits->of[logits->n].target = target;
    logits->of[logits->n++].row = row;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* Collective. Feeds n tokens; logits have been asked for. */
static void feed(
    pass_t *pass, const int32_t *ids, size_t first_position, size_t n, size_t call_tokens)
{
    const verify_forward_t *v = pass->verify;
    forward_sequence_t sequence = {.n_rows = n,
        .first_position = first_position,
        .call_tokens = call_tokens,
        .lone = call_tokens == 1,
        .blocks = pass->blocks};
    plan_range_t vocab = model_share(v->model)->vocab;
    pass->batch.n_rows = n;
    pass->batch.n_sequences = 1;
    pass->batch.token_ids = ids;
    pass->batch.sequences = &sequence;
    pass->batch.logits_rows = pass->logits_rows;
    pass->step++;
    forward_step(pass->forward, &pass->batch);
    if (!pass->taps)
        for (size_t i = 0; i < pass->batch.n_logits; i++)
            look_at_logits(
                pass, i, vocab.begin, plan_count(vocab), forward_logits(pass->forward, i));
    free_targets(pass);
    pass->done_tokens += n;
    if (v->progress != NULL)
        v->progress(v->progress_context, pass->done_tokens, pass->total_tokens);
}

/* Collective. The whole prompt, and what generate() computes of its last row. */
static void prefill(pass_t *pass)
{
    const reference_prompt_t *prompt = &pass->verify->reference->prompts[pass->prompt];
    size_t n_ids = prompt->n_ids;
    pass->keys = n_ids;
    for (size_t first = 0; first < n_ids; first += pass->max_rows) {
        size_t n = size_min(pass->max_rows, n_ids - first);
        pass->first_row = first;
        set_targets(pass, false, !pass->taps, first == 0);
        if (first + n == n_ids) {
            want_logits(pass, n - 1, true, n_ids - 1);
            pass->logits[0].again = true;
            expect_logits(pass, KIND_GENERATE_LOGITS, KIND_GENERATE_LOGITS, false, 0);
        }
        for (size_t r = 0; r < n; r++) {
            want_logits(pass, r, n_ids == 1, first + r);
            expect_logits(pass, COMPONENT_LOGITS, COMPONENT_LOGITS, false, first + r);
        }
        feed(pass, prompt->ids + first, first, n, n_ids);
    }
}

/* Collective. The i-th generated token after the prompt. */
static void decode(pass_t *pass, size_t i)
{
    const reference_prompt_t *prompt = &pass->verify->reference->prompts[pass->prompt];
    attention_t attention = pass->verify->attention;
    pass->first_row = 0;
    pass->keys = prompt->n_ids + i + 1;
    set_targets(pass, true, !pass->taps, true);
    want_logits(pass, 0, true, 0);
    if (pass->taps) {
        expect_logits(pass, KIND_DECODE_LOGITS, COMPONENT_LOGITS, true, 0);
    } else {
        expect_logits(pass, KIND_DECODE_LOGITS, KIND_DECODE_LOGITS, false, i);
        expect_logits(pass, KIND_GENERATE_LOGITS, KIND_GENERATE_LOGITS, false, i + 1);
    }
    feed(pass, prompt->new_ids[attention] + i, prompt->n_ids + i, 1, 1);
}

/* Collective. The prompt's i-th token alone. */
static void step_one(pass_t *pass, size_t i)
{
    set_targets(pass, false, true, false);
    want_logits(pass, 0, true, 0);
    expect_logits(pass, KIND_STEPWISE_LOGITS, KIND_STEPWISE_LOGITS, false, i);
    feed(pass, pass->verify->reference->prompts[pass->prompt].ids + i, i, 1, 1);
}

/* What a prompt is run through; alike on all ranks. */
typedef struct itinerary {
    size_t n_decode, n_stepwise;
} itinerary_t;

static itinerary_t itinerary_of(const pass_t *pass)
{
    const reference_prompt_t *prompt = &pass->verify->reference->prompts[pass->prompt];
    size_t n_new = prompt->n_new[pass->verify->attention];
    reference_place_t stepwise = place_of(pass, false, 0, KIND_STEPWISE_LOGITS);
    if (pass->taps)
        return (itinerary_t){.n_decode = n_new > 0 ? 1 : 0};
    return (itinerary_t){n_new, find(pass, &stepwise) != NULL ? prompt->n_ids : 0};
}

/* Collective. */
static int run_prompt(pass_t *pass, fail_t *fail)
{
    itinerary_t itinerary = itinerary_of(pass);
    prefill(pass);
    for (size_t i = 0; i < itinerary.n_decode; i++)
        decode(pass, i);
    for (size_t i = 0; i < itinerary.n_stepwise; i++)
        step_one(pass, i);
    if (pass->fail.status != 0)
        fail_set(fail, pass->fail.status, "%s", pass->fail.message);
    return comm_agree(pass->verify->comm, fail);
}

/* ---- Passes ---------------------------------------------------------------------------------- */

typedef struct kind_of_pass {
    report_table_t table;
    bool isolates, taps;
} kind_of_pass_t;

static void use_pass(pass_t *pass, const kind_of_pass_t *kind)
{
    pass->isolates = kind->isolates;
    pass->taps = kind->taps;
    pass->table = (report_table_t)(kind->table + pass->verify->attention);
}

/* Collective. */
static int run_pass(pass_t *pass, fail_t *fail)
{
    const tap_t tap = {pass, tap_part, pass->isolates ? tap_refill : NULL};
    forward_set_tap(pass->forward, pass->taps ? &tap : NULL, fail);
    if (comm_agree(pass->verify->comm, fail) != 0)
        return fail->status;
    for (pass->prompt = 0; pass->prompt < pass->verify->reference->n_prompts; pass->prompt++)
        if (run_prompt(pass, fail) != 0)
            return fail->status;
    return forward_set_tap(pass->forward, NULL, fail);
}

static int run_passes(pass_t *pass, fail_t *fail)
{
    static const kind_of_pass_t kinds[] = {{REPORT_ISOLATED, true, true},
        {REPORT_CHAINED, false, true}, {REPORT_LOGITS, false, false}};
    enum { N_KINDS = sizeof kinds / sizeof *kinds };
    const verify_forward_t *v = pass->verify;
    for (size_t i = 0; i < N_KINDS; i++) {
        use_pass(pass, &kinds[i]);
        for (pass->prompt = 0; pass->prompt < v->reference->n_prompts; pass->prompt++) {
            itinerary_t itinerary = itinerary_of(pass);
            if (pass->isolates ? v->isolated : v->chained)
                pass->total_tokens += v->reference->prompts[pass->prompt].n_ids +
                                      itinerary.n_decode + itinerary.n_stepwise;
        }
    }
    for (size_t i = 0; i < N_KINDS; i++) {
        use_pass(pass, &kinds[i]);
        if ((pass->isolates ? v->isolated : v->chained) && run_pass(pass, fail) != 0)
            return fail->status;
    }
    return 0;
}

static size_t longest_prompt(const reference_t *reference)
{
    size_t longest = 1;
    for (size_t i = 0; i < reference->n_prompts; i++)
        longest = size_max(longest, reference->prompts[i].n_ids);
    return longest;
}

size_t verify_forward_positions(const reference_t *reference)
{
    size_t longest = 1;
    for (size_t i = 0; i < reference->n_prompts; i++)
        for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++)
            longest =
                size_max(longest, reference->prompts[i].n_ids + reference->prompts[i].n_new[a]);
    return longest;
}

static forward_options_t options_of(const reference_t *reference, attention_t attention, dot_t dot)
{
    size_t max_rows = size_min(longest_prompt(reference), CHUNK);
    return (forward_options_t){.order = ORDER_TORCH,
        .attention = attention,
        .dot = dot,
        .max_rows = max_rows,
        .max_logits = max_rows + 1,
        .max_context = size_round_up(verify_forward_positions(reference), KV_BLOCK)};
}

size_t verify_forward_bytes(const model_t *model, const reference_t *reference,
    attention_t attention, size_t n_threads, int comm_size)
{
    forward_options_t options = options_of(reference, attention, DOT_CHAIN);
    return forward_bytes(model, &options, n_threads, comm_size);
}

static int allocate(pass_t *pass, size_t n_blocks, fail_t *fail)
{
    pass->targets = calloc((pass->n_layers + 1) * COMPONENT_COUNT, sizeof *pass->targets);
    pass->logits = calloc(pass->max_rows + 1, sizeof *pass->logits);
    pass->logits_rows = calloc(pass->max_rows + 1, sizeof *pass->logits_rows);
    pass->blocks = calloc(n_blocks, sizeof *pass->blocks);
    if (pass->targets == NULL || pass->logits == NULL || pass->logits_rows == NULL ||
        pass->blocks == NULL)
        return fail_set(fail, FAIL_MEMORY, "verify: out of memory");
    for (size_t b = 0; b < n_blocks; b++)
        pass->blocks[b] = (int32_t)b;
    return 0;
}

int verify_forward(const verify_forward_t *verify, report_t *report, fail_t *fail)
{
    const model_t *model = verify->model;
    forward_options_t options = options_of(verify->reference, verify->attention, verify->dot);
    pass_t pass = {.verify = verify,
        .report = report,
        .mode = model->mode,
        .logits_type = model->mode == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32,
        .n_layers = model->config.num_hidden_layers,
        .max_rows = options.max_rows};
    pthread_mutex_init(&pass.lock, NULL);
    allocate(&pass, options.max_context / KV_BLOCK, fail);
    /* Agrees on the failure above as well. */
    if (comm_agree(verify->comm, fail) == 0 && forward_open(&pass.forward, model, verify->cache,
                                                   verify->team, verify->comm, &options, fail) == 0)
        run_passes(&pass, fail);
    forward_close(pass.forward);
    free(pass.targets);
    free(pass.logits);
    free(pass.logits_rows);
    free(pass.blocks);
    pthread_mutex_destroy(&pass.lock);
    return fail->status;
}
