#include "engine/quantise/layer_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/model/arch/arch.h"

#define STEP_ROWS 512 /* of a step, if no text is longer */
#define VOCAB 64      /* rows of an embedding of zeros, in place of the model's */
#define FIRST_LAYER "model.layers.0."

/* ---- Weights of one layer -------------------------------------------------------------------- */

layer_input_t layer_input_of(weight_role_t role)
{
    switch (role) {
    case WEIGHT_Q:
    case WEIGHT_K:
    case WEIGHT_V:
        return LAYER_INPUT_QKV;
    case WEIGHT_O:
        return LAYER_INPUT_O;
    case WEIGHT_GATE:
    case WEIGHT_UP:
        return LAYER_INPUT_GATE_UP;
    case WEIGHT_DOWN:
        return LAYER_INPUT_DOWN;
    default:
        return LAYER_INPUTS;
    }
}

size_t layer_input_columns(const config_t *c, layer_input_t input)
{
    return input == LAYER_INPUT_O      ? c->num_attention_heads * c->head_dim
           : input == LAYER_INPUT_DOWN ? c->intermediate_size
                                       : c->hidden_size;
}

/* A source that gives another layer's weights for the first one's, and zeros for the embedding. */
typedef struct other_layer {
    model_source_t plain, quantised;
    const char *embedding;
    size_t layer;
} other_layer_t;

/* The part as the checkpoint knows it. name: [ARCH_NAME_BYTES] */
static model_part_t part_there(const other_layer_t *o, const model_part_t *part, char *name)
{
    model_part_t there = *part;
    size_t n = strlen(FIRST_LAYER);
    if (strncmp(part->name, FIRST_LAYER, n) == 0) {
        snprintf(name, ARCH_NAME_BYTES, "model.layers.%zu.%s", o->layer, part->name + n);
        there.name = name;
    }
    return there;
}

static const model_source_t *source_of(const other_layer_t *o, const model_part_t *part)
{
    return part->scheme != NULL ? &o->quantised : &o->plain;
}

static bool is_embedding(const other_layer_t *o, const model_part_t *part)
{
    return strcmp(part->name, o->embedding) == 0;
}

static int other_check(
    void *context, const model_part_t *part, dtype_t mode, int *converted, fail_t *fail)
{
    const other_layer_t *o = context;
    char name[ARCH_NAME_BYTES];
    model_part_t there = part_there(o, part, name);
    *converted = 0;
    return is_embedding(o, part) ? 0
                                 : source_of(o, part)->check(
                                       source_of(o, part)->context, &there, mode, converted, fail);
}

static size_t other_stage_bytes(void *context, const model_part_t *part)
{
    const other_layer_t *o = context;
    char name[ARCH_NAME_BYTES];
    model_part_t there = part_there(o, part, name);
    return is_embedding(o, part)
               ? 0
               : source_of(o, part)->stage_bytes(source_of(o, part)->context, &there);
}

static int other_stage(void *context, model_part_t *part, void *memory, fail_t *fail)
{
    const other_layer_t *o = context;
    char name[ARCH_NAME_BYTES];
    model_part_t there = part_there(o, part, name);
    if (source_of(o, part)->stage(source_of(o, part)->context, &there, memory, fail) == 0)
        part->stage = there.stage;
    return fail->status;
}

static int other_codes(void *context, const model_part_t *part, coded_rows_t *rows, fail_t *fail)
{
    const other_layer_t *o = context;
    char name[ARCH_NAME_BYTES];
    model_part_t there = part_there(o, part, name);
    return source_of(o, part)->codes(source_of(o, part)->context, &there, rows, fail);
}

static int other_order(void *context, const model_part_t *part, uint32_t *order, fail_t *fail)
{
    const other_layer_t *o = context;
    char name[ARCH_NAME_BYTES];
    model_part_t there = part_there(o, part, name);
    return source_of(o, part)->order(source_of(o, part)->context, &there, order, fail);
}

