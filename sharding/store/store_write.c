#include "sharding/store/store_write.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file_at.h"
#include "engine/base/path.h"
#include "engine/base/size.h"
#include "sharding/store/store_codec.h"
#include "sharding/store/store_output.h"

/* Bytes of the blocks that a thread takes at a time: enough for large reads and writes. */
#define BATCH_BYTES ((size_t)2 << 20)
/* All threads' batches together; more threads than that allows do not take part. */
#define MAX_BUFFER_BYTES ((size_t)1 << 30)
#define N_SAMPLES 48

/* ---- Opening --------------------------------------------------------------------------------- */

static bool is_mine(const store_write_t *write, size_t data)
{
    return data % write->n_ranks == write->rank;
}

int store_write_open(store_write_t *write, const store_layout_t *layout, const char *out,
    size_t rank, size_t n_ranks, team_t *team, fail_t *fail)
{
    *write = (store_write_t){.layout = layout, .rank = rank, .n_ranks = n_ranks, .team = team};
    write->out = strdup(out);
    write->partial = store_partial_name(out, layout->resume_id);
    write->written = calloc(layout->n_frames + 1, sizeof *write->written);
    if (write->out == NULL || write->partial == NULL || write->written == NULL) {
        store_write_close(write);
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", out);
    }
    for (size_t d = 0; d < layout->n_data; d++)
        if (is_mine(write, d))
            write->total_bytes += store_layout_data_bytes(layout, d);
    return 0;
}

void store_write_close(store_write_t *write)
{
    free(write->out);
    free(write->partial);
    free(write->written);
    *write = (store_write_t){0};
}

/* ---- Beginning ------------------------------------------------------------------------------- */

/* Stored bytes to uncompressed ones, of blocks spread evenly over the source; a little too high. */
static int estimate_ratio(const store_layout_t *layout, double *ratio, fail_t *fail)
{
    store_codec_t *codec = NULL;
    unsigned char *block = malloc(STORE_MAX_BLOCK_BYTES);
    unsigned char *frame = malloc(store_frame_bound(STORE_MAX_BLOCK_BYTES, STORE_PLANES_8));
    uint64_t plain = 0, stored = 0, at = 0, step = layout->total_bytes / N_SAMPLES + 1;
    if (block == NULL || frame == NULL)
        fail_set(fail, FAIL_MEMORY, "shard: out of memory");
    else
        store_codec_open(&codec, fail);
    for (size_t s = 0; s < layout->n_segments && fail->status == 0; s++) {
        const store_segment_t *segment = &layout->segments[s];
        for (; at < segment->bytes && fail->status == 0; at += step) {
            size_t b = (size_t)(at / segment->block_bytes), frame_bytes = 0;
            size_t bytes = store_block_bytes(segment, b);
            store_frame_head_t head = {.planes = segment->planes};
            if (store_layout_read(
                    layout, s, (uint64_t)b * segment->block_bytes, bytes, block, fail) == 0 &&
                store_codec_encode(codec, layout->options.level, block, bytes, &head, frame,
                    &frame_bytes, fail) == 0) {
                plain += bytes;
                stored += frame_bytes;
            }
        }
        at -= segment->bytes < at ? segment->bytes : at;
    }
    *ratio = plain == 0 ? 1 : 1.02 * (double)stored / (double)plain;
    store_codec_close(codec);
    free(block);
    free(frame);
    return fail->status;
}

/* Bytes that an earlier attempt has left. */
static uint64_t bytes_there(const store_write_t *write)
{
    uint64_t bytes = 0;
    for (size_t d = 0; d < write->layout->n_data; d++) {
        char name[STORE_DATA_NAME_BYTES];
        struct stat info;
        store_data_name(d, name);
        char *path = path_join(write->partial, name);
        if (path != NULL && stat(path, &info) == 0)
            bytes += (uint64_t)info.st_size;
        free(path);
    }
    return bytes;
}

