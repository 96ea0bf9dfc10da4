#include "sharding/checkpoint/safetensors.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file_at.h"
#include "engine/base/size.h"

#define METADATA_KEY "__metadata__"
/* Whole numbers up to here are exact in a double, which is what the parser gives. */
#define MAX_NUMBER 0x1p53

typedef struct dtype_info {
    const char *name;
    size_t bits;
    bool readable;
    dtype_t dtype;
} dtype_info_t;

static const dtype_info_t *find_dtype(const char *name)
{
    static const dtype_info_t dtypes[] = {
        {"BF16", 16, true, DTYPE_BF16},
        {"F16", 16, true, DTYPE_F16},
        {"F32", 32, true, DTYPE_F32},
        {"F64", 64, true, DTYPE_F64},
        {"BOOL", 8, false, 0},
        {"U8", 8, false, 0},
        {"I8", 8, false, 0},
        {"U16", 16, false, 0},
        {"I16", 16, false, 0},
        {"U32", 32, false, 0},
        {"I32", 32, false, 0},
        {"U64", 64, false, 0},
        {"I64", 64, false, 0},
        {"C64", 64, false, 0},
        {"F8_E5M2", 8, false, 0},
        {"F8_E4M3", 8, false, 0},
        {"F8_E8M0", 8, false, 0},
        {"F8_E5M2FNUZ", 8, false, 0},
        {"F8_E4M3FNUZ", 8, false, 0},
        {"F6_E2M3", 6, false, 0},
        {"F6_E3M2", 6, false, 0},
        {"F4", 4, false, 0},
    };
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    return NULL;
}

int safetensors_header_bytes(const unsigned char *prefix, uint64_t file_bytes, const char *path,
    size_t *header_bytes, fail_t *fail)
{
    if (file_bytes < SAFETENSORS_PREFIX_BYTES)
        return fail_set(fail, FAIL_FORMAT,
            "%s: truncated: expected at least the %d bytes of the header's length, found %" PRIu64,
            path, SAFETENSORS_PREFIX_BYTES, file_bytes);
    if (memcmp(prefix, "version ", SAFETENSORS_PREFIX_BYTES) == 0)
        return fail_set(fail, FAIL_FORMAT,
            "%s: expected a safetensors file, found what looks like a Git LFS pointer (git lfs pull fetches the file itself)",
            path);
    uint64_t length = 0;
    for (int i = SAFETENSORS_PREFIX_BYTES; i-- > 0;)
        length = length << 8 | prefix[i];
    if (length < 2 || length > SAFETENSORS_MAX_HEADER_BYTES)
        return fail_set(fail, FAIL_FORMAT,
            "%s: header length: expected 2 to %d bytes, found %" PRIu64
            " (not a safetensors file?)",
            path, SAFETENSORS_MAX_HEADER_BYTES, length);
    if (length > file_bytes - SAFETENSORS_PREFIX_BYTES)
        return fail_set(fail, FAIL_FORMAT,
            "%s: truncated: expected a header of %" PRIu64 " bytes, found %" PRIu64, path, length,
            file_bytes - SAFETENSORS_PREFIX_BYTES);
    *header_bytes = (size_t)length;
    return 0;
}

/* Names for messages. */
typedef struct subject {
    const char *path, *tensor;
} subject_t;

static int read_number(subject_t subject, const char *what, size_t index, const json_t *value,
    uint64_t *number, fail_t *fail)
{
    double found = json_number_value(value);
    if (!json_is_number(value))
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: %s[%zu]: expected a whole number, found something else", subject.path,
            subject.tensor, what, index);
    if (!(found >= 0 && found <= MAX_NUMBER) || found != (double)(uint64_t)found)
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: %s[%zu]: expected a whole number from 0 to 2^53, found %.17g",
            subject.path, subject.tensor, what, index, found);
    *number = (uint64_t)found;
    return 0;
}

/* shape, and from it and the dtype the size in bytes. */
static int read_shape(subject_t subject, json_t *shape, const dtype_info_t *dtype,
    checkpoint_tensor_t *tensor, fail_t *fail)
{
    if (!json_is_array(shape) || json_array_size(shape) > CHECKPOINT_MAX_DIMS)
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: shape: expected an array of at most %d sizes, found %s", subject.path,
            subject.tensor, CHECKPOINT_MAX_DIMS, json_is_array(shape) ? "more" : "something else");
    size_t bits = dtype->bits;
    tensor->n_dims = json_array_size(shape);
    for (size_t d = 0; d < tensor->n_dims; d++) {
        uint64_t size = 0;
        if (read_number(subject, "shape", d, json_array_get(shape, d), &size, fail) != 0)
            return fail->status;
        tensor->shape[d] = (size_t)size;
        if (!size_mul(bits, tensor->shape[d], &bits))
            return fail_set(fail, FAIL_FORMAT,
                "%s: tensor %s: shape: expected a size below 2^64 bits, found more up to shape[%zu] = %zu",
                subject.path, subject.tensor, d, tensor->shape[d]);
    }
    if (bits % 8 != 0)
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: expected whole bytes, found a shape of %zu bits", subject.path,
            subject.tensor, bits);
    tensor->size_bytes = bits / 8;
    return 0;
}

