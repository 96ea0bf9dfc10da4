#include "comm/board.h"

#include <string.h>

#include "engine/base/size.h"

#define POST_BYTES ((size_t)32 << 10)
#define MAIL_BYTES ((size_t)16 << 10)

/* Counts of pieces. A slot is written again only when all of its readers have counted it. */
struct board_head {
    wait_place_t readers, root, senders; /* where those sleep */
    _Alignas(WAIT_LINE) _Atomic uint64_t posted;
};

struct board_rank {
    _Alignas(WAIT_LINE) _Atomic uint64_t taken;   /* posts that this rank has read */
    _Atomic uint64_t filled;                      /* pieces that it has written */
    _Alignas(WAIT_LINE) _Atomic uint64_t emptied; /* of those, read by rank 0 */
};

size_t board_bytes(int n_ranks)
{
    size_t n = (size_t)n_ranks;
    return sizeof(board_head_t) + n * sizeof(board_rank_t) + 2 * POST_BYTES + n * 2 * MAIL_BYTES;
}

void board_init(board_t *board, void *memory, int n_ranks, int rank, waiter_t *waiter)
{
    char *at = memory;
    *board = (board_t){.waiter = waiter, .n_ranks = n_ranks, .rank = rank};
    board->head = (board_head_t *)at;
    board->ranks = (board_rank_t *)(at += sizeof(board_head_t));
    board->posts = at += (size_t)n_ranks * sizeof(board_rank_t);
    board->mail = at + 2 * POST_BYTES;
}

/* A count that has to reach a value. */
typedef struct goal {
    const board_t *board;
    const _Atomic uint64_t *count;
    uint64_t value;
} goal_t;

static bool is_reached(const void *context)
{
    const goal_t *goal = context;
    return atomic_load_explicit(goal->count, memory_order_acquire) >= goal->value;
}

static bool all_have_taken(const void *context)
{
    const goal_t *goal = context;
    for (int r = 1; r < goal->board->n_ranks; r++)
        if (atomic_load_explicit(&goal->board->ranks[r].taken, memory_order_acquire) < goal->value)
            return false;
    return true;
}

static void wait_for(board_t *b, wait_place_t *place, const _Atomic uint64_t *count, uint64_t value)
{
    wait_until(b->waiter, place, is_reached, &(goal_t){b, count, value});
}

static void count_to(_Atomic uint64_t *count, uint64_t value, wait_place_t *place)
{
    atomic_store_explicit(count, value, memory_order_release);
    wait_wake(place, true);
}

static uint64_t slot_before(uint64_t piece)
{
    return piece > 2 ? piece - 2 : 0;
}

void board_bcast(board_t *b, void *data, size_t bytes)
{
    board_head_t *head = b->head;
    for (size_t done = 0, n; done < bytes; done += n) {
        n = size_min(POST_BYTES, bytes - done);
        uint64_t piece = ++b->n_posted;
        char *slot = b->posts + piece % 2 * POST_BYTES;
        if (b->rank == 0) {
            wait_until(b->waiter, &head->root, all_have_taken,
                &(goal_t){.board = b, .value = slot_before(piece)});
            memcpy(slot, (const char *)data + done, n);
            count_to(&head->posted, piece, &head->readers);
        } else {
            wait_for(b, &head->readers, &head->posted, piece);
            memcpy((char *)data + done, slot, n);
            count_to(&b->ranks[b->rank].taken, piece, &head->root);
        }
    }
}

static char *mail_slot(const board_t *b, int rank, uint64_t piece)
{
    return b->mail + ((size_t)rank * 2 + piece % 2) * MAIL_BYTES;
}

void board_send(board_t *b, const void *mine, size_t bytes)
{
    board_rank_t *me = &b->ranks[b->rank];
    for (size_t done = 0, n; done < bytes; done += n) {
        n = size_min(MAIL_BYTES, bytes - done);
        uint64_t piece = ++b->n_filled;
        wait_for(b, &b->head->senders, &me->emptied, slot_before(piece));
        memcpy(mail_slot(b, b->rank, piece), (const char *)mine + done, n);
        count_to(&me->filled, piece, &b->head->root);
    }
}

void board_receive(board_t *b, int rank, void *theirs, size_t bytes)
{
    board_rank_t *sender = &b->ranks[rank];
    uint64_t piece = atomic_load_explicit(&sender->emptied, memory_order_relaxed);
    for (size_t done = 0, n; done < bytes; done += n) {
        n = size_min(MAIL_BYTES, bytes - done);
        wait_for(b, &b->head->root, &sender->filled, ++piece);
        memcpy((char *)theirs + done, mail_slot(b, rank, piece), n);
        count_to(&sender->emptied, piece, &b->head->senders);
    }
}
