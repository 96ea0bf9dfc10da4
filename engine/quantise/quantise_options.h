/* What a quantised copy of a model is made with. Plain data. */
#ifndef CHOIR_QUANTISE_QUANTISE_OPTIONS_H
#define CHOIR_QUANTISE_QUANTISE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/progress.h"

typedef enum quantise_layout {
    QUANTISE_GPTQ,              /* version 1, symmetric: scales in f16 */
    QUANTISE_COMPRESSED_TENSORS /* pack-quantized, symmetric: scales in bf16 */
} quantise_layout_t;

typedef struct quantise_options {
    const char *model_dir, *out;
    unsigned bits; /* 4, 8 */
    size_t group;  /* inputs; 0: all */
    quantise_layout_t layout;
    bool (*interrupted)(void); /* may be NULL */
    progress_fn progress;      /* bytes of the model, of this rank's blocks; may be NULL */
    void *progress_context;
} quantise_options_t;

#endif
