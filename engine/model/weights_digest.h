/* A digest of a model's weights, made of what loading reads anyway.
 *
 * It is the sum, modulo 2^64, of a hash (XXH3) of each row of each weight: its values in the mode's type, the weight's
 * name and the row's number. So it does not depend on who reads which rows, nor in which order: ranks add up what
 * they have read, each row once. Pure functions. */
#ifndef CHOIR_MODEL_WEIGHTS_DIGEST_H
#define CHOIR_MODEL_WEIGHTS_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "engine/model/model_source.h"
#include "sharding/plan.h"

/* The first row of a rank's part of a weight that is not also a lower rank's: from there on this rank counts them. */
size_t weights_digest_first_row(const plan_t *plan, size_t rank, const plan_weight_t *weight);

/* The part's rows from first_row on. rows: [part->row_end - part->row_begin, width] row-major, the mode's type, where
 * width is all of the weight's columns, 1 of a vector. */
uint64_t weights_digest_rows(
    const model_part_t *part, size_t first_row, dtype_t mode, const void *rows);

#endif
