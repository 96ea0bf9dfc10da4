/* What a quantised copy of a model is made with. Plain data. */
#ifndef CHOIR_QUANTISE_QUANTISE_OPTIONS_H
#define CHOIR_QUANTISE_QUANTISE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/progress.h"

typedef enum quantise_layout {
    QUANTISE_GPTQ,              /* version 1, symmetric: scales in f16 */
    QUANTISE_COMPRESSED_TENSORS /* pack-quantized, symmetric: scales in bf16 */
} quantise_layout_t;

/* Texts that layers are calibrated with, the same on all ranks; those of one token come first. */
typedef struct quantise_texts {
    size_t n;             /* 0: weights are rounded to nearest */
    const size_t *counts; /* [n] tokens, not 0, at most the model's positions */
    const int32_t *ids;   /* of all texts, one after the other */
} quantise_texts_t;

typedef struct quantise_options {
    const char *model_dir, *out;
    unsigned bits; /* 4, 8 */
    size_t group;  /* inputs; 0: all */
    quantise_layout_t layout;
    quantise_texts_t texts;
    bool
        desc_act; /* with texts, layout GPTQ: inputs are quantised in order of their squares, largest first */
    double damping; /* with texts: share of the mean square that is added to all (gptq.h) */
    size_t threads; /* with texts; 0: choose from the binding */
    bool (*interrupted)(void); /* may be NULL */
    progress_fn
        progress; /* bytes of the model, of this rank's blocks; with texts, time; may be NULL */
    void *progress_context;
} quantise_options_t;

#endif
