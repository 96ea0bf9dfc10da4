/* Measurements between ranks: latency and bandwidth of pairs, the interface that carries them,
 * clocks, and the transports of the MPI library.
 *
 * A pair is measured alone. The first of the two leads, and the other answers until it gets a
 * message to stop, so the time is bounded on links of any speed. The other ranks sleep
 * meanwhile. */
#ifndef CHOIR_COMM_PING_H
#define CHOIR_COMM_PING_H

#include <stddef.h>

#include "comm/comm.h"
#include "comm/interfaces.h"

#define PING_MATRIX_RANKS 16 /* up to so many ranks every pair is measured */
#define PING_MOST_PAIRS 256

typedef struct ping {
    int a, b;                       /* ranks; a < b */
    double latency_s;               /* one way: half a round trip of 8 bytes, lower quartile */
    double bytes_per_s;             /* one way, messages of 1 MiB (128 KiB on slow links),
                                     * likewise */
    char way[INTERFACE_NAME_BYTES]; /* the interface that carried them; empty: none, as with shared
                                     * memory */
} ping_t;

/* Pure. Chooses what to measure: every pair of up to PING_MATRIX_RANKS ranks; of more the first
 * ranks of neighbouring nodes, those of the others with rank 0, and neighbours within nodes, as
 * many as PING_MOST_PAIRS allows.
 * nodes: [n_ranks] the node of each rank, from 0; pairs: [PING_MOST_PAIRS]. Returns how many. */
size_t ping_choose(int n_ranks, const int *nodes, ping_t *pairs);

/* Collective. Measures the pairs, which are the same on all ranks; rank 0 gets the results.
 * FAIL_MEMORY, agreed on. */
int ping_run(comm_t *comm, ping_t *pairs, size_t n_pairs, fail_t *fail);

/* Collective. nodes: [size] the node of each rank, numbered from 0 by their first ranks. */
void ping_nodes(comm_t *comm, int *nodes);

/* Collective. ahead_s: [size] written on rank 0: how far the wall clock of each rank is ahead of
 * rank 0's, as precise as half the shortest of some round trips. */
void ping_clocks(comm_t *comm, double *ahead_s);

/* Local. What the MPI library loaded and kept for messages, "ob1: self tcp vader" with Open MPI
 * (its PML and BTLs), or "unknown". */
void ping_transports(char *text, size_t text_bytes);

#endif
