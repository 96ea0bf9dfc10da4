#include "sharding/store/store_share.h"

#include <sched.h>
#include <stdatomic.h>

#include "engine/base/size.h"

#define LINE 64
#define MAX_SLOTS 65535

/* A frame's word: state in bits 0 to 1, readings still announced in bits 2 to 31, users of the slot
 * that have begun in bits 32 to 47, slot in bits 48 to 63. */
enum { ABSENT, READING, PRESENT };
#define WANTED_ONE (UINT64_C(1) << 2)
#define USER_ONE (UINT64_C(1) << 32)

typedef struct header {
    _Atomic uint32_t entered, arrived; /* ranks */
} header_t;

static unsigned state_of(uint64_t word)
{
    return (unsigned)(word & 3);
}

static uint64_t wanted(uint64_t word)
{
    return word >> 2 & 0x3fffffff;
}

static uint64_t users(uint64_t word)
{
    return word >> 32 & 0xffff;
}

static size_t slot_of(uint64_t word)
{
    return (size_t)(word >> 48);
}

static uint64_t with_state(uint64_t word, unsigned state, size_t slot)
{
    return (word & ~(UINT64_C(3) | UINT64_C(0xffff) << 48)) | state | (uint64_t)slot << 48;
}

/* ---- Memory: header, words of the frames, flags of the slots, slots -------------------------- */

static size_t slots_for(size_t max_frame_bytes, size_t room_bytes)
{
    size_t slot = size_round_up(size_max(max_frame_bytes, 1), LINE);
    return size_min(size_max(room_bytes / slot, 2), MAX_SLOTS);
}

static size_t flags_at(size_t n_frames)
{
    return LINE + size_round_up(n_frames * sizeof(uint64_t), LINE);
}

static size_t slots_at(size_t n_frames, size_t n_slots)
{
    return flags_at(n_frames) + size_round_up(n_slots * sizeof(uint32_t), LINE);
}

size_t store_share_bytes(size_t n_frames, size_t max_frame_bytes, size_t room_bytes)
{
    size_t n_slots = slots_for(max_frame_bytes, room_bytes);
    return slots_at(n_frames, n_slots) +
           n_slots * size_round_up(size_max(max_frame_bytes, 1), LINE);
}

void store_share_open(store_share_t *share, void *memory, size_t n_frames, size_t max_frame_bytes,
    size_t room_bytes, size_t n_ranks)
{
    share->memory = memory;
    share->n_frames = n_frames;
    share->slot_bytes = size_round_up(size_max(max_frame_bytes, 1), LINE);
    share->n_slots = slots_for(max_frame_bytes, room_bytes);
    share->n_ranks = n_ranks;
    atomic_init(&share->arrived, false);
}

void store_share_enter(void *memory)
{
    header_t *header = memory;
    atomic_fetch_add(&header->entered, 1);
}

size_t store_share_count(void *memory)
{
    header_t *header = memory;
    return atomic_load(&header->entered);
}

static _Atomic uint64_t *word_of(store_share_t *share, size_t frame)
{
    return (_Atomic uint64_t *)(void *)((char *)share->memory + LINE) + frame;
}

static _Atomic uint32_t *flag_of(store_share_t *share, size_t slot)
{
    return (_Atomic uint32_t *)(void *)((char *)share->memory + flags_at(share->n_frames)) + slot;
}

static void *slot_memory(store_share_t *share, size_t slot)
{
    return (char *)share->memory + slots_at(share->n_frames, share->n_slots) +
           slot * share->slot_bytes;
}

/* ---- Announcing ------------------------------------------------------------------------------ */

void store_share_want(store_share_t *share, size_t frame, size_t times)
{
    atomic_fetch_add(word_of(share, frame), times * WANTED_ONE);
}

void store_share_arrive(store_share_t *share)
{
    header_t *header = share->memory;
    if (!atomic_exchange(&share->arrived, true))
        atomic_fetch_add(&header->arrived, 1);
}

void store_share_await(store_share_t *share)
{
    header_t *header = share->memory;
    while (atomic_load(&header->arrived) < share->n_ranks)
        sched_yield();
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* n_slots when none is free. */
static size_t take_slot(store_share_t *share, size_t frame)
{
    for (size_t i = 0; i < share->n_slots; i++) {
        size_t slot = (frame + i) % share->n_slots;
        uint32_t free_slot = 0;
        if (atomic_load_explicit(flag_of(share, slot), memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong(flag_of(share, slot), &free_slot, 1))
            return slot;
    }
    return share->n_slots;
}

/* The caller has set READING. Gives its turn a slot, or leaves the frame absent. */
static store_share_turn_t begin_reading(store_share_t *share, size_t frame, void **slot)
{
    _Atomic uint64_t *word = word_of(share, frame);
    size_t taken = take_slot(share, frame);
    uint64_t seen = atomic_load(word), next;
    bool room = taken < share->n_slots;
    do
        next = with_state(seen, room ? READING : ABSENT, room ? taken : 0);
    while (!atomic_compare_exchange_weak(word, &seen, next));
    if (!room)
        return STORE_SHARE_ALONE;
    *slot = slot_memory(share, taken);
    return STORE_SHARE_READ;
}

store_share_turn_t store_share_begin(store_share_t *share, size_t frame, void **slot)
{
    _Atomic uint64_t *word = word_of(share, frame);
    uint64_t seen = atomic_load(word);
    for (;;) {
        uint64_t next = seen;
        if (state_of(seen) == READING) {
            sched_yield();
            seen = atomic_load(word);
            continue;
        }
        if (wanted(seen) == 0)
            return STORE_SHARE_ALONE; /* not announced */
        next -= WANTED_ONE;
        if (state_of(seen) == PRESENT)
            next += USER_ONE;
        else if (wanted(next) > 0)
            next = with_state(next, READING, 0);
        if (!atomic_compare_exchange_weak(word, &seen, next))
            continue;
        if (state_of(next) == PRESENT) {
            *slot = slot_memory(share, slot_of(next));
            return STORE_SHARE_TAKE;
        }
        return state_of(next) == READING ? begin_reading(share, frame, slot) : STORE_SHARE_ALONE;
    }
}

void store_share_publish(store_share_t *share, size_t frame, bool read)
{
    _Atomic uint64_t *word = word_of(share, frame);
    uint64_t seen = atomic_load(word), next;
    size_t slot = slot_of(seen);
    do
        next = read ? with_state(seen, PRESENT, slot) + USER_ONE : with_state(seen, ABSENT, 0);
    while (!atomic_compare_exchange_weak(word, &seen, next));
    if (!read)
        atomic_store(flag_of(share, slot), 0);
}

void store_share_release(store_share_t *share, size_t frame)
{
    _Atomic uint64_t *word = word_of(share, frame);
    uint64_t seen = atomic_load(word), next;
    bool last;
    do {
        next = seen - USER_ONE;
        last = users(next) == 0 && wanted(next) == 0;
        if (last)
            next = with_state(next, ABSENT, 0);
    } while (!atomic_compare_exchange_weak(word, &seen, next));
    if (last)
        atomic_store(flag_of(share, slot_of(seen)), 0);
}
