/* The format of a shard store, version 1: a checkpoint in compressed, checksummed blocks.
 * docs/shard-format.md says the same at more length, with a reader in Python.
 *
 * All integers are little-endian; "checksum" is XXH3 with 64 bits and seed 0, in the manifest as 16
 * lower-case hexadecimal digits. A store is a directory:
 *
 *   choir-store.json      the manifest, below
 *   data-00000.choir ...  data files: the blocks
 *   config.json ...       the source's small files as they were (config, tokenizer, index)
 *
 * Source. What a store holds are safetensors files, whole. Each is a row of segments that cover it
 * without holes: first its header (the 8 bytes of length and the JSON), then its tensors in the
 * order of their offsets. A segment is cut into blocks of block_bytes bytes, the last one shorter;
 * for a matrix that is a number of whole rows.
 *
 * Data file, byte by byte:
 *   0        64 bytes  head: "CHOIRDAT", u32 version, u32 number of this file, u64 id of the store,
 *                      32 zero bytes, u64 checksum of the 56 bytes before
 *   64       frames, one behind the other, each a block
 *   end-64   64 bytes  tail: "CHOIREND", u64 number of frames, u64 bytes of all frames, u64 digest:
 *                      the checksum of all frames' checksums (8 bytes each, in order), 24 zero
 *                      bytes, u64 checksum of the 56 bytes before
 *
 * Frame:
 *   0        u32       0x4d415246, "FRAM"
 *   4        u32       payload bytes P
 *   8        u32       bytes of the block, uncompressed
 *   12       u32       segment: index into the manifest's "segments"
 *   16       u32       block: index in the segment
 *   20       u32       planes: how the block's bytes are sorted, below
 *   24       u64       checksum of the block, uncompressed
 *   32       u64       checksum of bytes 0 to 31, then the payload
 *   40       P bytes   payload
 *
 * Payload: u32 stored bytes of each plane, then the planes, each as it is when its stored bytes are
 * the plane's bytes, else one zstd frame. Planes of a block of n elements, each plane n bytes:
 *   0 (1 plane)   bytes as they are
 *   2, 4, 8       byte planes of elements of so many bytes: plane p holds byte p of each element
 *   16 (2 planes) bf16: plane 0 holds the exponents (bits 7 to 14), plane 1 sign << 7 | mantissa
 * The payload is at most 4 bytes a plane more than the block.
 *
 * Manifest: a JSON object whose keys are in no particular order, but for the last:
 *   "format": "choir-store", "version": 1
 *   "id": checksum of what decides the layout, the same in the head of each data file
 *   "level": compression level, for information
 *   "copied": [{"name", "bytes", "checksum"}, ...] the small files
 *   "data": [{"name", "bytes", "digest"}, ...] the data files; digest as in the file's tail
 *   "sources": [{"name", "bytes", "checksum"}, ...] the safetensors files; their checksum is that
 *       of their segments' digests (8 bytes each, in the file's order)
 *   "segments": [{"source": index, "offset": in the source file, "bytes", "name": of the tensor
 *       ("" for a header), "dtype", "shape", "listed": whether the source's index names it there,
 *       "planes", "block_bytes", "digest": checksum of its blocks' checksums, uncompressed (8 bytes
 *       each, in order), "extents": [{"data": index of the data file, "offset": of the first frame,
 *       "stored": [bytes of each frame, its 40 bytes of head included],
 *       "checksums": 16 digits a frame, one behind the other}, ...]}, ...] in the order of source,
 *       then offset; the extents in the order of the blocks
 *   "checksum": of all bytes of the manifest before ,"checksum" -- the file ends in exactly
 *       ,"checksum":"0123456789abcdef"} and a newline
 *
 * Every byte of a store is covered: copied files by their checksums; data files by head, tail and
 * frames, which lie side by side; the manifest by its own checksum. */
#ifndef CHOIR_SHARDING_STORE_FORMAT_H
#define CHOIR_SHARDING_STORE_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

#define STORE_VERSION 1
#define STORE_MANIFEST "choir-store.json"
#define STORE_HEAD_BYTES 64
#define STORE_TAIL_BYTES 64
#define STORE_FRAME_HEAD_BYTES 40
#define STORE_MAX_PLANES 8
/* A block is never larger, so neither are buffers, whatever a manifest says. */
#define STORE_MAX_BLOCK_BYTES ((size_t)16 << 20)
#define STORE_DATA_NAME_BYTES 32

typedef enum store_planes {
    STORE_PLANES_NONE = 0,
    STORE_PLANES_2 = 2,
    STORE_PLANES_4 = 4,
    STORE_PLANES_8 = 8,
    STORE_PLANES_BF16 = 16
} store_planes_t;

/* Number of planes; 0 for an unknown kind. */
size_t store_planes_count(uint32_t planes);

typedef struct store_frame_head {
    uint32_t payload_bytes, block_bytes, segment, block, planes;
    uint64_t block_checksum, frame_checksum;
} store_frame_head_t;

/* Head and tail of a data file. */
typedef struct store_file_head {
    uint32_t version, number;
    uint64_t id;
} store_file_head_t;

typedef struct store_file_tail {
    uint64_t n_frames, frames_bytes, digest;
} store_file_tail_t;

/* XXH3 with 64 bits. */
uint64_t store_checksum(const void *bytes, size_t n);

/* out: [STORE_FRAME_HEAD_BYTES]; the payload lies behind it, and head->frame_checksum is computed.
 */
void store_frame_seal(store_frame_head_t *head, unsigned char *out);

/* Reads and checks a frame: [n] bytes, all of them. The head must be well-formed, n its frame, and
 * the checksum right. FAIL_FORMAT says what is wrong, beginning with `where`. */
int store_frame_open(store_frame_head_t *head, const unsigned char *frame, size_t n,
    const char *where, fail_t *fail);
/* Only the head: whether it is well-formed. [STORE_FRAME_HEAD_BYTES] */
int store_frame_read_head(
    store_frame_head_t *head, const unsigned char *frame, const char *where, fail_t *fail);

/* out: [STORE_HEAD_BYTES], [STORE_TAIL_BYTES] */
void store_head_write(const store_file_head_t *head, unsigned char *out);
void store_tail_write(const store_file_tail_t *tail, unsigned char *out);
/* FAIL_FORMAT names `path`. */
int store_head_read(
    store_file_head_t *head, const unsigned char *bytes, const char *path, fail_t *fail);
int store_tail_read(
    store_file_tail_t *tail, const unsigned char *bytes, const char *path, fail_t *fail);

/* The checksum of a list of checksums, 8 bytes each. */
uint64_t store_digest_of(const uint64_t *checksums, size_t n);

/* "data-00000.choir"; out: [STORE_DATA_NAME_BYTES] */
void store_data_name(size_t number, char *out);

/* 16 lower-case digits and a zero byte. */
typedef struct store_hex {
    char text[17];
} store_hex_t;
store_hex_t store_hex(uint64_t checksum);
/* Exactly 16 lower-case digits; 0, or -1 when they are not. */
int store_hex_read(const char *text, uint64_t *checksum);

#endif
