/* Blocks to frames and back: byte planes, zstd, checksums (store_format.h). The only user of
 * zstd.h.
 *
 * A codec owns zstd's contexts and two planes' worth of memory, and belongs to one thread at a
 * time. */
#ifndef CHOIR_SHARDING_STORE_CODEC_H
#define CHOIR_SHARDING_STORE_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "sharding/store/store_format.h"

/* Level 0: entropy coding only, which takes exponents further than matches do, and faster. Levels
 * 1 to 19 are zstd's; a plane is stored in the smaller of level 0 and the level asked for. */
#define STORE_MAX_LEVEL 19

typedef struct store_codec store_codec_t;

int store_codec_open(store_codec_t **codec, fail_t *fail);
void store_codec_close(store_codec_t *codec);

/* About how much memory a codec takes that encodes blocks of 4 MiB, beside the planes. */
size_t store_codec_bytes(int level);

/* The largest size of a block's frame. */
size_t store_frame_bound(size_t block_bytes, uint32_t planes);

/* Makes head (its segment, block and planes are given; the rest is written) and frame:
 * [store_frame_bound(...)], of *frame_bytes. block: [block_bytes], which the number of planes must
 * divide, at most STORE_MAX_BLOCK_BYTES. The result depends on the arguments only. */
int store_codec_encode(store_codec_t *codec, int level, const void *block, size_t block_bytes,
    store_frame_head_t *head, unsigned char *frame, size_t *frame_bytes, fail_t *fail);

/* The block of a frame that store_frame_open has accepted. block: [head->block_bytes]. Checks all
 * sizes itself. FAIL_FORMAT begins with `where`. */
int store_codec_decode(store_codec_t *codec, const store_frame_head_t *head,
    const unsigned char *frame, void *block, const char *where, fail_t *fail);

/* "1.5.4" */
const char *store_codec_library(void);

#endif