/* data_offsets, into offset_bytes still counting from the data's start. */
static int read_offsets(
    subject_t subject, json_t *offsets, checkpoint_tensor_t *tensor, fail_t *fail)
{
    uint64_t begin = 0, end = 0;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: data_offsets: expected [begin, end], found something else",
            subject.path, subject.tensor);
    if (read_number(subject, "data_offsets", 0, json_array_get(offsets, 0), &begin, fail) != 0 ||
        read_number(subject, "data_offsets", 1, json_array_get(offsets, 1), &end, fail) != 0)
        return fail->status;
    if (end < begin || end - begin != tensor->size_bytes)
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: data_offsets: expected the %" PRIu64
            " bytes of its shape and dtype, found [%" PRIu64 ", %" PRIu64 "]",
            subject.path, subject.tensor, tensor->size_bytes, begin, end);
    tensor->offset_bytes = begin;
    return 0;
}

static int read_tensor(
    const char *path, const char *name, json_t *entry, checkpoint_tensor_t *tensor, fail_t *fail)
{
    subject_t subject = {path, name};
    const char *dtype_text = json_string_value(json_object_get(entry, "dtype"));
    if (dtype_text == NULL)
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: expected an object with a dtype, found none", path, name);
    const dtype_info_t *dtype = find_dtype(dtype_text);
    if (dtype == NULL)
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: dtype: expected BF16, F16, F32 or another of the format, found %.32s",
            path, name, dtype_text);
    *tensor = (checkpoint_tensor_t){.name = name,
        .file = path,
        .dtype_name = dtype->name,
        .readable = dtype->readable,
        .dtype = dtype->dtype};
    if (read_shape(subject, json_object_get(entry, "shape"), dtype, tensor, fail) != 0)
        return fail->status;
    return read_offsets(subject, json_object_get(entry, "data_offsets"), tensor, fail);
}

static int check_metadata(const char *path, json_t *metadata, fail_t *fail)
{
    if (json_is_null(metadata))
        return 0;
    if (!json_is_object(metadata))
        return fail_set(fail, FAIL_FORMAT,
            "%s: " METADATA_KEY ": expected an object, found something else", path);
    const char *key;
    json_t *value;
    json_object_foreach (metadata, key, value)
        if (!json_is_string(value))
            return fail_set(fail, FAIL_FORMAT,
                "%s: " METADATA_KEY ": %.64s: expected a string, found something else", path, key);
    return 0;
}

static int read_tensors(safetensors_t *header, const char *path, fail_t *fail)
{
    const char *name;
    json_t *entry;
    json_object_foreach (header->root, name, entry) {
        if (strcmp(name, METADATA_KEY) == 0) {
            if (check_metadata(path, entry, fail) != 0)
                return fail->status;
        } else if (read_tensor(path, name, entry, &header->tensors[header->n_tensors], fail) != 0) {
            return fail->status;
        } else {
            header->n_tensors++;
        }
    }
    return 0;
}

