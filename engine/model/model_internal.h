/* What loading and the sizes of a model have in common. Internal to engine/model. */
#ifndef CHOIR_MODEL_MODEL_INTERNAL_H
#define CHOIR_MODEL_MODEL_INTERNAL_H

#include <stddef.h>

#include "engine/base/dtype.h"

#define MODEL_ALIGN 64 /* of the matrices of a weight */

/* Of a RoPE table, cosines or sines. */
size_t model_rope_bytes(size_t head_dim, dtype_t mode, size_t positions);

#endif
