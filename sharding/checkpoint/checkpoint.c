#include "sharding/checkpoint/checkpoint.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/digest.h"
#include "engine/base/file_at.h"
#include "engine/base/size.h"
#include "sharding/checkpoint/checkpoint_internal.h"

/* Converted tensors pass through pieces of this size, which stay in a core's cache. */
#define SCRATCH_BYTES ((size_t)1 << 20)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors data is little-endian");

/* ---- Reading bytes --------------------------------------------------------------------------- */

/* Reads all of [offset, offset + bytes) with pread. `object` and `name` say what for. */
static int read_fully(const tensor_file_t *file, const char *object, const char *name,
    uint64_t offset, void *dst, size_t bytes, fail_t *fail)
{
    int error;
    size_t done = file_read_at(file->fd, offset, dst, bytes, &error);
    if (error != 0)
        return fail_set(fail, FAIL_FILE, "%s: %s %s: cannot read %zu bytes at %" PRIu64 ": %s",
            file->path, object, name, bytes, offset, strerror(error));
    if (done < bytes)
        return fail_set(fail, FAIL_FILE,
            "%s: %s %s: expected %zu bytes at %" PRIu64
            ", found the file's end after %zu of them: it changed after it was opened",
            file->path, object, name, bytes, offset, done);
    return 0;
}

/* ---- Questions ------------------------------------------------------------------------------- */

bool checkpoint_ignored_index(const checkpoint_t *checkpoint)
{
    return checkpoint->index_ignored;
}

size_t checkpoint_count(const checkpoint_t *checkpoint)
{
    return checkpoint->n_tensors;
}

const checkpoint_tensor_t *checkpoint_at(const checkpoint_t *checkpoint, size_t index)
{
    return &checkpoint->tensors[index];
}

const checkpoint_tensor_t *checkpoint_find(const checkpoint_t *checkpoint, const char *name)
{
    checkpoint_tensor_t key = {.name = name};
    return bsearch(
        &key, checkpoint->tensors, checkpoint->n_tensors, sizeof key, safetensors_compare_names);
}

#define PREFIX "model."
#define MAX_NAME_BYTES 256

static const checkpoint_tensor_t *earlier(
    const checkpoint_tensor_t *a, const checkpoint_tensor_t *b)
{
    if (a == NULL || b == NULL)
        return a == NULL ? b : a;
    return strcmp(a->name, b->name) < 0 ? a : b;
}

const checkpoint_tensor_t *checkpoint_find_weight(const checkpoint_t *checkpoint, const char *name)
{
    char longer[MAX_NAME_BYTES];
    snprintf(longer, sizeof longer, PREFIX "%s", name);
    const checkpoint_tensor_t *found =
        earlier(checkpoint_find(checkpoint, name), checkpoint_find(checkpoint, longer));
    if (strncmp(name, PREFIX, strlen(PREFIX)) == 0)
        found = earlier(found, checkpoint_find(checkpoint, name + strlen(PREFIX)));
    if (found == NULL && strcmp(name, "model.embed_tokens.weight") == 0)
        found = checkpoint_find_weight(checkpoint, "lm_head.weight");
    return found;
}

typedef struct shape_text {
    char text[CHECKPOINT_MAX_DIMS * 22 + 3];
} shape_text_t;

static shape_text_t format_shape(size_t n_dims, const size_t *shape)
{
    shape_text_t result = {"["};
    size_t used = 1;
    for (size_t d = 0; d < n_dims; d++)
        used += (size_t)snprintf(
            result.text + used, sizeof result.text - used, "%s%zu", d > 0 ? ", " : "", shape[d]);
    snprintf(result.text + used, sizeof result.text - used, "]");
    return result;
}

static int fail_unreadable(const checkpoint_tensor_t *tensor, fail_t *fail)
{
    return fail_set(fail, FAIL_MODEL,
        "%s: tensor %s: dtype: expected BF16, F16, F32 or F64, found %s", tensor->file,
        tensor->name, tensor->dtype_name);
}

int checkpoint_get(const checkpoint_t *checkpoint, const char *name, size_t rows, size_t columns,
    const checkpoint_tensor_t **tensor, fail_t *fail)
{
    size_t n_dims = columns == 0 ? 1 : 2;
    size_t shape[2] = {rows, columns};
    const checkpoint_tensor_t *found = checkpoint_find_weight(checkpoint, name);
    if (found == NULL)
        return fail_set(fail, FAIL_MODEL, "%s: tensor %s: expected shape %s, found no such tensor",
            checkpoint->path, name, format_shape(n_dims, shape).text);
    if (found->n_dims != n_dims || memcmp(found->shape, shape, n_dims * sizeof *shape) != 0)
        return fail_set(fail, FAIL_MODEL, "%s: tensor %s: expected shape %s, found %s", found->file,
            name, format_shape(n_dims, shape).text, format_shape(found->n_dims, found->shape).text);
    if (!found->readable)
        return fail_unreadable(found, fail);
    *tensor = found;
    return 0;
}

