/* Frames that several ranks of a node need, read once and handed over through shared memory.
 *
 * All ranks of a node map the same memory and open the same store. Each says which frames it will
 * read, and how often; the first that reads a frame which others still want puts it into a slot,
 * and the last that takes it frees the slot. When no slot is free a rank reads for itself, so
 * nobody ever waits for another but while that one reads the very frame.
 *
 * The memory is borrowed, zeroed, and the same size for all. Thread safe, among processes too. */
#ifndef CHOIR_SHARDING_STORE_SHARE_H
#define CHOIR_SHARDING_STORE_SHARE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct store_share {
    void *memory;
    size_t n_frames, slot_bytes, n_slots;
    size_t n_ranks;      /* that map the memory */
    atomic_bool arrived; /* this rank has announced all of its readings */
} store_share_t;

/* Bytes of memory for a store's frames, of which the longest has max_frame_bytes; about
 * room_bytes of it are slots. */
size_t store_share_bytes(size_t n_frames, size_t max_frame_bytes, size_t room_bytes);

/* How many ranks map the memory is found by asking: every rank enters, then all meet at a barrier,
 * then each counts. */
void store_share_enter(void *memory);
size_t store_share_count(void *memory);

/* The same arguments; n_ranks: how many map the memory. */
void store_share_open(store_share_t *share, void *memory, size_t n_frames, size_t max_frame_bytes,
    size_t room_bytes, size_t n_ranks);

/* This rank will read the frame so many times more. */
void store_share_want(store_share_t *share, size_t frame, size_t times);

/* This rank has announced all of its readings, or will announce no more; the first call counts.
 * Every rank calls this, also after failures. */
void store_share_arrive(store_share_t *share);
/* Waits until all ranks have arrived. */
void store_share_await(store_share_t *share);

typedef enum store_share_turn {
    STORE_SHARE_ALONE, /* read it into private memory: no other rank needs it, or there is no
                        * room */
    STORE_SHARE_READ,  /* read it into the slot, then store_share_publish */
    STORE_SHARE_TAKE   /* it is in the slot; store_share_release when done */
} store_share_turn_t;

/* Begins one announced reading of a frame. *slot: [max_frame_bytes], for READ and TAKE. */
store_share_turn_t store_share_begin(store_share_t *share, size_t frame, void **slot);
/* After READ. read: whether the slot holds the frame now; else others read for themselves. The
 * slot may be used until store_share_release. */
void store_share_publish(store_share_t *share, size_t frame, bool read);
/* After TAKE, and after READ with publish(true). */
void store_share_release(store_share_t *share, size_t frame);

#endif
