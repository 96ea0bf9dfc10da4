/* A pass of the reference's prompts: what its files share. Threads of the team look at parts at the same time; the lock
 * guards the report and the failure. */
#ifndef CHOIR_VERIFY_VERIFY_FORWARD_INTERNAL_H
#define CHOIR_VERIFY_VERIFY_FORWARD_INTERNAL_H

#include <pthread.h>

#include "engine/forward/forward.h"
#include "engine/verify/verify_forward.h"

/* A tensor of the reference, and how its values are used. */
typedef struct target {
    const checkpoint_tensor_t *tensor; /* NULL: none */
    reference_place_t place;
    bool compares;
    double *largest;       /* magnitude of each row along the last dimension; NULL: not needed */
    size_t first_measured; /* the row that these begin with */
} target_t;

/* The place of the logits of one row: a row may be a prefill's and generate()'s as well. */
typedef struct logits_target {
    size_t norm_row; /* row of final_norm */
    bool again;      /* that row is in the batch once more, and compared there */
    size_t n;
    struct {
        target_t target;
        size_t row;
    } of[2];
} logits_target_t;

/* One run of all prompts. */
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
    size_t first_row; /* row of the reference for the batch's first */
    forward_batch_t batch;
    uint64_t step;
    target_t *targets; /* [n_layers + 1][COMPONENT_COUNT]; the last for those outside of layers */
    logits_target_t *logits;           /* [max_rows + 1] */
    forward_logits_row_t *logits_rows; /* [max_rows + 1] */
    pthread_mutex_t lock;              /* of the report and of fail */
    fail_t fail;
    uint64_t done_tokens, total_tokens;
} pass_t;

/* ---- verify_look.c: comparing values with targets -------------------------------------------- */

/* The first failure counts. */
void verify_record_failure(pass_t *pass, const fail_t *fail);

/* Values of one row along the first dimension. */
size_t verify_row_elements(const checkpoint_tensor_t *tensor);

/* Taps of the forward (tap.h): compare a part; the second only feeds the reference's values in its place. */
void verify_tap(void *context, const tap_part_t *part);
void verify_tap_refill(void *context, const tap_part_t *part);

/* Compares n logits, from a column on, of the i-th row that was asked for. */
void verify_look_at_logits(pass_t *pass, size_t i, size_t column, size_t n, const void *values);

/* ---- verify_targets.c: the targets of a step ------------------------------------------------- */

reference_place_t verify_place(const pass_t *pass, bool decode, size_t layer, size_t kind);
/* NULL: the reference has none. */
const checkpoint_tensor_t *verify_find_target(const pass_t *pass, const reference_place_t *place);
const target_t *verify_target_at(const pass_t *pass, size_t layer, component_t component);

/* Finds the components of the next step. none: none is compared; first: of the prompt's. */
void verify_set_targets(pass_t *pass, bool decode, bool none, bool first);
/* And the batch is empty again. */
void verify_free_targets(pass_t *pass);

/* Asks for the logits of a row of the batch. norm_row: of final_norm. */
void verify_want_logits(pass_t *pass, size_t row, bool single_row, size_t norm_row);
/* The logits last asked for are row `row` of a tensor. kind: the tensor's; as: the report's row */
void verify_expect_logits(pass_t *pass, size_t kind, size_t as, bool decode, size_t row);

#endif
