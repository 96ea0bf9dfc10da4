#include "sharding/store/store.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file_at.h"
#include "engine/base/input.h"
#include "engine/base/json.h"
#include "engine/base/path.h"
#include "engine/base/size.h"
#include "sharding/store/store_codec.h"
#include "sharding/store/store_stage.h"

#define MAX_MANIFEST_BYTES ((size_t)1 << 30)
/* Frames that lie side by side are read together up to so many bytes: large enough for a disk,
 * small enough for a cache. */
#define RUN_BYTES ((size_t)1 << 20)

/* The buffers of a reading thread. */
typedef struct workspace {
    struct workspace *next;
    store_codec_t *codec;
    unsigned char *frames, *block;
    size_t frames_bytes, block_bytes;
} workspace_t;

struct store {
    char *directory;
    store_manifest_t manifest;
    size_t n_files;
    int *files; /* -1: could not be opened */
    store_stage_t *stage;
    store_share_t *share;
    pthread_mutex_t lock; /* of the pool */
    workspace_t *pool;
    _Atomic uint64_t bytes_read;
};

static void workspace_free(workspace_t *workspace)
{
    if (workspace == NULL)
        return;
    store_codec_close(workspace->codec);
    free(workspace->frames);
    free(workspace->block);
    free(workspace);
}

/* ---- Reading bytes --------------------------------------------------------------------------- */

static int read_fully(
    const store_t *store, size_t data, uint64_t offset, void *dst, size_t bytes, fail_t *fail)
{
    const char *name = store->manifest.data[data].name;
    if (store->files[data] < 0)
        return fail_set(fail, FAIL_FILE, "%s/%s: could not be opened", store->directory, name);
    int error;
    size_t done = file_read_at(store->files[data], offset, dst, bytes, &error);
    if (done < bytes)
        return fail_set(fail, FAIL_FILE,
            "%s/%s: expected %zu bytes at %" PRIu64 ", found the first %zu of them: %s",
            store->directory, name, bytes, offset, done, file_read_error(error));
    return 0;
}

/* ---- Opening --------------------------------------------------------------------------------- */

bool store_is(const char *directory)
{
    return path_exists(directory, STORE_MANIFEST);
}

