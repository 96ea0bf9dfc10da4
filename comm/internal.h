/* What the files of this folder share: the group's struct, windows, and agreement below comm_t. */
#ifndef CHOIR_COMM_INTERNAL_H
#define CHOIR_COMM_INTERNAL_H

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "comm/node_barrier.h"
#include "engine/base/status.h"

/* Memory that the ranks of a group on one host share. */
typedef struct window {
    MPI_Win win;
    void *data; /* aligned to 64 bytes; NULL when closed */
} window_t;

/* Local. Whether this host has room for a window of so many bytes; called by the group's first rank
 * before window_open, because running out inside of MPI hangs the other ranks. */
int window_check(size_t bytes, const char *what, fail_t *fail);
/* Collective over group. Zeroed. */
void window_open(window_t *window, MPI_Comm group, size_t bytes);
/* Collective over the group. A closed window is allowed. */
void window_close(window_t *window);

/* Consecutive ranks [first, end) that belong to the same sharing group. */
typedef struct rank_run {
    int first, end;
} rank_run_t;

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
    int node_rank, node_size, n_nodes;
    int sharing_rank, sharing_size;
    int binding_ranks; /* ranks of the host whose binding overlaps this rank's */
    int binding_index; /* of them, those before this one */
    int host_ranks;    /* ranks of the whole run on this host */
    int host_cpus;     /* hardware threads that the group's ranks on the host may use together */
    bool oversubscribed;

    int n_groups, group;            /* sharing groups, and this rank's */
    int *group_of;                  /* [size] */
    rank_run_t *runs;               /* [n_runs], those of a group together, groups ascending */
    int *run_begins;                /* [n_groups + 1] */
    bool scattered;                 /* some group has more than one run */
    int *counts, *displs, *cursors; /* [n_groups] scratch of an exchange */
    MPI_Request *requests;          /* [size] */

    char *staging; /* on leaders: where slices are packed for the exchange between groups */
    size_t staging_bytes;

    window_t flags;
    node_barrier_t barrier;
};

/* Collective over `ranks`. comm_agree before there is a comm_t. */
int agree_on(MPI_Comm ranks, fail_t *fail);

/* Collective over `ranks`, which become the group's world. Fills the fields that say which ranks
 * share what, and allocates the arrays; in placement.c. */
int placement_open(comm_t *comm, MPI_Comm ranks, comm_path_t path, fail_t *fail);
void placement_close(comm_t *comm);

#endif
