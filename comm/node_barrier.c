#include "comm/node_barrier.h"

#include <sched.h>

/* Some tens of microseconds: longer than a well balanced wait, far shorter than a time slice. */
#define SPINS 2000
/* Yields between two looks into MPI. */
#define YIELDS_PER_POLL 32

static void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

void node_barrier_init(
    node_barrier_t *barrier, node_flag_t *flags, int n_ranks, int rank, MPI_Comm progress)
{
    *barrier = (node_barrier_t){
        .flags = flags, .n_ranks = n_ranks, .rank = rank, .spins = SPINS, .progress = progress};
}

void node_barrier_set_oversubscribed(node_barrier_t *barrier, bool oversubscribed)
{
    barrier->spins = oversubscribed ? 0 : SPINS;
}

/* MPI moves a message only while its sender or receiver is inside of a call. A rank that waits here
 * for long may have sent what the late one is waiting for, so now and then it lets MPI do its work.
 */
static void give_way(const node_barrier_t *barrier, unsigned yields)
{
    sched_yield();
    if (yields % YIELDS_PER_POLL == YIELDS_PER_POLL - 1) {
        int found;
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, barrier->progress, &found, MPI_STATUS_IGNORE);
    }
}

static void wait_for(const node_barrier_t *barrier, const node_flag_t *flag)
{
    unsigned spins = 0, yields = 0;
    /* A rank may be one barrier ahead already, hence "less than". */
    while (atomic_load_explicit(&flag->epoch, memory_order_acquire) < barrier->epoch) {
        if (spins < barrier->spins) {
            spins++;
            cpu_pause();
        } else {
            give_way(barrier, yields++);
        }
    }
}

void node_barrier_wait(node_barrier_t *barrier)
{
    if (barrier->n_ranks == 1)
        return;
    barrier->epoch++;
    atomic_store_explicit(
        &barrier->flags[barrier->rank].epoch, barrier->epoch, memory_order_release);
    for (int r = 0; r < barrier->n_ranks; r++)
        if (r != barrier->rank)
            wait_for(barrier, &barrier->flags[r]);
}
