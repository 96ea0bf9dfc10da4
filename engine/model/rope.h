/* Tables of rotary position embedding. Pure function of the config; thread safe. */
#ifndef CHOIR_MODEL_ROPE_H
#define CHOIR_MODEL_ROPE_H

#include <stddef.h>

#include "engine/model/config.h"

/* Fills cos and sin of positions [first, first + n) for frequency i < half = head_dim / 2: [n,
 * half], f32 (already rounded to bf16 in mode bf16) or f64 in mode f64. inv_freq is f32 in every
 * mode, as transformers computes it
 * (_compute_default_rope_parameters, _compute_yarn_parameters); the angle is f32 in mode bf16, as
 * there, and f64 otherwise. Sines and cosines are computed in double and rounded, so they do not
 * depend on the host. */
void rope_tables(
    const config_t *config, dtype_t mode, size_t first, size_t n, void *cosines, void *sines);

/* inv_freq: [head_dim / 2]. Returns the factor on cosines and sines (1 without yarn). */
double rope_frequencies(const config_t *config, float *inv_freq);

#endif
