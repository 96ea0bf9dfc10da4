/* All communication between ranks. The only module that includes mpi.h.
 *
 * A comm_t is a group of ranks that run one model together. Functions say whether they are
 * Collective (every rank of the group calls them, in the same order) or Local. Only one thread of a
 * rank calls into this module at a time (MPI_THREAD_FUNNELED).
 *
 * Errors of MPI itself cannot be agreed upon, since agreement needs MPI: comm_t installs
 * MPI_ERRORS_ARE_FATAL, which ends all ranks. */
#ifndef CHOIR_COMM_H
#define CHOIR_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/team.h"

typedef struct comm comm_t;

/* Starts MPI (Collective over all processes). Works without mpirun as one rank. */
int comm_start(int *argc, char ***argv, fail_t *fail);
/* Ends MPI (Collective). */
void comm_stop(void);
/* Ends every process of the run at once, without waiting for them. Only for failures of
 * communication itself. */
void comm_abort(int exit_status);
/* "Open MPI v4.1.4, ..." (first line of the library's own version string). */
const char *comm_library_version(void);

/* How activations are combined. */
typedef enum comm_path {
    COMM_AUTO, /* shared windows within a node, MPI among node leaders */
    COMM_MPI   /* plain MPI collectives only (--comm mpi) */
} comm_path_t;

/* Collective over all processes. The group of all ranks.
 *
 * For tests of many nodes on one machine, the environment variable CHOIR_RANKS_PER_NODE=K makes
 * each K consecutive ranks of a machine a node; K,cyclic assigns the ranks to as many nodes in
 * turn. */
int comm_open_world(comm_t **comm, comm_path_t path, fail_t *fail);
void comm_close(comm_t *comm);

/* Collective over parent. Splits it into groups that run in parallel, each with its own model:
 * ranks that pass the same color (0 or more) form one, in the order of their ranks. On failure of
 * any group all ranks return the same status and message. The parent stays open for
 * communication between the groups; close the groups first. */
int comm_split(comm_t *parent, int color, comm_path_t path, comm_t **comm, fail_t *fail);
/* Local. For a group of a split, before comm_set_threads: the other groups do nothing while it
 * runs, so it may use all of the parent's CPUs and memory, not only its share. */
void comm_take_host(comm_t *comm, const comm_t *parent);

int comm_rank(const comm_t *comm);
int comm_size(const comm_t *comm);
/* Ranks of the group on this rank's node, this rank's index among them, and how many nodes there
 * are. */
int comm_node_size(const comm_t *comm);
int comm_node_rank(const comm_t *comm);
int comm_n_nodes(const comm_t *comm);
/* Ranks of the whole run on this machine, those of other groups of a split included. */
int comm_host_ranks(const comm_t *comm);
/* Ranks on this machine whose binding to cores overlaps with this rank's, itself included: those
 * that share its cores. */
int comm_binding_ranks(const comm_t *comm);
/* Which of them this rank is, from 0. */
int comm_binding_index(const comm_t *comm);

/* Collective. Sets how many threads this rank runs (1 before). When the ranks of a machine have
 * more threads together than hardware threads (or quota), waits yield the core at once instead of
 * spinning. */
void comm_set_threads(comm_t *comm, size_t threads);
/* Whether that is so; the same on all ranks of a machine. */
bool comm_oversubscribed(const comm_t *comm);

/* Local. The ranks of a node and the threads of a rank (of `team`) signal each other when they lose
 * their cores to other work, and then sleep where they would yield. may_bind: comm_follow_load may
 * bind the calling thread. Undone by comm_leave_waits before the team is closed. */
void comm_share_waits(comm_t *comm, team_t *team, bool may_bind);
void comm_leave_waits(comm_t *comm);
/* Local. Between steps. While other work takes cores, and there are as many ranks of one thread as
 * cores, binds each to one core. Linux tends to put threads that wake each other onto the same
 * core, where they cannot run at the same time. */
void comm_follow_load(comm_t *comm);

/* Collective. Agreement on errors: every rank passes its own fail (status 0 when all is well);
 * afterwards all hold the lowest status found and the message of the lowest rank that has it,
 * prefixed "rank R: " when the group has more than one rank and the failure is not the same on all
 * ranks. Returns that status. */
