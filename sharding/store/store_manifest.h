/* The manifest of a shard store (store_format.h) in memory: read with every size checked, written
 * in the one form that is read again. No file access.
 *
 * Owns its arrays and texts. Immutable once read. */
#ifndef CHOIR_SHARDING_STORE_MANIFEST_H
#define CHOIR_SHARDING_STORE_MANIFEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "sharding/checkpoint/tensor.h"
#include "sharding/store/store_format.h"

/* Small files are copied into a store when they are not larger. */
#define STORE_MAX_COPIED_BYTES ((size_t)64 << 20)

/* A copied file, a data file or a source file; checksum is a data file's digest. */
typedef struct store_file {
    const char *name;
    uint64_t bytes, checksum;
} store_file_t;

/* A piece of a source file: its header (offset 0, empty name) or a tensor. */
typedef struct store_segment {
    const char *name, *dtype;
    size_t source;
    uint64_t offset, bytes;
    size_t n_dims, shape[CHECKPOINT_MAX_DIMS];
    bool listed;
    uint32_t planes;
    size_t block_bytes;
    uint64_t digest;
    size_t first_frame, n_blocks;
} store_segment_t;

/* Where a block is. */
typedef struct store_frame {
    uint64_t offset, checksum;
    uint32_t bytes, data; /* of the frame; index of its data file */
} store_frame_t;

typedef struct store_manifest {
    uint64_t id, checksum;
    int level;
    size_t n_copied, n_data, n_sources, n_segments, n_frames;
    store_file_t *copied, *data, *sources;
    store_segment_t *segments;
    store_frame_t *frames; /* those of segment s: [first_frame, first_frame + n_blocks) */
    size_t max_frame_bytes;
    json_t *root; /* keeps the texts; NULL when they are the maker's */
} store_manifest_t;

/* text: [bytes]; name: what messages call it. Whatever passes describes frames that lie side by
 * side in the data files, as many as the segments have blocks, none larger than its block allows;
 * segments that cover the sources without holes; and names of files in the same directory. On
 * failure nothing is kept. */
int store_manifest_read(
    store_manifest_t *manifest, const char *text, size_t bytes, const char *name, fail_t *fail);
void store_manifest_clear(store_manifest_t *manifest);

/* *text: to be freed by the caller, *bytes long. */
int store_manifest_write(
    const store_manifest_t *manifest, char **text, size_t *bytes, fail_t *fail);

static inline size_t store_block_bytes(const store_segment_t *segment, size_t block)
{
    uint64_t begin = (uint64_t)block * segment->block_bytes;
    uint64_t left = segment->bytes - begin;
    return left < segment->block_bytes ? (size_t)left : segment->block_bytes;
}

/* What a message calls a block: "STORE/data-00000.choir: tensor X: rows 0 to 15". */
typedef struct store_where {
    char text[384];
} store_where_t;
store_where_t store_where(
    const store_manifest_t *manifest, const char *directory, size_t segment, size_t block);

#endif
