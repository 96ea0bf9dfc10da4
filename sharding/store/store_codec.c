#include "sharding/store/store_codec.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "engine/base/size.h"

/* At level 0 zstd finds almost no matches, so that only Huffman codes remain. A tiny table and long
 * matches find nothing in weights and cost little. */
#define ENTROPY_MIN_MATCH 7
#define ENTROPY_HASH_LOG 6

struct store_codec {
    ZSTD_CCtx *compress; /* made when first needed */
    ZSTD_DCtx *decompress;
    unsigned char *planes; /* the planes of a block, side by side */
    size_t planes_bytes;
};

int store_codec_open(store_codec_t **codec, fail_t *fail)
{
    *codec = calloc(1, sizeof **codec);
    if (*codec == NULL)
        return fail_set(fail, FAIL_MEMORY, "codec: out of memory");
    return 0;
}

void store_codec_close(store_codec_t *codec)
{
    if (codec == NULL)
        return;
    ZSTD_freeCCtx(codec->compress);
    ZSTD_freeDCtx(codec->decompress);
    free(codec->planes);
    free(codec);
}

const char *store_codec_library(void)
{
    return ZSTD_versionString();
}

size_t store_codec_bytes(int level)
{
    /* ZSTD_sizeof_CCtx after planes of 2 MiB is 0.5 MiB at level 1, 12 at 9, 33 at 19. */
    return (size_t)(level < 3 ? 2 : level < 10 ? 16 : 40) << 20;
}

static int fit_planes(store_codec_t *codec, size_t bytes, fail_t *fail)
{
    if (bytes <= codec->planes_bytes)
        return 0;
    free(codec->planes);
    codec->planes = malloc(bytes);
    codec->planes_bytes = codec->planes == NULL ? 0 : bytes;
    if (codec->planes == NULL)
        return fail_set(fail, FAIL_MEMORY, "codec: out of memory for a block of %zu bytes", bytes);
    return 0;
}

/* ---- Planes ---------------------------------------------------------------------------------- */

/* Loops that compilers turn into vector code. */

static void split_bf16(const uint16_t *restrict block, unsigned char *restrict exponents,
    unsigned char *restrict rest, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t x = block[i];
        exponents[i] = (unsigned char)(x >> 7);
        rest[i] = (unsigned char)((x & 0x7f) | (x >> 8 & 0x80));
    }
}

static void merge_bf16(uint16_t *restrict block, const unsigned char *restrict exponents,
    const unsigned char *restrict rest, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t x = rest[i];
        block[i] = (uint16_t)((x & 0x7f) | (exponents[i] << 7) | (x & 0x80) << 8);
    }
}

static void merge_2(unsigned char *restrict block, const unsigned char *restrict a,
    const unsigned char *restrict b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        block[2 * i] = a[i];
        block[2 * i + 1] = b[i];
    }
}

static void split(
    uint32_t kind, const unsigned char *block, unsigned char *planes, size_t n_planes, size_t n)
{
    if (kind == STORE_PLANES_BF16) {
        split_bf16((const uint16_t *)(const void *)block, planes, planes + n, n);
        return;
    }
    for (size_t p = 0; p < n_planes; p++)
        for (size_t i = 0; i < n; i++)
            planes[p * n + i] = block[i * n_planes + p];
}

/* planes: [n_planes] pointers to [n] bytes, not in block */
static void merge(uint32_t kind, unsigned char *block, const unsigned char *const *planes,
    size_t n_planes, size_t n)
{
    if (kind == STORE_PLANES_BF16)
        merge_bf16((uint16_t *)(void *)block, planes[0], planes[1], n);
    else if (n_planes == 1)
        memcpy(block, planes[0], n);
    else if (n_planes == 2)
        merge_2(block, planes[0], planes[1], n);
    else
        for (size_t p = 0; p < n_planes; p++)
            for (size_t i = 0; i < n; i++)
                block[i * n_planes + p] = planes[p][i];
}

/* ---- Encoding -------------------------------------------------------------------------------- */

size_t store_frame_bound(size_t block_bytes, uint32_t planes)
{
    return STORE_FRAME_HEAD_BYTES + 4 * store_planes_count(planes) + block_bytes;
}

/* Compresses into [room] bytes; 0 when it does not fit, which makes the plane be stored raw. */
static size_t compress_plane(store_codec_t *codec, int level, const unsigned char *plane, size_t n,
    unsigned char *out, size_t room)
{
    ZSTD_CCtx *context = codec->compress;
    ZSTD_CCtx_reset(context, ZSTD_reset_session_and_parameters);
    ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level == 0 ? 1 : level);
    if (level == 0) {
        ZSTD_CCtx_setParameter(context, ZSTD_c_minMatch, ENTROPY_MIN_MATCH);
        ZSTD_CCtx_setParameter(context, ZSTD_c_hashLog, ENTROPY_HASH_LOG);
    }
    size_t stored = ZSTD_compress2(context, out, room, plane, n);
    return ZSTD_isError(stored) ? 0 : stored;
}

