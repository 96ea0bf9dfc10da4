/* A barrier among the ranks that share memory: one flag per rank, each on its own cache line,
 * holding the number of barriers that its rank has entered. A rank writes its own flag and reads
 * the others', so a barrier costs one transfer of a cache line between cores and no call into MPI.
 * The last to arrive wakes those that sleep (engine/base/wait.h).
 *
 * Borrows flags and place. What a rank wrote before its barrier is visible to the others after
 * theirs. */
#ifndef CHOIR_COMM_NODE_BARRIER_H
#define CHOIR_COMM_NODE_BARRIER_H

#include <stdatomic.h>
#include <stdint.h>

#include "engine/base/wait.h"

typedef struct node_flag {
    _Alignas(WAIT_LINE) _Atomic uint64_t epoch;
} node_flag_t;

typedef struct node_barrier {
    node_flag_t *flags;  /* [n_ranks], shared, zero at first */
    wait_place_t *place; /* shared */
    waiter_t *waiter;    /* the rank's */
    int n_ranks, rank;
    uint64_t epoch; /* barriers that this rank has entered */
} node_barrier_t;

/* Collective over the ranks. */
void node_barrier_wait(node_barrier_t *barrier);

#endif
