#include "comm/node_barrier.h"

static bool all_arrived(const void *context)
{
    const node_barrier_t *b = context;
    for (int r = 0; r < b->n_ranks; r++)
        /* A rank may be one barrier ahead already, hence "less than". */
        if (atomic_load_explicit(&b->flags[r].epoch, memory_order_acquire) < b->epoch)
            return false;
    return true;
}

void node_barrier_wait(node_barrier_t *b)
{
    if (b->n_ranks == 1)
        return;
    b->epoch++;
    atomic_store_explicit(&b->flags[b->rank].epoch, b->epoch, memory_order_release);
    /* Of ranks that arrive together at least one sees that all have arrived: each reads the others'
     * flags behind a fence after it stored its own (wait.h). */
    if (wait_has_sleepers(b->place) && all_arrived(b))
        wait_wake(b->place, true);
    wait_until(b->waiter, b->place, all_arrived, b);
}