const char *checkpoint_metadata(const checkpoint_t *checkpoint, const char *key)
{
    return safetensors_metadata(&checkpoint->files[0].header, key);
}

uint64_t checkpoint_bytes_read(const checkpoint_t *checkpoint)
{
    if (checkpoint->store != NULL)
        return store_bytes_read(checkpoint->store);
    return atomic_load_explicit(&checkpoint->bytes_read, memory_order_relaxed);
}

uint64_t checkpoint_digest(const checkpoint_t *checkpoint)
{
    uint64_t digest = digest_u64(DIGEST_START, checkpoint->n_tensors);
    for (size_t i = 0; i < checkpoint->n_tensors; i++) {
        const checkpoint_tensor_t *tensor = &checkpoint->tensors[i];
        digest = digest_string(digest, tensor->name);
        digest = digest_string(digest, tensor->dtype_name);
        digest = digest_u64(digest, tensor->n_dims);
        for (size_t d = 0; d < tensor->n_dims; d++)
            digest = digest_u64(digest, tensor->shape[d]);
        digest = digest_u64(digest, tensor->offset_bytes);
        digest = digest_u64(digest, tensor->size_bytes);
    }
    /* Covers all contents, by their checksums. */
    if (checkpoint->store != NULL)
        digest = digest_u64(digest, store_manifest(checkpoint->store)->checksum);
    return digest;
}

store_t *checkpoint_store(checkpoint_t *checkpoint)
{
    return checkpoint->store;
}

void checkpoint_want(checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor, size_t row_begin,
    size_t row_end, size_t rows_at_once)
{
    uint64_t rows = tensor->n_dims > 0 ? tensor->shape[0] : 1;
    uint64_t row_bytes = rows == 0 ? 0 : tensor->size_bytes / rows;
    const checkpoint_tensor_t *found = checkpoint_find(checkpoint, tensor->name);
    for (size_t r = row_begin; r < row_end && found != NULL; r += rows_at_once)
        store_want(checkpoint->store, checkpoint->segments[found - checkpoint->tensors],
            r * row_bytes, size_min(r + rows_at_once, row_end) * row_bytes, 1);
}

/* ---- Reading tensors ------------------------------------------------------------------------- */

/* Any runs of a tensor's bytes, from the store's blocks. */
static int read_store(checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor,
    store_region_t region, void *dst, fail_t *fail)
{
    const checkpoint_tensor_t *found = checkpoint_find(checkpoint, tensor->name);
    if (found == NULL)
        return fail_set(fail, FAIL_INTERNAL, "%s: tensor %s: expected one of this store's",
            checkpoint->path, tensor->name);
    region.segment = checkpoint->segments[found - checkpoint->tensors];
    return store_read(checkpoint->store, &region, dst, fail);
}

size_t checkpoint_scratch_bytes(
    const checkpoint_tensor_t *tensor, size_t rows, size_t columns, dtype_t dst_dtype)
{
    if (tensor->dtype == dst_dtype)
        return 0;
    return size_min(rows * columns * dtype_bytes(tensor->dtype), SCRATCH_BYTES);
}

/* One read: elements of a tensor that lie side by side in the file. */
typedef struct span {
    const tensor_file_t *file;
    const checkpoint_tensor_t *tensor;
    size_t first, count; /* elements */
} span_t;

static int read_span(checkpoint_t *checkpoint, span_t span, void *dst, dtype_t dst_dtype,
    void *scratch, fail_t *fail)
{
    const checkpoint_tensor_t *tensor = span.tensor;
    size_t src_bytes = dtype_bytes(tensor->dtype), dst_bytes = dtype_bytes(dst_dtype);
    bool convert = tensor->dtype != dst_dtype;
    size_t step = convert ? size_min(span.count, SCRATCH_BYTES / src_bytes) : span.count;
    for (size_t done = 0; done < span.count; done += step) {
        size_t count = size_min(step, span.count - done);
        char *target = (char *)dst + done * dst_bytes;
        uint64_t offset = tensor->offset_bytes + (uint64_t)(span.first + done) * src_bytes;
        if (read_fully(span.file, "tensor", tensor->name, offset, convert ? scratch : target,
                count * src_bytes, fail) != 0)
            return fail->status;
        atomic_fetch_add_explicit(&checkpoint->bytes_read, count * src_bytes, memory_order_relaxed);
        if (convert)
            dtype_convert(target, dst_dtype, scratch, tensor->dtype, count);
    }
    return 0;
}

