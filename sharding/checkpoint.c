#include "sharding/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/base/size.h"
#include "sharding/digest.h"
#include "sharding/safetensors.h"
#include "sharding/store.h"

#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE "model.safetensors.index.json"
/* Converted tensors pass through pieces of this size, which stay in a core's cache. */
#define SCRATCH_BYTES ((size_t)1 << 20)
/* Linux reads at most 2 GiB - 4 KiB at once anyway. */
#define PREAD_BYTES ((size_t)1 << 30)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors data is little-endian");

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
    size_t n_tensors;
    checkpoint_tensor_t
        *tensors; /* in the order of their names; names belong to the files' headers */
    /* A shard store: its sources stand in for the files, without descriptors. */
    store_t *store;
    size_t *segments; /* [n_tensors] of the tensors */
    _Atomic uint64_t bytes_read;
};

/* ---- Reading bytes ----------------------------------------------------------------------------
 */

/* Reads all of [offset, offset + bytes). `object` and `name` say what for. */
static int read_fully(const tensor_file_t *file, const char *object, const char *name,
    uint64_t offset, void *dst, size_t bytes, fail_t *fail)
{
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = pread(file->fd, (char *)dst + done, size_min(bytes - done, PREAD_BYTES),
            (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_set(fail, FAIL_FILE, "%s: %s %s: cannot read %zu bytes at %" PRIu64 ": %s",
                file->path, object, name, bytes, offset, strerror(errno));
        if (got == 0)
            return fail_set(fail, FAIL_FILE,
                "%s: %s %s: expected %zu bytes at %" PRIu64
                ", found the file's end after %zu of them: it changed after it was opened",
                file->path, object, name, bytes, offset, done);
        done += (size_t)got;
    }
    return 0;
}

/* ---- Opening ----------------------------------------------------------------------------------
 */

static int read_header(tensor_file_t *file, fail_t *fail)
{
    unsigned char prefix[SAFETENSORS_PREFIX_BYTES] = {0};
    size_t bytes = 0;
    if (read_fully(file, "header", "length", 0, prefix,
            (size_t)(file->size_bytes < sizeof prefix ? file->size_bytes : sizeof prefix),
            fail) != 0)
        return fail->status;
    if (safetensors_header_bytes(prefix, file->size_bytes, file->path, &bytes, fail) != 0)
        return fail->status;
    char *text = malloc(bytes);
    if (text == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "%s: no memory for its header of %zu bytes", file->path, bytes);
    if (read_fully(file, "header", "text", sizeof prefix, text, bytes, fail) == 0)
        safetensors_parse(&file->header, file->path, text, bytes, file->size_bytes, fail);
    free(text);
    return fail->status;
}

/* Takes path, also on failure. */
static int open_file(tensor_file_t *file, char *path, fail_t *fail)
{
    *file = (tensor_file_t){.path = path, .fd = -1};
    if (path == NULL)
        return fail_set(fail, FAIL_MEMORY, "checkpoint: no memory for a file's name");
    struct stat info;
    file->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0 || fstat(file->fd, &info) != 0)
        return fail_set(fail, FAIL_FILE, "%s: cannot open: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return fail_set(fail, FAIL_FILE, "%s: expected a regular file, found something else", path);
    file->size_bytes = (uint64_t)info.st_size;
    return read_header(file, fail);
}

static char *join(const char *directory, const char *name)
{
    char *path;
    size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] == '/' ? "" : "/";
    return asprintf(&path, "%s%s%s", directory, slash, name) < 0 ? NULL : path;
}

static bool file_exists(const char *directory, const char *name)
{
    char *path = join(directory, name);
    bool exists = path != NULL && access(path, F_OK) == 0;
    free(path);
    return exists;
}

