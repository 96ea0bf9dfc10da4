#include "sharding/store/store_layout.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/array.h"
#include "engine/base/digest.h"
#include "engine/base/file_at.h"
#include "engine/base/input.h"
#include "engine/base/log.h"
#include "engine/base/path.h"
#include "engine/base/size.h"
#include "sharding/checkpoint/checkpoint_files.h"
#include "sharding/plan.h"
#include "sharding/store/store.h"
#include "sharding/store/store_codec.h"

/* Tensors without rows, and rows too long for a block, are cut into pieces of this size. */
#define FLAT_BLOCK_BYTES ((size_t)256 << 10)
/* Rows are grouped up to here when a granule of them is tiny, and fewer when it is huge. */
#define MIN_BLOCK_BYTES ((size_t)4 << 10)
#define LARGE_BLOCK_BYTES ((size_t)4 << 20)

static int out_of_memory(const store_layout_t *layout, fail_t *fail)
{
    return fail_set(fail, FAIL_MEMORY, "%s: out of memory to open it", layout->directory);
}

/* ---- Source files ---------------------------------------------------------------------------- */

static int read_at(
    const store_source_t *source, uint64_t offset, void *dst, size_t bytes, fail_t *fail)
{
    int error;
    size_t done = file_read_at(source->fd, offset, dst, bytes, &error);
    if (done < bytes)
        return fail_set(fail, FAIL_FILE,
            "%s: expected %zu bytes at %" PRIu64 ", found the first %zu of them: %s", source->path,
            bytes, offset, done, file_read_error(error));
    return 0;
}

static int read_header(store_source_t *source, fail_t *fail)
{
    char *text;
    size_t bytes;
    if (safetensors_read_text(source->path, source->fd, source->bytes, &text, &bytes, fail) == 0 &&
        safetensors_parse(&source->header, source->path, text, bytes, source->bytes, fail) == 0) {
        source->header_bytes = SAFETENSORS_PREFIX_BYTES + bytes;
        source->header_checksum = store_checksum(text, bytes);
    }
    free(text);
    return fail->status;
}

static int open_source(store_layout_t *layout, const char *name, fail_t *fail)
{
    store_source_t *source = &layout->sources[layout->n_sources++];
    struct stat info;
    *source = (store_source_t){
        .name = strdup(name), .path = path_join(layout->directory, name), .fd = -1};
    if (source->name == NULL || source->path == NULL)
        return out_of_memory(layout, fail);
    if (input_open(source->path, &source->fd, &info, fail) != 0)
        return fail->status;
    source->bytes = (uint64_t)info.st_size;
    source->modified_ns =
        (uint64_t)info.st_mtim.tv_sec * 1000000000u + (uint64_t)info.st_mtim.tv_nsec;
    layout->total_bytes += source->bytes;
    return read_header(source, fail);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int open_sources(store_layout_t *layout, fail_t *fail)
{
    if (store_is(layout->directory))
        return fail_set(fail, FAIL_USAGE, "%s: expected safetensors files, found a shard store",
            layout->directory);
    checkpoint_files_t files;
    if (checkpoint_files_list(&files, layout->directory, fail) != 0)
        return fail->status;
    layout->sources = calloc(files.n, sizeof *layout->sources);
    if (layout->sources == NULL)
        out_of_memory(layout, fail);
    for (size_t i = 0; i < files.n && fail->status == 0; i++) {
        if (files.names[i][0] == '.')
            fail_set(fail, FAIL_FORMAT,
                "%s: " CHECKPOINT_INDEX_FILE
                ": expected names of files that do not begin with a dot, found %s",
                layout->directory, files.names[i]);
        else
            open_source(layout, files.names[i], fail);
    }
    checkpoint_files_clear(&files);
    return fail->status;
}

/* ---- Small files ----------------------------------------------------------------------------- */

/* Config, tokenizer, index, licence: what a model directory has besides weights. */
static bool is_copied(const char *name)
{
    static const char *const suffixes[] = {".json", ".txt", ".jinja", ".model", ".md"};
    size_t n = strlen(name);
    if (name[0] == '.' || strcmp(name, STORE_MANIFEST) == 0)
        return false;
    for (const char *c = name; *c != 0; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
                strchr("._-+", *c) != NULL))
            return false;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (n > strlen(suffixes[i]) && strcmp(name + n - strlen(suffixes[i]), suffixes[i]) == 0)
            return true;
    return strcmp(name, "LICENSE") == 0 || strcmp(name, "NOTICE") == 0;
}

