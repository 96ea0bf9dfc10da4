#include "sharding/checkpoint/content_digest.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/size.h"

#define DIGEST_PIECE_BYTES ((size_t)4 << 20)

int checkpoint_content_digest(checkpoint_t *checkpoint, progress_fn progress,
    void *progress_context, uint64_t *digest, fail_t *fail)
{
    uint64_t total = 0, done = 0;
    char *piece = malloc(DIGEST_PIECE_BYTES);
    XXH3_state_t *state = XXH3_createState();
    if (piece == NULL || state == NULL)
        fail_set(fail, FAIL_MEMORY, "digest: out of memory");
    else
        XXH3_64bits_reset(state);
    for (size_t i = 0; i < checkpoint_count(checkpoint); i++)
        total += checkpoint_at(checkpoint, i)->size_bytes;
    for (size_t i = 0; i < checkpoint_count(checkpoint) && fail->status == 0; i++) {
        const checkpoint_tensor_t *tensor = checkpoint_at(checkpoint, i);
        XXH3_64bits_update(state, tensor->name, strlen(tensor->name));
        for (uint64_t at = 0; at < tensor->size_bytes && fail->status == 0;) {
            size_t n = (size_t)(tensor->size_bytes - at);
            n = size_min(n, DIGEST_PIECE_BYTES);
            if (checkpoint_read_bytes(checkpoint, tensor, at, at + n, piece, fail) == 0)
                XXH3_64bits_update(state, piece, n);
            at += n;
            done += n;
            if (progress != NULL)
                progress(progress_context, done, total);
        }
    }
    *digest = fail->status == 0 ? XXH3_64bits_digest(state) : 0;
    XXH3_freeState(state);
    free(piece);
    return fail->status;
}

int checkpoint_directory_digest(const char *directory, uint64_t *digest, fail_t *fail)
{
    checkpoint_t *checkpoint;
    *digest = 0;
    if (checkpoint_open(&checkpoint, directory, fail) != 0)
        return fail->status;
    checkpoint_content_digest(checkpoint, NULL, NULL, digest, fail);
    checkpoint_close(checkpoint);
    return fail->status;
}
