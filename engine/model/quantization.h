/* Which matrices of a checkpoint are quantised, and how: quantization_config of config.json. Plain data. */
#ifndef CHOIR_MODEL_QUANTIZATION_H
#define CHOIR_MODEL_QUANTIZATION_H

#include <stddef.h>
#include <stdint.h>

#include "sharding/checkpoint/quantised.h"

#define QUANTIZATION_MAX_SCHEMES 4
#define QUANTIZATION_MAX_LAYERS 1000

typedef struct quantization {
    size_t n_schemes; /* 0: nothing is quantised */
    quantised_scheme_t schemes[QUANTIZATION_MAX_SCHEMES];
    /* Bit r of a layer's word: the weight of role r (arch.h) has the scheme. */
    uint64_t in_layers[QUANTIZATION_MAX_SCHEMES][QUANTIZATION_MAX_LAYERS];
    uint64_t outside[QUANTIZATION_MAX_SCHEMES]; /* of layers: lm_head */
} quantization_t;

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

#endif
