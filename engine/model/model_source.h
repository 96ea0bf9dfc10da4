/* Sources of weights: a checkpoint, or random numbers. A small interface, so that loading is the
 * same for both. Reads are called by many threads at once. */
#ifndef CHOIR_MODEL_SOURCE_H
#define CHOIR_MODEL_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "engine/kernels/format.h"
#include "sharding/checkpoint/checkpoint.h"
#include "sharding/checkpoint/quantised.h"

/* A part of a tensor of shape [shape_rows, shape_columns] ([shape_rows] when shape_columns is 0):
 * rows [row_begin, row_end) and columns [col_begin, col_end). */
typedef struct model_part {
    const char *name;
    size_t shape_rows, shape_columns;
    size_t row_begin, row_end, col_begin, col_end;
    const quantised_scheme_t *scheme; /* NULL: not quantised */
    const void *stage;                /* of model_source_t.stage; of what is not quantised NULL */
} model_part_t;

typedef struct model_source {
    void *context;
    /* Whether the tensor is there with that shape, before any memory is taken. FAIL_MODEL.
     * *converted is set when its dtype is not the mode's. */
    int (*check)(
        void *context, const model_part_t *part, dtype_t mode, int *converted, fail_t *fail);
    /* Of a quantised matrix: bytes of a stage for a part, and reading the part into it; other parts have none. Parts
     * that are read from a stage have at most QUANTISED_ROWS rows. memory: of so many bytes, aligned to 64 */
    size_t (*stage_bytes)(void *context, const model_part_t *part);
    int (*stage)(void *context, model_part_t *part, void *memory, fail_t *fail);
    /* Codes, scales and zeros of a part that was staged, and, where groups are not in order, the order
     * of the whole matrix's inputs: [shape_columns]. What *rows points to lies in the stage, until the
     * next call. */
    int (*codes)(void *context, const model_part_t *part, coded_rows_t *rows, fail_t *fail);
    int (*order)(void *context, const model_part_t *part, uint32_t *order, fail_t *fail);
    /* dst: [row_end - row_begin, col_end - col_begin] in the mode's dtype.
     * scratch: as many bytes as the part takes in f64 */
    int (*read)(void *context, const model_part_t *part, dtype_t mode, void *dst, void *scratch,
        fail_t *fail);
} model_source_t;

/* Borrows the checkpoint. */
model_source_t model_source_checkpoint(checkpoint_t *checkpoint);

/* Nearly normal weights of standard deviation 1 / sqrt(columns), so that activations keep their
 * size; norms around 1, biases of 0.5: a pure function of seed, name and place, so equal at any
 * rank count. Borrows *seed. */
model_source_t model_source_random(const uint64_t *seed);

#endif
