/* The model as its formulas say, in double precision, row after row: what tests compare with. */
#ifndef CHOIR_TESTS_PLAIN_MODEL_H
#define CHOIR_TESTS_PLAIN_MODEL_H

#include "engine/model/config.h"

/* Logits of n tokens of a model with random weights (model_source_random of the seed, rounded to the
 * mode). logits: [n, vocabulary] */
void plain_logits(const config_t *config, const uint64_t *seed, dtype_t mode, const int32_t *ids,
    size_t n, double *logits);

/* Attention of one query to keys [first, end). q, out: [head_dim]; rows of k and v are stride apart. */
void plain_attention(size_t head_dim, const double *q, const double *k, const double *v,
    size_t stride, size_t first, size_t end, double *out);

/* The largest difference; infinite where there is a NaN. */
double plain_difference(const double *exact, const void *found, dtype_t dtype, size_t n);

#endif