static int check_room(const store_write_t *write, uint64_t free_bytes, fail_t *fail)
{
    double ratio;
    if (free_bytes == UINT64_MAX)
        free_bytes = store_partial_room(write->partial);
    if (free_bytes == UINT64_MAX)
        return 0;
    if (estimate_ratio(write->layout, &ratio, fail) != 0)
        return fail->status;
    double needed = ratio * (double)write->layout->total_bytes + 1e6,
           there = (double)bytes_there(write);
    if (needed - there > (double)free_bytes)
        return fail_set(fail, FAIL_FILE,
            "%s: expected about %.0f MB of room for the store, found %.0f MB free", write->out,
            (needed - there) / 1e6, (double)free_bytes / 1e6);
    return 0;
}

int store_write_begin(store_write_t *write, uint64_t free_bytes, fail_t *fail)
{
    bool made;
    if (store_partial_begin(write->out, write->partial, &made, fail) != 0)
        return fail->status;
    if (check_room(write, free_bytes, fail) != 0 && made)
        rmdir(write->partial);
    return fail->status;
}

/* ---- A data file ----------------------------------------------------------------------------- */

/* The file that the team writes. Threads take batches in order and write them in that order. */
typedef struct writer {
    store_write_t *write;
    size_t data;
    store_output_t output;
    pthread_mutex_t lock;
    pthread_cond_t turn;
    size_t part, block;    /* where the next batch begins: part, and block in it */
    size_t taken, written; /* batches */
    uint64_t offset;       /* where the next frame goes */
    size_t n_threads;
    size_t raw_bytes, frame_bytes; /* of a thread's buffers */
    bool stop;
    fail_t *fail; /* under the lock */
} writer_t;

typedef struct batch {
    size_t number, segment, first_block, n_blocks;
    uint64_t begin; /* in the segment */
    size_t bytes;
} batch_t;

static store_written_t *written_of(const writer_t *writer, size_t segment, size_t block)
{
    const store_layout_t *layout = writer->write->layout;
    return &writer->write->written[layout->segments[segment].first_frame + block];
}

static void advance(writer_t *writer, size_t n_blocks)
{
    writer->block += n_blocks;
    if (writer->block == writer->write->layout->parts[writer->part].n_blocks) {
        writer->part++;
        writer->block = 0;
    }
}

static bool at_end(const writer_t *writer)
{
    return writer->part == writer->write->layout->data_parts[writer->data + 1];
}

static void count_done(writer_t *writer, uint64_t bytes)
{
    store_write_t *write = writer->write;
    write->done_bytes += bytes;
    if (write->progress != NULL)
        write->progress(write->progress_context, write->done_bytes, write->total_bytes);
}

/* Under the lock, or alone. */
static bool is_interrupted(const writer_t *writer)
{
    const store_write_t *write = writer->write;
    if (write->interrupted == NULL || !write->interrupted())
        return false;
    fail_set(writer->fail, FAIL_INTERRUPTED,
        "interrupted; what is finished is kept in %s, and the same command goes on from there",
        write->partial);
    return true;
}

/* Under the lock. An interrupt lets the batches that are taken come to their end. */
static bool take_batch(writer_t *writer, batch_t *batch)
{
    const store_layout_t *layout = writer->write->layout;
    if (writer->stop || at_end(writer) || is_interrupted(writer))
        return false;
    const store_part_t *part = &layout->parts[writer->part];
    const store_segment_t *segment = &layout->segments[part->segment];
    size_t n = size_max(BATCH_BYTES / segment->block_bytes, 1);
    *batch = (batch_t){.number = writer->taken++,
        .segment = part->segment,
        .first_block = part->first_block + writer->block,
        .n_blocks = size_min(n, part->n_blocks - writer->block)};
    batch->begin = (uint64_t)batch->first_block * segment->block_bytes;
    uint64_t end = batch->begin + (uint64_t)batch->n_blocks * segment->block_bytes;
    batch->bytes = (size_t)((end < segment->bytes ? end : segment->bytes) - batch->begin);
    advance(writer, batch->n_blocks);
    return true;
}

