/* Fuzz target: the manifest of a shard store, and its frames.
 *
 * Sources (fuzzing.h): sharding/store/store_{manifest,format,codec}.c -lzstd -lxxhash
 *
 * An input's first byte says what the rest is: bit 0: a manifest or a frame; bit 1: whether its
 * checksum is made right first, so that what lies behind it is reached. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sharding/store/store_codec.h"
#include "sharding/store/store_manifest.h"
#include "tests/fuzzing.h"

#define CHECKSUM_BYTES (sizeof ",\"checksum\":\"0123456789abcdef\"}\n" - 1)

/* ---- Manifests ------------------------------------------------------------------------------- */

static void check_frames(const store_manifest_t *manifest)
{
    size_t frames = 0;
    for (size_t s = 0; s < manifest->n_segments; s++) {
        const store_segment_t *segment = &manifest->segments[s];
        require(segment->source < manifest->n_sources);
        require(segment->first_frame == frames);
        require(segment->block_bytes > 0 && segment->block_bytes <= STORE_MAX_BLOCK_BYTES);
        require(segment->n_dims <= CHECKPOINT_MAX_DIMS);
        require(store_planes_count(segment->planes) > 0);
        uint64_t bytes = 0;
        for (size_t b = 0; b < segment->n_blocks; b++) {
            const store_frame_t *frame = &manifest->frames[frames + b];
            require(frame->data < manifest->n_data);
            require(frame->offset >= STORE_HEAD_BYTES);
            require(frame->offset + frame->bytes + STORE_TAIL_BYTES <=
                    manifest->data[frame->data].bytes);
            require(frame->bytes <= manifest->max_frame_bytes);
            require(
                frame->bytes <= store_frame_bound(store_block_bytes(segment, b), segment->planes));
            bytes += store_block_bytes(segment, b);
            store_where(manifest, "store", s, b);
        }
        require(bytes == segment->bytes);
        frames += segment->n_blocks;
    }
    require(frames == manifest->n_frames);
}

static void check_manifest(const char *text, size_t bytes)
{
    store_manifest_t manifest;
    fail_t fail = {0};
    int status = store_manifest_read(&manifest, text, bytes, "file", &fail);
    require(status == fail.status);
    if (status != 0) {
        require(fail.message[0] != 0 && strchr(fail.message, '\n') == NULL);
        require(manifest.root == NULL && manifest.frames == NULL);
        return;
    }
    check_frames(&manifest);
    for (size_t i = 0; i < manifest.n_copied; i++)
        require(strchr(manifest.copied[i].name, '/') == NULL);
    for (size_t i = 0; i < manifest.n_sources; i++)
        require(strchr(manifest.sources[i].name, '/') == NULL);
    /* What can be read can be written and read again. */
    char *again = NULL;
    size_t again_bytes;
    require(store_manifest_write(&manifest, &again, &again_bytes, &fail) == 0);
    store_manifest_t second;
    require(store_manifest_read(&second, again, again_bytes, "file", &fail) == 0);
    require(second.n_frames == manifest.n_frames && second.n_segments == manifest.n_segments);
    store_manifest_clear(&second);
    free(again);
    store_manifest_clear(&manifest);
}

