#include "sharding/store/store_manifest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/size.h"

#define FORMAT_NAME "choir-store"
#define CHECKSUM_KEY ",\"checksum\":\""
/* ,"checksum":"0123456789abcdef"} and a newline */
#define CHECKSUM_BYTES (sizeof CHECKSUM_KEY - 1 + 16 + 3)
#define MAX_BYTES ((uint64_t)1 << 60)

typedef struct reader {
    const char *name;
    store_manifest_t *manifest;
    fail_t *fail;
} reader_t;

/* A run of frames in one data file. */
typedef struct extent {
    size_t data, first_frame, n_frames;
    uint64_t begin, end;
} extent_t;

/* ---- Fields ---------------------------------------------------------------------------------- */

static int wrong(reader_t *reader, const char *place, const char *expected)
{
    return fail_set(reader->fail, FAIL_FORMAT, "%s: %s: expected %s, found something else",
        reader->name, place, expected);
}

static uint64_t read_u64(reader_t *reader, json_t *object, const char *place, const char *key)
{
    json_t *value = json_object_get(object, key);
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || (uint64_t)number > MAX_BYTES) {
        fail_set(reader->fail, FAIL_FORMAT, "%s: %s: %s: expected 0 to %" PRIu64 ", found %s",
            reader->name, place, key, MAX_BYTES,
            json_is_integer(value) ? "another number" : "something else");
        return 0;
    }
    return (uint64_t)number;
}

static const char *read_text(reader_t *reader, json_t *object, const char *place, const char *key)
{
    json_t *value = json_object_get(object, key);
    const char *text = json_string_value(value);
    /* A zero byte inside would end it early. */
    if (text != NULL && strlen(text) == json_string_length(value))
        return text;
    fail_set(reader->fail, FAIL_FORMAT, "%s: %s: %s: expected a text", reader->name, place, key);
    return "";
}

static uint64_t read_checksum(reader_t *reader, json_t *object, const char *place, const char *key)
{
    uint64_t checksum = 0;
    const char *text = read_text(reader, object, place, key);
    if (reader->fail->status == 0 && (strlen(text) != 16 || store_hex_read(text, &checksum) != 0))
        fail_set(reader->fail, FAIL_FORMAT,
            "%s: %s: %s: expected 16 hexadecimal digits, found %.32s", reader->name, place, key,
            text);
    return checksum;
}

