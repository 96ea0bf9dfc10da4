/* Predictions beside what was measured: rows that choir bench --json or --sweep wrote. Local. */
#ifndef CHOIR_MEASURE_PREDICT_ROWS_H
#define CHOIR_MEASURE_PREDICT_ROWS_H

#include <stddef.h>

#include "engine/measure/predict.h"
#include "engine/model/config.h"

/* What a row was measured with, and its tokens/s. */
typedef struct predict_row {
    size_t layers, ranks, nodes, threads, replicas, batch, prompt_tokens, context, gen_tokens;
    double prefill, decode;
} predict_row_t;

/* |predicted / measured - 1| of all rates. */
typedef struct predict_errors {
    size_t n;
    double median, largest;
} predict_errors_t;

typedef void (*predict_row_fn)(
    void *context, const predict_row_t *row, const predict_mesh_t *predicted);

/* Predicts every row of this model in a file; lines of other models are left out. query: cluster,
 * model, combine and network; the rest is each row's. tell: called with each. FAIL_FILE, FAIL_FORMAT
 * naming the line, also when there is none of this model. */
int predict_rows(const predict_query_t *query, const config_t *config, const char *path,
    predict_row_fn tell, void *context, predict_errors_t *errors, fail_t *fail);

#endif
