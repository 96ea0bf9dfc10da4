#include "engine/base/team.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/size.h"

#define CACHE_LINE 64

/* If one of n threads loses a share s of its time, all are as slow as that thread. n - 1 threads
 * are (n - 1) / n as fast, so one less is faster from s = 1/n on, and sooner because of the cost of
 * waiting. */
#define DROP_SHARE 0.6
/* Time until an excluded thread is tried again; twice as long after each trial that fails. */
#define FIRST_TRIAL_NS 30000000
#define LAST_TRIAL_NS 3000000000

typedef struct worker {
    _Alignas(CACHE_LINE) _Atomic uint32_t arrived; /* epoch of this thread's last arrival */
    _Atomic uint32_t lost;                         /* since thread 0's last look, see note_loss() */
    uint32_t epoch;                                /* barriers passed; private to the thread */
    uint32_t last_run;                             /* that it took part in; likewise */
    wait_loss_t loss;
    waiter_t waiter;
    uint64_t slept_ns;
    _Alignas(CACHE_LINE) _Atomic uint32_t run;  /* the run that it is called for */
    wait_place_t called;                        /* where it sleeps between runs */
    _Alignas(CACHE_LINE) _Atomic uint64_t left; /* items of its part not taken yet, see pack() */
    team_t *team;
    size_t thread;
    pthread_t handle;
} worker_t;

struct team {
    _Alignas(CACHE_LINE) _Atomic uint32_t released; /* epoch that thread 0 has released */
    wait_place_t arrival, release;                  /* where thread 0, and where the others sleep */
    wait_load_t own_load;
    void (*fn)(void *, size_t);
    void *context;
    bool closing;
    size_t n_threads, n_started;
    uint32_t run;         /* number of the current run */
    uint32_t first_epoch; /* barriers passed before it */
    size_t active;        /* threads of it */
    size_t wanted;        /* threads of the next that may be smaller than the team */
    uint64_t trial_ns;    /* when one more is tried */
    uint64_t pause_ns;    /* from that until the next trial */
    worker_t *workers;
};

static bool is_called(const void *context)
{
    const worker_t *w = context;
    return atomic_load_explicit(&w->run, memory_order_acquire) != w->last_run;
}

static bool is_released(const void *context)
{
    const worker_t *w = context;
    uint32_t released = atomic_load_explicit(&w->team->released, memory_order_acquire);
    /* The next run, which may do without this thread, may have been released already. */
    return (int32_t)(released - w->epoch) >= 0;
}

static bool all_arrived(const void *context)
{
    const worker_t *w = context;
    const team_t *team = w->team;
    for (size_t t = 1; t < team->active; t++)
        if (atomic_load_explicit(&team->workers[t].arrived, memory_order_acquire) != w->epoch)
            return false;
    return true;
}

static void call(worker_t *worker, uint32_t run)
{
    atomic_store_explicit(&worker->run, run, memory_order_release);
    wait_wake(&worker->called, false);
}

static void start_run(team_t *team, size_t active)
{
    team->run++;
    team->first_epoch = team->workers[0].epoch;
    team->active = active;
    for (size_t t = 1; t < active; t++)
        call(&team->workers[t], team->run);
}

/* ---- Taken cores ----------------------------------------------------------------------------- */

#define LOST_UNIT 1024

/* A window that ends with the current run adds the thread's loss in it, in shares of 1/1024. */
static void note_loss(worker_t *w)
{
    double share;
    if (wait_work_end(&w->loss, &w->waiter, &share))
        atomic_fetch_add_explicit(&w->lost, (uint32_t)(share * LOST_UNIT), memory_order_relaxed);
}

static double take_losses(team_t *team)
{
    uint32_t lost = 0;
    for (size_t t = 0; t < team->n_threads; t++)
        if (atomic_load_explicit(&team->workers[t].lost, memory_order_relaxed) != 0)
            lost += atomic_exchange_explicit(&team->workers[t].lost, 0, memory_order_relaxed);
    return (double)lost / LOST_UNIT;
}

static uint64_t next_pause(const team_t *team, uint64_t now)
{
    uint64_t pause = now < team->trial_ns ? team->pause_ns * 2 : team->pause_ns / 2;
    return pause < FIRST_TRIAL_NS ? FIRST_TRIAL_NS : pause > LAST_TRIAL_NS ? LAST_TRIAL_NS : pause;
}

/* Threads of the next run: as many fewer as cores were lost, until a trial with one more
 * succeeds. */
static size_t choose_active(team_t *team)
{
    double lost = team->n_threads > 1 ? take_losses(team) : 0;
    if (lost == 0 && team->wanted == team->n_threads)
        return team->n_threads;
    uint64_t now = clock_ns();
    if (lost * (double)team->wanted > DROP_SHARE) {
        size_t fewer = (size_t)lost + 1;
        if (team->wanted > 1)
            team->pause_ns = next_pause(team, now);
        team->wanted = team->wanted > fewer ? team->wanted - fewer : 1;
        team->trial_ns = now + team->pause_ns;
    } else if (now >= team->trial_ns) {
        if (team->wanted < team->n_threads)
            team->wanted++;
        team->trial_ns = now + team->pause_ns;
    }
    return team->wanted;
}

