/* Messages between rank 0 and the others where all ranks share memory: a broadcast, and a gather to
 * rank 0, without MPI, whose waiting keeps a core busy. Longer messages are sent in pieces through
 * two slots in turn, so that both sides copy at the same time.
 *
 * Borrows its memory and the waiter. Internal to comm. */
#ifndef CHOIR_COMM_BOARD_H
#define CHOIR_COMM_BOARD_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/wait.h"

typedef struct board_head board_head_t;
typedef struct board_rank board_rank_t;

typedef struct board {
    board_head_t *head;  /* shared */
    board_rank_t *ranks; /* [n_ranks], shared */
    char *posts, *mail;  /* slots, shared */
    waiter_t *waiter;    /* this rank's */
    int n_ranks, rank;
    uint64_t n_posted, n_filled; /* pieces of broadcasts, and of this rank's parts of gathers */
} board_t;

/* Bytes of memory that n_ranks share, a multiple of WAIT_LINE. */
size_t board_bytes(int n_ranks);
/* memory: zeroed, the same on all ranks. */
void board_init(board_t *board, void *memory, int n_ranks, int rank, waiter_t *waiter);

/* Collective. Bytes of rank 0 to all. */
void board_bcast(board_t *board, void *data, size_t bytes);
/* Collective. This rank's part for rank 0; on ranks other than 0. */
void board_send(board_t *board, const void *mine, size_t bytes);
/* Collective, on rank 0: receives the part of `rank`, which must not be 0. */
void board_receive(board_t *board, int rank, void *theirs, size_t bytes);

#endif