/* A name in the store's own directory, which cannot lead elsewhere. */
static bool is_plain_name(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n < 200 && name[0] != '.' && strchr(name, '/') == NULL;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static int read_file(reader_t *reader, json_t *entry, const char *kind, size_t index,
    const char *checksum_key, store_file_t *file)
{
    char place[64];
    snprintf(place, sizeof place, "%s %zu", kind, index);
    file->name = read_text(reader, entry, place, "name");
    file->bytes = read_u64(reader, entry, place, "bytes");
    file->checksum = read_checksum(reader, entry, place, checksum_key);
    if (reader->fail->status == 0 && !is_plain_name(file->name))
        fail_set(reader->fail, FAIL_FORMAT,
            "%s: %s: name: expected a file beside the manifest, found %.80s", reader->name, place,
            file->name);
    return reader->fail->status;
}

static int read_files(reader_t *reader, const char *kind, const char *checksum_key,
    store_file_t **files, size_t *n_files)
{
    json_t *array = json_object_get(reader->manifest->root, kind);
    size_t n = json_array_size(array);
    if (!json_is_array(array))
        return wrong(reader, kind, "a list of files");
    *files = calloc(n + 1, sizeof **files);
    if (*files == NULL)
        return fail_set(reader->fail, FAIL_MEMORY, "%s: out of memory", reader->name);
    *n_files = n;
    for (size_t i = 0; i < n; i++)
        if (read_file(reader, json_array_get(array, i), kind, i, checksum_key, &(*files)[i]) != 0)
            return reader->fail->status;
    return 0;
}

static int check_files(reader_t *reader)
{
    const store_manifest_t *manifest = reader->manifest;
    for (size_t i = 0; i < manifest->n_data; i++) {
        char name[STORE_DATA_NAME_BYTES];
        store_data_name(i, name);
        if (strcmp(manifest->data[i].name, name) != 0)
            return fail_set(reader->fail, FAIL_FORMAT,
                "%s: data %zu: name: expected %s, found %.80s", reader->name, i, name,
                manifest->data[i].name);
        if (manifest->data[i].bytes < STORE_HEAD_BYTES + STORE_TAIL_BYTES)
            return wrong(reader, name, "at least 128 bytes");
    }
    for (size_t i = 0; i < manifest->n_copied; i++) {
        const store_file_t *file = &manifest->copied[i];
        if (file->bytes > STORE_MAX_COPIED_BYTES)
            return wrong(reader, file->name, "a small file");
        if (strcmp(file->name, STORE_MANIFEST) == 0)
            return wrong(reader, file->name, "another name");
    }
    return 0;
}

/* ---- Segments -------------------------------------------------------------------------------- */

static int read_shape(reader_t *reader, json_t *entry, store_segment_t *segment)
{
    json_t *shape = json_object_get(entry, "shape");
    segment->n_dims = json_array_size(shape);
    if (!json_is_array(shape) || segment->n_dims > CHECKPOINT_MAX_DIMS)
        return wrong(reader, segment->name, "a shape");
    for (size_t d = 0; d < segment->n_dims; d++) {
        json_t *size = json_array_get(shape, d);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return wrong(reader, segment->name, "a shape");
        segment->shape[d] = (size_t)json_integer_value(size);
    }
    return 0;
}

static int check_blocks(reader_t *reader, store_segment_t *segment)
{
    size_t n_planes = store_planes_count(segment->planes);
    if (n_planes == 0 || segment->block_bytes == 0 ||
        segment->block_bytes > STORE_MAX_BLOCK_BYTES || segment->block_bytes % n_planes != 0 ||
        segment->bytes % n_planes != 0)
        return fail_set(reader->fail, FAIL_FORMAT,
            "%s: segment %.128s: expected blocks of at most %zu bytes in whole elements, found %zu in planes of kind %u",
            reader->name, segment->name, STORE_MAX_BLOCK_BYTES, segment->block_bytes,
            segment->planes);
    uint64_t n =
        segment->bytes / segment->block_bytes + (segment->bytes % segment->block_bytes > 0);
    if (n > UINT32_MAX)
        return wrong(reader, segment->name, "fewer blocks");
    segment->n_blocks = (size_t)n;
    return 0;
}

/* The number of frames that the text really has, before memory is taken for any. */
static int count_frames(reader_t *reader, json_t *extents, const store_segment_t *segment)
{
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(extents); i++)
        n += json_array_size(json_object_get(json_array_get(extents, i), "stored"));
    if (n != segment->n_blocks)
        return fail_set(reader->fail, FAIL_FORMAT,
            "%s: segment %.128s: %" PRIu64
            " bytes in blocks of %zu: expected %zu frames, found %zu",
            reader->name, segment->name, segment->bytes, segment->block_bytes, segment->n_blocks,
            n);
    reader->manifest->n_frames += n;
    return 0;
}

static int read_segment(reader_t *reader, json_t *entry, store_segment_t *segment)
{
    static const char place[] = "segment";
    const store_manifest_t *manifest = reader->manifest;
    *segment = (store_segment_t){.name = read_text(reader, entry, place, "name"),
        .dtype = read_text(reader, entry, place, "dtype"),
        .source = read_u64(reader, entry, place, "source"),
        .offset = read_u64(reader, entry, place, "offset"),
        .bytes = read_u64(reader, entry, place, "bytes"),
        .listed = json_is_true(json_object_get(entry, "listed")),
        .block_bytes = read_u64(reader, entry, place, "block_bytes"),
        .digest = read_checksum(reader, entry, place, "digest")};
    uint64_t planes = read_u64(reader, entry, place, "planes");
    segment->planes = planes > UINT32_MAX ? UINT32_MAX : (uint32_t)planes;
    if (reader->fail->status != 0)
        return reader->fail->status;
    if (segment->source >= manifest->n_sources)
        return wrong(reader, segment->name, "the number of a source");
    if (read_shape(reader, entry, segment) != 0 || check_blocks(reader, segment) != 0)
        return reader->fail->status;
    segment->first_frame = manifest->n_frames;
    return count_frames(reader, json_object_get(entry, "extents"), segment);
}

