/* Activations as compressed-tensors quantises and dequantises them before a product of bf16: each step is
 * rounded to bf16 (docs/quantised.md, "Quantised activations"). Pure functions. */
#ifndef CHOIR_FORWARD_FAKE_QUANTISE_H
#define CHOIR_FORWARD_FAKE_QUANTISE_H

#include <stddef.h>
#include <stdint.h>

#include "sharding/checkpoint/quantised.h"

/* kind: a dynamic one. x, y: [n] bf16 */
void fake_quantise_row(quantised_activation_t kind, size_t n, const uint16_t *x, uint16_t *y);

#endif
