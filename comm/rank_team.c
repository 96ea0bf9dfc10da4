#include "comm/rank_team.h"

size_t rank_team_threads(const comm_t *comm, const topology_t *topology, size_t requested)
{
    return topology_threads(topology, requested, (size_t)comm_binding_ranks(comm));
}

static int bind_threads(
    team_t *team, const comm_t *comm, size_t n_threads, topology_bind_t bind, fail_t *fail)
{
    topology_binding_t *binding;
    if (topology_binding_open(&binding, bind, n_threads, (size_t)comm_binding_index(comm),
            (size_t)comm_binding_ranks(comm), fail) == 0)
        topology_binding_apply_team(binding, team);
    topology_binding_close(binding);
    return fail->status;
}

int rank_team_open(
    team_t **team, comm_t *comm, size_t n_threads, topology_bind_t bind, fail_t *fail)
{
    *team = NULL;
    comm_set_threads(comm, n_threads);
    if (team_open(team, n_threads, comm_oversubscribed(comm), fail) != 0)
        return fail->status;
    comm_share_waits(comm, *team, bind == TOPOLOGY_BIND_NONE);
    return bind == TOPOLOGY_BIND_NONE ? 0 : bind_threads(*team, comm, n_threads, bind, fail);
}

void rank_team_close(team_t *team, comm_t *comm)
{
    if (team == NULL)
        return;
    comm_leave_waits(comm);
    team_close(team);
}