/* raw: the batch's bytes, read here; frames: written; *n: bytes of the frames */
static int encode_batch(const writer_t *writer, const batch_t *batch, store_codec_t *codec,
    unsigned char *raw, unsigned char *frames, size_t *n, fail_t *fail)
{
    const store_layout_t *layout = writer->write->layout;
    const store_segment_t *segment = &layout->segments[batch->segment];
    if (store_layout_read(layout, batch->segment, batch->begin, batch->bytes, raw, fail) != 0)
        return fail->status;
    *n = 0;
    for (size_t i = 0; i < batch->n_blocks; i++) {
        size_t block = batch->first_block + i, bytes = store_block_bytes(segment, block);
        store_frame_head_t head = {.segment = (uint32_t)batch->segment,
            .block = (uint32_t)block,
            .planes = segment->planes};
        size_t frame_bytes;
        if (store_codec_encode(codec, layout->options.level, raw + i * segment->block_bytes, bytes,
                &head, frames + *n, &frame_bytes, fail) != 0)
            return fail->status;
        *written_of(writer, batch->segment, block) =
            (store_written_t){head.frame_checksum, head.block_checksum, frame_bytes};
        *n += frame_bytes;
    }
    return 0;
}

/* Waits for the batch's turn and writes it. fail: of this thread */
static void put_batch(
    writer_t *writer, const batch_t *batch, const unsigned char *frames, size_t n, fail_t *fail)
{
    pthread_mutex_lock(&writer->lock);
    while (writer->written != batch->number && !writer->stop)
        pthread_cond_wait(&writer->turn, &writer->lock);
    if (!writer->stop && fail->status == 0 &&
        store_output_write(&writer->output, writer->offset, frames, n, fail) == 0) {
        writer->offset += n;
        count_done(writer, batch->bytes);
    }
    writer->written++;
    if (fail->status != 0) {
        fail_set(writer->fail, fail->status, "%s", fail->message);
        writer->stop = true;
    }
    pthread_cond_broadcast(&writer->turn);
    pthread_mutex_unlock(&writer->lock);
}

static void write_thread(void *context, size_t thread)
{
    writer_t *writer = context;
    fail_t fail = {0};
    store_codec_t *codec = NULL;
    batch_t batch;
    if (thread >= writer->n_threads)
        return;
    unsigned char *raw = malloc(writer->raw_bytes), *frames = malloc(writer->frame_bytes);
    store_codec_open(&codec, &fail);
    if (raw == NULL || frames == NULL)
        fail_set(&fail, FAIL_MEMORY, "shard: out of memory for blocks");
    for (;;) {
        size_t n = 0;
        pthread_mutex_lock(&writer->lock);
        bool more = take_batch(writer, &batch);
        pthread_mutex_unlock(&writer->lock);
        if (!more)
            break;
        if (fail.status == 0) {
            encode_batch(writer, &batch, codec, raw, frames, &n, &fail);
            store_layout_expect(writer->write->layout, batch.segment, batch.begin + batch.bytes,
                batch.bytes * writer->n_threads);
        }
        put_batch(writer, &batch, frames, n, &fail);
    }
    store_codec_close(codec);
    free(raw);
    free(frames);
}