/* The one file's tensors are the checkpoint's. Takes path, also on failure. */
static int open_single(checkpoint_t *checkpoint, char *path, fail_t *fail)
{
    checkpoint->files = malloc(sizeof *checkpoint->files);
    if (checkpoint->files == NULL) {
        free(path);
        return fail_set(fail, FAIL_MEMORY, "%s: no memory to open it", checkpoint->path);
    }
    checkpoint->n_files = 1;
    if (open_file(&checkpoint->files[0], path, fail) != 0)
        return fail->status;
    const safetensors_t *header = &checkpoint->files[0].header;
    checkpoint->n_tensors = header->n_tensors;
    checkpoint->tensors = malloc((header->n_tensors + 1) * sizeof *checkpoint->tensors);
    if (checkpoint->tensors == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: no memory for its tensors", checkpoint->path);
    if (header->n_tensors > 0)
        memcpy(
            checkpoint->tensors, header->tensors, header->n_tensors * sizeof *checkpoint->tensors);
    return 0;
}

/* ---- Index ------------------------------------------------------------------------------------
 */

/* An entry of weight_map, in the order of file, then tensor. */
typedef struct index_entry {
    const char *file, *tensor;
} index_entry_t;

static int compare_entries(const void *a, const void *b)
{
    const index_entry_t *x = a, *y = b;
    int order = strcmp(x->file, y->file);
    return order != 0 ? order : strcmp(x->tensor, y->tensor);
}

/* entries: [json_object_size(map)], written */
static int read_entries(const char *path, json_t *map, index_entry_t *entries, fail_t *fail)
{
    size_t n = 0;
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value)
    {
        const char *file = json_string_value(value);
        if (file == NULL || file[0] == 0 || strchr(file, '/') != NULL)
            return fail_set(fail, FAIL_FORMAT,
                "%s: weight_map: %s: expected the name of a file beside the index, found %s", path,
                tensor, file != NULL ? file : "something else");
        entries[n++] = (index_entry_t){file, tensor};
    }
    qsort(entries, n, sizeof *entries, compare_entries);
    return 0;
}

static int open_indexed_file(checkpoint_t *checkpoint, const char *index_path,
    const index_entry_t *entry, tensor_file_t **file, fail_t *fail)
{
    *file = &checkpoint->files[checkpoint->n_files++];
    **file = (tensor_file_t){.fd = -1};
    if (!file_exists(checkpoint->path, entry->file))
        return fail_set(fail, FAIL_FILE,
            "%s: weight_map: expected the file %s, for tensor %s, in %s, found none", index_path,
            entry->file, entry->tensor, checkpoint->path);
    return open_file(*file, join(checkpoint->path, entry->file), fail);
}

static int open_entries(checkpoint_t *checkpoint, const char *index_path,
    const index_entry_t *entries, size_t n, fail_t *fail)
{
    tensor_file_t *file = NULL;
    checkpoint->tensors = malloc(n * sizeof *checkpoint->tensors);
    checkpoint->files = malloc(n * sizeof *checkpoint->files);
    if (checkpoint->tensors == NULL || checkpoint->files == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: no memory for %zu tensors", index_path, n);
    for (size_t i = 0; i < n; i++) {
        if ((i == 0 || strcmp(entries[i].file, entries[i - 1].file) != 0) &&
            open_indexed_file(checkpoint, index_path, &entries[i], &file, fail) != 0)
            return fail->status;
        const checkpoint_tensor_t *tensor = safetensors_find(&file->header, entries[i].tensor);
        if (tensor == NULL)
            return fail_set(fail, FAIL_FORMAT,
                "%s: weight_map: expected tensor %s in %s, found no such tensor there", index_path,
                entries[i].tensor, file->path);
        checkpoint->tensors[checkpoint->n_tensors++] = *tensor;
    }
    qsort(checkpoint->tensors, n, sizeof *checkpoint->tensors, safetensors_compare_names);
    return 0;
}

static int open_index(checkpoint_t *checkpoint, const char *path, fail_t *fail)
{
    json_t *root;
    if (json_file_read(path, &root, fail) != 0)
        return fail->status;
    json_t *map = json_object_get(root, "weight_map");
    size_t n = json_object_size(map);
    index_entry_t *entries = malloc((n + 1) * sizeof *entries);
    if (n == 0)
        fail_set(fail, FAIL_FORMAT,
            "%s: weight_map: expected an object with a file name for each tensor, found %s", path,
            map == NULL           ? "none"
            : json_is_object(map) ? "an empty one"
                                  : "something else");
    else if (entries == NULL)
        fail_set(fail, FAIL_MEMORY, "%s: no memory for %zu tensors", path, n);
    else if (read_entries(path, map, entries, fail) == 0)
        open_entries(checkpoint, path, entries, n, fail);
    free(entries);
    json_decref(root);
    return fail->status;
}

/* ---- Shard store ------------------------------------------------------------------------------
 */

/* The header of a source file, from its segment. */
static int read_store_header(checkpoint_t *checkpoint, size_t source, size_t segment, fail_t *fail)
{
    tensor_file_t *file = &checkpoint->files[source];
    size_t bytes = (size_t)store_manifest(checkpoint->store)->segments[segment].bytes, text_bytes;
    store_region_t region = {.segment = segment, .pitch = bytes, .width = bytes, .count = 1};
    unsigned char *text = NULL;
    if (bytes < SAFETENSORS_PREFIX_BYTES ||
        bytes > SAFETENSORS_PREFIX_BYTES + SAFETENSORS_MAX_HEADER_BYTES)
        return fail_set(fail, FAIL_FORMAT, "%s: header: expected %d to %d bytes, found %zu",
            file->path, SAFETENSORS_PREFIX_BYTES,
            SAFETENSORS_PREFIX_BYTES + SAFETENSORS_MAX_HEADER_BYTES, bytes);
    text = malloc(bytes);
    if (text == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "%s: no memory for its header of %zu bytes", file->path, bytes);
    if (store_read(checkpoint->store, &region, text, fail) == 0 &&
        safetensors_header_bytes(text, file->size_bytes, file->path, &text_bytes, fail) == 0) {
        if (text_bytes != bytes - SAFETENSORS_PREFIX_BYTES)
            fail_set(fail, FAIL_FORMAT, "%s: header: expected %zu bytes, found %zu", file->path,
                bytes - SAFETENSORS_PREFIX_BYTES, text_bytes);
        else
            safetensors_parse(&file->header, file->path,
                (const char *)text + SAFETENSORS_PREFIX_BYTES, text_bytes, file->size_bytes, fail);
    }
    free(text);
    return fail->status;
}

/* The manifest and the source's own header must tell the same of a tensor. */
static int add_store_tensor(checkpoint_t *checkpoint, const store_segment_t *segment, fail_t *fail)
{
    const tensor_file_t *file = &checkpoint->files[segment->source];
    const checkpoint_tensor_t *tensor = safetensors_find(&file->header, segment->name);
    if (tensor == NULL || tensor->offset_bytes != segment->offset ||
        tensor->size_bytes != segment->bytes || tensor->n_dims != segment->n_dims ||
        memcmp(tensor->shape, segment->shape, tensor->n_dims * sizeof *tensor->shape) != 0 ||
        strcmp(tensor->dtype_name, segment->dtype) != 0 ||
        (tensor->readable && segment->block_bytes % dtype_bytes(tensor->dtype) != 0))
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: expected what the manifest says of it, found something else",
            file->path, segment->name);
    if (segment->listed)
        checkpoint->tensors[checkpoint->n_tensors++] = *tensor;
    return 0;
}