/* Segments cover each source from its first byte to its last. */
static int check_coverage(reader_t *reader)
{
    const store_manifest_t *manifest = reader->manifest;
    size_t next = 0;
    for (size_t s = 0; s < manifest->n_sources; s++) {
        uint64_t end = 0;
        for (; next < manifest->n_segments && manifest->segments[next].source == s; next++) {
            const store_segment_t *segment = &manifest->segments[next];
            if (segment->offset != end || (segment->name[0] == 0) != (end == 0))
                return wrong(reader, manifest->sources[s].name, "segments side by side");
            end += segment->bytes;
            if (end > MAX_BYTES)
                return wrong(reader, manifest->sources[s].name, "a smaller file");
        }
        if (end != manifest->sources[s].bytes || end == 0)
            return fail_set(reader->fail, FAIL_FORMAT,
                "%s: source %.128s: expected segments of %" PRIu64 " bytes, found %" PRIu64,
                reader->name, manifest->sources[s].name, manifest->sources[s].bytes, end);
    }
    if (next != manifest->n_segments)
        return wrong(reader, "segments", "them in the order of their sources");
    return 0;
}

static int read_segments(reader_t *reader)
{
    store_manifest_t *manifest = reader->manifest;
    json_t *array = json_object_get(manifest->root, "segments");
    size_t n = json_array_size(array);
    if (!json_is_array(array))
        return wrong(reader, "segments", "a list");
    manifest->segments = calloc(n + 1, sizeof *manifest->segments);
    if (manifest->segments == NULL)
        return fail_set(reader->fail, FAIL_MEMORY, "%s: out of memory", reader->name);
    manifest->n_segments = n;
    for (size_t i = 0; i < n; i++)
        if (read_segment(reader, json_array_get(array, i), &manifest->segments[i]) != 0)
            return reader->fail->status;
    return check_coverage(reader);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

/* One extent's frames, of which the segment's first is `block`. */
static int read_extent(reader_t *reader, json_t *entry, const store_segment_t *segment,
    size_t *block, extent_t *extent)
{
    store_manifest_t *manifest = reader->manifest;
    json_t *stored = json_object_get(entry, "stored");
    const char *checksums = read_text(reader, entry, segment->name, "checksums");
    *extent = (extent_t){.data = read_u64(reader, entry, segment->name, "data"),
        .begin = read_u64(reader, entry, segment->name, "offset"),
        .first_frame = segment->first_frame + *block,
        .n_frames = json_array_size(stored)};
    if (reader->fail->status != 0)
        return reader->fail->status;
    if (extent->data >= manifest->n_data || extent->n_frames == 0 ||
        strlen(checksums) / 16 != extent->n_frames || strlen(checksums) % 16 != 0)
        return wrong(reader, segment->name, "extents with a checksum for each frame");
    extent->end = extent->begin;
    for (size_t i = 0; i < extent->n_frames; i++, (*block)++) {
        store_frame_t *frame = &manifest->frames[segment->first_frame + *block];
        json_t *number = json_array_get(stored, i);
        json_int_t bytes = json_integer_value(number);
        size_t n_planes = store_planes_count(segment->planes);
        size_t room = STORE_FRAME_HEAD_BYTES + 4 * n_planes;
        if (!json_is_integer(number) || bytes <= (json_int_t)room ||
            bytes > (json_int_t)(room + store_block_bytes(segment, *block)))
            return fail_set(reader->fail, FAIL_FORMAT,
                "%s: segment %.128s: block %zu: expected a frame of at most %zu bytes, found %lld",
                reader->name, segment->name, *block, room + store_block_bytes(segment, *block),
                (long long)bytes);
        *frame = (store_frame_t){
            .offset = extent->end, .bytes = (uint32_t)bytes, .data = (uint32_t)extent->data};
        if (store_hex_read(checksums + 16 * i, &frame->checksum) != 0)
            return wrong(reader, segment->name, "checksums of 16 hexadecimal digits");
        manifest->max_frame_bytes = size_max(manifest->max_frame_bytes, (size_t)bytes);
        extent->end += (uint64_t)bytes;
    }
    return 0;
}

static int compare_extents(const void *a, const void *b)
{
    const extent_t *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Extents of a data file lie side by side between head and tail, and their checksums give its
 * digest. */
static int check_extents(reader_t *reader, extent_t *extents, size_t n)
{
    const store_manifest_t *manifest = reader->manifest;
    uint64_t *checksums = malloc((manifest->n_frames + 1) * sizeof *checksums);
    size_t next = 0;
    if (checksums == NULL)
        return fail_set(reader->fail, FAIL_MEMORY, "%s: out of memory", reader->name);
    qsort(extents, n, sizeof *extents, compare_extents);
    for (size_t d = 0; d < manifest->n_data && reader->fail->status == 0; d++) {
        uint64_t end = STORE_HEAD_BYTES;
        size_t n_checksums = 0;
        for (; next < n && extents[next].data == d && extents[next].begin == end; next++) {
            const extent_t *extent = &extents[next];
            for (size_t i = 0; i < extent->n_frames; i++)
                checksums[n_checksums++] = manifest->frames[extent->first_frame + i].checksum;
            end = extent->end;
        }
        if (end != manifest->data[d].bytes - STORE_TAIL_BYTES)
            fail_set(reader->fail, FAIL_FORMAT,
                "%s: %s: expected frames side by side up to %" PRIu64
                ", found the next at %" PRIu64,
                reader->name, manifest->data[d].name, manifest->data[d].bytes - STORE_TAIL_BYTES,
                end);
        else if (store_digest_of(checksums, n_checksums) != manifest->data[d].checksum)
            wrong(reader, manifest->data[d].name, "the digest of its frames");
    }
    if (next != n && reader->fail->status == 0)
        wrong(reader, "segments", "frames that do not overlap");
    free(checksums);
    return reader->fail->status;
}

static int read_extents(reader_t *reader, json_t *segments, extent_t *extents)
{
    const store_manifest_t *manifest = reader->manifest;
    size_t n = 0;
    for (size_t s = 0; s < manifest->n_segments; s++) {
        json_t *list = json_object_get(json_array_get(segments, s), "extents");
        size_t block = 0;
        for (size_t i = 0; i < json_array_size(list); i++)
            if (read_extent(reader, json_array_get(list, i), &manifest->segments[s], &block,
                    &extents[n++]) != 0)
                return reader->fail->status;
        /* The texts are kept, the numbers are copied. */
        json_object_del(json_array_get(segments, s), "extents");
    }
    return check_extents(reader, extents, n);
}

static int read_frames(reader_t *reader)
{
    store_manifest_t *manifest = reader->manifest;
    json_t *segments = json_object_get(manifest->root, "segments");
    size_t n_extents = 0;
    for (size_t s = 0; s < manifest->n_segments; s++)
        n_extents += json_array_size(json_object_get(json_array_get(segments, s), "extents"));
    extent_t *extents = malloc((n_extents + 1) * sizeof *extents);
    manifest->frames = malloc((manifest->n_frames + 1) * sizeof *manifest->frames);
    if (extents == NULL || manifest->frames == NULL)
        fail_set(reader->fail, FAIL_MEMORY, "%s: out of memory for %zu frames", reader->name,
            manifest->n_frames);
    else
        read_extents(reader, segments, extents);
    free(extents);
    return reader->fail->status;
}

/* ---- The whole ------------------------------------------------------------------------------- */

static int check_format(reader_t *reader)
{
    json_t *root = reader->manifest->root;
    const char *format = json_string_value(json_object_get(root, "format"));
    json_t *version = json_object_get(root, "version");
    if (format == NULL || strcmp(format, FORMAT_NAME) != 0)
        return wrong(reader, "format", "\"" FORMAT_NAME "\"");
    if (!json_is_integer(version) || json_integer_value(version) != STORE_VERSION)
        return fail_set(reader->fail, FAIL_FORMAT,
            "%s: version: expected %d, found %lld: this store was made by another Choir, make it again",
            reader->name, STORE_VERSION, (long long)json_integer_value(version));
    return 0;
}

static int check_own_checksum(reader_t *reader, const char *text, size_t bytes)
{
    const size_t key = sizeof CHECKSUM_KEY - 1;
    const char *end = text + (bytes < CHECKSUM_BYTES ? 0 : bytes - CHECKSUM_BYTES);
    uint64_t expected;
    if (bytes < CHECKSUM_BYTES || memcmp(end, CHECKSUM_KEY, key) != 0 ||
        store_hex_read(end + key, &expected) != 0 || memcmp(end + key + 16, "\"}\n", 3) != 0)
        return wrong(reader, "last bytes", "the manifest's checksum");
    uint64_t found = store_checksum(text, bytes - CHECKSUM_BYTES);
    if (found != expected)
        return fail_set(reader->fail, FAIL_FORMAT,
            "%s: expected the checksum %016" PRIx64 ", found %016" PRIx64, reader->name, expected,
            found);
    reader->manifest->checksum = found;
    return 0;
}

static int read_all(reader_t *reader, const char *text, size_t bytes)
{
    store_manifest_t *manifest = reader->manifest;
    if (json_text_read(text, bytes, reader->name, &manifest->root, reader->fail) != 0)
        return reader->fail->status;
    if (check_format(reader) != 0 || check_own_checksum(reader, text, bytes) != 0)
        return reader->fail->status;
    manifest->id = read_checksum(reader, manifest->root, "manifest", "id");
    uint64_t level = read_u64(reader, manifest->root, "manifest", "level");
    manifest->level = level > 1000 ? 1000 : (int)level;
    if (reader->fail->status != 0 ||
        read_files(reader, "copied", "checksum", &manifest->copied, &manifest->n_copied) != 0 ||
        read_files(reader, "data", "digest", &manifest->data, &manifest->n_data) != 0 ||
        read_files(reader, "sources", "checksum", &manifest->sources, &manifest->n_sources) != 0 ||
        check_files(reader) != 0 || read_segments(reader) != 0)
        return reader->fail->status;
    return read_frames(reader);
}

int store_manifest_read(
    store_manifest_t *manifest, const char *text, size_t bytes, const char *name, fail_t *fail)
{
    reader_t reader = {.name = name, .manifest = manifest, .fail = fail};
    *manifest = (store_manifest_t){0};
    if (read_all(&reader, text, bytes) != 0)
        store_manifest_clear(manifest);
    return fail->status;
}

void store_manifest_clear(store_manifest_t *manifest)
{
    free(manifest->copied);
    free(manifest->data);
    free(manifest->sources);
    free(manifest->segments);
    free(manifest->frames);
    json_decref(manifest->root);
    *manifest = (store_manifest_t){0};
}

/* ---- Writing --------------------------------------------------------------------------------- */

static json_t *files_json(const store_file_t *files, size_t n, const char *checksum_key)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array,
            json_pack("{s:s, s:I, s:s}", "name", files[i].name, "bytes", (json_int_t)files[i].bytes,
                checksum_key, store_hex(files[i].checksum).text));
    return array;
}