static void seal_manifest(char *text, size_t bytes)
{
    char tail[CHECKSUM_BYTES + 1];
    if (bytes < CHECKSUM_BYTES)
        return;
    size_t n = bytes - CHECKSUM_BYTES;
    snprintf(tail, sizeof tail, ",\"checksum\":\"%s\"}\n", store_hex(store_checksum(text, n)).text);
    memcpy(text + n, tail, CHECKSUM_BYTES);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

static void seal_frame(unsigned char *frame, size_t bytes)
{
    store_frame_head_t head;
    fail_t fail = {0};
    if (bytes < STORE_FRAME_HEAD_BYTES || store_frame_read_head(&head, frame, "frame", &fail) != 0)
        return;
    if (head.payload_bytes == bytes - STORE_FRAME_HEAD_BYTES)
        store_frame_seal(&head, frame);
}

static void check_frame(const unsigned char *frame, size_t bytes)
{
    store_frame_head_t head;
    fail_t fail = {0};
    store_codec_t *codec;
    if (store_frame_open(&head, frame, bytes, "frame", &fail) != 0) {
        require(fail.message[0] != 0);
        return;
    }
    require(head.block_bytes <= STORE_MAX_BLOCK_BYTES);
    require(store_codec_open(&codec, &fail) == 0);
    /* Exactly as large, so that a sanitizer sees any write beyond it. */
    void *block = malloc(head.block_bytes);
    require(block != NULL);
    require(store_codec_decode(codec, &head, frame, block, "frame", &fail) == fail.status);
    store_codec_close(codec);
    free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    /* Exactly as large as the input, for the same reason. */
    unsigned char *copy = malloc(size);
    require(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    unsigned char *exact = realloc(copy, size - 1 + (size == 1));
    require(exact != NULL);
    if (data[0] & 1) {
        if (data[0] & 2)
            seal_manifest((char *)exact, size - 1);
        check_manifest((const char *)exact, size - 1);
    } else {
        if (data[0] & 2)
            seal_frame(exact, size - 1);
        check_frame(exact, size - 1);
    }
    free(exact);
    return 0;
}

#ifdef CHOIR_FUZZ_MAIN
#define ROOM 8192
#define N_SEEDS 6

typedef struct seed {
    unsigned char bytes[ROOM];
    size_t size;
} seed_t;

static void write_manifest(seed_t *seed, const store_manifest_t *manifest)
{
    fail_t fail = {0};
    char *text;
    size_t bytes;
    store_manifest_t again;
    require(store_manifest_write(manifest, &text, &bytes, &fail) == 0 && bytes < ROOM);
    /* A seed that is not accepted would test little. */
    require(store_manifest_read(&again, text, bytes, "seed", &fail) == 0);
    store_manifest_clear(&again);
    seed->bytes[0] = 1;
    memcpy(seed->bytes + 1, text, bytes);
    seed->size = 1 + bytes;
    free(text);
}

/* Two sources, tensors of several blocks, one of them in two data files. */
static void make_manifest(seed_t *seed)
{
    store_file_t copied[] = {{"config.json", 20, 1}},
                 data[] = {{"data-00000.choir", 0, 0}, {"data-00001.choir", 0, 0}};
    store_file_t sources[] = {{"a.safetensors", 1000, 5}, {"b.safetensors", 84, 6}};
    store_segment_t segments[] = {
        {.name = "", .dtype = "U8", .bytes = 100, .block_bytes = 100, .n_dims = 1, .shape = {100}},
        {.name = "w",
            .dtype = "BF16",
            .offset = 100,
            .bytes = 900,
            .block_bytes = 320,
            .n_dims = 2,
            .shape = {45, 10},
            .listed = true,
            .planes = STORE_PLANES_BF16},
        {.name = "", .dtype = "U8", .source = 1, .bytes = 60, .block_bytes = 60, .n_dims = 1},
        {.name = "f",
            .dtype = "F32",
            .source = 1,
            .offset = 60,
            .bytes = 24,
            .block_bytes = 24,
            .n_dims = 1,
            .shape = {6},
            .listed = true,
            .planes = STORE_PLANES_4},
    };
    store_frame_t frames[] = {{64, 11, 120, 0}, {184, 12, 300, 0}, {64, 13, 310, 1},
        {374, 14, 200, 1}, {574, 15, 90, 1}, {664, 16, 77, 1}};
    const uint64_t first[] = {11, 12}, second[] = {13, 14, 15, 16};
    segments[0].n_blocks = segments[2].n_blocks = segments[3].n_blocks = 1;
    segments[1].n_blocks = 3;
    segments[1].first_frame = 1;
    segments[2].first_frame = 4;
    segments[3].first_frame = 5;
    data[0].bytes = 484 + STORE_TAIL_BYTES;
    data[0].checksum = store_digest_of(first, 2);
    data[1].bytes = 741 + STORE_TAIL_BYTES;
    data[1].checksum = store_digest_of(second, 4);
    store_manifest_t manifest = {.n_copied = 1,
        .n_data = 2,
        .n_sources = 2,
        .n_segments = 4,
        .n_frames = 6,
        .copied = copied,
        .data = data,
        .sources = sources,
        .segments = segments,
        .frames = frames};
    write_manifest(seed, &manifest);
}

static void make_frame(seed_t *seed, uint32_t planes)
{
    unsigned char block[1920];
    uint64_t state = planes + 1;
    store_frame_head_t head = {.segment = 1, .planes = planes};
    store_codec_t *codec;
    fail_t fail = {0};
    size_t bytes;
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (unsigned char)(i % 2 == 0 ? fuzz_random(&state) : fuzz_random(&state) % 7);
    require(store_codec_open(&codec, &fail) == 0);
    require(store_codec_encode(
                codec, 0, block, sizeof block, &head, seed->bytes + 1, &bytes, &fail) == 0);
    store_codec_close(codec);
    seed->bytes[0] = 0;
    seed->size = 1 + bytes;
}

static void run_round(void *context, unsigned long i, uint64_t *state)
{
    (void)i;
    const fuzz_words_t put = {.bytes = "0123456789{}[],:\"\\x-.eE \n\x80\xff"};
    uint8_t data[ROOM];
    const seed_t *seed = (const seed_t *)context + fuzz_random(state) % N_SEEDS;
    memcpy(data, seed->bytes, seed->size);
    size_t size = fuzz_mutate(data, 1, seed->size, sizeof data, &put, state);
    /* Mostly with checksums made right, or little else would be reached. */
    data[0] = (uint8_t)((seed->bytes[0] & 1) | (fuzz_random(state) % 8 != 0 ? 2 : 0));
    if (!(data[0] & 1) && size > 1 + STORE_FRAME_HEAD_BYTES && fuzz_random(state) % 4 != 0) {
        uint32_t payload = (uint32_t)(size - 1 - STORE_FRAME_HEAD_BYTES);
        memcpy(data + 1 + 4, &payload, sizeof payload);
    }
    LLVMFuzzerTestOneInput(data, size);
}

int main(int argc, char **argv)
{
    static seed_t seeds[N_SEEDS];
    static const uint32_t kinds[] = {0, 2, 4, 8, 16};
    make_manifest(&seeds[0]);
    for (size_t i = 0; i + 1 < N_SEEDS; i++)
        make_frame(&seeds[i + 1], kinds[i]);
    return fuzz_main(argc, argv, 50000, run_round, seeds);
}

#endif