int comm_agree(comm_t *comm, fail_t *fail);

/* Collective. FAIL_MODEL (agreed) unless all ranks pass the same value; `what` names it in the
 * message, which names the first rank that differs from rank 0. A failure that a rank has recorded
 * before is agreed on instead, as by comm_agree. */
int comm_agree_same(comm_t *comm, uint64_t value, const char *what, fail_t *fail);

/* Collective. Bytes of rank 0 to all. */
void comm_bcast(comm_t *comm, void *data, size_t bytes);
/* Collective. The same, for waits that may be long (for a user): receivers spin briefly, then poll
 * with backoff, up to about a millisecond. */
void comm_bcast_idle(comm_t *comm, void *data, size_t bytes);
void comm_barrier(comm_t *comm);
/* Collective. Lowest / largest / bitwise and / sum of one number over all ranks. */
int64_t comm_min(comm_t *comm, int64_t value);
int64_t comm_max(comm_t *comm, int64_t value);
int64_t comm_bit_and(comm_t *comm, int64_t value);
int64_t comm_sum(comm_t *comm, int64_t value);

/* Collective. bytes (less than 2 GiB) of each rank, in rank order, to rank 0: all [size * bytes]
 * there, untouched elsewhere. */
void comm_gather_root(comm_t *comm, const void *mine, size_t bytes, void *all);
/* Collective. counts[r] bytes of each rank; all: sum of counts on rank 0. Counts may exceed 2 GiB
 * in sum, not each. */
void comm_gatherv_root(comm_t *comm, const void *mine, const size_t *counts, void *all);
/* Collective. bytes (less than 2 GiB) of each rank, in rank order, to all. */
void comm_allgather(comm_t *comm, const void *mine, size_t bytes, void *all);

/* Collective. Elementwise sum over ranks, in place, same result on every rank. The order of the
 * additions is MPI's: only --combine reduce uses it. */
void comm_allreduce_f32(comm_t *comm, float *data, size_t n);
void comm_allreduce_f64(comm_t *comm, double *data, size_t n);

/* A matrix that all ranks hold and each rank fills in part: gathered activations. Within a node it
 * is one shared window, so a write needs no send. The same memory is used again, so the caller
 * alternates between buffers. A rank may write its part of a buffer again only after a gather of
 * another buffer that all ranks entered after they had finished reading this one. With stream.h a
 * rank's part includes what it receives for its node, from comm_stream_begin on. */
typedef struct comm_buffer comm_buffer_t;

/* Collective. Zeroed, aligned to 64 bytes. A group's first buffer, where there are several nodes,
 * measures how their leaders exchange fastest: some milliseconds. For tests, the environment
 * variable CHOIR_EXCHANGE=allgatherv|direct|doubling decides (doubling: where the number of nodes
 * is a power of two above 2). */
int comm_buffer_open(
    comm_t *comm, size_t bytes, const char *what, comm_buffer_t **buffer, fail_t *fail);
/* Collective. NULL is allowed (on all ranks). */
void comm_buffer_close(comm_buffer_t *buffer);
void *comm_buffer_data(comm_buffer_t *buffer);
/* Whether all ranks of its group share it, so that a gather copies nothing. */
bool comm_buffer_is_shared(const comm_buffer_t *buffer);
/* Whether ranks share it and it has small pages only, which are slow to compute with. */
bool comm_buffer_has_small_pages(const comm_buffer_t *buffer);

/* Collective. Rank r has written columns [begins[r], begins[r+1]) of every row; afterwards every
 * rank sees all of [n_rows, stride_bytes] up to column begins[size].
 * begins: [size + 1] ascending, in bytes from the start of a row, less than 2 GiB; equal on all
 * ranks. */
void comm_gather_columns(
    comm_buffer_t *buffer, size_t n_rows, size_t stride_bytes, const size_t *begins);

/* Collective. Row i has been written whole by rank owners[i]; afterwards every rank sees all rows,
 * which lie row_bytes (less than 2 GiB) apart. owners: [n_rows], equal on all ranks. */
void comm_gather_rows(comm_buffer_t *buffer, size_t n_rows, size_t row_bytes, const int *owners);

#endif
