/* One layer of a model alone: its weights, as they are or quantised, and a forward pass through it. Internal to
 * engine/quantise/.
 *
 * A layer is a model of one layer whose embedding is replaced by the hidden states of texts, so that its bits are those
 * of the whole model. Weights of one layer are in memory at a time. */
#ifndef CHOIR_QUANTISE_LAYER_RUN_H
#define CHOIR_QUANTISE_LAYER_RUN_H

#include "engine/forward/forward.h"
#include "engine/quantise/quantise_options.h"
#include "engine/run/load.h"

/* What the matrices of a layer multiply. */
typedef enum layer_input {
    LAYER_INPUT_QKV,     /* [rows, hidden] */
    LAYER_INPUT_O,       /* [rows, heads * head_dim] */
    LAYER_INPUT_GATE_UP, /* [rows, hidden] */
    LAYER_INPUT_DOWN,    /* [rows, intermediate] */
    LAYER_INPUTS
} layer_input_t;

/* A layer's weights of this role multiply such an input; LAYER_INPUTS: other weights. */
layer_input_t layer_input_of(weight_role_t role);
size_t layer_input_columns(const config_t *config, layer_input_t input);

/* Some texts that go through a layer together. */
typedef struct layer_step {
    size_t first_text, n_texts, first_row, n_rows;
} layer_step_t;

typedef struct layer_run {
    comm_t *comm;
    loaded_t loaded; /* files, threads, instruction set; no weights */
    const quantise_texts_t *texts;
    layer_step_t *steps; /* [n_steps]; rows of a step are at most max_rows */
    size_t n_steps, n_rows, max_rows, n_blocks;
    forward_sequence_t *sequences; /* [texts of a step] */
    int32_t *blocks, *no_ids;      /* [n_blocks] of the cache; [max_rows] zeros */
    uint16_t *hidden;              /* [n_rows, hidden] bf16, of all texts, in their order */
    float *inputs[LAYER_INPUTS];   /* [max_rows, columns] of the step that ran last */
    /* While a layer is open. */
    checkpoint_t *quantised;
    model_t model;
    kv_cache_t cache;
    forward_t *forward;
    tap_t tap;
    size_t row; /* first row of the step under way */
    bool keeps_inputs;
} layer_run_t;

/* Collective. Opens the model's files and computes the first layer's hidden states: embeddings of the texts.
 * FAIL_MODEL for a mixture of experts, and as load.h says. */
int layer_run_open(layer_run_t *run, comm_t *comm, const quantise_options_t *options, fail_t *fail);
void layer_run_close(layer_run_t *run);

/* Collective. Loads a layer's weights: those of the model, or with a scheme the matrices of quantised_file
 * dequantised. Ends with an agreement. */
int layer_run_begin(layer_run_t *run, size_t layer, const char *quantised_file,
    const quantised_scheme_t *scheme, fail_t *fail);
/* Collective. Runs a step of texts through the layer. keeps_inputs: what its matrices multiply is kept in `inputs` on
 * all ranks, and `hidden` stays; else the layer's output replaces the step's rows of `hidden`. */
void layer_run_step(layer_run_t *run, size_t step, bool keeps_inputs);
/* Collective. Releases the layer's weights. */
void layer_run_end(layer_run_t *run);

#endif
