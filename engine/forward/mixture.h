/* A mixture of experts in place of a layer's MLP. Internal to engine/forward.
 *
 * Of every expert a rank has its share of the columns, as of an MLP, so ranks have equal work whatever
 * the router chooses. A step reads the weights of each chosen expert once, for all its rows. */
#ifndef CHOIR_FORWARD_MIXTURE_H
#define CHOIR_FORWARD_MIXTURE_H

#include "engine/forward/forward_internal.h"

/* Bytes of a thread's outputs of pairs; 0 without experts. */
size_t mixture_output_bytes(const model_t *model, const forward_options_t *options);

/* All threads. From the normalised rows to the layer's output, on all ranks. */
void forward_mixture(forward_t *f, size_t thread, size_t layer);

#endif