/* The run of frames that begins with the segment's block `first`. */
static size_t run_length(
    const store_manifest_t *manifest, const store_segment_t *segment, size_t first)
{
    const store_frame_t *frames = manifest->frames + segment->first_frame;
    size_t end = first + 1;
    while (end < segment->n_blocks && frames[end].data == frames[end - 1].data &&
           frames[end].offset == frames[end - 1].offset + frames[end - 1].bytes)
        end++;
    return end - first;
}

static json_t *extents_json(const store_manifest_t *manifest, const store_segment_t *segment)
{
    json_t *extents = json_array();
    const store_frame_t *frames = manifest->frames + segment->first_frame;
    for (size_t b = 0, n; b < segment->n_blocks; b += n) {
        n = run_length(manifest, segment, b);
        json_t *stored = json_array();
        char *checksums = malloc(16 * n + 1);
        for (size_t i = 0; i < n && checksums != NULL; i++) {
            json_array_append_new(stored, json_integer(frames[b + i].bytes));
            memcpy(checksums + 16 * i, store_hex(frames[b + i].checksum).text, 17);
        }
        json_array_append_new(extents,
            checksums == NULL
                ? NULL
                : json_pack("{s:i, s:I, s:o, s:s}", "data", (int)frames[b].data, "offset",
                      (json_int_t)frames[b].offset, "stored", stored, "checksums", checksums));
        free(checksums);
    }
    return extents;
}

