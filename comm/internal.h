/* What the files of this folder share: the group's struct, windows, and agreement below comm_t. */
#ifndef CHOIR_COMM_INTERNAL_H
#define CHOIR_COMM_INTERNAL_H

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/board.h"
#include "comm/comm.h"
#include "comm/node_barrier.h"
#include "engine/base/status.h"

/* Memory that the ranks of a group on one host share: a file in memory, without a name and outside
 * of /dev/shm, whose size containers limit. */
typedef struct window {
    void *data;   /* aligned to a page or more; NULL when closed */
    size_t bytes; /* whole pages */
    bool huge;    /* all of its pages are huge; the same on all ranks of the group */
} window_t;

/* Collective over group, of which comm (which reports progress meanwhile) is a part or which is a part of
 * it. Zeroed. what: for messages. FAIL_MEMORY, on all ranks of the group alike, when the memory is
 * not there or the system does not let processes share it. */
int window_open(window_t *window, const comm_t *comm, MPI_Comm group, size_t bytes,
    const char *what, fail_t *fail);
/* Local. Others keep the memory as long as they have it open. A closed window is allowed. */
void window_close(window_t *window);

/* Consecutive ranks [first, end) that belong to the same sharing group. */
typedef struct rank_run {
    int first, end;
} rank_run_t;

/* CPU masks of up to 8192 hardware threads; the kernel refuses shorter ones than it uses itself. */
#define CPU_WORDS 128

/* Payloads that exchanges between nodes are measured with. */
#define EXCHANGE_CLASSES 3

/* Ranks fall into sharing groups: those that map the same windows. With COMM_AUTO a sharing group
 * is a node, with COMM_MPI it is a single rank. Gathers synchronise within a group through flags in
 * shared memory, and leaders exchange between groups through MPI. */
struct comm {
    MPI_Comm world;   /* all ranks */
    MPI_Comm host;    /* ranks of this machine */
    MPI_Comm node;    /* ranks of this node: the host's, or a part when a test pretends */
    MPI_Comm sharing; /* ranks that map the same windows */
    MPI_Comm leaders; /* first ranks of the sharing groups; MPI_COMM_NULL elsewhere */
    int rank, size;
    int first_rank; /* in the whole run, of this group's rank 0 */
    bool is_world;  /* all ranks of the run */
    comm_path_t path;
    struct record *record; /* where this process says what it is doing; NULL while nobody watches */
    struct trace_ring *trace; /* what it did, and when; NULL without a trace */
    int node_rank, node_size, n_nodes;
    int sharing_rank, sharing_size;
    int binding_ranks; /* ranks of the host whose binding overlaps this rank's */
    int binding_index; /* of them, those before this one */
    int host_ranks;    /* ranks of the whole run on this host */
    int host_cpus;     /* hardware threads that the group's ranks on the host may use together */
    bool oversubscribed;
    uint64_t cpus[CPU_WORDS], own_cpu[CPU_WORDS]; /* bound to; of those, this rank's own */
    bool may_bind, bound;                         /* to its own; comm_follow_load */

    int n_groups, group;            /* sharing groups, and this rank's */
    int *group_of;                  /* [size] */
    rank_run_t *runs;               /* [n_runs], those of a group together, groups ascending */
    int *run_begins;                /* [n_groups + 1] */
    bool scattered;                 /* some group has more than one run */
    int *counts, *displs, *cursors; /* [n_groups] scratch of an exchange */
    MPI_Request *requests;          /* [2 * size] */
    int ways[EXCHANGE_CLASSES];     /* how leaders exchange payloads of a class; exchange.c */
    bool chosen;                    /* ways is */

    char *staging; /* on leaders: where slices are packed for the exchange between groups */
    size_t staging_bytes;

    window_t meeting; /* what the ranks of a sharing group meet in: load, barrier, board */
    waiter_t waiter;
    wait_load_t own_load; /* where the group is this rank alone */
    uint64_t slept_ns;
    node_barrier_t barrier;
    board_t board; /* where the sharing group is the whole group */
};

/* Whether all ranks, more than one, share memory: then MPI is not needed between them. */
static inline bool shares_all(const comm_t *comm)
{
    return comm->n_groups == 1 && comm->size > 1;
}

/* Local. The group that a buffer belongs to. */
comm_t *comm_buffer_group(const comm_buffer_t *buffer);

/* Collective over `ranks`. comm_agree before there is a comm_t. */
int agree_on(MPI_Comm ranks, fail_t *fail);

/* Collective over `ranks`, which become the group's world. Fills the fields that say which ranks
 * share what, and allocates the arrays; in placement.c. */
int placement_open(comm_t *comm, MPI_Comm ranks, comm_path_t path, fail_t *fail);
void placement_close(comm_t *comm);

#endif