static int other_read(
    void *context, const model_part_t *part, dtype_t mode, void *dst, void *scratch, fail_t *fail)
{
    const other_layer_t *o = context;
    char name[ARCH_NAME_BYTES];
    model_part_t there = part_there(o, part, name);
    if (is_embedding(o, part)) {
        memset(dst, 0,
            (part->row_end - part->row_begin) * (part->col_end - part->col_begin) *
                dtype_bytes(mode));
        return 0;
    }
    return source_of(o, part)->read(source_of(o, part)->context, &there, mode, dst, scratch, fail);
}

/* The model's layer as a model. */
static config_t config_of(const layer_run_t *run, size_t layer, const quantised_scheme_t *scheme)
{
    config_t c = run->loaded.config;
    c.max_window_layers = layer < c.max_window_layers ? 1 : 0;
    c.num_hidden_layers = 1;
    c.vocab_size = VOCAB;
    c.tie_word_embeddings = true;
    c.quantization = (quantization_t){.order = QUANTISED_ORDER_DEQUANTIZE};
    if (scheme == NULL)
        return c;
    c.quantization.n_schemes = 1;
    c.quantization.schemes[0] = *scheme;
    for (int role = 0; role < WEIGHT_COUNT; role++)
        if (layer_input_of((weight_role_t)role) < LAYER_INPUTS)
            c.quantization.in_layers[0][0] |= UINT64_C(1) << role;
    return c;
}

static int load_layer(
    layer_run_t *run, size_t layer, const quantised_scheme_t *scheme, fail_t *fail)
{
    const loaded_t *l = &run->loaded;
    config_t config = config_of(run, layer, scheme);
    other_layer_t other = {.plain = model_source_checkpoint(l->checkpoint),
        .embedding = arch_weight_of(&config, WEIGHT_EMBEDDING)->name,
        .layer = layer};
    if (run->quantised != NULL)
        other.quantised = model_source_checkpoint(run->quantised);
    const model_source_t source = {.context = &other,
        .check = other_check,
        .stage_bytes = other_stage_bytes,
        .stage = other_stage,
        .codes = other_codes,
        .order = other_order,
        .read = other_read};
    const model_options_t options = {.combine = PLAN_GATHER,
        .n_ranks = (size_t)comm_size(run->comm),
        .rank = (size_t)comm_rank(run->comm),
        .rank_shares = l->shares,
        .mode = l->options.mode,
        .dot = l->options.dot,
        .isa = l->isa,
        .max_positions = size_round_up(run->max_rows, KV_BLOCK),
        .n_sharers = 1};
    if (model_load(&run->model, &config, &source, &options, l->team, fail) == 0)
        kv_cache_open(&run->cache, l->options.mode, 1,
            plan_count(model_share(&run->model)->kv_heads), config.head_dim, run->n_blocks, fail);
    return fail->status;
}

/* ---- A step ---------------------------------------------------------------------------------- */

static void copy_rows(const tap_part_t *part, float *to, size_t stride)
{
    for (size_t r = 0; r < part->n_rows; r++)
        dtype_convert(to + (part->row + r) * stride + part->column, DTYPE_F32,
            (const uint16_t *)part->values + r * part->stride, DTYPE_BF16, part->n_columns);
}

/* Components as the layer computes them. Called with parts that do not overlap, and on every rank with all rows of what
 * ranks exchange or have whole. */
