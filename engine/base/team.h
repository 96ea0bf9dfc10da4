/* The threads of one rank: a fixed team that runs one function together and meets at barriers.
 *
 * The caller of team_run is thread 0. Threads wait as in wait.h: they poll for a short time, then
 * sleep on a futex: in long waits, where other work wants their cores, and where ranks are
 * oversubscribed. While other work takes cores, runs that allow it use fewer threads.
 *
 * Not OpenMP, because OpenMP's waiting policy is fixed for the whole process before main() starts:
 * with more ranks than cores, its spinning makes a decode step many times slower.
 *
 * Thread safety: one thread at a time may call team_run; barriers only inside a run. */
#ifndef CHOIR_BASE_TEAM_H
#define CHOIR_BASE_TEAM_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"
#include "engine/base/wait.h"

typedef struct team team_t;

/* n_threads >= 1, including the caller. oversubscribed: more threads than cores share this host, so
 * waiting threads yield their core at once. */
int team_open(team_t **team, size_t n_threads, bool oversubscribed, fail_t *fail);

/* NULL is allowed. */
void team_close(team_t *team);

/* Shares the record of lost cores with other waits: load, theirs, and slept_ns, a count of the time
 * that the caller of team_run sleeps elsewhere. Both must outlive the team. Between runs. */
void team_share_waits(team_t *team, wait_load_t *load, uint64_t *slept_ns);

size_t team_size(const team_t *team);

/* Calls fn(context, thread) on every thread, 0 .. size-1, and returns when all have returned.
 * Writes made before are visible inside, and those made inside are visible after. */
void team_run(team_t *team, void (*fn)(void *context, size_t thread), void *context);

/* The same for work that any number of threads can do: on threads 0 .. n-1, where n (team_active)
 * is the team's size, or less while other work takes cores from it. */
void team_run_active(team_t *team, void (*fn)(void *context, size_t thread), void *context);

/* Threads of the current run. */
size_t team_active(const team_t *team);

/* Waits until every thread of the current run has arrived; a full memory barrier. */
void team_barrier(team_t *team, size_t thread);

/* The two halves of a barrier with room for a serial part: team_arrive returns on thread 0 once all
 * have arrived, and at once on the others, which then wait in team_await until thread 0 calls
 * team_release. Every thread calls team_arrive; then thread 0 team_release, the others team_await.
 */
void team_arrive(team_t *team, size_t thread);
void team_release(team_t *team);
void team_await(team_t *team, size_t thread);

/* The part [begin, end) of n items that belongs to a thread: contiguous, sizes differ by at most
 * one. */
typedef struct team_part {
    size_t begin, end;
} team_part_t;

static inline team_part_t team_part(size_t n, size_t thread, size_t n_threads)
{
    size_t base = n / n_threads;
    size_t extra = n % n_threads;
    size_t begin = thread * base + (thread < extra ? thread : extra);
    return (team_part_t){begin, begin + base + (thread < extra ? 1 : 0)};
}

/* Items of a phase, divided: each thread takes those of its own part in order, a few at a time, and
 * then from the end of other threads' parts. So a phase ends for all threads at nearly the same
 * time, also where one core is slower than another for a moment.
 *
 * Every thread begins the phase with team_deal and ends it with a barrier, after which everything
 * has been taken. n_items < 2^32. */
void team_deal(team_t *team, size_t thread, size_t n_items);

/* The next items for a thread: at most `most` (>= 1), fewer towards the end; false when all are taken.
 * together: items that cost less if they are taken at once (>= 1); a thread's own are taken in multiples of it, as far as
 * there are. */
bool team_take(team_t *team, size_t thread, size_t together, size_t most, team_part_t *part);

#endif
