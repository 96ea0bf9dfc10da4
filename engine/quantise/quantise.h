/* Writes a quantised copy of a model directory by rounding to nearest, as transformers, vLLM and Choir read it.
 *
 * The bytes depend on the model and the options alone: ranks divide blocks of outputs, and each is a function of its
 * weights. The directory must be visible to all ranks. Weights are written beside their place, with a record of the
 * blocks that are done; the same call resumes after an interruption, on any number of ranks. */
#ifndef CHOIR_QUANTISE_QUANTISE_H
#define CHOIR_QUANTISE_QUANTISE_H

#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/quantise/quantise_options.h"

typedef struct quantise_result {
    size_t n_matrices;
    uint64_t read_bytes, written_bytes; /* of tensors: before and after, all ranks together */
} quantise_result_t;

/* Collective. FAIL_MODEL for a model that is quantised or has inputs that groups do not divide; FAIL_FILE;
 * FAIL_INTERRUPTED. */
int quantise_model(
    comm_t *comm, const quantise_options_t *options, quantise_result_t *result, fail_t *fail);

#endif