static void see(void *context, const tap_part_t *part)
{
    layer_run_t *run = context;
    const config_t *c = &run->loaded.config;
    layer_input_t input = LAYER_INPUTS;
    switch (part->component) {
    case COMPONENT_NORMALIZED_INPUT:
        input = LAYER_INPUT_QKV;
        break;
    case COMPONENT_ATTN_OUTPUT:
        input = LAYER_INPUT_O;
        break;
    case COMPONENT_NORMALIZED_AFTER_ATTN:
        input = LAYER_INPUT_GATE_UP;
        break;
    case COMPONENT_MLP_ACTIVATION:
        input = LAYER_INPUT_DOWN;
        break;
    case COMPONENT_EMBEDDING_OUTPUT:
    case COMPONENT_LAYER_OUTPUT:
        for (size_t r = 0; r < part->n_rows; r++) {
            uint16_t *hidden =
                         run->hidden + (run->row + part->row + r) * c->hidden_size + part->column,
                     *values = (uint16_t *)part->values + r * part->stride;
            bool in = part->component == COMPONENT_EMBEDDING_OUTPUT;
            if (in || !run->keeps_inputs)
                memcpy(in ? values : hidden, in ? hidden : values, part->n_columns * 2);
        }
        break;
    default:
        break;
    }
    if (input < LAYER_INPUTS && run->keeps_inputs)
        copy_rows(part, run->inputs[input], layer_input_columns(c, input));
}

void layer_run_step(layer_run_t *run, size_t number, bool keeps_inputs)
{
    const layer_step_t *step = &run->steps[number];
    size_t row = 0, block = 0;
    for (size_t i = 0; i < step->n_texts; i++) {
        size_t n = run->texts->counts[step->first_text + i];
        run->sequences[i] = (forward_sequence_t){.first_row = row,
            .n_rows = n,
            .ref_q_len = n,
            .single_row = n == 1,
            .blocks = run->blocks + block};
        row += n;
        block += (n + KV_BLOCK - 1) / KV_BLOCK;
    }
    const forward_batch_t batch = {.n_rows = step->n_rows,
        .n_sequences = step->n_texts,
        .token_ids = run->no_ids,
        .sequences = run->sequences};
    run->row = step->first_row;
    run->keeps_inputs = keeps_inputs;
    forward_step(run->forward, &batch);
}

int layer_run_begin(layer_run_t *run, size_t layer, const char *quantised_file,
    const quantised_scheme_t *scheme, fail_t *fail)
{
    const loaded_t *l = &run->loaded;
    run->tap = (tap_t){run, see, see};
    if (scheme != NULL)
        checkpoint_open_file(&run->quantised, quantised_file, fail);
    if (fail->status == 0)
        load_layer(run, layer, scheme, fail);
    if (comm_agree(run->comm, fail) != 0)
        return fail->status;
    const forward_options_t options = {.order = l->options.order,
        .attention = forward_attention(&run->model.config, l->options.order, ATTENTION_AUTO),
        .dot = l->options.dot,
        .max_rows = run->max_rows,
        .max_logits = 1,
        .max_context = size_round_up(run->max_rows, KV_BLOCK)};
    if (forward_open(&run->forward, &run->model, &run->cache, l->team, run->comm, &options, fail) ==
        0)
        forward_set_tap(run->forward, &run->tap, fail);
    return comm_agree(run->comm, fail);
}