static bool is_small_file(const store_layout_t *layout, const char *name)
{
    struct stat info;
    char *path = path_join(layout->directory, name);
    bool small = path != NULL && stat(path, &info) == 0 && S_ISREG(info.st_mode) &&
                 (uint64_t)info.st_size <= STORE_MAX_COPIED_BYTES;
    free(path);
    return small;
}

static int list_copied(store_layout_t *layout, fail_t *fail)
{
    DIR *listing = opendir(layout->directory);
    if (listing == NULL)
        return fail_set(
            fail, FAIL_FILE, "%s: cannot list it: %s", layout->directory, strerror(errno));
    for (struct dirent *entry; (entry = readdir(listing)) != NULL && fail->status == 0;) {
        if (strcmp(entry->d_name, "additional_chat_templates") == 0)
            log_write(LOG_WARN,
                "%s/additional_chat_templates: a store has no folders, so these chat templates are left out; --chat-template FILE takes one",
                layout->directory);
        if (!is_copied(entry->d_name) || !is_small_file(layout, entry->d_name))
            continue;
        if (array_extend(&layout->copied, layout->n_copied, sizeof *layout->copied,
                layout->directory, fail) == 0 &&
            (layout->copied[layout->n_copied++] = strdup(entry->d_name)) == NULL)
            out_of_memory(layout, fail);
    }
    closedir(listing);
    if (layout->n_copied > 0 && fail->status == 0)
        qsort(layout->copied, layout->n_copied, sizeof *layout->copied, compare_texts);
    return fail->status;
}

/* ---- Segments -------------------------------------------------------------------------------- */

static uint32_t planes_of(const char *dtype)
{
    static const struct {
        const char *dtype;
        uint32_t planes;
    } kinds[] = {
        {"BF16", STORE_PLANES_BF16},
        {"F16", STORE_PLANES_2},
        {"U16", STORE_PLANES_2},
        {"I16", STORE_PLANES_2},
        {"F32", STORE_PLANES_4},
        {"U32", STORE_PLANES_4},
        {"I32", STORE_PLANES_4},
        {"F64", STORE_PLANES_8},
        {"U64", STORE_PLANES_8},
        {"I64", STORE_PLANES_8},
        {"C64", STORE_PLANES_8},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].dtype, dtype) == 0)
            return kinds[i].planes;
    return STORE_PLANES_NONE;
}

/* Rows per block: the granule by which the plan divides rows. */
static size_t block_bytes_of(const store_segment_t *segment)
{
    /* With whatever prefix (checkpoint_find_weight). */
    bool vocabulary = strstr(segment->name, "embed_tokens.weight") != NULL ||
                      strstr(segment->name, "lm_head.weight") != NULL;
    size_t granule = vocabulary ? PLAN_VOCAB_GRANULE : PLAN_GRANULE;
    if (segment->n_dims < 2 || segment->shape[0] == 0 || segment->bytes == 0 ||
        segment->bytes % segment->shape[0] != 0 ||
        segment->bytes / segment->shape[0] > LARGE_BLOCK_BYTES)
        return FLAT_BLOCK_BYTES;
    size_t row_bytes = (size_t)(segment->bytes / segment->shape[0]);
    if (granule * row_bytes > LARGE_BLOCK_BYTES)
        return LARGE_BLOCK_BYTES / row_bytes * row_bytes;
    return size_round_up(size_max(granule, MIN_BLOCK_BYTES / row_bytes), granule) * row_bytes;
}

static void add_segment(store_layout_t *layout, store_segment_t segment)
{
    segment.block_bytes = block_bytes_of(&segment);
    if (segment.bytes > 0 && segment.bytes < segment.block_bytes)
        segment.block_bytes = (size_t)segment.bytes;
    segment.n_blocks = (size_t)((segment.bytes + segment.block_bytes - 1) / segment.block_bytes);
    segment.first_frame = layout->n_frames;
    layout->n_frames += segment.n_blocks;
    layout->segments[layout->n_segments++] = segment;
}

