/* Loading from a shard store: staging on the node's own disk, and frames that are read once per
 * node where several of its ranks need them. */
#ifndef CHOIR_RUN_STORE_LOADING_H
#define CHOIR_RUN_STORE_LOADING_H

#include "comm/comm.h"
#include "engine/base/status.h"
#include "sharding/checkpoint/checkpoint.h"
#include "sharding/store/store_share.h"

typedef struct store_loading {
    store_share_t share;
    comm_buffer_t *window; /* NULL: nothing is shared */
    checkpoint_t *checkpoint;
} store_loading_t;

/* Collective, before model_load. stage: a folder of the node, or NULL. Does nothing for a
 * checkpoint that is no store, but FAIL_USAGE when it is to be staged. Borrows comm and
 * checkpoint. */
int store_loading_open(store_loading_t *loading, comm_t *comm, checkpoint_t *checkpoint,
    const char *stage, fail_t *fail);

/* Local, after model_load, also after a failure: others may be waiting for this rank. */
void store_loading_leave(store_loading_t *loading);

/* Collective, after all have called the function above. */
void store_loading_close(store_loading_t *loading);

#endif