static int compare_offsets(const void *a, const void *b)
{
    const checkpoint_tensor_t *x = a, *y = b;
    if (x->offset_bytes != y->offset_bytes)
        return x->offset_bytes < y->offset_bytes ? -1 : 1;
    if (x->size_bytes != y->size_bytes)
        return x->size_bytes < y->size_bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

int safetensors_compare_names(const void *a, const void *b)
{
    const checkpoint_tensor_t *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* The tensors, sorted by offset, must fill the data exactly. */
static int check_layout(
    const safetensors_t *header, const char *path, uint64_t data_bytes, fail_t *fail)
{
    uint64_t end = 0;
    for (size_t i = 0; i < header->n_tensors; i++) {
        const checkpoint_tensor_t *tensor = &header->tensors[i];
        const char *before = i > 0 ? header->tensors[i - 1].name : "the header";
        if (tensor->offset_bytes != end)
            return fail_set(fail, FAIL_FORMAT,
                "%s: tensor %s: data_offsets: expected to begin at %" PRIu64
                " after %s, found %s %" PRIu64,
                path, tensor->name, end, before,
                tensor->offset_bytes < end ? "an overlap from" : "a hole up to",
                tensor->offset_bytes);
        end += tensor->size_bytes;
    }
    if (end > data_bytes)
        return fail_set(fail, FAIL_FORMAT,
            "%s: tensor %s: data_offsets: expected to end within the file's %" PRIu64
            " bytes of data, found %" PRIu64 " (file truncated?)",
            path, header->tensors[header->n_tensors - 1].name, data_bytes, end);
    if (end < data_bytes)
        return fail_set(fail, FAIL_FORMAT,
            "%s: expected %" PRIu64 " bytes of data, as the header says, found %" PRIu64, path, end,
            data_bytes);
    return 0;
}

static int parse(safetensors_t *header, const char *path, const char *text, size_t text_bytes,
    uint64_t file_bytes, fail_t *fail)
{
    *header = (safetensors_t){0};
    if (text_bytes == 0 || text[0] != '{')
        return fail_set(fail, FAIL_FORMAT, "%s: header: expected JSON that begins with {", path);
    /* Numbers as reals: a shape of 2^63 then gets a message that names its tensor. */
    json_error_t error;
    header->root =
        json_loadb(text, text_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);
    if (header->root == NULL)
        return fail_set(fail, FAIL_FORMAT,
            "%s: header: expected a JSON object of distinct tensor names, found %s (byte %d)", path,
            error.text, error.position);
    uint64_t data_begin = SAFETENSORS_PREFIX_BYTES + (uint64_t)text_bytes;
    header->tensors = calloc(json_object_size(header->root) + 1, sizeof *header->tensors);
    if (header->tensors == NULL) {
        fail_set(fail, FAIL_MEMORY, "%s: no memory for its header", path);
    } else if (read_tensors(header, path, fail) == 0) {
        qsort(header->tensors, header->n_tensors, sizeof *header->tensors, compare_offsets);
        check_layout(header, path, file_bytes - data_begin, fail);
        for (size_t i = 0; i < header->n_tensors; i++)
            header->tensors[i].offset_bytes += data_begin;
        qsort(
            header->tensors, header->n_tensors, sizeof *header->tensors, safetensors_compare_names);
    }
    if (fail->status != 0)
        safetensors_clear(header);
    return fail->status;
}

static int read_part(
    const char *path, int fd, uint64_t offset, void *dst, size_t bytes, fail_t *fail)
{
    int error;
    size_t done = file_read_at(fd, offset, dst, bytes, &error);
    if (done < bytes)
        return fail_set(fail, FAIL_FILE,
            "%s: header: expected %zu bytes at %" PRIu64 ", found the first %zu of them: %s", path,
            bytes, offset, done, file_read_error(error));
    return 0;
}

int safetensors_read_text(
    const char *path, int fd, uint64_t file_bytes, char **text, size_t *text_bytes, fail_t *fail)
{
    unsigned char prefix[SAFETENSORS_PREFIX_BYTES] = {0};
    size_t prefix_bytes = file_bytes < sizeof prefix ? (size_t)file_bytes : sizeof prefix;
    *text = NULL;
    if (read_part(path, fd, 0, prefix, prefix_bytes, fail) != 0 ||
        safetensors_header_bytes(prefix, file_bytes, path, text_bytes, fail) != 0)
        return fail->status;
    *text = malloc(*text_bytes);
    if (*text == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "%s: no memory for its header of %zu bytes", path, *text_bytes);
    return read_part(path, fd, sizeof prefix, *text, *text_bytes, fail);
}

int safetensors_parse(safetensors_t *header, const char *path, const char *text, size_t text_bytes,
    uint64_t file_bytes, fail_t *fail)
{
    if (parse(header, path, text, text_bytes, file_bytes, fail) != 0)
        /* Messages quote the header, which may contain any bytes, and are single lines. */
        for (char *c = fail->message; *c != 0; c++)
            if ((unsigned char)*c < ' ' || *c == 0x7f)
                *c = '?';
    return fail->status;
}

void safetensors_clear(safetensors_t *header)
{
    free(header->tensors);
    json_decref(header->root);
    *header = (safetensors_t){0};
}

const checkpoint_tensor_t *safetensors_find(const safetensors_t *header, const char *name)
{
    checkpoint_tensor_t key = {.name = name};
    return bsearch(&key, header->tensors, header->n_tensors, sizeof key, safetensors_compare_names);
}

const char *safetensors_metadata(const safetensors_t *header, const char *key)
{
    return json_string_value(json_object_get(json_object_get(header->root, METADATA_KEY), key));
}
