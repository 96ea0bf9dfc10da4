/* The layout of a store of a model directory: which segments, cut into which blocks, in which data
 * files. A pure function of the source's headers and of the options, equal on all ranks. Owns the
 * source's file descriptors and headers. Immutable after opening; reads are thread safe. */
#ifndef CHOIR_SHARDING_STORE_LAYOUT_H
#define CHOIR_SHARDING_STORE_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "sharding/checkpoint/safetensors.h"
#include "sharding/store/store_manifest.h"

typedef struct store_options {
    int level;           /* 0 to STORE_MAX_LEVEL */
    uint64_t file_bytes; /* of a data file at most */
    size_t layers;       /* a data file holds at most so many layers, and they no other's; 0: any */
} store_options_t;

/* A safetensors file of the source. */
typedef struct store_source {
    char *name, *path;
    int fd;
    uint64_t bytes, header_checksum, modified_ns;
    size_t header_bytes; /* with the 8 bytes of its length */
    safetensors_t header;
} store_source_t;

/* Consecutive blocks of a segment in a data file. */
typedef struct store_part {
    size_t segment, first_block, n_blocks;
} store_part_t;

typedef struct store_layout {
    char *directory;
    store_options_t options;
    size_t n_sources, n_segments, n_frames, n_parts, n_data, n_copied;
    store_source_t *sources;
    store_segment_t *segments; /* digests are not known yet */
    store_part_t *parts;       /* in the order of the data files */
    size_t *data_parts;        /* [n_data + 1]: data file d has parts [data_parts[d], [d + 1]) */
    char **copied;             /* [n_copied] names of the small files */
    uint64_t total_bytes;      /* of all sources */
    uint64_t id;               /* of the layout and the headers */
    uint64_t resume_id;        /* also of the level and of the sources' times of change */
} store_layout_t;

/* Local. FAIL_USAGE for options that cannot be kept; FAIL_FILE, FAIL_FORMAT for a source that
 * cannot be read, or is a store already. */
int store_layout_open(
    store_layout_t *layout, const char *directory, const store_options_t *options, fail_t *fail);
void store_layout_close(store_layout_t *layout);

/* Bytes [begin, begin + bytes) of a segment. */
int store_layout_read(const store_layout_t *layout, size_t segment, uint64_t begin, size_t bytes,
    void *dst, fail_t *fail);
/* Asks the system to read ahead. */
void store_layout_expect(
    const store_layout_t *layout, size_t segment, uint64_t begin, size_t bytes);

/* Uncompressed bytes of a data file. */
uint64_t store_layout_data_bytes(const store_layout_t *layout, size_t data);

#endif
