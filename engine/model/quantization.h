/* Which matrices of a checkpoint are quantised, and how: quantization_config of config.json. Plain data. */
#ifndef CHOIR_MODEL_QUANTIZATION_H
#define CHOIR_MODEL_QUANTIZATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/format.h"
#include "sharding/checkpoint/quantised.h"

#define QUANTIZATION_MAX_SCHEMES 4
#define QUANTIZATION_MAX_LAYERS 1000

/* --quantised-order */
typedef enum quantised_order {
    QUANTISED_ORDER_TORCH, /* as Hugging Face's libraries on a CPU: int4 in a chain of its own */
    QUANTISED_ORDER_DEQUANTIZE /* weights are rounded to the mode while loading, then its order */
} quantised_order_t;

typedef struct quantization {
    quantised_order_t order; /* of the run, not of the file */
    bool
        fold; /* of the run: the dot product fold, which multiplies dense matrices and int4 alone */
    size_t n_schemes; /* 0: nothing is quantised */
    quantised_scheme_t schemes[QUANTIZATION_MAX_SCHEMES];
    /* Bit r of a layer's word: the weight of role r (arch.h) has the scheme. */
    uint64_t in_layers[QUANTIZATION_MAX_SCHEMES][QUANTIZATION_MAX_LAYERS];
    uint64_t outside[QUANTIZATION_MAX_SCHEMES]; /* of layers: lm_head */
} quantization_t;

/* How a shape without a checkpoint has its layers' matrices: what `choir bench --format` takes. */
typedef enum quantised_kind {
    QUANTISED_KIND_OF_CONFIG,
    QUANTISED_KIND_NONE,
    QUANTISED_KIND_INT4_G32, /* GPTQ, symmetric */
    QUANTISED_KIND_INT4_G64,
    QUANTISED_KIND_INT4_G128,
    QUANTISED_KIND_INT8,      /* compressed-tensors, a scale for each output */
    QUANTISED_KIND_INT8_G128, /* GPTQ, symmetric */
    QUANTISED_KIND_FP8        /* blocks of 128 */
} quantised_kind_t;

/* NULL: not quantised. role: weight_role_t; layer: ignored outside of layers */
static inline const quantised_scheme_t *quantization_scheme(
    const quantization_t *quantization, int role, int per_layer, size_t layer)
{
    for (size_t s = 0; s < quantization->n_schemes; s++)
        if (((per_layer ? quantization->in_layers[s][layer] : quantization->outside[s]) >> role &
                1) != 0)
            return &quantization->schemes[s];
    return NULL;
}

/* The format in which a matrix of so many rows and columns, the whole one, is kept; NULL when it is dequantised while
 * loading. scheme: NULL when it is not quantised; in_layer: of a layer, not lm_head */
const format_t *quantization_format(const quantization_t *quantization,
    const quantised_scheme_t *scheme, dtype_t mode, int in_layer, size_t rows, size_t columns);
/* The same for all layers' weights of a role; NULL where layers differ, so that it counts what is enough. */
const format_t *quantization_role_format(const quantization_t *quantization, dtype_t mode, int role,
    int per_layer, size_t n_layers, size_t rows, size_t columns);
/* How the inputs of a layer's matrix are quantised and dequantised before its product; of those of lm_head and of
 * experts, static ones, and with QUANTISED_ORDER_DEQUANTIZE or another mode than bf16: as they are. */
quantised_activation_t quantization_activation(
    const quantization_t *quantization, dtype_t mode, int role, size_t layer);
/* Whether some are. */
bool quantization_has_activations(const quantization_t *quantization, dtype_t mode);

/* Whether some matrices may be multiplied by the int4 chain. */
bool quantization_has_chain(const quantization_t *quantization, dtype_t mode);

#endif
