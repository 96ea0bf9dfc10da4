/* Scans all blocks of a store: checks them, or writes the source's files again.
 *
 * Work is divided over ranks by segments (checking) or source files (unpacking), and within a rank
 * over the threads of its team by blocks. */
#ifndef CHOIR_SHARDING_STORE_UNPACK_H
#define CHOIR_SHARDING_STORE_UNPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/progress.h"
#include "engine/base/status.h"
#include "engine/base/team.h"
#include "sharding/store/store.h"

typedef struct store_job {
    store_t *store;
    size_t rank, n_ranks;
    team_t *team;
    /* Uncompressed bytes of this rank; called by one thread at a time. May be NULL. */
    progress_fn progress;
    void *progress_context;
    /* Whether to stop with FAIL_INTERRUPTED, asked before each block by one thread at a time. May
     * be NULL. */
    bool (*interrupted)(void);
} store_job_t;

/* The results of a check, on this rank. */
typedef struct store_findings {
    size_t n_blocks, n_bad;
} store_findings_t;

/* Local. Every block of this rank's part: its frame's checksum, its own, its segment's digest; on
 * rank 0 also the sources' checksums. `problem` hears of each that is bad, one thread at a time.
 * Failure is only what keeps the check from going on (memory). */
int store_check(const store_job_t *job, store_problem_fn problem, void *context,
    store_findings_t *findings, fail_t *fail);

/* Local, rank 0: refuses when there is something at `out` or too little room (UINT64_MAX: ask the
 * file system), and makes the folder out.partial-CHECKSUM. *partial: its name, for the caller to
 * free; alike on all ranks. */
char *store_unpack_partial(const store_t *store, const char *out);
int store_unpack_begin(
    const store_t *store, const char *out, const char *partial, uint64_t free_bytes, fail_t *fail);
/* Local. This rank's source files; each block is checked on the way. */
int store_unpack_sources(const store_job_t *job, const char *partial, fail_t *fail);
/* Local, rank 0, then: the copied files and the final name. */
int store_unpack_finish(const store_t *store, const char *out, const char *partial, fail_t *fail);

#endif