static int compare_offsets(const void *a, const void *b)
{
    const checkpoint_tensor_t *x = *(const checkpoint_tensor_t *const *)a,
                              *y = *(const checkpoint_tensor_t *const *)b;
    /* An empty tensor shares its offset with the next. */
    if (x->offset_bytes != y->offset_bytes)
        return x->offset_bytes < y->offset_bytes ? -1 : 1;
    if (x->size_bytes != y->size_bytes)
        return x->size_bytes < y->size_bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Of tensors with one name, the last source's counts (checkpoint_files.h). */
static bool is_listed(const store_layout_t *layout, size_t source, const char *tensor)
{
    for (size_t later = source + 1; later < layout->n_sources; later++)
        if (safetensors_find(&layout->sources[later].header, tensor) != NULL)
            return false;
    return true;
}

static int add_source(store_layout_t *layout, size_t index, fail_t *fail)
{
    const store_source_t *source = &layout->sources[index];
    size_t n = source->header.n_tensors;
    const checkpoint_tensor_t **tensors = malloc((n + 1) * sizeof *tensors);
    if (tensors == NULL)
        return out_of_memory(layout, fail);
    for (size_t i = 0; i < n; i++)
        tensors[i] = &source->header.tensors[i];
    qsort(tensors, n, sizeof *tensors, compare_offsets);
    add_segment(layout, (store_segment_t){.name = "",
                            .dtype = "U8",
                            .source = index,
                            .bytes = source->header_bytes,
                            .n_dims = 1,
                            .shape = {source->header_bytes},
                            .planes = STORE_PLANES_NONE});
    for (size_t i = 0; i < n; i++) {
        store_segment_t segment = {.name = tensors[i]->name,
            .dtype = tensors[i]->dtype_name,
            .source = index,
            .offset = tensors[i]->offset_bytes,
            .bytes = tensors[i]->size_bytes,
            .n_dims = tensors[i]->n_dims,
            .listed = is_listed(layout, index, tensors[i]->name),
            .planes = planes_of(tensors[i]->dtype_name)};
        memcpy(segment.shape, tensors[i]->shape, sizeof segment.shape);
        add_segment(layout, segment);
        if (segment.name[0] == 0)
            fail_set(fail, FAIL_FORMAT, "%s: expected a name for each tensor, found an empty one",
                source->path);
    }
    free(tensors);
    return fail->status;
}

static int list_segments(store_layout_t *layout, fail_t *fail)
{
    size_t n = 0;
    for (size_t i = 0; i < layout->n_sources; i++)
        n += layout->sources[i].header.n_tensors + 1;
    layout->segments = calloc(n, sizeof *layout->segments);
    if (layout->segments == NULL)
        return out_of_memory(layout, fail);
    for (size_t i = 0; i < layout->n_sources; i++)
        if (add_source(layout, i, fail) != 0)
            return fail->status;
    return 0;
}

/* ---- Data files ------------------------------------------------------------------------------ */

/* Segments of a group go into files of their own. */
static size_t group_of(const store_layout_t *layout, const store_segment_t *segment)
{
    size_t layer;
    if (layout->options.layers == 0 || sscanf(segment->name, "model.layers.%zu.", &layer) != 1)
        return 0;
    return 1 + layer / layout->options.layers;
}

typedef struct place {
    size_t group, segment;
} place_t;

static int compare_places(const void *a, const void *b)
{
    const place_t *x = a, *y = b;
    if (x->group != y->group)
        return x->group < y->group ? -1 : 1;
    return x->segment < y->segment ? -1 : x->segment > y->segment;
}

typedef struct filler {
    store_layout_t *layout;
    uint64_t used; /* of the file that is being filled, at most */
    size_t group;
    size_t room_parts, room_data;
} filler_t;

static int begin_data(filler_t *filler, fail_t *fail)
{
    store_layout_t *layout = filler->layout;
    /* One more for the end of the last. */
    if (array_reserve(&layout->data_parts, &filler->room_data, layout->n_data + 2,
            sizeof *layout->data_parts, layout->directory, fail) != 0)
        return fail->status;
    layout->data_parts[layout->n_data++] = layout->n_parts;
    filler->used = STORE_HEAD_BYTES + STORE_TAIL_BYTES;
    return 0;
}

/* How many blocks from `first` on fit the file, if nothing can be compressed. */
static size_t blocks_that_fit(const filler_t *filler, const store_segment_t *segment, size_t first)
{
    uint64_t room = filler->layout->options.file_bytes - filler->used;
    size_t bound = store_frame_bound(segment->block_bytes, segment->planes);
    return (size_t)size_min(segment->n_blocks - first, room / bound);
}

static int place_segment(filler_t *filler, size_t index, fail_t *fail)
{
    store_layout_t *layout = filler->layout;
    const store_segment_t *segment = &layout->segments[index];
    size_t bound = store_frame_bound(segment->block_bytes, segment->planes);
    size_t group = group_of(layout, segment);
    if (segment->n_blocks > 0 &&
        bound + STORE_HEAD_BYTES + STORE_TAIL_BYTES > layout->options.file_bytes)
        return fail_set(fail, FAIL_USAGE,
            "data files: tensor %.128s: expected room for a block of %zu bytes, found %" PRIu64
            " in a file",
            segment->name, bound + STORE_HEAD_BYTES + STORE_TAIL_BYTES, layout->options.file_bytes);
    for (size_t block = 0; block < segment->n_blocks;) {
        if (layout->n_data == 0 || group != filler->group ||
            blocks_that_fit(filler, segment, block) == 0) {
            if (begin_data(filler, fail) != 0)
                return fail->status;
            filler->group = group;
        }
        if (array_reserve(&layout->parts, &filler->room_parts, layout->n_parts + 1,
                sizeof *layout->parts, layout->directory, fail) != 0)
            return fail->status;
        size_t n = blocks_that_fit(filler, segment, block);
        layout->parts[layout->n_parts++] =
            (store_part_t){.segment = index, .first_block = block, .n_blocks = n};
        filler->used += (uint64_t)n * bound;
        block += n;
    }
    return 0;
}

static int fill_data(store_layout_t *layout, fail_t *fail)
{
    filler_t filler = {.layout = layout};
    place_t *places = malloc((layout->n_segments + 1) * sizeof *places);
    if (places == NULL)
        return out_of_memory(layout, fail);
    for (size_t i = 0; i < layout->n_segments; i++)
        places[i] = (place_t){group_of(layout, &layout->segments[i]), i};
    qsort(places, layout->n_segments, sizeof *places, compare_places);
    for (size_t i = 0; i < layout->n_segments && fail->status == 0; i++)
        place_segment(&filler, places[i].segment, fail);
    if (fail->status == 0)
        layout->data_parts[layout->n_data] = layout->n_parts;
    free(places);
    return fail->status;
}

/* ---- The whole ------------------------------------------------------------------------------- */

static void compute_ids(store_layout_t *layout)
{
    uint64_t id = digest_u64(DIGEST_START, STORE_VERSION);
    id = digest_u64(id, layout->options.file_bytes);
    id = digest_u64(id, layout->options.layers);
    for (size_t i = 0; i < layout->n_sources; i++) {
        id = digest_string(id, layout->sources[i].name);
        id = digest_u64(id, layout->sources[i].bytes);
        id = digest_u64(id, layout->sources[i].header_checksum);
    }
    layout->id = digest_u64(id, (uint64_t)layout->options.level);
    uint64_t resume = digest_string(layout->id, store_codec_library());
    for (size_t i = 0; i < layout->n_sources; i++)
        resume = digest_u64(resume, layout->sources[i].modified_ns);
    layout->resume_id = resume;
}

int store_layout_open(
    store_layout_t *layout, const char *directory, const store_options_t *options, fail_t *fail)
{
    *layout = (store_layout_t){.options = *options, .directory = strdup(directory)};
    if (layout->directory == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory to open it", directory);
    if (open_sources(layout, fail) == 0 && list_copied(layout, fail) == 0 &&
        list_segments(layout, fail) == 0 && fill_data(layout, fail) == 0)
        compute_ids(layout);
    if (fail->status != 0)
        store_layout_close(layout);
    return fail->status;
}

void store_layout_close(store_layout_t *layout)
{
    for (size_t i = 0; i < layout->n_sources; i++) {
        safetensors_clear(&layout->sources[i].header);
        if (layout->sources[i].fd >= 0)
            close(layout->sources[i].fd);
        free(layout->sources[i].name);
        free(layout->sources[i].path);
    }
    for (size_t i = 0; i < layout->n_copied; i++)
        free(layout->copied[i]);
    free(layout->sources);
    free(layout->segments);
    free(layout->parts);
    free(layout->data_parts);
    free(layout->copied);
    free(layout->directory);
    *layout = (store_layout_t){0};
}

int store_layout_read(const store_layout_t *layout, size_t segment, uint64_t begin, size_t bytes,
    void *dst, fail_t *fail)
{
    const store_segment_t *s = &layout->segments[segment];
    return read_at(&layout->sources[s->source], s->offset + begin, dst, bytes, fail);
}

void store_layout_expect(const store_layout_t *layout, size_t segment, uint64_t begin, size_t bytes)
{
    const store_segment_t *s = &layout->segments[segment];
    posix_fadvise(layout->sources[s->source].fd, (off_t)(s->offset + begin), (off_t)bytes,
        POSIX_FADV_WILLNEED);
}

uint64_t store_layout_data_bytes(const store_layout_t *layout, size_t data)
{
    uint64_t bytes = 0;
    for (size_t p = layout->data_parts[data]; p < layout->data_parts[data + 1]; p++) {
        const store_part_t *part = &layout->parts[p];
        const store_segment_t *segment = &layout->segments[part->segment];
        uint64_t begin = (uint64_t)part->first_block * segment->block_bytes;
        uint64_t end = begin + (uint64_t)part->n_blocks * segment->block_bytes;
        bytes += (end < segment->bytes ? end : segment->bytes) - begin;
    }
    return bytes;
}
