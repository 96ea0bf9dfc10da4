/* State of an open checkpoint. Internal to sharding/checkpoint/. */
#ifndef CHOIR_SHARDING_CHECKPOINT_INTERNAL_H
#define CHOIR_SHARDING_CHECKPOINT_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sharding/checkpoint/checkpoint.h"
#include "sharding/checkpoint/safetensors.h"
#include "sharding/store/store.h"

typedef struct tensor_file {
    char *path;
    int fd;
    uint64_t size_bytes;
    safetensors_t header;
} tensor_file_t;

struct checkpoint {
    char *path; /* what the caller gave */
    size_t n_files;
    tensor_file_t *files;
    bool index_ignored; /* there is an index beside the single file */
    size_t n_tensors;
    checkpoint_tensor_t
        *tensors; /* in the order of their names; names belong to the files' headers */
    /* A shard store: its sources replace the files, without descriptors. */
    store_t *store;
    size_t *segments; /* [n_tensors] of the tensors */
    _Atomic uint64_t bytes_read;
};

#endif