/* Buffers for the largest batch of the file. */
static void size_buffers(writer_t *writer)
{
    const store_layout_t *layout = writer->write->layout;
    for (size_t p = layout->data_parts[writer->data]; p < layout->data_parts[writer->data + 1];
         p++) {
        const store_segment_t *segment = &layout->segments[layout->parts[p].segment];
        size_t n = size_max(BATCH_BYTES / segment->block_bytes, 1);
        writer->raw_bytes = size_max(writer->raw_bytes, n * segment->block_bytes);
        writer->frame_bytes = size_max(
            writer->frame_bytes, n * store_frame_bound(segment->block_bytes, segment->planes));
    }
    /* Planes are no larger than a batch. */
    size_t each = 2 * writer->raw_bytes + writer->frame_bytes +
                  store_codec_bytes(writer->write->layout->options.level);
    writer->n_threads =
        size_max(1, size_min(team_size(writer->write->team), MAX_BUFFER_BYTES / each));
}

/* ---- Resuming -------------------------------------------------------------------------------- */

/* Whether all of it is there. */
static bool read_at(const writer_t *writer, uint64_t offset, void *bytes, size_t n)
{
    int error;
    return file_read_at(writer->output.fd, offset, bytes, n, &error) == n;
}

/* Whether the next frame is there, whole. buffer: of the longest frame */
static bool keep_frame(writer_t *writer, unsigned char *buffer)
{
    const store_layout_t *layout = writer->write->layout;
    const store_part_t *part = &layout->parts[writer->part];
    const store_segment_t *segment = &layout->segments[part->segment];
    size_t block = part->first_block + writer->block;
    store_frame_head_t head;
    fail_t missing = {0};
    if (!read_at(writer, writer->offset, buffer, STORE_FRAME_HEAD_BYTES) ||
        store_frame_read_head(&head, buffer, "frame", &missing) != 0 ||
        head.segment != part->segment || head.block != block || head.planes != segment->planes ||
        head.block_bytes != store_block_bytes(segment, block) ||
        !read_at(writer, writer->offset + STORE_FRAME_HEAD_BYTES, buffer + STORE_FRAME_HEAD_BYTES,
            head.payload_bytes) ||
        store_frame_open(
            &head, buffer, STORE_FRAME_HEAD_BYTES + head.payload_bytes, "frame", &missing) != 0)
        return false;
    size_t bytes = STORE_FRAME_HEAD_BYTES + head.payload_bytes;
    *written_of(writer, part->segment, block) =
        (store_written_t){head.frame_checksum, head.block_checksum, bytes};
    writer->offset += bytes;
    writer->write->kept_bytes += head.block_bytes;
    advance(writer, 1);
    count_done(writer, head.block_bytes);
    return true;
}

/* Keeps the frames that an earlier attempt has finished, and truncates the rest. */
static int resume(writer_t *writer, fail_t *fail)
{
    const store_layout_t *layout = writer->write->layout;
    const store_file_head_t expected = {
        .version = STORE_VERSION, .number = (uint32_t)writer->data, .id = layout->id};
    unsigned char head[STORE_HEAD_BYTES], found[STORE_HEAD_BYTES];
    store_head_write(&expected, head);
    writer->offset = STORE_HEAD_BYTES;
    writer->part = layout->data_parts[writer->data];
    if (read_at(writer, 0, found, sizeof found) && memcmp(head, found, sizeof head) == 0) {
        unsigned char *buffer = malloc(writer->frame_bytes);
        if (buffer == NULL)
            return fail_set(fail, FAIL_MEMORY, "shard: out of memory for blocks");
        bool stop = false;
        while (!at_end(writer) && !(stop = is_interrupted(writer)) && keep_frame(writer, buffer))
            continue;
        free(buffer);
        if (stop)
            return fail->status; /* before frames are truncated that were not checked */
    } else if (store_output_write(&writer->output, 0, head, sizeof head, fail) != 0) {
        return fail->status;
    }
    return store_output_resize(&writer->output, writer->offset, fail);
}

/* ---- Data files ------------------------------------------------------------------------------ */

