#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "comm/cgroup.h"
#include "comm/internal.h"

/* Nodes as a test sets them: CHOIR_RANKS_PER_NODE, see comm.h. */
typedef struct pretence {
    int ranks_per_node; /* 0: the real nodes */
    bool cyclic;
} pretence_t;

static int read_pretence(pretence_t *pretence, fail_t *fail)
{
    const char *text = getenv("CHOIR_RANKS_PER_NODE");
    *pretence = (pretence_t){0};
    if (text == NULL)
        return 0;
    char *rest;
    long ranks = strtol(text, &rest, 10);
    bool cyclic = strcmp(rest, ",cyclic") == 0;
    if (rest == text || ranks < 1 || ranks > 1000000 || (*rest != '\0' && !cyclic))
        return fail_set(fail, FAIL_USAGE,
            "CHOIR_RANKS_PER_NODE: expected a positive number or NUMBER,cyclic, found \"%s\"",
            text);
    *pretence = (pretence_t){(int)ranks, cyclic};
    return 0;
}

static int node_color(pretence_t pretence, int host_rank, int host_size)
{
    if (pretence.ranks_per_node == 0)
        return 0;
    int n_nodes = (host_size + pretence.ranks_per_node - 1) / pretence.ranks_per_node;
    return pretence.cyclic ? host_rank % n_nodes : host_rank / pretence.ranks_per_node;
}

/* Collective. The communicators, from all ranks down to the leaders. */
static void split(comm_t *comm, comm_path_t path, pretence_t pretence)
{
    int host_rank, host_size;
    MPI_Comm_rank(comm->host, &host_rank);
    MPI_Comm_size(comm->host, &host_size);
    MPI_Comm_split(comm->host, node_color(pretence, host_rank, host_size), comm->rank, &comm->node);
    MPI_Comm_rank(comm->node, &comm->node_rank);
    MPI_Comm_size(comm->node, &comm->node_size);
    int is_first = comm->node_rank == 0;
    MPI_Allreduce(&is_first, &comm->n_nodes, 1, MPI_INT, MPI_SUM, comm->world);

    MPI_Comm_split(comm->node, path == COMM_MPI ? comm->rank : 0, comm->rank, &comm->sharing);
    MPI_Comm_rank(comm->sharing, &comm->sharing_rank);
    MPI_Comm_size(comm->sharing, &comm->sharing_size);
    MPI_Comm_split(
        comm->world, comm->sharing_rank == 0 ? 0 : MPI_UNDEFINED, comm->rank, &comm->leaders);
    int place[2] = {0, 0}; /* this group among the groups */
    if (comm->sharing_rank == 0) {
        MPI_Comm_rank(comm->leaders, &place[0]);
        MPI_Comm_size(comm->leaders, &place[1]);
    }
    MPI_Bcast(place, 2, MPI_INT, 0, comm->sharing);
    comm->group = place[0];
    comm->n_groups = place[1];
}

static int allocate(comm_t *comm, fail_t *fail)
{
    size_t ranks = (size_t)comm->size, groups = (size_t)comm->n_groups;
    comm->group_of = calloc(ranks, sizeof *comm->group_of);
    comm->runs = calloc(ranks, sizeof *comm->runs);
    comm->run_begins = calloc(groups + 1, sizeof *comm->run_begins);
    comm->counts = calloc(groups, sizeof *comm->counts);
    comm->displs = calloc(groups, sizeof *comm->displs);
    comm->cursors = calloc(groups, sizeof *comm->cursors);
    comm->requests = calloc(2 * ranks, sizeof *comm->requests);
    if (comm->group_of == NULL || comm->runs == NULL || comm->run_begins == NULL ||
        comm->counts == NULL || comm->displs == NULL || comm->cursors == NULL ||
        comm->requests == NULL)
        return fail_set(fail, FAIL_MEMORY, "communicator of %d ranks: out of memory", comm->size);
    return 0;
}

