/* Quantised matrices as the hub's files have them: finding their tensors, reading a part, and its codes, scales and
 * zeros, or its weights (docs/quantised.md has the layouts and what they mean).
 *
 * A matrix has N outputs (rows) and K inputs (columns), whatever way its file has them. A code q, a scale s and a zero
 * z give a weight s (q - z). Codes are unsigned here: a signed one has 2^(bits - 1) added, and so has its zero. Codes of
 * f8 are e4m3 numbers without a zero.
 *
 * Plain data; tensors are borrowed from the checkpoint. Thread safe on different stages. */
#ifndef CHOIR_SHARDING_QUANTISED_H
#define CHOIR_SHARDING_QUANTISED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "sharding/checkpoint/checkpoint.h"

typedef enum quantised_layout {
    QUANTISED_GPTQ, /* qweight i32 [K bits/32, N], qzeros i32 [K/group, N bits/32], scales [K/group, N], g_idx [K] */
    QUANTISED_AWQ, /* qweight i32 [K, N/8], qzeros i32 [K/group, N/8], scales [K/group, N] */
    QUANTISED_PACKED, /* compressed-tensors: weight_packed i32 [N, K bits/32], weight_scale, weight_zero_point */
    QUANTISED_INT8,   /* compressed-tensors: weight i8 [N, K], weight_scale, weight_zero_point */
    QUANTISED_FP8,    /* compressed-tensors: weight f8 [N, K], weight_scale */
    QUANTISED_FP8_INV /* weight f8 [N, K], weight_scale_inv on a grid of blocks */
} quantised_layout_t;

/* What activations become before the product, as compressed-tensors does it. */
typedef enum quantised_activation {
    QUANTISED_AS_THEY_ARE,
    QUANTISED_INT8_TOKEN,
    QUANTISED_INT8_TOKEN_ZERO, /* asymmetric */
    QUANTISED_FP8_TOKEN,
    QUANTISED_FP8_GROUP,  /* of 128 inputs */
    QUANTISED_FP8_STATIC, /* the scale is input_scale */
    QUANTISED_INT8_STATIC
} quantised_activation_t;

/* What quantization_config says of a matrix. */
typedef struct quantised_scheme {
    quantised_layout_t layout;
    unsigned bits;
    size_t group; /* inputs that have a scale in common; 0: all, or as the scales' shape says */
    bool zeros;   /* compressed-tensors: asymmetric */
    bool zeros_minus_one; /* GPTQ's first version stores z - 1 */
    bool act_order;       /* g_idx gives the group of each input */
    quantised_activation_t activation;
} quantised_scheme_t;

/* "GPTQ int4, group 128" for people. text: [QUANTISED_SCHEME_BYTES] */
#define QUANTISED_SCHEME_BYTES 64
void quantised_scheme_text(const quantised_scheme_t *scheme, char *text);

/* A matrix that was found. */
typedef struct quantised {
    quantised_scheme_t scheme;
    size_t rows, columns;
    size_t group;      /* inputs of a group; the last may be shorter */
    size_t n_groups;   /* along the inputs */
    size_t block_rows; /* outputs that have scales in common, 1 but for f8 */
    const checkpoint_tensor_t *codes, *scales;
    const checkpoint_tensor_t *zeros, *groups; /* or NULL */
} quantised_t;

/* Local. Finds the tensors of the matrix that would be `name` ("...q_proj.weight") if it were not quantised, and
 * checks dtypes and shapes. FAIL_MODEL names what contradicts the scheme. */
int quantised_find(checkpoint_t *checkpoint, const char *name, const quantised_scheme_t *scheme,
    size_t rows, size_t columns, quantised_t *matrix, fail_t *fail);

/* A rectangle of a matrix. */
typedef struct quantised_part {
    size_t row_begin, row_end, col_begin, col_end;
} quantised_part_t;

#define QUANTISED_ROWS 64 /* at most, of what is unpacked at once */

/* Rows of codes that were unpacked, with their scales and zeros. */
typedef struct quantised_rows {
    size_t n, columns, n_groups;
    const uint8_t *codes; /* [n, columns], codes_stride apart */
    size_t codes_stride;
    const float *scales;      /* [n, n_groups] as stored */
    const uint8_t *zeros;     /* [n, n_groups]; f8 has none and these are 0 */
    const uint32_t *group_of; /* [columns] */
    bool in_order;            /* group_of ascends */
} quantised_rows_t;

typedef struct quantised_stage quantised_stage_t;

/* Bytes of a stage for so many rows and columns. */
size_t quantised_stage_bytes(const quantised_t *matrix, size_t rows, size_t columns);

/* Reads a part of the file into memory: columns of a matrix that lies [K, N] come in longer runs the more of them are
 * read at once. memory: quantised_stage_bytes() of the part, aligned to 64. FAIL_FILE; FAIL_MODEL for scales that are
 * no positive numbers and groups that do not exist. */
int quantised_stage(checkpoint_t *checkpoint, const quantised_t *matrix, quantised_part_t part,
    void *memory, const quantised_stage_t **stage, fail_t *fail);

/* Unpacks rows [row_begin, row_end) of the matrix, at most QUANTISED_ROWS of those staged. What *rows points to lies in
 * the stage, until the next call. */
void quantised_unpack(
    const quantised_stage_t *stage, size_t row_begin, size_t row_end, quantised_rows_t *rows);

/* Where groups are not in order: which input comes i-th when they are, stable, [columns] written. FAIL_MODEL when a
 * group has not as many inputs as the others. */
int quantised_order(
    checkpoint_t *checkpoint, const quantised_t *matrix, uint32_t *order, fail_t *fail);

/* The weights as Hugging Face has them in a model of `dtype`: bf16, or f32 for any other. dst: [n, columns] dtype */
void quantised_weights(
    const quantised_stage_t *stage, const quantised_rows_t *rows, dtype_t dtype, void *dst);

/* One of them. Layout: whose rounding it has. */
float quantised_weight(
    quantised_layout_t layout, dtype_t dtype, uint8_t code, float scale, uint8_t zero);

#endif
