#include "sharding/store/store_format.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a state on the stack */
#include <xxhash.h>

#define FRAME_MAGIC UINT32_C(0x4d415246)
#define CHECKSUM_AT 56 /* in heads and tails of files */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "stores are little-endian");

static void put_u32(unsigned char *out, uint32_t value)
{
    memcpy(out, &value, sizeof value);
}

static void put_u64(unsigned char *out, uint64_t value)
{
    memcpy(out, &value, sizeof value);
}

static uint32_t get_u32(const unsigned char *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static uint64_t get_u64(const unsigned char *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

size_t store_planes_count(uint32_t planes)
{
    switch (planes) {
    case STORE_PLANES_NONE:
        return 1;
    case STORE_PLANES_2:
    case STORE_PLANES_4:
    case STORE_PLANES_8:
        return planes;
    case STORE_PLANES_BF16:
        return 2;
    default:
        return 0;
    }
}

uint64_t store_checksum(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

uint64_t store_digest_of(const uint64_t *checksums, size_t n)
{
    return XXH3_64bits(checksums, n * sizeof *checksums);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

/* The frame's checksum skips its own place. */
static uint64_t frame_checksum(const unsigned char *frame, size_t payload_bytes)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, frame, STORE_FRAME_HEAD_BYTES - 8);
    XXH3_64bits_update(&state, frame + STORE_FRAME_HEAD_BYTES, payload_bytes);
    return XXH3_64bits_digest(&state);
}

void store_frame_seal(store_frame_head_t *head, unsigned char *out)
{
    put_u32(out, FRAME_MAGIC);
    put_u32(out + 4, head->payload_bytes);
    put_u32(out + 8, head->block_bytes);
    put_u32(out + 12, head->segment);
    put_u32(out + 16, head->block);
    put_u32(out + 20, head->planes);
    put_u64(out + 24, head->block_checksum);
    head->frame_checksum = frame_checksum(out, head->payload_bytes);
    put_u64(out + 32, head->frame_checksum);
}

int store_frame_read_head(
    store_frame_head_t *head, const unsigned char *frame, const char *where, fail_t *fail)
{
    *head = (store_frame_head_t){.payload_bytes = get_u32(frame + 4),
        .block_bytes = get_u32(frame + 8),
        .segment = get_u32(frame + 12),
        .block = get_u32(frame + 16),
        .planes = get_u32(frame + 20),
        .block_checksum = get_u64(frame + 24),
        .frame_checksum = get_u64(frame + 32)};
    size_t planes = store_planes_count(head->planes);
    if (get_u32(frame) != FRAME_MAGIC || planes == 0 || head->block_bytes == 0 ||
        head->block_bytes > STORE_MAX_BLOCK_BYTES || head->block_bytes % planes != 0 ||
        head->payload_bytes < 4 * planes || head->payload_bytes > head->block_bytes + 4 * planes)
        return fail_set(
            fail, FAIL_FORMAT, "%s: expected a block's frame, found something else", where);
    return 0;
}

int store_frame_open(
    store_frame_head_t *head, const unsigned char *frame, size_t n, const char *where, fail_t *fail)
{
    if (n < STORE_FRAME_HEAD_BYTES)
        return fail_set(fail, FAIL_FORMAT, "%s: expected a frame of at least %d bytes, found %zu",
            where, STORE_FRAME_HEAD_BYTES, n);
    if (store_frame_read_head(head, frame, where, fail) != 0)
        return fail->status;
    if (n - STORE_FRAME_HEAD_BYTES != head->payload_bytes)
        return fail_set(fail, FAIL_FORMAT, "%s: expected a frame of %zu bytes, found one of %zu",
            where, n, (size_t)head->payload_bytes + STORE_FRAME_HEAD_BYTES);
    uint64_t found = frame_checksum(frame, head->payload_bytes);
    if (found != head->frame_checksum)
        return fail_set(fail, FAIL_FORMAT,
            "%s: expected the checksum %016" PRIx64 ", found %016" PRIx64, where,
            head->frame_checksum, found);
    return 0;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static const char head_magic[8] = "CHOIRDAT", tail_magic[8] = "CHOIREND";

static void seal(unsigned char *out)
{
    put_u64(out + CHECKSUM_AT, store_checksum(out, CHECKSUM_AT));
}

void store_head_write(const store_file_head_t *head, unsigned char *out)
{
    memset(out, 0, STORE_HEAD_BYTES);
    memcpy(out, head_magic, sizeof head_magic);
    put_u32(out + 8, head->version);
    put_u32(out + 12, head->number);
    put_u64(out + 16, head->id);
    seal(out);
}

void store_tail_write(const store_file_tail_t *tail, unsigned char *out)
{
    memset(out, 0, STORE_TAIL_BYTES);
    memcpy(out, tail_magic, sizeof tail_magic);
    put_u64(out + 8, tail->n_frames);
    put_u64(out + 16, tail->frames_bytes);
    put_u64(out + 24, tail->digest);
    seal(out);
}

static int check_sealed(
    const unsigned char *bytes, const char *magic, const char *what, const char *path, fail_t *fail)
{
    if (memcmp(bytes, magic, 8) != 0)
        return fail_set(fail, FAIL_FORMAT, "%s: %s: expected \"%.8s\", found something else", path,
            what, magic);
    uint64_t expected = get_u64(bytes + CHECKSUM_AT), found = store_checksum(bytes, CHECKSUM_AT);
    if (expected != found)
        return fail_set(fail, FAIL_FORMAT,
            "%s: %s: expected the checksum %016" PRIx64 ", found %016" PRIx64, path, what, expected,
            found);
    return 0;
}

int store_head_read(
    store_file_head_t *head, const unsigned char *bytes, const char *path, fail_t *fail)
{
    if (check_sealed(bytes, head_magic, "head", path, fail) != 0)
        return fail->status;
    *head = (store_file_head_t){
        .version = get_u32(bytes + 8), .number = get_u32(bytes + 12), .id = get_u64(bytes + 16)};
    if (head->version != STORE_VERSION)
        return fail_set(fail, FAIL_FORMAT, "%s: head: expected version %d, found %u", path,
            STORE_VERSION, head->version);
    return 0;
}

int store_tail_read(
    store_file_tail_t *tail, const unsigned char *bytes, const char *path, fail_t *fail)
{
    if (check_sealed(bytes, tail_magic, "tail", path, fail) != 0)
        return fail->status;
    *tail = (store_file_tail_t){.n_frames = get_u64(bytes + 8),
        .frames_bytes = get_u64(bytes + 16),
        .digest = get_u64(bytes + 24)};
    return 0;
}

/* ---- Names ----------------------------------------------------------------------------------- */

void store_data_name(size_t number, char *out)
{
    snprintf(out, STORE_DATA_NAME_BYTES, "data-%05zu.choir", number);
}

store_hex_t store_hex(uint64_t checksum)
{
    store_hex_t hex;
    snprintf(hex.text, sizeof hex.text, "%016" PRIx64, checksum);
    return hex;
}

int store_hex_read(const char *text, uint64_t *checksum)
{
    uint64_t value = 0;
    for (int i = 0; i < 16; i++) {
        char c = text[i];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
            return -1;
        value = value << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *checksum = value;
    return 0;
}