void layer_run_end(layer_run_t *run)
{
    forward_close(run->forward);
    run->forward = NULL;
    kv_cache_close(&run->cache);
    model_close(&run->model);
    checkpoint_close(run->quantised);
    run->quantised = NULL;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* Texts of one token first, as batches have them. */
static int plan_steps(layer_run_t *run, fail_t *fail)
{
    const quantise_texts_t *t = run->texts;
    size_t most_texts = 0, blocks = 0;
    run->max_rows = STEP_ROWS;
    for (size_t i = 0; i < t->n; i++)
        run->max_rows = size_max(run->max_rows, t->counts[i]);
    run->steps = calloc(t->n, sizeof *run->steps);
    if (run->steps == NULL)
        return fail_set(fail, FAIL_MEMORY, "quantize: out of memory for %zu texts", t->n);
    layer_step_t *step = run->steps;
    for (size_t i = 0; i < t->n; i++) {
        if (step->n_texts > 0 && step->n_rows + t->counts[i] > run->max_rows) {
            step++;
            *step = (layer_step_t){.first_text = i, .first_row = run->n_rows};
            blocks = 0;
        }
        step->n_texts++;
        step->n_rows += t->counts[i];
        run->n_rows += t->counts[i];
        blocks += (t->counts[i] + KV_BLOCK - 1) / KV_BLOCK;
        run->n_blocks = size_max(run->n_blocks, blocks);
        most_texts = size_max(most_texts, step->n_texts);
    }
    run->n_steps = (size_t)(step - run->steps) + 1;
    run->sequences = calloc(most_texts, sizeof *run->sequences);
    run->blocks = calloc(run->n_blocks, sizeof *run->blocks);
    run->no_ids = calloc(run->max_rows, sizeof *run->no_ids);
    if (run->sequences == NULL || run->blocks == NULL || run->no_ids == NULL)
        return fail_set(fail, FAIL_MEMORY, "quantize: out of memory for %zu texts", t->n);
    for (size_t b = 0; b < run->n_blocks; b++)
        run->blocks[b] = (int32_t)b;
    return 0;
}

static size_t input_bytes(const layer_run_t *run, int input)
{
    return run->max_rows * layer_input_columns(&run->loaded.config, (layer_input_t)input) *
           sizeof(float);
}

static size_t hidden_bytes(const layer_run_t *run)
{
    return run->n_rows * run->loaded.config.hidden_size * sizeof *run->hidden;
}

/* Local. The first layer's hidden states. */
static int embed(layer_run_t *run, fail_t *fail)
{
    const config_t *c = &run->loaded.config;
    const quantise_texts_t *t = run->texts;
    const checkpoint_tensor_t *embedding;
    size_t bytes = c->hidden_size * sizeof(double), row = 0;
    run->hidden = memory_alloc(hidden_bytes(run), "hidden states of the texts", fail);
    for (int i = 0; i < LAYER_INPUTS; i++)
        run->inputs[i] = memory_alloc(input_bytes(run, i), "activations", fail);
    void *scratch = memory_alloc(bytes, "activations", fail);
    if (fail->status == 0)
        checkpoint_get(run->loaded.checkpoint, arch_weight_of(c, WEIGHT_EMBEDDING)->name,
            c->vocab_size, c->hidden_size, &embedding, fail);
    for (size_t i = 0; i < t->n && fail->status == 0; i++)
        for (size_t k = 0; k < t->counts[i] && fail->status == 0; k++, row++) {
            size_t id = (size_t)t->ids[row];
            checkpoint_read(run->loaded.checkpoint, embedding, id, id + 1, 0, c->hidden_size,
                run->hidden + row * c->hidden_size, DTYPE_BF16, scratch, fail);
        }
    memory_free(scratch, bytes);
    return fail->status;
}

int layer_run_open(layer_run_t *run, comm_t *comm, const quantise_options_t *o, fail_t *fail)
{
    const engine_options_t options = {.model_dir = o->model_dir,
        .mode = DTYPE_BF16,
        .order = ORDER_TORCH,
        .dot = DOT_AUTO,
        .combine = PLAN_GATHER,
        .threads = o->threads,
        .max_batch = 1};
    *run = (layer_run_t){.comm = comm, .texts = &o->texts};
    if (load_files(&run->loaded, comm, &options, fail) == 0 &&
        load_compute(&run->loaded, fail) == 0) {
        if (run->loaded.config.n_experts > 0)
            fail_set(fail, FAIL_MODEL,
                "%s: --calibrate: expected a model without experts, found %zu; without --calibrate they are rounded to nearest",
                o->model_dir, run->loaded.config.n_experts);
        if (fail->status == 0 && plan_steps(run, fail) == 0)
            embed(run, fail);
    }
    return comm_agree(comm, fail);
}

void layer_run_close(layer_run_t *run)
{
    if (run->comm == NULL)
        return;
    layer_run_end(run);
    for (int i = 0; i < LAYER_INPUTS; i++)
        memory_free(run->inputs[i], run->inputs[i] == NULL ? 0 : input_bytes(run, i));
    memory_free(run->hidden, run->hidden == NULL ? 0 : hidden_bytes(run));
    free(run->steps);
    free(run->sequences);
    free(run->blocks);
    free(run->no_ids);
    load_close(&run->loaded);
    *run = (layer_run_t){0};
}