static int read_manifest(store_t *store, fail_t *fail)
{
    char *path = path_join(store->directory, STORE_MANIFEST), *text = NULL;
    size_t bytes;
    if (path == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", store->directory);
    if (file_read(path, MAX_MANIFEST_BYTES, &text, &bytes, fail) == 0)
        store_manifest_read(&store->manifest, text, bytes, path, fail);
    free(text);
    free(path);
    return fail->status;
}

/* Length, head and tail. */
static int check_data(store_t *store, size_t i, const char *path, fail_t *fail)
{
    const store_file_t *file = &store->manifest.data[i];
    unsigned char head_bytes[STORE_HEAD_BYTES], tail_bytes[STORE_TAIL_BYTES];
    store_file_head_t head;
    store_file_tail_t tail;
    struct stat info;
    if (fstat(store->files[i], &info) != 0 || !S_ISREG(info.st_mode) ||
        (uint64_t)info.st_size != file->bytes)
        return fail_set(fail, FAIL_FORMAT, "%s: expected %" PRIu64 " bytes, found %lld", path,
            file->bytes, (long long)info.st_size);
    if (read_fully(store, i, 0, head_bytes, sizeof head_bytes, fail) != 0 ||
        read_fully(store, i, file->bytes - STORE_TAIL_BYTES, tail_bytes, sizeof tail_bytes, fail) !=
            0 ||
        store_head_read(&head, head_bytes, path, fail) != 0 ||
        store_tail_read(&tail, tail_bytes, path, fail) != 0)
        return fail->status;
    if (head.id != store->manifest.id || head.number != i || tail.digest != file->checksum ||
        tail.frames_bytes != file->bytes - STORE_HEAD_BYTES - STORE_TAIL_BYTES)
        return fail_set(fail, FAIL_FORMAT,
            "%s: expected file %zu of store %s with digest %s, found file %u of store %s with digest %s: files of two stores are mixed",
            path, i, store_hex(store->manifest.id).text, store_hex(file->checksum).text,
            head.number, store_hex(head.id).text, store_hex(tail.digest).text);
    return 0;
}

static int open_data(store_t *store, size_t i, fail_t *fail)
{
    char *path = path_join(store->directory, store->manifest.data[i].name);
    if (path == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", store->directory);
    struct stat info;
    if (input_open(path, &store->files[i], &info, fail) == 0)
        check_data(store, i, path, fail);
    free(path);
    return fail->status;
}

static int check_copied(const store_t *store, const store_file_t *file, fail_t *fail)
{
    char *path = path_join(store->directory, file->name), *text = NULL;
    size_t bytes;
    if (path == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", store->directory);
    if (file_read(path, STORE_MAX_COPIED_BYTES, &text, &bytes, fail) == 0 &&
        (bytes != file->bytes || store_checksum(text, bytes) != file->checksum))
        fail_set(fail, FAIL_FORMAT,
            "%s: expected %" PRIu64 " bytes with checksum %s, found %zu with %s", path, file->bytes,
            store_hex(file->checksum).text, bytes, store_hex(store_checksum(text, bytes)).text);
    free(text);
    free(path);
    return fail->status;
}

/* Hands a failure to the one who collects them, if there is one. */
static int settle(store_problem_fn problem, void *context, fail_t *fail)
{
    if (fail->status == 0 || problem == NULL)
        return fail->status;
    problem(context, fail->message);
    *fail = (fail_t){0};
    return 0;
}

static int open_files(store_t *store, store_problem_fn problem, void *context, fail_t *fail)
{
    const store_manifest_t *manifest = &store->manifest;
    store->files = malloc((manifest->n_data + 1) * sizeof *store->files);
    if (store->files == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", store->directory);
    for (size_t i = 0; i < manifest->n_data; i++) {
        store->files[store->n_files++] = -1;
        open_data(store, i, fail);
        if (settle(problem, context, fail) != 0)
            return fail->status;
    }
    for (size_t i = 0; i < manifest->n_copied; i++) {
        check_copied(store, &manifest->copied[i], fail);
        if (settle(problem, context, fail) != 0)
            return fail->status;
    }
    return 0;
}

/* With its manifest, and no files; NULL on failure. */
static store_t *new_store(const char *directory, fail_t *fail)
{
    store_t *store = calloc(1, sizeof *store);
    if (store == NULL || (store->directory = strdup(directory)) == NULL) {
        free(store);
        fail_set(fail, FAIL_MEMORY, "%s: out of memory", directory);
        return NULL;
    }
    pthread_mutex_init(&store->lock, NULL);
    if (read_manifest(store, fail) != 0) {
        store_close(store);
        return NULL;
    }
    return store;
}

int store_open(
    store_t **out, const char *directory, store_problem_fn problem, void *context, fail_t *fail)
{
    *out = NULL;
    store_t *store = new_store(directory, fail);
    if (store == NULL || open_files(store, problem, context, fail) != 0) {
        store_close(store);
        return fail->status;
    }
    *out = store;
    return 0;
}

int store_check_copied(const char *directory, fail_t *fail)
{
    if (!store_is(directory))
        return 0;
    store_t *store = new_store(directory, fail);
    for (size_t i = 0; fail->status == 0 && i < store->manifest.n_copied; i++)
        check_copied(store, &store->manifest.copied[i], fail);
    store_close(store);
    return fail->status;
}

void store_close(store_t *store)
{
    if (store == NULL)
        return;
    for (size_t i = 0; i < store->n_files; i++)
        if (store->files[i] >= 0)
            close(store->files[i]);
    while (store->pool != NULL) {
        workspace_t *workspace = store->pool;
        store->pool = workspace->next;
        workspace_free(workspace);
    }
    store_stage_close(store->stage);
    store_manifest_clear(&store->manifest);
    pthread_mutex_destroy(&store->lock);
    free(store->files);
    free(store->directory);
    free(store);
}

/* ---- Questions and settings ------------------------------------------------------------------ */

const store_manifest_t *store_manifest(const store_t *store)
{
    return &store->manifest;
}

const char *store_directory(const store_t *store)
{
    return store->directory;
}

size_t store_find(const store_t *store, size_t source, const char *name)
{
    const store_manifest_t *manifest = &store->manifest;
    for (size_t i = 0; i < manifest->n_segments; i++)
        if (manifest->segments[i].source == source && manifest->segments[i].offset > 0 &&
            strcmp(manifest->segments[i].name, name) == 0)
            return i;
    return manifest->n_segments;
}

int store_set_stage(store_t *store, const char *directory, fail_t *fail)
{
    return store_stage_open(&store->stage, directory, &store->manifest, fail);
}

void store_set_share(store_t *store, store_share_t *share)
{
    store->share = share;
}

bool store_is_shared(const store_t *store)
{
    return store->share != NULL;
}

void store_want(store_t *store, size_t segment, uint64_t begin, uint64_t end, size_t times)
{
    const store_segment_t *s = &store->manifest.segments[segment];
    if (begin >= end)
        return;
    size_t last = (size_t)((end - 1) / s->block_bytes);
    for (size_t b = (size_t)(begin / s->block_bytes); b <= last; b++)
        store_share_want(store->share, s->first_frame + b, times);
}

uint64_t store_bytes_read(const store_t *store)
{
    return atomic_load_explicit(&store->bytes_read, memory_order_relaxed);
}

uint64_t store_bytes_staged(const store_t *store)
{
    return store->stage == NULL ? 0 : store_stage_bytes_written(store->stage);
}

/* ---- Workspaces ------------------------------------------------------------------------------ */

static workspace_t *workspace_make(const store_t *store, fail_t *fail)
{
    workspace_t *workspace = calloc(1, sizeof *workspace);
    const store_manifest_t *manifest = &store->manifest;
    size_t block_bytes = 0;
    for (size_t i = 0; i < manifest->n_segments; i++)
        block_bytes = size_max(block_bytes, manifest->segments[i].block_bytes);
    if (workspace != NULL && store_codec_open(&workspace->codec, fail) == 0) {
        workspace->frames_bytes = size_max(manifest->max_frame_bytes, RUN_BYTES);
        workspace->frames = malloc(workspace->frames_bytes);
        workspace->block = malloc(block_bytes + 1);
    }
    if (workspace != NULL && workspace->frames != NULL && workspace->block != NULL)
        return workspace;
    workspace_free(workspace);
    fail_set(fail, FAIL_MEMORY, "%s: out of memory for reading", store->directory);
    return NULL;
}

static workspace_t *workspace_take(store_t *store, fail_t *fail)
{
    pthread_mutex_lock(&store->lock);
    workspace_t *workspace = store->pool;
    if (workspace != NULL)
        store->pool = workspace->next;
    pthread_mutex_unlock(&store->lock);
    return workspace != NULL ? workspace : workspace_make(store, fail);
}

static void workspace_give(store_t *store, workspace_t *workspace)
{
    pthread_mutex_lock(&store->lock);
    workspace->next = store->pool;
    store->pool = workspace;
    pthread_mutex_unlock(&store->lock);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

/* Whether these bytes are the segment's block, as the manifest has it. */
static int open_frame(const store_t *store, size_t segment, size_t block,
    const unsigned char *bytes, store_frame_head_t *head, fail_t *fail)
{
    const store_manifest_t *manifest = &store->manifest;
    const store_segment_t *s = &manifest->segments[segment];
    const store_frame_t *frame = &manifest->frames[s->first_frame + block];
    fail_t found = {0};
    if (store_frame_open(head, bytes, frame->bytes, "frame", &found) != 0)
        return fail_set(fail, FAIL_FORMAT, "%s: %s",
            store_where(manifest, store->directory, segment, block).text, found.message);
    if (head->frame_checksum != frame->checksum || head->segment != segment ||
        head->block != block || head->planes != s->planes ||
        head->block_bytes != store_block_bytes(s, block))
        return fail_set(fail, FAIL_FORMAT,
            "%s: expected the frame with checksum %s, found another block's",
            store_where(manifest, store->directory, segment, block).text,
            store_hex(frame->checksum).text);
    return 0;
}

/* Frames of blocks [first, first + n), which lie side by side, to dst; from the stage those that
 * are there. */
static int fetch(
    store_t *store, size_t segment, size_t first, size_t n, unsigned char *dst, fail_t *fail)
{
    const store_frame_t *frames =
        store->manifest.frames + store->manifest.segments[segment].first_frame + first;
    uint64_t begin = frames[0].offset, end = frames[n - 1].offset + frames[n - 1].bytes;
    size_t data = frames[0].data, bytes = (size_t)(end - begin);
    if (store->stage == NULL) {
        atomic_fetch_add_explicit(&store->bytes_read, bytes, memory_order_relaxed);
        return read_fully(store, data, begin, dst, bytes, fail);
    }
    store_stage_read(store->stage, data, begin, dst, bytes);
    for (size_t i = 0; i < n; i++) {
        unsigned char *frame = dst + (frames[i].offset - begin);
        store_frame_head_t head;
        fail_t missing = {0};
        if (open_frame(store, segment, first + i, frame, &head, &missing) == 0)
            continue;
        if (read_fully(store, data, frames[i].offset, frame, frames[i].bytes, fail) != 0)
            return fail->status;
        atomic_fetch_add_explicit(&store->bytes_read, frames[i].bytes, memory_order_relaxed);
        /* Damaged frames of the store are not staged or shared. */
        if (open_frame(store, segment, first + i, frame, &head, fail) != 0)
            return fail->status;
        store_stage_write(store->stage, data, frames[i].offset, frame, frames[i].bytes);
    }
    return 0;
}

/* Starts reading the next bytes while this thread decompresses. */
static void expect(store_t *store, size_t data, uint64_t offset, size_t bytes)
{
    const store_file_t *file = &store->manifest.data[data];
    if (offset >= file->bytes)
        return;
    if (store->stage != NULL)
        store_stage_expect(store->stage, data, offset, bytes);
    else if (store->files[data] >= 0)
        posix_fadvise(store->files[data], (off_t)offset, (off_t)bytes, POSIX_FADV_WILLNEED);
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* The parts of region that lie in block [begin, begin + bytes) of its segment. */
static void scatter(
    const store_region_t *region, const char *block, uint64_t begin, size_t bytes, char *dst)
{
    size_t src_bytes = dtype_bytes(region->src_dtype), dst_bytes = dtype_bytes(region->dst_dtype);
    uint64_t end = begin + bytes;
    size_t run = begin > region->begin ? (size_t)((begin - region->begin) / region->pitch) : 0;
    for (; run < region->count && region->begin + run * region->pitch < end; run++) {
        uint64_t from = region->begin + run * region->pitch, to = from + region->width;
        uint64_t lo = from > begin ? from : begin, hi = to < end ? to : end;
        if (lo >= hi)
            continue;
        size_t offset = run * region->width + (size_t)(lo - from), n = (size_t)(hi - lo);
        if (region->src_dtype == region->dst_dtype)
            memcpy(dst + offset, block + (lo - begin), n);
        else
            dtype_convert(dst + offset / src_bytes * dst_bytes, region->dst_dtype,
                block + (lo - begin), region->src_dtype, n / src_bytes);
    }
}

/* Whether a block can be decompressed in its place. */
static bool fits_in_place(
    const store_region_t *region, uint64_t begin, size_t bytes, const char *dst)
{
    return region->src_dtype == region->dst_dtype &&
           (region->count == 1 || region->pitch == region->width) && begin >= region->begin &&
           begin + bytes <= region->begin + (uint64_t)region->width * region->count &&
           (uintptr_t)(dst + (begin - region->begin)) % sizeof(uint16_t) == 0;
}

static int unpack(store_t *store, workspace_t *workspace, const store_region_t *region,
    size_t block, const unsigned char *frame, char *dst, fail_t *fail)
{
    const store_segment_t *segment = &store->manifest.segments[region->segment];
    uint64_t begin = (uint64_t)block * segment->block_bytes;
    size_t bytes = store_block_bytes(segment, block);
    store_frame_head_t head;
    fail_t found = {0};
    if (open_frame(store, region->segment, block, frame, &head, fail) != 0)
        return fail->status;
    bool in_place = fits_in_place(region, begin, bytes, dst);
    char *target = in_place ? dst + (begin - region->begin) : (char *)workspace->block;
    if (store_codec_decode(workspace->codec, &head, frame, target, "frame", &found) != 0)
        return fail_set(fail, found.status, "%s: %s",
            store_where(&store->manifest, store->directory, region->segment, block).text,
            found.message);
    if (!in_place)
        scatter(region, target, begin, bytes, dst);
    return 0;
}

/* A frame that this node's ranks share. */
static int read_shared(store_t *store, workspace_t *workspace, const store_region_t *region,
    size_t block, char *dst, fail_t *fail)
{
    size_t frame = store->manifest.segments[region->segment].first_frame + block;
    void *slot = workspace->frames;
    store_share_turn_t turn = store_share_begin(store->share, frame, &slot);
    bool read = true;
    if (turn != STORE_SHARE_TAKE) {
        const store_frame_t *place = &store->manifest.frames[frame];
        read = fetch(store, region->segment, block, 1, slot, fail) == 0;
        expect(store, place->data, place->offset + place->bytes, place->bytes);
    }
    if (turn == STORE_SHARE_READ)
        store_share_publish(store->share, frame, read);
    if (read)
        unpack(store, workspace, region, block, slot, dst, fail);
    if (turn == STORE_SHARE_TAKE || (turn == STORE_SHARE_READ && read))
        store_share_release(store->share, frame);
    return fail->status;
}

/* Blocks [first, first + the number returned) lie side by side and fit the workspace. */
static size_t run_length(const store_t *store, const workspace_t *workspace,
    const store_segment_t *segment, size_t first, size_t last)
{
    const store_frame_t *frames = store->manifest.frames + segment->first_frame;
    size_t n = 1, bytes = frames[first].bytes;
    while (first + n <= last && frames[first + n].data == frames[first].data &&
           frames[first + n].offset == frames[first].offset + bytes &&
           bytes + frames[first + n].bytes <= workspace->frames_bytes)
        bytes += frames[first + n++].bytes;
    return n;
}

static int read_run(store_t *store, workspace_t *workspace, const store_region_t *region,
    size_t first, size_t n, char *dst, fail_t *fail)
{
    const store_frame_t *frames =
        store->manifest.frames + store->manifest.segments[region->segment].first_frame + first;
    if (fetch(store, region->segment, first, n, workspace->frames, fail) != 0)
        return fail->status;
    uint64_t end = frames[n - 1].offset + frames[n - 1].bytes;
    expect(store, frames[0].data, end, (size_t)(end - frames[0].offset));
    for (size_t i = 0; i < n; i++)
        if (unpack(store, workspace, region, first + i,
                workspace->frames + (frames[i].offset - frames[0].offset), dst, fail) != 0)
            return fail->status;
    return 0;
}

int store_read(store_t *store, const store_region_t *region, void *dst, fail_t *fail)
{
    const store_segment_t *segment = &store->manifest.segments[region->segment];
    if (region->count == 0 || region->width == 0)
        return 0;
    uint64_t end = region->begin + (region->count - 1) * region->pitch + region->width;
    if (end > segment->bytes || region->width > region->pitch)
        return fail_set(fail, FAIL_INTERNAL,
            "%s: tensor %s: expected a region of its %" PRIu64 " bytes, found %" PRIu64
            " to %" PRIu64,
            store->directory, segment->name, segment->bytes, region->begin, end);
    workspace_t *workspace = workspace_take(store, fail);
    if (workspace == NULL)
        return fail->status;
    if (store->share != NULL) {
        store_share_arrive(store->share);
        store_share_await(store->share);
    }
    size_t last = (size_t)((end - 1) / segment->block_bytes);
    for (size_t b = (size_t)(region->begin / segment->block_bytes), n = 1;
         b <= last && fail->status == 0; b += n) {
        if (store->share != NULL) {
            read_shared(store, workspace, region, b, dst, fail);
            continue;
        }
        n = run_length(store, workspace, segment, b, last);
        read_run(store, workspace, region, b, n, dst, fail);
    }
    workspace_give(store, workspace);
    return fail->status;
}

int store_read_block(
    store_t *store, size_t segment, size_t block, void *dst, uint64_t *block_checksum, fail_t *fail)
{
    const store_segment_t *s = &store->manifest.segments[segment];
    size_t bytes = store_block_bytes(s, block);
    store_region_t region = {.segment = segment,
        .begin = (uint64_t)block * s->block_bytes,
        .pitch = bytes,
        .width = bytes,
        .count = 1};
    workspace_t *workspace = workspace_take(store, fail);
    if (workspace == NULL)
        return fail->status;
    store_frame_head_t head;
    if (fetch(store, segment, block, 1, workspace->frames, fail) == 0 &&
        unpack(store, workspace, &region, block, workspace->frames, dst, fail) == 0) {
        store_frame_read_head(&head, workspace->frames, "frame", fail);
        *block_checksum = store_checksum(dst, bytes);
        if (*block_checksum != head.block_checksum)
            fail_set(fail, FAIL_FORMAT, "%s: expected the uncompressed checksum %s, found %s",
                store_where(&store->manifest, store->directory, segment, block).text,
                store_hex(head.block_checksum).text, store_hex(*block_checksum).text);
    }
    workspace_give(store, workspace);
    return fail->status;
}