static void find_runs(comm_t *comm)
{
    int n_runs = 0;
    for (int g = 0; g < comm->n_groups; g++) {
        comm->run_begins[g] = n_runs;
        for (int r = 0; r < comm->size; r++) {
            if (comm->group_of[r] != g)
                continue;
            if (r > 0 && comm->group_of[r - 1] == g)
                comm->runs[n_runs - 1].end = r + 1;
            else
                comm->runs[n_runs++] = (rank_run_t){r, r + 1};
        }
    }
    comm->run_begins[comm->n_groups] = n_runs;
    comm->scattered = n_runs > comm->n_groups;
}

/* Collective over the host. Finds which bindings overlap, and how many hardware threads all of them
 * have. */
static int compare_bindings(comm_t *comm, fail_t *fail)
{
    int host_rank, host_size;
    MPI_Comm_rank(comm->host, &host_rank);
    MPI_Comm_size(comm->host, &host_size);
    comm->host_ranks = host_size;
    uint64_t mine[CPU_WORDS] = {0}, all[CPU_WORDS] = {0};
    uint64_t *masks = malloc((size_t)host_size * sizeof mine);
    if (masks == NULL)
        fail_set(fail, FAIL_MEMORY, "bindings of %d ranks: out of memory", host_size);
    if (agree_on(comm->world, fail) != 0) {
        free(masks);
        return fail->status;
    }
    if (sched_getaffinity(0, sizeof mine, (cpu_set_t *)(void *)mine) != 0)
        memset(mine, 0xff, sizeof mine);
    MPI_Allgather(mine, CPU_WORDS, MPI_UINT64_T, masks, CPU_WORDS, MPI_UINT64_T, comm->host);
    for (int r = 0; r < host_size; r++) {
        uint64_t overlap = 0;
        for (int w = 0; w < CPU_WORDS; w++) {
            overlap |= mine[w] & masks[r * CPU_WORDS + w];
            all[w] |= masks[r * CPU_WORDS + w];
        }
        comm->binding_ranks += overlap != 0;
        comm->binding_index += overlap != 0 && r < host_rank;
    }
    free(masks);
    memcpy(comm->cpus, mine, sizeof mine);
    size_t cpus = 0, granted = cgroup_cpus("/proc/self/cgroup", "/sys/fs/cgroup");
    for (int w = 0; w < CPU_WORDS; w++)
        cpus += (size_t)__builtin_popcountll(all[w]);
    comm->host_cpus = (int)(granted != 0 && granted < cpus ? granted : cpus);
    /* Processes of one host may be in control groups with different quotas. */
    MPI_Allreduce(MPI_IN_PLACE, &comm->host_cpus, 1, MPI_INT, MPI_MIN, comm->host);
    return 0;
}

int placement_open(comm_t *comm, MPI_Comm ranks, comm_path_t path, fail_t *fail)
{
    pretence_t pretence;
    MPI_Comm_dup(ranks, &comm->world);
    MPI_Comm_rank(comm->world, &comm->rank);
    MPI_Comm_size(comm->world, &comm->size);
    MPI_Comm_split_type(comm->world, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &comm->host);
    read_pretence(&pretence, fail);
    if (agree_on(comm->world, fail) != 0)
        return fail->status;
    split(comm, path, pretence);
    allocate(comm, fail);
    if (agree_on(comm->world, fail) != 0)
        return fail->status;
    MPI_Allgather(&comm->group, 1, MPI_INT, comm->group_of, 1, MPI_INT, comm->world);
    find_runs(comm);
    return compare_bindings(comm, fail);
}

static void free_communicator(MPI_Comm *communicator)
{
    if (*communicator != MPI_COMM_NULL)
        MPI_Comm_free(communicator);
}

void placement_close(comm_t *comm)
{
    free_communicator(&comm->leaders);
    free_communicator(&comm->sharing);
    free_communicator(&comm->node);
    free_communicator(&comm->host);
    free_communicator(&comm->world);
    free(comm->group_of);
    free(comm->runs);
    free(comm->run_begins);
    free(comm->counts);
    free(comm->displs);
    free(comm->cursors);
    free(comm->requests);
}
