#include "comm/watch/guard.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "comm/watch/launched.h"
#include "comm/watch/process.h"
#include "comm/watch/stack.h"
#include "engine/base/log.h"
#include "engine/base/size.h"

#define TICK_MS 250
#define TICKS_A_SECOND (1000 / TICK_MS)
#define START_TICKS (10 * TICKS_A_SECOND) /* at least, where no rank is known to be stopped */
#define OTHERS_TICKS (3 * TICKS_A_SECOND) /* extra time of the other ranks before they act */
#define FLUSH_MS 300                      /* for a launcher to pass a message on */
#define SPEAKER_MS 3000                   /* for a rank to write its message */
#define HOST_BYTES 64
#define STACK_BYTES 900

struct guard {
    void (*before_end)(void);
    int main_thread;
    size_t limit; /* ticks */
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    const char *phase;
    size_t n_changes;
    bool ends;
};

/* Sleeps for a tick, or until a phase is entered; returns whether a whole tick of one phase
 * passed. */
static bool wait_tick(guard_t *g)
{
    struct timespec end;
    size_t n_changes = g->n_changes;
    if (g->phase == NULL) {
        pthread_cond_wait(&g->changed, &g->lock);
        return false;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += TICK_MS * 1000000;
    end.tv_sec += end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    while (g->n_changes == n_changes && !g->ends)
        if (pthread_cond_timedwait(&g->changed, &g->lock, &end) != 0)
            break;
    return g->n_changes == n_changes && !g->ends;
}

/* The message, with what this process knows. */
static void describe(const guard_t *g, const char *phase, size_t ticks,
    const launched_peer_t *stopped, char *text, size_t text_bytes)
{
    char host[HOST_BYTES] = "", stack[STACK_BYTES];
    const char *waits = launched_size() > 1 ? "waits for the others" : "is";
    double seconds = (double)ticks * TICK_MS * 1e-3;
    gethostname(host, sizeof host - 1);
    if (stopped->pid != 0) {
        char rank[32] = "a rank";
        if (stopped->rank >= 0)
            snprintf(rank, sizeof rank, "rank %d", stopped->rank);
        snprintf(text, text_bytes,
            "no progress for %.0f s: %s on %s (process %d) is stopped (SIGSTOP or a debugger); "
            "rank %d waits in %s",
            seconds, rank, host, stopped->pid, launched_rank(), phase);
        return;
    }
    stack_of_busy(g->main_thread, stack, sizeof stack);
    snprintf(text, text_bytes, "no progress for %.0f s: rank %d on %s (process %d) %s in %s%s%s",
        seconds, launched_rank(), host, (int)getpid(), waits, phase,
        stack[0] == 0 ? "" : "; its stack: ", stack);
}

/* One rank of a host writes the message; the others wait until its launcher ends them. */
static void end_run(
    const guard_t *g, const char *phase, size_t ticks, const launched_peer_t *stopped)
{
    char text[2000];
    if (launched_may_speak()) {
        describe(g, phase, ticks, stopped, text, sizeof text);
        log_write(LOG_ERROR, "%s", text);
        process_pause_ms(FLUSH_MS);
        if (launched_size() > 1)
            process_see_launcher_off((int)getppid());
    } else {
        process_pause_ms(SPEAKER_MS);
    }
    if (g->before_end != NULL)
        g->before_end();
    _exit(EXIT_FAILURE);
}

/* Whether a phase has taken too many ticks. */
static void check(const guard_t *g, const char *phase, size_t ticks)
{
    launched_peer_t stopped = {0};
    size_t patience = size_max(g->limit, START_TICKS);
    /* The reader of this process's output may be slow. */
    if (process_place(g->main_thread) == PROCESS_IN_STREAM)
        return;
    if (launched_size() > 1 && launched_find_stopped(&stopped))
        end_run(g, phase, ticks, &stopped);
    if (ticks >= patience + (launched_rank() == 0 ? 0 : OTHERS_TICKS))
        end_run(g, phase, ticks, &stopped);
}

static void *keep_guard(void *context)
{
    guard_t *g = context;
    size_t ticks = 0;
    pthread_mutex_lock(&g->lock);
    while (!g->ends) {
        ticks = wait_tick(g) ? ticks + 1 : 0;
        if (ticks < g->limit)
            continue;
        const char *phase = g->phase;
        pthread_mutex_unlock(&g->lock);
        check(g, phase, ticks);
        pthread_mutex_lock(&g->lock);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

guard_t *guard_open(size_t seconds, void (*before_end)(void))
{
    guard_t *g = seconds > 0 ? calloc(1, sizeof *g) : NULL;
    pthread_condattr_t attributes;
    if (g == NULL)
        return NULL;
    g->before_end = before_end;
    g->main_thread = (int)syscall(SYS_gettid);
    g->limit = seconds * TICKS_A_SECOND;
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&g->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    if (process_start_thread(&g->thread, keep_guard, g) == 0)
        return g;
    free(g);
    return NULL;
}

static void change(guard_t *g, const char *phase, bool ends)
{
    pthread_mutex_lock(&g->lock);
    g->phase = phase;
    g->ends = ends;
    g->n_changes++;
    pthread_cond_signal(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

void guard_enter(guard_t *g, const char *phase)
{
    if (g != NULL)
        change(g, phase, false);
}

void guard_close(guard_t *g)
{
    if (g == NULL)
        return;
    change(g, NULL, true);
    pthread_join(g->thread, NULL);
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->changed);
    free(g);
}
