/* A barrier among the ranks that share memory: one flag per rank, each on its own cache line,
 * holding the number of barriers that its rank has entered. A rank writes its own flag and reads
 * the others', so a barrier costs one cache line's way between cores and no call into MPI.
 *
 * Borrows the flags. What a rank wrote before its barrier is visible to the others after theirs. */
#ifndef CHOIR_COMM_NODE_BARRIER_H
#define CHOIR_COMM_NODE_BARRIER_H

#include <mpi.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define NODE_FLAG_BYTES 64

typedef struct node_flag {
    _Alignas(NODE_FLAG_BYTES) _Atomic uint64_t epoch;
} node_flag_t;

typedef struct node_barrier {
    node_flag_t *flags; /* [n_ranks], shared, zero at first */
    int n_ranks, rank;
    uint64_t epoch;    /* barriers that this rank has entered */
    unsigned spins;    /* looks at a flag before giving the core away */
    MPI_Comm progress; /* polled during long waits */
} node_barrier_t;

/* flags may be NULL when n_ranks is 1. */
void node_barrier_init(
    node_barrier_t *barrier, node_flag_t *flags, int n_ranks, int rank, MPI_Comm progress);

/* oversubscribed: the ranks have more threads than the host has cores for them, so that waiting
 * gives the core away at once. */
void node_barrier_set_oversubscribed(node_barrier_t *barrier, bool oversubscribed);

/* Collective over the ranks. */
void node_barrier_wait(node_barrier_t *barrier);

#endif
