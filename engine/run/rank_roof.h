/* What each rank reaches while all ranks do the same: memory bandwidth and matrix peak.
 *
 * Unlike bench_roof.h, which times a given amount of work of all ranks together, every thread works
 * for a given time here: ranks of different speed overlap all the way, and the time is known. */
#ifndef CHOIR_RUN_RANK_ROOF_H
#define CHOIR_RUN_RANK_ROOF_H

#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/team.h"
#include "engine/kernels/kernels.h"

typedef struct rank_roof {
    double read_bytes_per_s; /* from memory, all threads of this rank */
    double flop_per_s;       /* of the instructions for bf16 matrices; 0 for scalar */
} rank_roof_t;

/* Collective; failures are agreed on. The best of some short runs, since disturbances only make
 * them slower. isa: this rank's, may differ between ranks; bytes: that this rank reads, a multiple
 * of 1 MiB, larger than caches. */
int rank_roof_measure(
    comm_t *comm, team_t *team, isa_t isa, size_t bytes, rank_roof_t *roof, fail_t *fail);

/* Collective; failures are agreed on. The mean read bandwidth of this rank over a third of a
 * second, not the best: a rank that is slowed at times, as by a quota or by other programs, counts
 * as slow. bytes as above. */
int rank_roof_bandwidth(
    comm_t *comm, team_t *team, size_t bytes, double *read_bytes_per_s, fail_t *fail);

#endif
