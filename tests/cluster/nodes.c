/* Which ranks of several machines count as one node, compared with what is given:
 *
 *   nodes NODES RANKS auto|mpi
 *
 * checks on every rank that there are so many nodes of so many ranks, that ranks share a node
 * exactly when they share a hostname, and that windows reach as far as the node does: a rank's mark
 * is seen before any exchange by those of its node only, and by all after a gather. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"

enum { NAME_BYTES = 64, MAX_RANKS = 64 };

static int n_wrong;

static void check(const comm_t *comm, bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "nodes: rank %d: %s\n", comm_rank(comm), what);
    n_wrong++;
}

/* Hostnames of all ranks against the size of this rank's node. */
static void check_names(comm_t *comm, char (*names)[NAME_BYTES])
{
    char mine[NAME_BYTES] = {0};
    int alike = 0;
    gethostname(mine, sizeof mine - 1);
    comm_allgather(comm, mine, sizeof mine, names);
    for (int r = 0; r < comm_size(comm); r++)
        alike += strcmp(names[r], mine) == 0;
    check(comm, alike == comm_node_size(comm), "a node is not the ranks of one hostname");
}

static void check_window(comm_t *comm, char (*names)[NAME_BYTES], bool shares, fail_t *fail)
{
    comm_buffer_t *buffer;
    size_t begins[MAX_RANKS + 1];
    int rank = comm_rank(comm), size = comm_size(comm);
    for (int r = 0; r <= size; r++)
        begins[r] = (size_t)r;
    if (comm_buffer_open(comm, (size_t)size, "marks", &buffer, fail) != 0)
        return;
    volatile char *marks = comm_buffer_data(buffer);
    marks[rank] = (char)(rank + 1);
    comm_barrier(comm);
    for (int r = 0; r < size; r++) {
        bool reaches = r == rank || (shares && strcmp(names[r], names[rank]) == 0);
        check(
            comm, marks[r] == (reaches ? r + 1 : 0), "a window does not reach as far as its node");
    }
    comm_barrier(comm);
    comm_gather_columns(buffer, 1, (size_t)size, begins);
    for (int r = 0; r < size; r++)
        check(comm, marks[r] == r + 1, "a gather does not reach all nodes");
    comm_buffer_close(buffer);
}

int main(int argc, char **argv)
{
    fail_t fail = {0};
    comm_t *comm;
    static char names[MAX_RANKS][NAME_BYTES];
    if (argc != 4 || comm_start(&argc, &argv, &fail) != 0)
        return 2;
    bool shares = strcmp(argv[3], "auto") == 0;
    int n_nodes = atoi(argv[1]), n_ranks = atoi(argv[2]);
    if (comm_open_world(&comm, shares ? COMM_AUTO : COMM_MPI, &fail) != 0) {
        fprintf(stderr, "nodes: %s\n", fail.message);
        comm_abort(1);
    }
    check(comm, comm_size(comm) == n_nodes * n_ranks, "another number of ranks");
    check(comm, comm_n_nodes(comm) == n_nodes, "another number of nodes");
    check(comm, comm_node_size(comm) == n_ranks, "another number of ranks on the node");
    check(comm, comm_host_ranks(comm) == n_ranks, "another number of ranks on the host");
    check_names(comm, names);
    check_window(comm, names, shares, &fail);
    n_wrong += fail.status != 0;
    int64_t wrong = comm_sum(comm, n_wrong);
    comm_close(comm);
    comm_stop();
    return wrong != 0;
}
