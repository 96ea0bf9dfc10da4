/* The golden file of quantised matrices, for tests of sharding/checkpoint/quantised.h. */
#ifndef CHOIR_TESTS_QUANTISED_FIXTURE_H
#define CHOIR_TESTS_QUANTISED_FIXTURE_H

#include "sharding/checkpoint/quantised.h"

/* oracle/quantised.py made it: matrices of every layout, each with its quantization_config. */
#define GOLDEN CHOIR_SOURCE_DIR "/tests/golden/quantised.safetensors"
#define ROWS 72
#define COLUMNS 104

/* The scheme that a model's config.json with this quantization_config gives its first q_proj. */
void read_scheme(const char *quantization, quantised_scheme_t *scheme);

#endif