static int list_store_tensors(checkpoint_t *checkpoint, fail_t *fail)
{
    const store_manifest_t *manifest = store_manifest(checkpoint->store);
    checkpoint_tensor_t *tensors = checkpoint->tensors;
    for (size_t i = 0; i < manifest->n_segments; i++) {
        const store_segment_t *segment = &manifest->segments[i];
        if ((segment->offset == 0 ? read_store_header(checkpoint, segment->source, i, fail)
                                  : add_store_tensor(checkpoint, segment, fail)) != 0)
            return fail->status;
    }
    qsort(tensors, checkpoint->n_tensors, sizeof *tensors, safetensors_compare_names);
    for (size_t i = 0; i < checkpoint->n_tensors; i++) {
        size_t source = 0;
        if (i > 0 && strcmp(tensors[i - 1].name, tensors[i].name) == 0)
            return fail_set(fail, FAIL_FORMAT, "%s: tensor %s: expected it once, found it twice",
                checkpoint->path, tensors[i].name);
        while (checkpoint->files[source].path != tensors[i].file)
            source++;
        checkpoint->segments[i] = store_find(checkpoint->store, source, tensors[i].name);
    }
    return 0;
}

static int open_store(checkpoint_t *checkpoint, const char *directory, fail_t *fail)
{
    if (store_open(&checkpoint->store, directory, NULL, NULL, fail) != 0)
        return fail->status;
    const store_manifest_t *manifest = store_manifest(checkpoint->store);
    checkpoint->files = calloc(manifest->n_sources + 1, sizeof *checkpoint->files);
    checkpoint->tensors = calloc(manifest->n_segments + 1, sizeof *checkpoint->tensors);
    checkpoint->segments = calloc(manifest->n_segments + 1, sizeof *checkpoint->segments);
    if (checkpoint->files == NULL || checkpoint->tensors == NULL || checkpoint->segments == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: no memory to open it", directory);
    for (size_t i = 0; i < manifest->n_sources; i++) {
        checkpoint->files[checkpoint->n_files++] =
            (tensor_file_t){.path = join(directory, manifest->sources[i].name),
                .fd = -1,
                .size_bytes = manifest->sources[i].bytes};
        if (checkpoint->files[i].path == NULL)
            return fail_set(fail, FAIL_MEMORY, "checkpoint: no memory for a file's name");
    }
    return list_store_tensors(checkpoint, fail);
}

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

/* ---- Directory --------------------------------------------------------------------------------
 */

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), n_suffix = strlen(suffix);
    return n >= n_suffix && strcmp(name + n - n_suffix, suffix) == 0;
}

