#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "launch/signals.h"

/* In a process of its own: what ended it, by the status of waitpid. */
static int status_of(void (*body)(void))
{
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        body();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void install_and_hear(void)
{
    signals_install(NULL);
    kill(getpid(), SIGTERM);
    _exit(signals_ended() ? signals_number() : 0);
}

static void signals_that_come_are_known(void **state)
{
    (void)state;
    int status = status_of(install_and_hear);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), SIGTERM);
}

static void remove_and_be_told(void)
{
    signals_install(NULL);
    signals_remove();
    kill(getpid(), SIGTERM);
    _exit(signals_ended() ? signals_number() : 0);
}

/* As the watchdog does when another rank has a signal. */
static void a_signal_of_this_process_itself_comes_too_late(void **state)
{
    (void)state;
    int status = status_of(remove_and_be_told);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* The parent is another process; the user is one too. */
static void remove_and_be_ended(void)
{
    signals_install(NULL);
    signals_remove();
    pid_t child = fork();
    if (child == 0) {
        kill(getppid(), SIGINT);
        _exit(0);
    }
    for (;;)
        pause();
}

static void a_user_ends_what_no_longer_hears(void **state)
{
    (void)state;
    int status = status_of(remove_and_be_ended);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGINT);
}

static void ignore_and_install(void)
{
    signal(SIGHUP, SIG_IGN);
    signals_install(NULL);
    kill(getpid(), SIGHUP);
    _exit(signals_ended());
}

static void what_was_ignored_stays_so(void **state)
{
    (void)state;
    int status = status_of(ignore_and_install);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signals_that_come_are_known),
        cmocka_unit_test(a_signal_of_this_process_itself_comes_too_late),
        cmocka_unit_test(a_user_ends_what_no_longer_hears),
        cmocka_unit_test(what_was_ignored_stays_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
