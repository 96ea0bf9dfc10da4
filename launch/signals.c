#include "launch/signals.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "launch/terminal.h"

static _Atomic(engine_t *) target;
static atomic_bool only_note, noted;
static atomic_int ended; /* the signal, or 0 */

/* Everything in here is allowed in a signal handler: atomics, and tcsetattr. */
static void handle(int number)
{
    if (number == SIGINT && atomic_load(&only_note)) {
        atomic_store(&noted, true);
        return;
    }
    atomic_store(&ended, number);
    terminal_restore();
    engine_t *engine = atomic_load(&target);
    if (engine != NULL)
        engine_interrupt(engine, number);
}

static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};

void signals_install(engine_t *engine)
{
    sigset_t heard;
    sigemptyset(&heard);
    atomic_store(&target, engine);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction action, before;
        memset(&action, 0, sizeof action);
        action.sa_handler = handle;
        action.sa_flags = engine == NULL ? SA_RESTART : 0;
        /* What was ignored from the start stays so: nohup, or a job in the background. */
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
        sigaddset(&heard, numbers[i]);
    }
    pthread_sigmask(SIG_UNBLOCK, &heard, NULL);
}

void signals_remove(void)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction action;
        if (sigaction(numbers[i], NULL, &action) == 0 && action.sa_handler == handle)
            signal(numbers[i], SIG_DFL);
    }
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

bool signals_ended(void)
{
    return atomic_load(&ended) != 0;
}

int signals_number(void)
{
    return atomic_load(&ended);
}