static json_t *segment_json(const store_manifest_t *manifest, const store_segment_t *segment)
{
    json_t *shape = json_array();
    for (size_t d = 0; d < segment->n_dims; d++)
        json_array_append_new(shape, json_integer((json_int_t)segment->shape[d]));
    return json_pack("{s:i, s:I, s:I, s:s, s:s, s:o, s:b, s:i, s:i, s:s, s:o}", "source",
        (int)segment->source, "offset", (json_int_t)segment->offset, "bytes",
        (json_int_t)segment->bytes, "name", segment->name, "dtype", segment->dtype, "shape", shape,
        "listed", segment->listed, "planes", (int)segment->planes, "block_bytes",
        (int)segment->block_bytes, "digest", store_hex(segment->digest).text, "extents",
        extents_json(manifest, segment));
}

static json_t *manifest_json(const store_manifest_t *manifest)
{
    json_t *segments = json_array();
    for (size_t i = 0; i < manifest->n_segments; i++)
        json_array_append_new(segments, segment_json(manifest, &manifest->segments[i]));
    return json_pack("{s:s, s:i, s:s, s:i, s:o, s:o, s:o, s:o}", "format", FORMAT_NAME, "version",
        STORE_VERSION, "id", store_hex(manifest->id).text, "level", manifest->level, "copied",
        files_json(manifest->copied, manifest->n_copied, "checksum"), "data",
        files_json(manifest->data, manifest->n_data, "digest"), "sources",
        files_json(manifest->sources, manifest->n_sources, "checksum"), "segments", segments);
}

