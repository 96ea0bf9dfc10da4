/* How threads, of one process or of several that share memory, wait for words that others store:
 * for a moment they look again and again, then they sleep on a futex, so that a core that somebody
 * else needs is free at once.
 *
 * Lost wakeups: whoever waits counts itself as a sleeper, then looks at the words, then sleeps;
 * whoever stores a word stores it, then looks whether there are sleepers. A full fence stands
 * between the two on both sides, so at least one of them sees what the other did: the waiter its
 * word, or the other the sleeper, whom it wakes. Between the waiter's look and its sleep, the
 * kernel compares wait_place_t.turn, which every wakeup changes and which the waiter has read
 * before it looked. So a sleep that nobody ends does not begin, and nobody makes a system call
 * unless somebody sleeps.
 *
 * Thread safety: a wait_place_t is for any threads; a waiter_t belongs to one. */
#ifndef CHOIR_BASE_WAIT_H
#define CHOIR_BASE_WAIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define WAIT_LINE 64

/* Where threads sleep. Zeroed at first; may lie in memory that processes share. */
typedef struct wait_place {
    _Alignas(WAIT_LINE) _Atomic uint32_t turn;
    _Atomic uint32_t sleepers;
} wait_place_t;

/* Whether cores are taken from threads that work together: they share one such word. Zeroed at
 * first. */
typedef struct wait_load {
    _Alignas(WAIT_LINE) _Atomic uint64_t busy_until_ns; /* clock_ns(), that of all processes */
    _Atomic uint64_t hold_ns;                           /* how long it was last held to be busy */
} wait_load_t;

/* One thread's way of waiting. */
typedef struct waiter {
    wait_load_t *load;
    bool shared;                 /* places are in memory that processes share */
    bool oversubscribed;         /* more threads than cores: looks are in vain */
    void (*poll)(void *context); /* called now and then in long waits; may be NULL */
    void *poll_context;
    uint64_t *slept_ns; /* a count that grows by the time asleep; never NULL */
} waiter_t;

/* Returns once ready(context), which looks at words that others store before they call wait_wake.
 */
void wait_until(
    waiter_t *waiter, wait_place_t *place, bool (*ready)(const void *context), const void *context);

/* After the stores that those at a place wait for: wakes them, if they sleep. */
void wait_wake(wait_place_t *place, bool shared);
/* The same where only the last of several stores has to wake: whether anybody sleeps. */
bool wait_has_sleepers(const wait_place_t *place);

/* Whether cores were taken lately, so that waiting threads give theirs away at once. */
bool wait_is_busy(const wait_load_t *load);

/* How much of its time a thread did not get its core although it wanted it. Counts the time between
 * wait_work_begin and wait_work_end, in windows of some milliseconds, less what the waiter slept.
 */
typedef struct wait_loss {
    uint64_t began_ns, worked_ns; /* of this window */
    uint64_t slept_ns, cpu_ns;    /* at its beginning */
    bool open;
} wait_loss_t;

void wait_work_begin(wait_loss_t *loss, const waiter_t *waiter);
/* Whether a window ends now; then *share gets the lost share of it, 0 to 1. A large one is noted in
 * the waiter's load. */
bool wait_work_end(wait_loss_t *loss, const waiter_t *waiter, double *share);

#endif
