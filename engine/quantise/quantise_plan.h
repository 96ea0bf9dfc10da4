/* The tensors of a quantised copy. Internal to engine/quantise/. */
#ifndef CHOIR_QUANTISE_QUANTISE_PLAN_H
#define CHOIR_QUANTISE_QUANTISE_PLAN_H

#include <string.h>

#include "engine/model/arch/arch.h"
#include "engine/model/config.h"
#include "engine/quantise/quantise_options.h"
#include "sharding/checkpoint/checkpoint.h"

#define QUANTISE_BLOCK_ROWS                                                                        \
    512 /* outputs of a block: runs of 2 KiB where a file has [inputs, outputs] */

#define QUANTISE_COPY_BYTES ((size_t)8 << 20) /* of a block that is copied */

/* One tensor of the new file. */
typedef struct quantise_tensor {
    char *name;
    const char *dtype;
    size_t n_dims, shape[CHECKPOINT_MAX_DIMS];
    uint64_t offset, bytes;            /* of the data; then from the file's start */
    const checkpoint_tensor_t *source; /* copied as it is, or quantised */
} quantise_tensor_t;

/* What a matrix becomes, by number in the list of tensors: codes first. */
enum { PART_CODES, PART_SCALES, PART_ZEROS, PART_GROUPS, PART_SHAPE, PART_COUNT };

typedef struct quantise_matrix {
    const checkpoint_tensor_t *source;
    size_t rows, columns, n_groups;
    size_t layer, first_block; /* first_block: of its blocks of QUANTISE_BLOCK_ROWS */
    weight_role_t role;
    size_t parts[PART_COUNT];
} quantise_matrix_t;

typedef struct quantise_plan {
    const quantise_options_t *options;
    config_t config;
    checkpoint_t *checkpoint;
    size_t n_tensors, n_matrices;
    size_t n_matrix_blocks, n_blocks; /* those of matrices come first */
    quantise_tensor_t *tensors;       /* those of matrices in the order of parts */
    quantise_matrix_t *matrices;
    char *header; /* of the file, with its length */
    size_t header_bytes;
    uint64_t file_bytes, digest;
} quantise_plan_t;

/* Local. Which tensors there will be, and where. FAIL_MODEL, FAIL_MEMORY. */
int quantise_plan_open(quantise_plan_t *plan, const quantise_options_t *options, fail_t *fail);
void quantise_plan_close(quantise_plan_t *plan);

/* Whether a tensor is copied as it is. */
static inline bool quantise_is_copied(const quantise_tensor_t *tensor)
{
    return strcmp(tensor->name, tensor->source->name) == 0;
}

static inline size_t quantise_group(const quantise_plan_t *plan, const quantise_matrix_t *matrix)
{
    return plan->options->group == 0 ? matrix->columns : plan->options->group;
}

#endif
