/* How threads, of one process or of several that share memory, wait for words that others store:
 * they poll for a short time, then sleep on a futex, so that a core that other work needs is free
 * at once.
 *
 * Lost wakeups: a waiter counts itself as a sleeper, then reads the words, then sleeps; a storer
 * stores a word, then reads whether there are sleepers. Both have a full fence between the two, so
 * at least one of them sees the other's store: the waiter sees its word, or the storer sees the
 * sleeper and wakes it. Between the waiter's read and its sleep, the kernel compares
 * wait_place_t.turn, which every wakeup changes and which the waiter has read before. So a sleep
 * that no one would end does not begin, and a storer makes a system call only if a thread sleeps.
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

/* Whether other work takes cores from threads that work together: they share one such word. Zeroed
 * at first. */
typedef struct wait_load {
    _Alignas(WAIT_LINE) _Atomic uint64_t busy_until_ns; /* clock_ns(), that of all processes */
    _Atomic uint64_t hold_ns;                           /* how long it was last marked as busy */
} wait_load_t;

/* One thread's state for waiting. */
typedef struct waiter {
    wait_load_t *load;
    bool shared;                 /* places are in memory that processes share */
    bool oversubscribed;         /* more threads than cores: polling is useless */
    void (*poll)(void *context); /* called from time to time in long waits; may be NULL */
    void *poll_context;
    uint64_t *slept_ns; /* a count that grows by the time asleep; never NULL */
} waiter_t;

/* Returns once ready(context), which reads words that others store before they call wait_wake. */
void wait_until(
    waiter_t *waiter, wait_place_t *place, bool (*ready)(const void *context), const void *context);

/* After the stores that the waiters of a place wait for: wakes them, if they sleep. */
void wait_wake(wait_place_t *place, bool shared);
/* The same where only the last of several stores has to wake: whether any thread sleeps. */
bool wait_has_sleepers(const wait_place_t *place);

/* Whether cores were lost recently, so that waiting threads yield theirs at once. */
bool wait_is_busy(const wait_load_t *load);

/* The share of its time in which a thread wanted its core and did not have it. Counts the time
 * between wait_work_begin and wait_work_end, in windows of some milliseconds, less the waiter's
 * sleep. */
typedef struct wait_loss {
    uint64_t began_ns, worked_ns; /* of this window */
    uint64_t slept_ns, cpu_ns;    /* at its beginning */
    bool open;
} wait_loss_t;

void wait_work_begin(wait_loss_t *loss, const waiter_t *waiter);
/* Whether a window ends now; then *share is the lost share of it, 0 to 1. A large one marks the
 * waiter's load as busy. */
bool wait_work_end(wait_loss_t *loss, const waiter_t *waiter, double *share);

#endif
