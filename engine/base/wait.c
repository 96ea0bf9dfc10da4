#include "engine/base/wait.h"

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"

/* Polling before anything else: some tens of microseconds, longer than a well balanced wait and far
 * shorter than a time slice. Also where other work wants the core: a thread that sleeps in every
 * short wait gives its core away for a slice each time (bench/LOG.md). */
#define LOOKS 2000
/* Then, on an idle machine, polling with yields for this long: an idle core costs nothing, and a
 * thread that sleeps wakes up late. */
#define YIELD_NS 5000000
#define YIELDS_PER_CLOCK 16
/* Longest first sleep before poll is called; twice as long each time. */
#define FIRST_SLEEP_NS 1000000
#define LAST_SLEEP_NS 64000000

/* A window in which a thread lost this share of its time marks the machine as busy for this long;
 * twice as long each time that it is still busy. */
#define WINDOW_NS 10000000
#define BUSY_SHARE 0.2
#define FIRST_HOLD_NS 50000000
#define LAST_HOLD_NS 3200000000

static void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void sleep_at(const waiter_t *w, wait_place_t *place, uint32_t turn, long ns)
{
    struct timespec most = {.tv_nsec = ns};
    syscall(
        SYS_futex, &place->turn, w->shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, turn, &most, NULL, 0);
}

static void sleep_until(
    waiter_t *w, wait_place_t *place, bool (*ready)(const void *), const void *context)
{
    uint64_t start = clock_ns();
    for (long ns = FIRST_SLEEP_NS;; ns = ns < LAST_SLEEP_NS ? 2 * ns : ns) {
        uint32_t turn = atomic_load_explicit(&place->turn, memory_order_acquire);
        atomic_fetch_add_explicit(&place->sleepers, 1, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        bool done = ready(context);
        if (!done)
            sleep_at(w, place, turn, ns);
        atomic_fetch_sub_explicit(&place->sleepers, 1, memory_order_relaxed);
        if (done || ready(context))
            break;
        if (w->poll != NULL)
            w->poll(w->poll_context);
    }
    *w->slept_ns += clock_ns() - start;
}

void wait_until(
    waiter_t *w, wait_place_t *place, bool (*ready)(const void *context), const void *context)
{
    if (ready(context))
        return;
    bool busy = w->oversubscribed || wait_is_busy(w->load);
    for (int i = 0, n = w->oversubscribed ? 0 : LOOKS; i < n; i++) {
        cpu_pause();
        if (ready(context))
            return;
    }
    uint64_t start = busy ? 0 : clock_ns();
    for (int i = 1; !busy; i++) {
        sched_yield();
        if (ready(context))
            return;
        if (i % YIELDS_PER_CLOCK == 0) {
            if (w->poll != NULL)
                w->poll(w->poll_context);
            busy = wait_is_busy(w->load) || clock_ns() - start > YIELD_NS;
        }
    }
    sleep_until(w, place, ready, context);
}

bool wait_has_sleepers(const wait_place_t *place)
{
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&place->sleepers, memory_order_relaxed) != 0;
}

void wait_wake(wait_place_t *place, bool shared)
{
    if (!wait_has_sleepers(place))
        return;
    atomic_fetch_add_explicit(&place->turn, 1, memory_order_release);
    syscall(
        SYS_futex, &place->turn, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

bool wait_is_busy(const wait_load_t *load)
{
    uint64_t until = atomic_load_explicit(&load->busy_until_ns, memory_order_relaxed);
    return until != 0 && clock_ns() < until;
}

static uint64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void wait_work_begin(wait_loss_t *loss, const waiter_t *waiter)
{
    if (!loss->open)
        *loss = (wait_loss_t){.open = true, .slept_ns = *waiter->slept_ns, .cpu_ns = cpu_ns()};
    loss->began_ns = clock_ns();
}

/* Other threads may do so at the same time, with about the same result. */
static void note_busy(wait_load_t *load, uint64_t now)
{
    uint64_t until = atomic_load_explicit(&load->busy_until_ns, memory_order_relaxed);
    uint64_t hold = atomic_load_explicit(&load->hold_ns, memory_order_relaxed);
    if (now >= until) {
        hold = now - until < FIRST_HOLD_NS && hold < LAST_HOLD_NS ? 2 * hold : FIRST_HOLD_NS;
        atomic_store_explicit(&load->hold_ns, hold, memory_order_relaxed);
    }
    atomic_store_explicit(&load->busy_until_ns, now + hold, memory_order_relaxed);
}

bool wait_work_end(wait_loss_t *loss, const waiter_t *waiter, double *share)
{
    uint64_t now = clock_ns();
    loss->worked_ns += now - loss->began_ns;
    if (loss->worked_ns < WINDOW_NS)
        return false;
    /* Time on the core between two works counts as well: the loss is at least this. */
    double had = (double)(cpu_ns() - loss->cpu_ns) + (double)(*waiter->slept_ns - loss->slept_ns);
    *share = had < (double)loss->worked_ns ? 1 - had / (double)loss->worked_ns : 0;
    loss->open = false;
    if (*share > BUSY_SHARE)
        note_busy(waiter->load, now);
    return true;
}
