/* A shard store opened for reading: any byte range of any segment (store_format.h), from the
 * compressed blocks that hold it, each checked by its checksum before it is decompressed.
 *
 * Owns the manifest, the files' descriptors and a pool of buffers, as many as threads read at once;
 * each takes about a block and its frame. After opening, reads are thread safe. */
#ifndef CHOIR_SHARDING_STORE_H
#define CHOIR_SHARDING_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "sharding/store/store_manifest.h"
#include "sharding/store/store_share.h"

typedef struct store store_t;

/* Whether there is a manifest in the directory. */
bool store_is(const char *directory);

/* An error of one of the store's files, found on opening. */
typedef void (*store_problem_fn)(void *context, const char *message);

/* Local. Reads and checks the manifest, the copied files, and length, head and tail of the data
 * files. FAIL_FILE, FAIL_FORMAT, FAIL_MEMORY. With a `problem` function, which choir shard --check
 * brings, trouble with single files goes there, and only a manifest that cannot be read is a
 * failure. */
int store_open(
    store_t **store, const char *directory, store_problem_fn problem, void *context, fail_t *fail);
void store_close(store_t *store);

/* Local. For those who read a store's config.json or tokenizer.json and no tensors: reads and
 * checks the manifest and the copied files as store_open does. 0 when the directory is no store. */
int store_check_copied(const char *directory, fail_t *fail);

const store_manifest_t *store_manifest(const store_t *store);
const char *store_directory(const store_t *store);

/* The segment that is a tensor; n_segments when there is none of that name in that source. */
size_t store_find(const store_t *store, size_t source, const char *name);

/* `count` runs of `width` bytes, `pitch` apart, of a segment that begin at its byte `begin`; to
 * dst, one behind the other, converted from the elements' src type to dst_dtype. Reads the blocks
 * that they touch, each once. Bytes as they are: equal types. */
typedef struct store_region {
    size_t segment;
    uint64_t begin, pitch;
    size_t width, count;
    dtype_t src_dtype, dst_dtype;
} store_region_t;
int store_read(store_t *store, const store_region_t *region, void *dst, fail_t *fail);

/* One block, all its checksums compared. block: [store_block_bytes(...)]; its checksum is returned
 * for the segment's digest. */
int store_read_block(store_t *store, size_t segment, size_t block, void *dst,
    uint64_t *block_checksum, fail_t *fail);

/* Frames are read from `directory` where they are there, and put there where they are not
 * (store_stage.h). Before the first read. */
int store_set_stage(store_t *store, const char *directory, fail_t *fail);

/* Frames that were announced are read through `share` (store_share.h), borrowed until it is
 * taken away with NULL. The first reading says that this rank has announced all, and waits until
 * all have. Not while other threads read. */
void store_set_share(store_t *store, store_share_t *share);
bool store_is_shared(const store_t *store);
/* Announces that bytes [begin, end) of a segment will be read `times` times; needs a share. */
void store_want(store_t *store, size_t segment, uint64_t begin, uint64_t end, size_t times);

/* Bytes of frames read from the store's own files, and written to the stage, by all threads. */
uint64_t store_bytes_read(const store_t *store);
uint64_t store_bytes_staged(const store_t *store);

#endif
