/* Where progress is drawn: a terminal, mpirun's terminal, or lines of a log, which short work has
 * none of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "engine/base/progress.h"

/* A terminal of this test: what is written to `user` is read from `screen`. */
static int screen, user;

static int open_terminal(void **state)
{
    (void)state;
    screen = posix_openpt(O_RDWR | O_NOCTTY);
    if (screen < 0 || grantpt(screen) != 0 || unlockpt(screen) != 0)
        return -1;
    user = open(ptsname(screen), O_RDWR | O_NOCTTY);
    return user < 0 ? -1 : 0;
}

static int close_terminal(void **state)
{
    (void)state;
    close(user);
    close(screen);
    return 0;
}

/* All that is there now. */
static void read_now(int fd, char *text, size_t bytes)
{
    size_t n = 0;
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    while (n + 1 < bytes && poll(&ready, 1, 0) == 1 && (ready.revents & POLLIN) != 0) {
        ssize_t got = read(fd, text + n, bytes - 1 - n);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    text[n] = 0;
}

/* A bar that is due at once, without waiting. */
static void draw(progress_t *progress, const char *what)
{
    progress->last_ns = 0;
    progress_bar(progress, what, 1, 2, "MiB", 1.0 / 60);
}

/* Runs in a process of its own: its exit status is 0. */
static void in_a_process(void (*run)(void))
{
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        run();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- What runs ------------------------------------------------------------------------------- */

static void draws_logs_and_closes(void)
{
    progress_t progress;
    dup2(user, STDERR_FILENO);
    progress_open(&progress, true);
    progress_bar(&progress, "too soon", 1, 2, NULL, 0);
    draw(&progress, "loading");
    log_write(LOG_WARN, "a message");
    draw(&progress, "again");
    progress.last_ns = 0;
    progress_bar(&progress, "begun", 1, 1000, NULL, 0);
    progress_close(&progress);
    log_write(LOG_INFO, "the end");
    progress_open(&progress, false);
    draw(&progress, "not shown");
    progress_close(&progress);
}

static void draws_on_a_narrow_terminal(void)
{
    struct winsize size = {.ws_row = 24, .ws_col = 20};
    progress_t progress;
    ioctl(user, TIOCSWINSZ, &size);
    dup2(user, STDERR_FILENO);
    progress_open(&progress, true);
    progress.last_ns = 0;
    progress_show(&progress, "0123456789\xc3\xa4\xc3\xa4\xc3\xa4");
    progress_close(&progress);
}

static int pipe_ends[2];

static void draws_into_a_pipe(void)
{
    progress_t progress;
    dup2(pipe_ends[1], STDERR_FILENO);
    progress_open(&progress, true);
    for (int i = 1; i <= 100; i++)
        progress_bar(&progress, "loading", (uint64_t)i, 100, NULL, 0);
    log_write(LOG_INFO, "a message");
    draw(&progress, "long work");
    progress_close(&progress);
}

/* Draws first: a message that just went through the pipe holds drawing up. */
static void draws_as_one_of_ranks(void)
{
    progress_t progress;
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    dup2(pipe_ends[1], STDERR_FILENO);
    progress_open(&progress, true);
    draw(&progress, "loading");
    log_write(LOG_INFO, "a message");
    draw(&progress, "too soon after it");
    progress_close(&progress);
}

/* As a rank: standard error is a pipe to the parent, whose own is the terminal. */
static void draws_as_a_rank(void)
{
    pid_t rank;
    dup2(user, STDERR_FILENO);
    rank = fork();
    if (rank == 0) {
        draws_as_one_of_ranks();
        _exit(0);
    }
    waitpid(rank, NULL, 0);
}

/* The same behind a shell that mpirun started. */
static void draws_as_a_rank_of_a_shell(void)
{
    pid_t shell;
    dup2(user, STDERR_FILENO);
    shell = fork();
    if (shell == 0) {
        dup2(pipe_ends[1], STDERR_FILENO);
        pid_t rank = fork();
        if (rank == 0) {
            draws_as_one_of_ranks();
            _exit(0);
        }
        waitpid(rank, NULL, 0);
        _exit(0);
    }
    waitpid(shell, NULL, 0);
}

/* mpirun's standard error goes to a file. */
static void draws_as_a_rank_with_a_log(void)
{
    int file = open("/dev/null", O_WRONLY);
    pid_t rank;
    dup2(file, STDERR_FILENO);
    rank = fork();
    if (rank == 0) {
        setenv("OMPI_COMM_WORLD_RANK", "0", 1);
        draws_into_a_pipe();
        _exit(0);
    }
    waitpid(rank, NULL, 0);
}

/* ---- Cases ----------------------------------------------------------------------------------- */

static const char bar[] =
    "\rchoir: loading [###############               ]  50% of 120 MiB, 0 s left\x1b[K";

static void a_terminal_has_a_line_that_messages_clear(void **state)
{
    char text[1024], expected[1024];
    (void)state;
    in_a_process(draws_logs_and_closes);
    read_now(screen, text, sizeof text);
    /* The terminal's own translation of a newline. */
    snprintf(expected, sizeof expected,
        "%s\r\x1b[Kchoir: warning: a message\r\n"
        "\rchoir: again [###############               ]  50%% of 120 MiB, 0 s left\x1b[K"
        "\rchoir: begun [                              ]   0%%\x1b[K"
        "\r\x1b[Kchoir: the end\r\n",
        bar);
    assert_string_equal(text, expected);
}

static void a_line_ends_before_the_terminal_does(void **state)
{
    char text[1024];
    (void)state;
    in_a_process(draws_on_a_narrow_terminal);
    read_now(screen, text, sizeof text);
    assert_string_equal(text, "\rchoir: 0123456789\xc3\xa4\x1b[K\r\x1b[K");
}

static void in_a_pipe(void (*run)(void), char *piped, size_t piped_bytes)
{
    assert_int_equal(pipe(pipe_ends), 0);
    in_a_process(run);
    read_now(pipe_ends[0], piped, piped_bytes);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

static void a_log_has_whole_lines_of_long_work_alone(void **state)
{
    char text[1024];
    (void)state;
    in_a_pipe(draws_into_a_pipe, text, sizeof text);
    assert_string_equal(text, "choir: a message\nchoir: long work:  50% of 120 MiB, 0 s left\n");
    in_a_pipe(draws_as_a_rank_with_a_log, text, sizeof text);
    assert_string_equal(text, "choir: a message\nchoir: long work:  50% of 120 MiB, 0 s left\n");
}

/* What a rank draws, the pipe does not get. A message needs time through mpirun, in which nothing
 * is drawn. */
static void a_rank_draws_on_the_terminal_of_mpirun(void **state)
{
    static void (*const runs[])(void) = {draws_as_a_rank, draws_as_a_rank_of_a_shell};
    (void)state;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char piped[1024], text[1024], expected[1024];
        in_a_pipe(runs[i], piped, sizeof piped);
        read_now(screen, text, sizeof text);
        snprintf(expected, sizeof expected, "%s\r\x1b[K", bar);
        assert_string_equal(piped, "choir: a message\n");
        assert_string_equal(text, expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            a_terminal_has_a_line_that_messages_clear, open_terminal, close_terminal),
        cmocka_unit_test_setup_teardown(
            a_line_ends_before_the_terminal_does, open_terminal, close_terminal),
        cmocka_unit_test_setup_teardown(
            a_log_has_whole_lines_of_long_work_alone, open_terminal, close_terminal),
        cmocka_unit_test_setup_teardown(
            a_rank_draws_on_the_terminal_of_mpirun, open_terminal, close_terminal),
    };
    unsetenv("OMPI_COMM_WORLD_RANK");
    unsetenv("PMIX_RANK");
    unsetenv("PMI_RANK");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
