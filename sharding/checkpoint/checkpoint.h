/* A model directory's tensors: those of model.safetensors, or of all files that
 * model.safetensors.index.json names; or a shard store (store_format.h), which gives the same
 * tensors.
 *
 * Opening reads and checks headers only. Tensor data is read by byte range with pread, so a rank
 * reads just what its plan gives it; a counter tells how much. Owns the file descriptors and the
 * directory of tensors; names returned are borrowed. After opening, reads are thread safe.
 *
 * Format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length N, N bytes
 * of JSON
 * {"name": {"dtype": "BF16", "shape": [...], "data_offsets": [begin, end]}, "__metadata__": {...}},
 * then the data; offsets count from the end of the header. */
#ifndef CHOIR_SHARDING_CHECKPOINT_H
#define CHOIR_SHARDING_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "sharding/checkpoint/tensor.h"

typedef struct checkpoint checkpoint_t;

/* Local. A shard store when the directory holds its manifest, else what checkpoint_files.h says.
 * FAIL_FILE, FAIL_FORMAT. */
int checkpoint_open(checkpoint_t **checkpoint, const char *directory, fail_t *fail);
/* A single safetensors file, for references and dumps. */
int checkpoint_open_file(checkpoint_t **checkpoint, const char *path, fail_t *fail);
void checkpoint_close(checkpoint_t *checkpoint);

/* Whether model.safetensors was read although there is an index, which may name other weights. */
bool checkpoint_ignored_index(const checkpoint_t *checkpoint);

/* All tensors, in the order of their names. */
size_t checkpoint_count(const checkpoint_t *checkpoint);
const checkpoint_tensor_t *checkpoint_at(const checkpoint_t *checkpoint, size_t index);

/* NULL when absent. */
const checkpoint_tensor_t *checkpoint_find(const checkpoint_t *checkpoint, const char *name);

/* The tensor that transformers loads as a model's `name`, which begins with "model." or is
 * "lm_head.weight": files may leave out the prefix "model.", or have it twice. Of several, the
 * first in the order of names. Without an embedding, lm_head.weight replaces it, for a model that
 * ties them. NULL when absent. */
const checkpoint_tensor_t *checkpoint_find_weight(const checkpoint_t *checkpoint, const char *name);

/* The tensor of checkpoint_find_weight, which must have this shape: [rows, columns], or [rows] when
 * columns is 0. FAIL_MODEL names the tensor, the expected and the actual shape or dtype. */
int checkpoint_get(const checkpoint_t *checkpoint, const char *name, size_t rows, size_t columns,
    const checkpoint_tensor_t **tensor, fail_t *fail);

/* Value of a __metadata__ key of the (first) file, or NULL. */
const char *checkpoint_metadata(const checkpoint_t *checkpoint, const char *key);

/* Reads rows [row_begin, row_end) and columns [col_begin, col_end) of a tensor seen as
 * [shape[0], product of the rest] ([n] is [n, 1]) into
 * dst: [row_end - row_begin, col_end - col_begin] row-major, dst_dtype; conversions round to
 * nearest even. scratch: at least checkpoint_scratch_bytes(...) bytes for as many rows and columns,
 * aligned to 8, when the dtypes differ; else may be NULL. Reads just these bytes: one run when the
 * columns are all, a run a row otherwise. FAIL_FILE when the file cannot be read or is shorter than
 * when it was opened. */
int checkpoint_read(checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor, size_t row_begin,
    size_t row_end, size_t col_begin, size_t col_end, void *dst, dtype_t dst_dtype, void *scratch,
    fail_t *fail);
size_t checkpoint_scratch_bytes(
    const checkpoint_tensor_t *tensor, size_t rows, size_t columns, dtype_t dst_dtype);

/* Reads the stored bytes [begin, end) of a tensor of any dtype: ids, texts, digests. dst: [end -
 * begin]. FAIL_FILE as above. */
int checkpoint_read_bytes(checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor,
    uint64_t begin, uint64_t end, void *dst, fail_t *fail);

/* Reads elements of a tensor of any dtype as they are stored: rows [row_begin, row_end) and columns [col_begin,
 * col_end), seen as checkpoint_read() sees it. dst: row-major. Elements are whole bytes. FAIL_FILE as above. */
int checkpoint_read_raw(checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor,
    size_t row_begin, size_t row_end, size_t col_begin, size_t col_end, void *dst, fail_t *fail);

/* Bytes of tensor data read from files so far, by all threads; compressed bytes for a store. */
uint64_t checkpoint_bytes_read(const checkpoint_t *checkpoint);

/* A digest of everything that must be equal on all ranks: names, dtypes, shapes, offsets and sizes
 * of all tensors; of a store also the checksums of all their contents. */
uint64_t checkpoint_digest(const checkpoint_t *checkpoint);

/* The store that the tensors come from; NULL for safetensors files. */
struct store *checkpoint_store(checkpoint_t *checkpoint);
/* With a store that has a share (store_set_share): announces that rows [row_begin, row_end) will be
 * read rows_at_once at a time. */
void checkpoint_want(checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor, size_t row_begin,
    size_t row_end, size_t rows_at_once);

#endif