/* ---- The team -------------------------------------------------------------------------------- */

static void *worker_main(void *argument)
{
    worker_t *worker = argument;
    team_t *team = worker->team;
    for (;;) {
        wait_until(&worker->waiter, &worker->called, is_called, worker);
        /* The count of an excluded thread covers no single window. */
        if (team->run != worker->last_run + 1)
            worker->loss.open = false;
        worker->last_run = team->run;
        worker->epoch = team->first_epoch;
        if (team->closing)
            return NULL;
        wait_work_begin(&worker->loss, &worker->waiter);
        team->fn(team->context, worker->thread);
        note_loss(worker);
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
    team->n_threads = team->active = team->wanted = n_threads;
    team->n_started = 1;
    team->pause_ns = FIRST_TRIAL_NS;
    for (size_t t = 0; t < n_threads; t++) {
        workers[t].team = team;
        workers[t].thread = t;
        workers[t].waiter = (waiter_t){.load = &team->own_load,
            .slept_ns = &workers[t].slept_ns,
            .oversubscribed = oversubscribed};
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
    start_run(team, team->n_started);
    for (size_t t = 1; t < team->n_started; t++)
        pthread_join(team->workers[t].handle, NULL);
    free(team->workers);
    free(team);
}

typedef struct waits {
    team_t *team;
    wait_load_t *load;
} waits_t;

static void share_waits_thread(void *context, size_t thread)
{
    const waits_t *waits = context;
    waits->team->workers[thread].waiter.load = waits->load;
}

void team_share_waits(team_t *team, wait_load_t *load, uint64_t *slept_ns)
{
    team->workers[0].waiter.slept_ns = slept_ns;
    team->workers[0].loss.open = false;
    team_run(team, share_waits_thread, &(waits_t){team, load});
}

size_t team_size(const team_t *team)
{
    return team->n_threads;
}

size_t team_active(const team_t *team)
{
    return team->active;
}

static void run(
    team_t *team, size_t active, void (*fn)(void *context, size_t thread), void *context)
{
    worker_t *me = &team->workers[0];
    team->fn = fn;
    team->context = context;
    start_run(team, active);
    wait_work_begin(&me->loss, &me->waiter);
    fn(context, 0);
    note_loss(me);
    team_arrive(team, 0);
    team_release(team);
}

void team_run(team_t *team, void (*fn)(void *context, size_t thread), void *context)
{
    run(team, team->n_threads, fn, context);
}

void team_run_active(team_t *team, void (*fn)(void *context, size_t thread), void *context)
{
    run(team, choose_active(team), fn, context);
}

void team_arrive(team_t *team, size_t thread)
{
    worker_t *me = &team->workers[thread];
    me->epoch++;
    if (team->active == 1)
        return;
    if (thread == 0) {
        wait_until(&me->waiter, &team->arrival, all_arrived, me);
        return;
    }
    atomic_store_explicit(&me->arrived, me->epoch, memory_order_release);
    /* Of the last two to arrive at least one sees that all have arrived, and wakes thread 0: a
     * fence is between the store of a flag and the reads of the others' (wait.h). */
    if (wait_has_sleepers(&team->arrival) && all_arrived(me))
        wait_wake(&team->arrival, false);
}

void team_release(team_t *team)
{
    if (team->active == 1)
        return;
    atomic_store_explicit(&team->released, team->workers[0].epoch, memory_order_release);
    wait_wake(&team->release, false);
}

void team_await(team_t *team, size_t thread)
{
    worker_t *me = &team->workers[thread];
    wait_until(&me->waiter, &team->release, is_released, me);
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
    /* A thread that reads this before finds the last phase's value: no items. */
    atomic_store(&team->workers[thread].left, pack(team_part(n_items, thread, team->active)));
}

/* At most half of the remaining items where others may take them, so that few items are in work
 * when the last one is taken. */
static size_t portion(const team_t *team, size_t left, size_t together, size_t most)
{
    size_t share = team->active > 1 ? (left + 1) / 2 : left;
    share = size_min(share, most);
    return share > together ? share - share % together : size_min(size_min(together, left), most);
}

static team_part_t take_from(worker_t *worker, bool front, size_t together, size_t most)
{
    uint64_t word = atomic_load(&worker->left), next;
    team_part_t left, taken;
    do {
        left = taken = unpack(word);
        size_t n = portion(worker->team, left.end - left.begin, together, most);
        if (front)
            left.begin = taken.end = left.begin + n;
        else
            left.end = taken.begin = left.end - n;
        next = pack(left);
    } while (!atomic_compare_exchange_weak(&worker->left, &word, next));
    return taken;
}

bool team_take(team_t *team, size_t thread, size_t together, size_t most, team_part_t *part)
{
    *part = take_from(&team->workers[thread], true, together, most);
    for (size_t i = 1; i < team->active && part->begin == part->end; i++)
        *part = take_from(&team->workers[(thread + i) % team->active], false, 1, 1);
    return part->begin < part->end;
}
