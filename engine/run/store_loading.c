#include "engine/run/store_loading.h"

#include "engine/base/log.h"
#include "engine/base/size.h"
#include "sharding/store/store.h"

/* Of frames that wait for the node's slower ranks. */
#define SHARED_BYTES ((size_t)32 << 20)

/* Collective. Sharing is optional: without memory for it each rank reads for itself. */
static void open_share(store_loading_t *loading, comm_t *comm, store_t *store)
{
    const store_manifest_t *manifest = store_manifest(store);
    size_t frame = manifest->max_frame_bytes, room;
    fail_t refused = {0};
    /* A small store fits whole. */
    if (!size_mul(manifest->n_frames, frame + 64, &room) || room > SHARED_BYTES)
        room = SHARED_BYTES;
    size_t bytes = store_share_bytes(manifest->n_frames, frame, room);
    if (comm_buffer_open(comm, bytes, "shared frames", &loading->window, &refused) != 0) {
        log_write(LOG_DEBUG, "frames are not shared within nodes: %s", refused.message);
        return;
    }
    void *memory = comm_buffer_data(loading->window);
    store_share_enter(memory);
    comm_barrier(comm);
    size_t n_ranks = store_share_count(memory);
    /* Windows of one rank are what plain MPI gives. */
    if (n_ranks > 1) {
        store_share_open(&loading->share, memory, manifest->n_frames, frame, room, n_ranks);
        store_set_share(store, &loading->share);
    }
}

int store_loading_open(store_loading_t *loading, comm_t *comm, checkpoint_t *checkpoint,
    const char *stage, fail_t *fail)
{
    store_t *store = checkpoint == NULL ? NULL : checkpoint_store(checkpoint);
    *loading = (store_loading_t){.checkpoint = checkpoint};
    if (stage != NULL && store == NULL)
        fail_set(fail, FAIL_USAGE,
            "--stage: expected a shard store as --model (choir shard makes one), found other weights");
    else if (stage != NULL)
        store_set_stage(store, stage, fail);
    if (comm_agree(comm, fail) == 0 && store != NULL && comm_size(comm) > 1)
        open_share(loading, comm, store);
    return fail->status;
}

void store_loading_leave(store_loading_t *loading)
{
    store_t *store = loading->checkpoint == NULL ? NULL : checkpoint_store(loading->checkpoint);
    if (store == NULL)
        return;
    store_set_share(store, NULL);
    if (loading->share.memory != NULL)
        store_share_arrive(&loading->share);
    if (store_bytes_staged(store) > 0)
        log_write(LOG_DEBUG, "staged %.1f MiB on this node",
            (double)store_bytes_staged(store) / 1048576.0);
}

void store_loading_close(store_loading_t *loading)
{
    comm_buffer_close(loading->window);
    loading->window = NULL;
}