/* Checksums of a data file's frames, in order. [..] allocated; NULL when out of memory. */
static uint64_t *data_checksums(const store_write_t *write, size_t data, size_t *n)
{
    const store_layout_t *layout = write->layout;
    size_t count = 0;
    for (size_t p = layout->data_parts[data]; p < layout->data_parts[data + 1]; p++)
        count += layout->parts[p].n_blocks;
    uint64_t *checksums = malloc((count + 1) * sizeof *checksums);
    *n = 0;
    for (size_t p = layout->data_parts[data]; p < layout->data_parts[data + 1]; p++) {
        const store_part_t *part = &layout->parts[p];
        const store_written_t *written =
            write->written + layout->segments[part->segment].first_frame + part->first_block;
        for (size_t i = 0; i < part->n_blocks && checksums != NULL; i++)
            checksums[(*n)++] = written[i].frame_checksum;
    }
    return checksums;
}

static int write_tail(writer_t *writer, fail_t *fail)
{
    unsigned char bytes[STORE_TAIL_BYTES];
    size_t n;
    uint64_t *checksums = data_checksums(writer->write, writer->data, &n);
    if (checksums == NULL)
        return fail_set(fail, FAIL_MEMORY, "shard: out of memory");
    store_file_tail_t tail = {.n_frames = n,
        .frames_bytes = writer->offset - STORE_HEAD_BYTES,
        .digest = store_digest_of(checksums, n)};
    free(checksums);
    store_tail_write(&tail, bytes);
    return store_output_write(&writer->output, writer->offset, bytes, sizeof bytes, fail);
}

static int write_file(store_write_t *write, size_t data, fail_t *fail)
{
    writer_t writer = {.write = write, .data = data, .fail = fail};
    char name[STORE_DATA_NAME_BYTES];
    pthread_mutex_init(&writer.lock, NULL);
    pthread_cond_init(&writer.turn, NULL);
    store_data_name(data, name);
    size_buffers(&writer);
    if (store_output_open(&writer.output, write->partial, name, fail) == 0 &&
        resume(&writer, fail) == 0) {
        if (!at_end(&writer))
            team_run(write->team, write_thread, &writer);
        if (fail->status == 0)
            write_tail(&writer, fail);
    }
    store_output_close(&writer.output, fail);
    pthread_cond_destroy(&writer.turn);
    pthread_mutex_destroy(&writer.lock);
    return fail->status;
}

size_t store_write_rounds(const store_write_t *write)
{
    return (write->layout->n_data + write->n_ranks - 1) / write->n_ranks;
}

int store_write_data(store_write_t *write, size_t round, fail_t *fail)
{
    size_t data = round * write->n_ranks + write->rank;
    if (data < write->layout->n_data)
        write_file(write, data, fail);
    return fail->status;
}

/* ---- Tables ---------------------------------------------------------------------------------- */

/* The frames of a rank's data files, in order: copies between them and a table. */
static size_t copy_table(const store_write_t *write, size_t rank, store_written_t *table,
    const store_written_t *from_table)
{
    const store_layout_t *layout = write->layout;
    size_t n = 0;
    for (size_t d = rank; d < layout->n_data; d += write->n_ranks)
        for (size_t p = layout->data_parts[d]; p < layout->data_parts[d + 1]; p++) {
            const store_part_t *part = &layout->parts[p];
            store_written_t *written =
                write->written + layout->segments[part->segment].first_frame + part->first_block;
            if (table != NULL)
                memcpy(table + n, written, part->n_blocks * sizeof *table);
            if (from_table != NULL)
                memcpy(written, from_table + n, part->n_blocks * sizeof *table);
            n += part->n_blocks;
        }
    return n;
}

size_t store_write_table_bytes(const store_write_t *write, size_t rank)
{
    return copy_table(write, rank, NULL, NULL) * sizeof *write->written;
}

void store_write_pack(const store_write_t *write, store_written_t *table)
{
    copy_table(write, write->rank, table, NULL);
}

void store_write_unpack(store_write_t *write, const store_written_t *tables)
{
    for (size_t r = 0; r < write->n_ranks; r++)
        tables += copy_table(write, r, NULL, tables);
}
