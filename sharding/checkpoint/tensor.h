/* What a file's header says of a tensor. Plain data; names are borrowed from who gives it. */
#ifndef CHOIR_SHARDING_TENSOR_H
#define CHOIR_SHARDING_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"

#define CHECKPOINT_MAX_DIMS 8

/* One tensor. BF16, F16, F32, F64 can be read; `readable` is false for other dtypes, which are
 * errors only when a model needs the tensor. */
typedef struct checkpoint_tensor {
    const char *name;
    const char *file;       /* path */
    const char *dtype_name; /* as in the file: "BF16" */
    bool readable;
    dtype_t dtype;
    size_t n_dims;
    size_t shape[CHECKPOINT_MAX_DIMS];
    uint64_t offset_bytes; /* from the start of the file */
    uint64_t size_bytes;
} checkpoint_tensor_t;

#endif
