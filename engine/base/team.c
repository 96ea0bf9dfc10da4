#include "engine/base/team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CACHE_LINE 64

typedef struct worker {
    _Alignas(CACHE_LINE) _Atomic uint32_t arrived; /* epoch of this thread's last arrival */
    uint32_t epoch;                                /* barriers passed; private to the thread */
    _Alignas(CACHE_LINE) _Atomic uint64_t left;    /* items of its part not taken yet, see pack() */
    team_t *team;
    size_t thread;
    pthread_t handle;
} worker_t;

struct team {
    _Alignas(CACHE_LINE) _Atomic uint32_t released; /* epoch that thread 0 has released */
    _Alignas(CACHE_LINE) _Atomic uint32_t run;      /* number of the current run */
    _Atomic uint32_t sleepers;
    _Alignas(CACHE_LINE) void (*fn)(void *, size_t);
    void *context;
    bool closing;
    size_t n_threads, n_started;
    unsigned spins;  /* pauses before the first yield */
    unsigned yields; /* yields before sleeping, between runs */
    worker_t *workers;
};

static void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Waits inside a run, where the wait is short or the other side needs our core. */
static void wait_for(_Atomic uint32_t *word, uint32_t value, unsigned spins)
{
    for (unsigned i = 0; atomic_load_explicit(word, memory_order_acquire) != value; i++) {
        if (i < spins)
            cpu_pause();
        else
            sched_yield();
    }
}

static void wait_for_run(team_t *team, uint32_t seen)
{
    for (unsigned i = 0; atomic_load_explicit(&team->run, memory_order_acquire) == seen; i++) {
        if (i < team->spins) {
            cpu_pause();
        } else if (i < team->spins + team->yields) {
            sched_yield();
        } else {
            atomic_fetch_add(&team->sleepers, 1);
            syscall(SYS_futex, &team->run, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
            atomic_fetch_sub(&team->sleepers, 1);
        }
    }
}

static void start_run(team_t *team)
{
    atomic_fetch_add(&team->run, 1);
    if (atomic_load(&team->sleepers) != 0)
        syscall(SYS_futex, &team->run, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void *worker_main(void *argument)
{
    worker_t *worker = argument;
    team_t *team = worker->team;
    uint32_t run = 0;
    for (;;) {
        wait_for_run(team, run);
        run++;
        if (team->closing)
            return NULL;
        team->fn(team->context, worker->thread);
        team_arrive(team, worker->thread);
        team_await(team, worker->thread);
    }
}

int team_open(team_t **out, size_t n_threads, bool oversubscribed, fail_t *fail)
{
    *out = NULL;
    team_t *team = aligned_alloc(CACHE_LINE, sizeof *team);
    worker_t *workers = aligned_alloc(CACHE_LINE, n_threads * sizeof *workers);
    if (team == NULL || workers == NULL) {
        free(team);
        free(workers);
        return fail_set(fail, FAIL_MEMORY, "thread team: out of memory");
    }
    memset(team, 0, sizeof *team);
    memset(workers, 0, n_threads * sizeof *workers);
    team->workers = workers;
    team->n_threads = n_threads;
    team->n_started = 1;
    team->spins = oversubscribed ? 0 : 20000;
    team->yields = oversubscribed ? 10 : 1000;
    for (size_t t = 0; t < n_threads; t++) {
        workers[t].team = team;
        workers[t].thread = t;
        if (t > 0) {
            if (pthread_create(&workers[t].handle, NULL, worker_main, &workers[t]) != 0) {
                team_close(team);
                return fail_set(fail, FAIL_MEMORY,
                    "thread team: expected %zu threads, the system allows %zu", n_threads, t);
            }
            team->n_started++;
        }
    }
    *out = team;
    return 0;
}

void team_close(team_t *team)
{
    if (team == NULL)
        return;
    team->closing = true;
    start_run(team);
    for (size_t t = 1; t < team->n_started; t++)
        pthread_join(team->workers[t].handle, NULL);
    free(team->workers);
    free(team);
}

size_t team_size(const team_t *team)
{
    return team->n_threads;
}

void team_run(team_t *team, void (*fn)(void *context, size_t thread), void *context)
{
    team->fn = fn;
    team->context = context;
    if (team->n_threads > 1)
        start_run(team);
    fn(context, 0);
    team_arrive(team, 0);
    team_release(team);
}

void team_arrive(team_t *team, size_t thread)
{
    worker_t *me = &team->workers[thread];
    me->epoch++;
    if (thread != 0) {
        atomic_store_explicit(&me->arrived, me->epoch, memory_order_release);
        return;
    }
    for (size_t t = 1; t < team->n_threads; t++)
        wait_for(&team->workers[t].arrived, me->epoch, team->spins);
}

void team_release(team_t *team)
{
    atomic_store_explicit(&team->released, team->workers[0].epoch, memory_order_release);
}

void team_await(team_t *team, size_t thread)
{
    wait_for(&team->released, team->workers[thread].epoch, team->spins);
}

void team_barrier(team_t *team, size_t thread)
{
    team_arrive(team, thread);
    if (thread == 0)
        team_release(team);
    else
        team_await(team, thread);
}

/* [begin, end) in one word, so that the owner, who takes from the front, and others, who take from
 * the back, agree by one compare-and-exchange. */
static uint64_t pack(team_part_t part)
{
    return (uint64_t)part.end << 32 | part.begin;
}

static team_part_t unpack(uint64_t word)
{
    return (team_part_t){(size_t)(word & UINT32_MAX), (size_t)(word >> 32)};
}

void team_deal(team_t *team, size_t thread, size_t n_items)
{
    /* Whoever looks here before finds what the last phase left: nothing. */
    atomic_store(&team->workers[thread].left, pack(team_part(n_items, thread, team->n_threads)));
}

/* Half of what is left at most where others may take it, so that little is being worked on when the
 * last is taken. */
static size_t portion(const team_t *team, size_t left, size_t most)
{
    size_t share = team->n_threads > 1 ? (left + 1) / 2 : left;
    return share < most ? share : most;
}

static team_part_t take_from(worker_t *worker, bool front, size_t most)
{
    uint64_t word = atomic_load(&worker->left), next;
    team_part_t left, taken;
    do {
        left = taken = unpack(word);
        size_t n = portion(worker->team, left.end - left.begin, most);
        if (front)
            left.begin = taken.end = left.begin + n;
        else
            left.end = taken.begin = left.end - n;
        next = pack(left);
    } while (!atomic_compare_exchange_weak(&worker->left, &word, next));
    return taken;
}

bool team_take(team_t *team, size_t thread, size_t most, team_part_t *part)
{
    *part = take_from(&team->workers[thread], true, most);
    for (size_t i = 1; i < team->n_threads && part->begin == part->end; i++)
        *part = take_from(&team->workers[(thread + i) % team->n_threads], false, 1);
    return part->begin < part->end;
}