static const tensor_file_t *file_of(
    const checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor)
{
    for (size_t i = 0; i < checkpoint->n_files; i++)
        if (checkpoint->files[i].path == tensor->file)
            return &checkpoint->files[i];
    return NULL;
}

int checkpoint_read(checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor, size_t row_begin,
    size_t row_end, size_t col_begin, size_t col_end, void *dst, dtype_t dst_dtype, void *scratch,
    fail_t *fail)
{
    size_t rows = tensor->n_dims > 0 ? tensor->shape[0] : 1, columns = 1;
    for (size_t d = 1; d < tensor->n_dims; d++)
        columns *= tensor->shape[d];
    const tensor_file_t *file = file_of(checkpoint, tensor);
    if (!tensor->readable)
        return fail_unreadable(tensor, fail);
    if (file == NULL || row_begin > row_end || row_end > rows || col_begin > col_end ||
        col_end > columns)
        return fail_set(fail, FAIL_INTERNAL,
            "%s: tensor %s: expected a range of its [%zu, %zu], found rows %zu to %zu, columns %zu to %zu",
            tensor->file, tensor->name, rows, columns, row_begin, row_end, col_begin, col_end);
    size_t n_rows = row_end - row_begin, n_columns = col_end - col_begin;
    if (checkpoint->store != NULL) {
        size_t element = dtype_bytes(tensor->dtype);
        store_region_t region = {.begin = (row_begin * columns + col_begin) * element,
            .pitch = columns * element,
            .width = n_columns * element,
            .count = n_rows,
            .src_dtype = tensor->dtype,
            .dst_dtype = dst_dtype};
        return read_store(checkpoint, tensor, region, dst, fail);
    }
    span_t span = {file, tensor, row_begin * columns + col_begin, n_columns};
    if (n_columns == columns) {
        span.count = n_rows * columns;
        n_rows = n_rows > 0 ? 1 : 0;
    }
    size_t dst_row_bytes = n_columns * dtype_bytes(dst_dtype);
    for (size_t r = 0; r < n_rows; r++, span.first += columns)
        if (read_span(
                checkpoint, span, (char *)dst + r * dst_row_bytes, dst_dtype, scratch, fail) != 0)
            return fail->status;
    return 0;
}

int checkpoint_read_bytes(checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor,
    uint64_t begin, uint64_t end, void *dst, fail_t *fail)
{
    const tensor_file_t *file = file_of(checkpoint, tensor);
    if (file == NULL || begin > end || end > tensor->size_bytes)
        return fail_set(fail, FAIL_INTERNAL,
            "%s: tensor %s: expected a range of its %" PRIu64 " bytes, found %" PRIu64
            " to %" PRIu64,
            tensor->file, tensor->name, tensor->size_bytes, begin, end);
    if (checkpoint->store != NULL) {
        size_t bytes = (size_t)(end - begin);
        store_region_t region = {.begin = begin, .pitch = bytes, .width = bytes, .count = 1};
        return read_store(checkpoint, tensor, region, dst, fail);
    }
    if (read_fully(file, "tensor", tensor->name, tensor->offset_bytes + begin, dst,
            (size_t)(end - begin), fail) != 0)
        return fail->status;
    atomic_fetch_add_explicit(&checkpoint->bytes_read, end - begin, memory_order_relaxed);
    return 0;
}

int checkpoint_read_raw(checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor,
    size_t row_begin, size_t row_end, size_t col_begin, size_t col_end, void *dst, fail_t *fail)
{
    size_t rows = tensor->n_dims > 0 ? tensor->shape[0] : 1, columns = 1;
    for (size_t d = 1; d < tensor->n_dims; d++)
        columns *= tensor->shape[d];
    size_t element = rows * columns == 0 ? 0 : (size_t)tensor->size_bytes / (rows * columns);
    if (row_begin > row_end || row_end > rows || col_begin > col_end || col_end > columns)
        return fail_set(fail, FAIL_INTERNAL,
            "%s: tensor %s: expected a range of its [%zu, %zu], found rows %zu to %zu, columns %zu to %zu",
            tensor->file, tensor->name, rows, columns, row_begin, row_end, col_begin, col_end);
    size_t pitch = columns * element, width = (col_end - col_begin) * element,
           n = row_end - row_begin;
    uint64_t begin = row_begin * pitch + col_begin * element;
    if (checkpoint->store != NULL) {
        store_region_t region = {.begin = begin, .pitch = pitch, .width = width, .count = n};
        return read_store(checkpoint, tensor, region, dst, fail);
    }
    if (width == pitch) {
        width *= n;
        n = n > 0 ? 1 : 0;
    }
    for (size_t r = 0; r < n; r++)
        if (checkpoint_read_bytes(checkpoint, tensor, begin + r * pitch, begin + r * pitch + width,
                (char *)dst + r * width, fail) != 0)
            return fail->status;
    return 0;
}
