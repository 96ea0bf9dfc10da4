/* The threads of a rank, opened the same way by all that compute or pack on them. */
#ifndef CHOIR_COMM_RANK_TEAM_H
#define CHOIR_COMM_RANK_TEAM_H

#include "comm/comm.h"
#include "comm/topology.h"
#include "engine/base/team.h"

/* Local. Threads that a rank of comm should run (topology_threads). */
size_t rank_team_threads(const comm_t *comm, const topology_t *topology, size_t requested);

/* Collective, without an agreement. The team waits as the node's other ranks do (comm_share_waits)
 * and its threads are bound as asked for. FAIL_MEMORY; FAIL_USAGE when a core would be bound twice. */
int rank_team_open(
    team_t **team, comm_t *comm, size_t n_threads, topology_bind_t bind, fail_t *fail);
/* Local. NULL is allowed. */
void rank_team_close(team_t *team, comm_t *comm);

#endif