/* The likely mistake, when the directory holds weights of another kind. */
static const char *other_weights_hint(const char *directory)
{
    static const struct {
        const char *suffix, *hint;
    } hints[] = {
        {".safetensors", "; it holds other .safetensors files, is the index missing?"},
        {".gguf", "; .gguf files cannot be read, use the safetensors of the original model"},
        {".bin", "; pytorch_model.bin cannot be read, convert it to safetensors"},
    };
    size_t best = sizeof hints / sizeof *hints;
    DIR *listing = opendir(directory);
    if (listing == NULL)
        return "";
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;)
        for (size_t i = 0; i < best; i++)
            if (has_suffix(entry->d_name, hints[i].suffix))
                best = i;
    closedir(listing);
    return best < sizeof hints / sizeof *hints ? hints[best].hint : "";
}

static int fail_without_files(const char *directory, fail_t *fail)
{
    return fail_set(fail, FAIL_FILE,
        "%s: expected " INDEX_FILE " or " SINGLE_FILE ", found neither%s", directory,
        other_weights_hint(directory));
}

static int open_directory(checkpoint_t *checkpoint, const char *directory, fail_t *fail)
{
    struct stat info;
    if (stat(directory, &info) != 0)
        return fail_set(
            fail, FAIL_FILE, "%s: expected a model directory: %s", directory, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return fail_set(fail, FAIL_FILE, "%s: expected a model directory, found a file", directory);
    if (store_is(directory))
        return open_store(checkpoint, directory, fail);
    if (file_exists(directory, INDEX_FILE)) {
        char *path = join(directory, INDEX_FILE);
        if (path == NULL)
            return fail_set(fail, FAIL_MEMORY, "checkpoint: no memory for a file's name");
        open_index(checkpoint, path, fail);
        free(path);
        return fail->status;
    }
    if (!file_exists(directory, SINGLE_FILE))
        return fail_without_files(directory, fail);
    return open_single(checkpoint, join(directory, SINGLE_FILE), fail);
}

static int allocate(checkpoint_t **checkpoint, const char *path, fail_t *fail)
{
    *checkpoint = calloc(1, sizeof **checkpoint);
    if (*checkpoint != NULL)
        (*checkpoint)->path = strdup(path);
    if (*checkpoint == NULL || (*checkpoint)->path == NULL)
        fail_set(fail, FAIL_MEMORY, "%s: no memory to open it", path);
    return fail->status;
}

static int close_on_failure(checkpoint_t **checkpoint, const fail_t *fail)
{
    if (fail->status != 0) {
        checkpoint_close(*checkpoint);
        *checkpoint = NULL;
    }
    return fail->status;
}

int checkpoint_open(checkpoint_t **checkpoint, const char *directory, fail_t *fail)
{
    if (allocate(checkpoint, directory, fail) == 0)
        open_directory(*checkpoint, directory, fail);
    return close_on_failure(checkpoint, fail);
}

int checkpoint_open_file(checkpoint_t **checkpoint, const char *path, fail_t *fail)
{
    if (allocate(checkpoint, path, fail) == 0)
        open_single(*checkpoint, strdup(path), fail);
    return close_on_failure(checkpoint, fail);
}

void checkpoint_close(checkpoint_t *checkpoint)
{
    if (checkpoint == NULL)
        return;
    for (size_t i = 0; i < checkpoint->n_files; i++) {
        tensor_file_t *file = &checkpoint->files[i];
        safetensors_clear(&file->header);
        if (file->fd >= 0)
            close(file->fd);
        free(file->path);
    }
    store_close(checkpoint->store);
    free(checkpoint->files);
    free(checkpoint->tensors);
    free(checkpoint->segments);
    free(checkpoint->path);
    free(checkpoint);
}

/* ---- Questions --------------------------------------------------------------------------------
 */

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
    const checkpoint_tensor_t *found = checkpoint_find(checkpoint, name);
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

/* ---- Reading tensors --------------------------------------------------------------------------
 */

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
            "%s: tensor %s: expected a range of its [%zu, %zu], found rows %zu to %zu, columns %zu "
            "to %zu",
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
