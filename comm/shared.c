#include "comm/shared.h"

#include <stdlib.h>

#include "comm/internal.h"

struct comm_shared {
    window_t window;
};

int comm_shared_open(comm_shared_t **out, comm_t *comm, size_t bytes, fail_t *fail)
{
    *out = NULL;
    comm_shared_t *shared = calloc(1, sizeof *shared);
    if (shared == NULL)
        fail_set(fail, FAIL_MEMORY, "shared weights: out of memory");
    if (comm_agree(comm, fail) == 0) {
        window_open(&shared->window, comm, comm->node, bytes, "shared weights", fail);
        comm_agree(comm, fail);
    }
    if (fail->status != 0) {
        comm_shared_close(shared);
        return fail->status;
    }
    *out = shared;
    return 0;
}

void comm_shared_close(comm_shared_t *shared)
{
    if (shared == NULL)
        return;
    window_close(&shared->window);
    free(shared);
}

void *comm_shared_data(const comm_shared_t *shared)
{
    return shared->window.data;
}
