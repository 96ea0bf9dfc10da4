/* Writes a shard store: data files by all ranks and threads, then the manifest by one.
 *
 * Everything is made in OUT.partial-ID beside OUT, and renamed at the end. ID is that of the layout
 * and of the source's times of change, so what is found there is from the same source and flags:
 * whole frames whose checksums are right are kept, the rest is made again. What comes out depends
 * on the layout alone, not on ranks, threads or interruptions. */
#ifndef CHOIR_SHARDING_STORE_WRITE_H
#define CHOIR_SHARDING_STORE_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/progress.h"
#include "engine/base/status.h"
#include "engine/base/team.h"
#include "sharding/store/store_layout.h"

/* A written frame. */
typedef struct store_written {
    uint64_t frame_checksum, block_checksum, bytes;
} store_written_t;

typedef struct store_write {
    const store_layout_t *layout;
    char *out, *partial;
    size_t rank, n_ranks;
    team_t *team;
    /* Uncompressed bytes that this rank has done, kept ones included, and what it has to do; called
     * by one thread at a time. May be NULL. */
    progress_fn progress;
    void *progress_context;
    /* Whether to stop, asked before each batch of blocks by one thread at a time. May be NULL. */
    bool (*interrupted)(void);
    store_written_t *written; /* [n_frames], this rank's; all of them on rank 0 in the end */
    uint64_t kept_bytes, done_bytes, total_bytes; /* uncompressed, of this rank */
} store_write_t;

/* Local. The names and the table. */
int store_write_open(store_write_t *write, const store_layout_t *layout, const char *out,
    size_t rank, size_t n_ranks, team_t *team, fail_t *fail);
void store_write_close(store_write_t *write);

/* Local, rank 0. Refuses when there is something at OUT, when the folder cannot be written to, and
 * when free_bytes do not suffice for what is left to do, as a few compressed samples tell
 * (UINT64_MAX: ask the file system). Makes the partial folder. */
int store_write_begin(store_write_t *write, uint64_t free_bytes, fail_t *fail);

/* Local, then, for each round: the next data file of this rank, if there is one left, its blocks by
 * the whole team. Memory is bounded. On failure, FAIL_INTERRUPTED too, what is finished stays for
 * the next attempt. Ranks that agree between rounds end together soon after one of them failed. */
size_t store_write_rounds(const store_write_t *write);
int store_write_data(store_write_t *write, size_t round, fail_t *fail);

/* Bytes of the table that rank r has to bring to rank 0, and the table itself: packed before
 * gathering, unpacked on rank 0. */
size_t store_write_table_bytes(const store_write_t *write, size_t rank);
void store_write_pack(const store_write_t *write, store_written_t *table);
void store_write_unpack(store_write_t *write, const store_written_t *tables);

/* Local, rank 0, then: copied files, manifest, and the final name. *stored_bytes: of the data
 * files. */
int store_write_finish(store_write_t *write, uint64_t *stored_bytes, fail_t *fail);

#endif
