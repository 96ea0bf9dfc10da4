#include "comm/comm.h"

#include <sched.h>
#include <string.h>

#include "comm/internal.h"

/* The CPU of this rank where the ranks that share its binding fill it, one on each CPU; else
 * none. */
static bool find_own_cpu(const comm_t *comm, uint64_t *own)
{
    int n = 0;
    memset(own, 0, sizeof comm->cpus);
    for (size_t i = 0; i < 64 * CPU_WORDS; i++)
        if ((comm->cpus[i / 64] >> i % 64 & 1) != 0 && n++ == comm->binding_index)
            own[i / 64] |= (uint64_t)1 << i % 64;
    return n > 1 && n == comm->binding_ranks;
}

void comm_share_waits(comm_t *comm, team_t *team, bool may_bind)
{
    team_share_waits(team, comm->waiter.load, &comm->slept_ns);
    comm->may_bind = find_own_cpu(comm, comm->own_cpu) && may_bind && team_size(team) == 1;
}

/* Where the system refuses, the thread's binding does not change. */
static void bind_thread(comm_t *comm, bool bound)
{
    if (bound != comm->bound)
        sched_setaffinity(0, sizeof comm->cpus, (const void *)(bound ? comm->own_cpu : comm->cpus));
    comm->bound = bound;
}

void comm_leave_waits(comm_t *comm)
{
    bind_thread(comm, false);
    comm->may_bind = false;
}

void comm_follow_load(comm_t *comm)
{
    if (comm->may_bind)
        bind_thread(comm, wait_is_busy(comm->waiter.load));
}

bool comm_oversubscribed(const comm_t *comm)
{
    return comm->oversubscribed;
}

int comm_rank(const comm_t *comm)
{
    return comm->rank;
}

int comm_size(const comm_t *comm)
{
    return comm->size;
}

int comm_node_size(const comm_t *comm)
{
    return comm->node_size;
}

int comm_node_rank(const comm_t *comm)
{
    return comm->node_rank;
}

int comm_host_ranks(const comm_t *comm)
{
    return comm->host_ranks;
}

int comm_n_nodes(const comm_t *comm)
{
    return comm->n_nodes;
}

int comm_binding_index(const comm_t *comm)
{
    return comm->binding_index;
}

int comm_binding_ranks(const comm_t *comm)
{
    return comm->binding_ranks;
}
