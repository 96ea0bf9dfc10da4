/* The header of one safetensors file, as bytes in memory: parsing and checking, no file access.
 *
 * Trusts nothing in the header; whatever passes describes tensors that lie within the file,
 * side by side without overlaps or holes; at any offset, aligned or not. safetensors_t owns the
 * parsed JSON, which the tensors' names point into.
 *
 * A file, byte by byte (https://huggingface.co/docs/safetensors):
 *   0      8 bytes   N, unsigned little-endian
 *   8      N bytes   JSON object, first byte '{', may end in spaces:
 *                      "name": {"dtype": "BF16", "shape": [...], "data_offsets": [begin, end]}
 *                      "__metadata__": {"key": "value"}, optional, may be null
 *   8 + N  the data; offsets count from here; row-major, little-endian */
#ifndef CHOIR_SHARDING_SAFETENSORS_H
#define CHOIR_SHARDING_SAFETENSORS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "sharding/checkpoint/tensor.h"

#define SAFETENSORS_PREFIX_BYTES 8
#define SAFETENSORS_MAX_HEADER_BYTES 100000000

typedef struct safetensors {
    json_t *root;
    size_t n_tensors;
    checkpoint_tensor_t *tensors; /* in the order of their names; their `file` is the path given */
} safetensors_t;

/* The header's length from the first bytes of a file of file_bytes. prefix: [8], fewer when the
 * file is shorter */
int safetensors_header_bytes(const unsigned char *prefix, uint64_t file_bytes, const char *path,
    size_t *header_bytes, fail_t *fail);

/* Reads the header of an open file, without its length; *text is the caller's to free, on failure too. */
int safetensors_read_text(
    const char *path, int fd, uint64_t file_bytes, char **text, size_t *text_bytes, fail_t *fail);

/* text: [text_bytes], the header without its length; file_bytes: at least 8 + text_bytes. path is
 * borrowed for as long as the tensors are used. On failure nothing is kept. */
int safetensors_parse(safetensors_t *header, const char *path, const char *text, size_t text_bytes,
    uint64_t file_bytes, fail_t *fail);
void safetensors_clear(safetensors_t *header);

/* NULL when absent. */
const checkpoint_tensor_t *safetensors_find(const safetensors_t *header, const char *name);
const char *safetensors_metadata(const safetensors_t *header, const char *key);

/* Order of names, for qsort and bsearch over tensors. */
int safetensors_compare_names(const void *a, const void *b);

#endif