/* Writes a plane in its shortest form; the bytes written. out: [n] */
static size_t store_plane(
    store_codec_t *codec, int level, const unsigned char *plane, size_t n, unsigned char *out)
{
    size_t stored = compress_plane(codec, 0, plane, n, out, n - 1);
    if (level > 0) {
        size_t again =
            compress_plane(codec, level, plane, n, out, stored == 0 ? n - 1 : stored - 1);
        if (again != 0)
            return again;
        /* The first one was shorter, or neither fits; the attempt has overwritten it. */
        stored = stored == 0 ? 0 : compress_plane(codec, 0, plane, n, out, n - 1);
    }
    if (stored != 0)
        return stored;
    memcpy(out, plane, n);
    return n;
}

int store_codec_encode(store_codec_t *codec, int level, const void *block, size_t block_bytes,
    store_frame_head_t *head, unsigned char *frame, size_t *frame_bytes, fail_t *fail)
{
    size_t n_planes = store_planes_count(head->planes), n = block_bytes / n_planes;
    if (codec->compress == NULL && (codec->compress = ZSTD_createCCtx()) == NULL)
        return fail_set(fail, FAIL_MEMORY, "codec: out of memory for compression");
    if (fit_planes(codec, block_bytes, fail) != 0)
        return fail->status;
    split(head->planes, block, codec->planes, n_planes, n);
    unsigned char *payload = frame + STORE_FRAME_HEAD_BYTES;
    size_t used = 4 * n_planes;
    for (size_t p = 0; p < n_planes; p++) {
        /* A plane takes n bytes at most, so the rest always fits. */
        uint32_t stored =
            (uint32_t)store_plane(codec, level, codec->planes + p * n, n, payload + used);
        memcpy(payload + 4 * p, &stored, sizeof stored);
        used += stored;
    }
    head->payload_bytes = (uint32_t)used;
    head->block_bytes = (uint32_t)block_bytes;
    head->block_checksum = store_checksum(block, block_bytes);
    store_frame_seal(head, frame);
    *frame_bytes = STORE_FRAME_HEAD_BYTES + used;
    return 0;
}

/* ---- Decoding -------------------------------------------------------------------------------- */

/* One plane of n bytes from [stored] bytes; *plane points to it, in the payload or in the codec's
 * memory at `room`. */
static int open_plane(store_codec_t *codec, const unsigned char *bytes, size_t stored,
    unsigned char *room, size_t n, const unsigned char **plane, const char *where, fail_t *fail)
{
    *plane = bytes;
    if (stored == n)
        return 0;
    size_t found = ZSTD_decompressDCtx(codec->decompress, room, n, bytes, stored);
    *plane = room;
    if (ZSTD_isError(found))
        return fail_set(fail, FAIL_FORMAT, "%s: expected a zstd frame of %zu bytes: %s", where, n,
            ZSTD_getErrorName(found));
    if (found != n)
        return fail_set(
            fail, FAIL_FORMAT, "%s: expected a plane of %zu bytes, found %zu", where, n, found);
    return 0;
}

int store_codec_decode(store_codec_t *codec, const store_frame_head_t *head,
    const unsigned char *frame, void *block, const char *where, fail_t *fail)
{
    size_t n_planes = store_planes_count(head->planes), n = head->block_bytes / n_planes;
    const unsigned char *payload = frame + STORE_FRAME_HEAD_BYTES;
    const unsigned char *planes[STORE_MAX_PLANES] = {0};
    size_t used = 4 * n_planes;
    if (codec->decompress == NULL && (codec->decompress = ZSTD_createDCtx()) == NULL)
        return fail_set(fail, FAIL_MEMORY, "codec: out of memory for decompression");
    if (fit_planes(codec, head->block_bytes, fail) != 0)
        return fail->status;
    for (size_t p = 0; p < n_planes; p++) {
        uint32_t stored;
        memcpy(&stored, payload + 4 * p, sizeof stored);
        if (stored > n || stored > head->payload_bytes - used)
            return fail_set(fail, FAIL_FORMAT,
                "%s: plane %zu: expected at most %zu bytes, found %u", where, p,
                size_min(n, head->payload_bytes - used), stored);
        if (open_plane(codec, payload + used, stored, codec->planes + p * n, n, &planes[p], where,
                fail) != 0)
            return fail->status;
        used += stored;
    }
    if (used != head->payload_bytes)
        return fail_set(fail, FAIL_FORMAT, "%s: expected a payload of %zu bytes, found %u", where,
            used, head->payload_bytes);
    merge(head->planes, block, planes, n_planes, n);
    return 0;
}
