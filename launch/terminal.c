#include "launch/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "launch/signals.h"

#define CTRL_C 3

/* Process-wide because signal handlers restore it. */
static struct termios saved;
static atomic_int changed_fd = -1;

/* A terminal may be set from the background too: the signal that would stop us is held off. */
static void set_terminal(int fd, const struct termios *settings)
{
    sigset_t background, before;
    sigemptyset(&background);
    sigaddset(&background, SIGTTOU);
    sigprocmask(SIG_BLOCK, &background, &before);
    tcsetattr(fd, TCSANOW, settings);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

void terminal_restore(void)
{
    int fd = atomic_exchange(&changed_fd, -1);
    if (fd >= 0)
        set_terminal(fd, &saved);
}

/* The terminal that mpirun, our parent, reads from (number 0) or writes to (1); -1 when it is none.
 */
static int parent_terminal(int number)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)getppid(), number);
    int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0 && !isatty(fd)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool ctrl_c_as_byte(int fd)
{
    if (tcgetattr(fd, &saved) != 0)
        return false;
    struct termios settings = saved;
    settings.c_cc[VINTR] = _POSIX_VDISABLE;
    settings.c_cc[VEOL] = CTRL_C;
    set_terminal(fd, &settings);
    atomic_store(&changed_fd, fd);
    return true;
}

void terminal_open(terminal_t *terminal)
{
    *terminal = (terminal_t){.interactive = isatty(STDIN_FILENO),
        .shown = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
    bool under_mpirun = getenv("OMPI_COMM_WORLD_RANK") != NULL || getenv("PMI_RANK") != NULL ||
                        getenv("PMIX_RANK") != NULL;
    if (terminal->interactive || !under_mpirun)
        return;
    int fd = parent_terminal(0), out = parent_terminal(1);
    if (out >= 0)
        close(out);
    if (fd < 0)
        return;
    terminal->interactive = true;
    terminal->shown = out >= 0;
    terminal->keys = ctrl_c_as_byte(fd);
    if (!terminal->keys)
        close(fd);
}

void terminal_close(terminal_t *terminal)
{
    terminal_restore();
    free(terminal->buffer);
    *terminal = (terminal_t){0};
}

/* Reads what is there, waiting for something first. False at the end, or when a signal came (errno
 * EINTR). */
static bool fill(terminal_t *terminal, fail_t *fail)
{
    if (terminal->capacity - terminal->n_buffered < 4096) {
        size_t capacity = 2 * terminal->capacity + 4096;
        char *buffer = realloc(terminal->buffer, capacity);
        if (buffer == NULL) {
            fail_set(fail, FAIL_MEMORY, "standard input: out of memory for a line of %zu bytes",
                terminal->n_buffered);
            return false;
        }
        terminal->buffer = buffer;
        terminal->capacity = capacity;
    }
    errno = 0;
    ssize_t n = read(STDIN_FILENO, terminal->buffer + terminal->n_buffered,
        terminal->capacity - terminal->n_buffered);
    if (n < 0 && errno == EINTR)
        return false;
    terminal->at_end = n <= 0;
    terminal->n_buffered += n > 0 ? (size_t)n : 0;
    return n > 0;
}

/* Takes the first n bytes out of the buffer, and `skip` more. NULL is out of memory. */
static char *take(terminal_t *terminal, size_t n, size_t skip)
{
    char *line = malloc(n + 1);
    if (line != NULL) {
        memcpy(line, terminal->buffer, n);
        line[n] = 0;
    }
    terminal->n_buffered -= n + skip;
    memmove(terminal->buffer, terminal->buffer + n + skip, terminal->n_buffered);
    return line;
}

/* Drops everything up to and with the last Ctrl-C byte. */
static bool drop_to_ctrl_c(terminal_t *terminal)
{
    char *last = terminal->keys && terminal->n_buffered > 0
                     ? memrchr(terminal->buffer, CTRL_C, terminal->n_buffered)
                     : NULL;
    if (last == NULL)
        return false;
    size_t n = (size_t)(last - terminal->buffer) + 1;
    terminal->n_buffered -= n;
    memmove(terminal->buffer, last + 1, terminal->n_buffered);
    return true;
}

terminal_event_t terminal_read_line(terminal_t *terminal, char **line, size_t *bytes, fail_t *fail)
{
    *line = NULL;
    for (;;) {
        if (signals_ended())
            return TERMINAL_END;
        if (drop_to_ctrl_c(terminal))
            return TERMINAL_INTERRUPT;
        char *newline =
            terminal->n_buffered > 0 ? memchr(terminal->buffer, '\n', terminal->n_buffered) : NULL;
        if (newline == NULL && terminal->at_end && terminal->n_buffered == 0)
            return TERMINAL_END;
        if (newline != NULL || terminal->at_end) {
            *bytes = newline != NULL ? (size_t)(newline - terminal->buffer) : terminal->n_buffered;
            *line = take(terminal, *bytes, newline != NULL);
            if (*line == NULL)
                fail_set(fail, FAIL_MEMORY, "standard input: out of memory for a line");
            return *line != NULL ? TERMINAL_LINE : TERMINAL_END;
        }
        if (!fill(terminal, fail) && !terminal->at_end) {
            if (fail->status != 0)
                return TERMINAL_END;
            if (signals_take_sigint())
                return TERMINAL_INTERRUPT;
        }
    }
}

bool terminal_interrupted(terminal_t *terminal)
{
    if (signals_take_sigint())
        return true;
    if (!terminal->keys || terminal->at_end)
        return false;
    struct pollfd ready = {.fd = STDIN_FILENO, .events = POLLIN};
    fail_t ignored = {0};
    if (poll(&ready, 1, 0) > 0)
        fill(terminal, &ignored);
    return drop_to_ctrl_c(terminal);
}