int store_manifest_write(const store_manifest_t *manifest, char **text, size_t *bytes, fail_t *fail)
{
    json_t *root = manifest_json(manifest);
    char *object = root == NULL ? NULL : json_dumps(root, JSON_COMPACT);
    size_t n = object == NULL ? 0 : strlen(object) - 1; /* without the closing brace */
    json_decref(root);
    *text = object == NULL ? NULL : malloc(n + CHECKSUM_BYTES + 1);
    if (*text != NULL)
        memcpy(*text, object, n);
    free(object);
    if (*text == NULL)
        return fail_set(fail, FAIL_MEMORY, "manifest: out of memory");
    sprintf(*text + n, CHECKSUM_KEY "%s\"}\n", store_hex(store_checksum(*text, n)).text);
    *bytes = n + CHECKSUM_BYTES;
    return 0;
}

/* ---- Messages -------------------------------------------------------------------------------- */

/* Rows [*begin, *end) of a tensor that a block touches, for messages. */
static void block_rows(const store_segment_t *segment, size_t block, size_t *begin, size_t *end)
{
    uint64_t first = (uint64_t)block * segment->block_bytes;
    uint64_t last = first + store_block_bytes(segment, block);
    uint64_t rows = segment->n_dims > 0 ? segment->shape[0] : 1;
    uint64_t row_bytes = rows > 0 && segment->bytes % rows == 0 ? segment->bytes / rows : 1;
    row_bytes = row_bytes == 0 ? 1 : row_bytes;
    *begin = (size_t)(first / row_bytes);
    *end = (size_t)((last + row_bytes - 1) / row_bytes);
}

store_where_t store_where(
    const store_manifest_t *manifest, const char *directory, size_t index, size_t block)
{
    const store_segment_t *segment = &manifest->segments[index];
    const char *file = manifest->data[manifest->frames[segment->first_frame + block].data].name;
    store_where_t where;
    size_t begin, end;
    block_rows(segment, block, &begin, &end);
    if (segment->name[0] == 0)
        snprintf(where.text, sizeof where.text, "%.120s/%s: header of %.80s: bytes %zu to %zu",
            directory, file, manifest->sources[segment->source].name, begin, end - 1);
    else
        snprintf(where.text, sizeof where.text, "%.120s/%s: tensor %.160s: rows %zu to %zu",
            directory, file, segment->name, begin, end - 1);
    return where;
}
