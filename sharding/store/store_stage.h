/* A node's own copy of the frames that its ranks need: --stage DIR.
 *
 * DIR/choir-CHECKSUM/ (the checksum of the store's manifest) holds files with the names of the
 * store's data files, in which every staged frame lies at the place that it has in the store;
 * what was not needed is a hole. Only its checksum says whether a frame is there, so that
 * torn writes and rotten disks are noticed, and ranks need no agreement: two that write the same
 * frame write the same bytes. Trouble with writing ends the staging, with one warning, and not
 * the run. Thread safe. */
#ifndef CHOIR_SHARDING_STORE_STAGE_H
#define CHOIR_SHARDING_STORE_STAGE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "sharding/store/store_manifest.h"

typedef struct store_stage store_stage_t;

/* Makes the folders that are missing. FAIL_FILE when that cannot be done. Borrows nothing. */
int store_stage_open(
    store_stage_t **stage, const char *directory, const store_manifest_t *manifest, fail_t *fail);
void store_stage_close(store_stage_t *stage);

/* dst: [bytes]; what was never written reads as zeros, and so does what cannot be read. */
void store_stage_read(store_stage_t *stage, size_t data, uint64_t offset, void *dst, size_t bytes);
void store_stage_write(
    store_stage_t *stage, size_t data, uint64_t offset, const void *src, size_t bytes);
/* Asks the system to read ahead. */
void store_stage_expect(store_stage_t *stage, size_t data, uint64_t offset, size_t bytes);

/* Bytes written so far, by all threads. */
uint64_t store_stage_bytes_written(const store_stage_t *stage);

#endif
