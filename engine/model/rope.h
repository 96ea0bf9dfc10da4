/* Tables of rotary position embedding. Pure function of the config; thread safe.
 *
 * With dynamic NTK scaling frequencies depend on the call: transformers recomputes them when a
 * call's last position is beyond the original length, from that position. Choir computes a sequence
 * as transformers computes it alone: the rows of a longer prompt follow its length, a row of decode
 * its own position; keys stay in the cache as they were rotated. Other sequences of a batch, or
 * earlier ones, which change transformers' results, have no influence here. */
#ifndef CHOIR_MODEL_ROPE_H
#define CHOIR_MODEL_ROPE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/model/config.h"

/* Fills cos and sin of positions [first, first + n), each the last of its call, for frequency
 * i < half = head_dim / 2: [n, half], f32 (already rounded to bf16 in mode bf16) or f64 in mode
 * f64. inv_freq is f32 in every mode, as transformers computes it (modeling_rope_utils.py); the
 * angle is f32 in mode bf16, as there, and f64 otherwise. Sines and cosines are computed in double
 * and rounded, so they do not depend on the host. */
void rope_tables(
    const config_t *config, dtype_t mode, size_t first, size_t n, void *cosines, void *sines);

/* Whether rows of a call of `length` tokens need their own tables. */
bool rope_follows_length(const config_t *config, size_t length);

/* The same tables for positions of a call of ref_q_len tokens. */
void rope_call_tables(const config_t *config, dtype_t mode, size_t ref_q_len, size_t first,
    size_t n, void *cosines, void *sines);

/* inv_freq: [head_dim / 2] of a call of `length` tokens; 0: of a short one. Returns the factor on
 * cosines and sines (1 without yarn). */
double rope_frequencies(const config_t *config, size_t length, float *inv_freq);

#endif
