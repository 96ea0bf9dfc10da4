#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/input.h"
#include "engine/base/path.h"
#include "sharding/checkpoint/checkpoint_files.h"
#include "sharding/checkpoint/checkpoint_internal.h"

/* ---- Opening --------------------------------------------------------------------------------- */

static int read_header(tensor_file_t *file, fail_t *fail)
{
    char *text;
    size_t bytes;
    if (safetensors_read_text(file->path, file->fd, file->size_bytes, &text, &bytes, fail) == 0)
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
    if (input_open(path, &file->fd, &info, fail) != 0)
        return fail->status;
    file->size_bytes = (uint64_t)info.st_size;
    return read_header(file, fail);
}

static int compare_tensors(const void *a, const void *b)
{
    const checkpoint_tensor_t *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : strcmp(x->file, y->file);
}

/* The tensors of all files, by name; of those with one name the last file's, as transformers takes
 * them. Files are in the order of their names. */
static int list_tensors(checkpoint_t *checkpoint, fail_t *fail)
{
    size_t n = 0, kept = 0;
    for (size_t i = 0; i < checkpoint->n_files; i++)
        n += checkpoint->files[i].header.n_tensors;
    checkpoint_tensor_t *tensors = checkpoint->tensors = malloc((n + 1) * sizeof *tensors);
    if (tensors == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "%s: no memory for its %zu tensors", checkpoint->path, n);
    n = 0;
    for (size_t i = 0; i < checkpoint->n_files; i++) {
        const safetensors_t *header = &checkpoint->files[i].header;
        for (size_t t = 0; t < header->n_tensors; t++)
            tensors[n++] = header->tensors[t];
    }
    qsort(tensors, n, sizeof *tensors, compare_tensors);
    for (size_t i = 0; i < n; i++)
        if (i + 1 == n || strcmp(tensors[i].name, tensors[i + 1].name) != 0)
            tensors[kept++] = tensors[i];
    checkpoint->n_tensors = kept;
    return 0;
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
    return list_tensors(checkpoint, fail);
}

static int open_listed(checkpoint_t *checkpoint, const checkpoint_files_t *files, fail_t *fail)
{
    checkpoint->index_ignored = files->index_ignored;
    checkpoint->files = malloc(files->n * sizeof *checkpoint->files);
    if (checkpoint->files == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: no memory to open it", checkpoint->path);
    for (size_t i = 0; i < files->n; i++) {
        tensor_file_t *file = &checkpoint->files[checkpoint->n_files++];
        *file = (tensor_file_t){.fd = -1};
        if (files->needed != NULL && !path_exists(checkpoint->path, files->names[i]))
            return fail_set(fail, FAIL_FILE,
                "%s/" CHECKPOINT_INDEX_FILE
                ": weight_map: expected the file %s, for tensor %s, in %s, found none",
                checkpoint->path, files->names[i], files->needed[i], checkpoint->path);
        if (open_file(file, path_join(checkpoint->path, files->names[i]), fail) != 0)
            return fail->status;
    }
    return list_tensors(checkpoint, fail);
}

/* ---- Shard store ----------------------------------------------------------------------------- */

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

/* The manifest and the source's own header must describe a tensor equally. */
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
            (tensor_file_t){.path = path_join(directory, manifest->sources[i].name),
                .fd = -1,
                .size_bytes = manifest->sources[i].bytes};
        if (checkpoint->files[i].path == NULL)
            return fail_set(fail, FAIL_MEMORY, "checkpoint: no memory for a file's name");
    }
    return list_store_tensors(checkpoint, fail);
}

/* ---- Directory ------------------------------------------------------------------------------- */

static int open_directory(checkpoint_t *checkpoint, const char *directory, fail_t *fail)
{
    if (input_check_directory(directory, "a model directory", fail) != 0)
        return fail->status;
    if (store_is(directory))
        return open_store(checkpoint, directory, fail);
    checkpoint_files_t files;
    if (checkpoint_files_list(&files, directory, fail) != 0)
        return fail->status;
    open_listed(checkpoint, &files, fail);
    checkpoint_files_clear(&files);
    return fail->status;
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
