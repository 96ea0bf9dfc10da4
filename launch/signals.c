#include "launch/signals.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic(engine_t *) target;
static void (*_Atomic at_end)(void);
static atomic_bool only_note, noted, removed, drains, hung_up;
static _Atomic(int64_t) draining_ms; /* when that was asked for; 0: not yet */
static atomic_int ended;             /* the signal, or 0 */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + 1;
}

/* Whether a signal does nothing but ask for a later end. A launcher and a service manager may send one
 * each, and a rank sends itself what another rank was sent. */
static bool only_drains(int number, const siginfo_t *info)
{
    if (!atomic_load(&drains))
        return false;
    if (number == SIGHUP) {
        atomic_store(&hung_up, true);
        return true;
    }
    int64_t begun = atomic_load(&draining_ms), now = now_ms();
    if (begun != 0)
        return now - begun < 1000 || info->si_pid == getpid();
    atomic_store(&draining_ms, now);
    engine_t *engine = atomic_load(&target);
    if (engine != NULL)
        engine_note_signal(engine, number);
    return true;
}

/* Everything in here is allowed in a signal handler: atomics, tcsetattr, signal and raise. */
static void handle(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (atomic_load(&removed)) {
        if (info->si_code == SI_USER && info->si_pid == getpid())
            return;
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    if (only_drains(number, info))
        return;
    if (number == SIGINT && atomic_load(&only_note)) {
        atomic_store(&noted, true);
        return;
    }
    atomic_store(&ended, number);
    void (*restore)(void) = atomic_load(&at_end);
    if (restore != NULL)
        restore();
    engine_t *engine = atomic_load(&target);
    if (engine != NULL)
        engine_interrupt(engine, number);
}

static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};

void signals_call_at_end(void (*restore)(void))
{
    atomic_store(&at_end, restore);
}

void signals_install(engine_t *engine)
{
    sigset_t heard;
    sigemptyset(&heard);
    atomic_store(&target, engine);
    atomic_store(&removed, false);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction action, before;
        memset(&action, 0, sizeof action);
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | (engine == NULL ? SA_RESTART : 0);
        /* Signals ignored at the start stay ignored: nohup, or a job in the background. */
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
        sigaddset(&heard, numbers[i]);
    }
    pthread_sigmask(SIG_UNBLOCK, &heard, NULL);
}

void signals_remove(void)
{
    atomic_store(&removed, true);
    atomic_store(&target, NULL);
}

void signals_note_sigint(void)
{
    atomic_store(&only_note, true);
}

bool signals_take_sigint(void)
{
    return atomic_exchange(&noted, false);
}

void signals_drain(void)
{
    atomic_store(&drains, true);
}

bool signals_draining(void)
{
    return atomic_load(&draining_ms) != 0;
}

bool signals_take_sighup(void)
{
    return atomic_exchange(&hung_up, false);
}

bool signals_ended(void)
{
    return atomic_load(&ended) != 0;
}

int signals_number(void)
{
    return atomic_load(&ended);
}
