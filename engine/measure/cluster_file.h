/* Cluster files: the measured rates of predict.h as JSON (docs/scaling.md). */
#ifndef CHOIR_MEASURE_CLUSTER_FILE_H
#define CHOIR_MEASURE_CLUSTER_FILE_H

#include <stdio.h>

#include "engine/base/status.h"
#include "engine/measure/predict.h"

/* cluster: to be cleared by predict_cluster_clear whatever is returned. FAIL_FILE, FAIL_FORMAT with
 * the name of what is missing, FAIL_MEMORY. */
int cluster_file_read(predict_cluster_t *cluster, const char *path, fail_t *fail);

/* Text of the file. Errors of writing are the stream's to keep. FAIL_MEMORY. */
int cluster_file_write(const predict_cluster_t *cluster, FILE *out, fail_t *fail);

/* Puts rates in the place of those of the same model, ranks and threads, or after all others.
 * FAIL_MEMORY. */
int cluster_add_rates(predict_cluster_t *cluster, const predict_rates_t *rates, fail_t *fail);

#endif
