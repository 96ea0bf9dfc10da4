#include "launch/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "launch/signals.h"

#define CTRL_C 3
#define CTRL_Z 26
/* How often a waiting terminal is checked: its size, and its foreground processes. */
#define LOOK_MS 250

static const char pastes_marked[] = "\x1b[?2004h", pastes_plain[] = "\x1b[?2004l";

/* Process-wide because signal handlers restore it. */
static struct termios saved, ours;
static atomic_int changed_fd = -1;
static atomic_bool raw; /* `ours` is for an editor */

/* ---- Settings -------------------------------------------------------------------------------- */

/* A terminal may be set from the background too: the signal that would stop us is held off. */
static void set_terminal(int fd, const struct termios *settings)
{
    sigset_t background, before;
    sigemptyset(&background);
    sigaddset(&background, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &background, &before);
    tcsetattr(fd, TCSANOW, settings);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void write_all(int fd, const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(fd, text, bytes);
        if (n < 0 && errno != EINTR)
            return;
        text += n > 0 ? n : 0;
        bytes -= n > 0 ? (size_t)n : 0;
    }
}

void terminal_restore(void)
{
    int error = errno, fd = atomic_exchange(&changed_fd, -1);
    if (fd >= 0) {
        if (atomic_load(&raw))
            write_all(fd, pastes_plain, sizeof pastes_plain - 1);
        set_terminal(fd, &saved);
    }
    errno = error;
}

static void apply(const terminal_t *terminal)
{
    set_terminal(terminal->fd, &ours);
    if (terminal->editor != NULL)
        write_all(terminal->fd, pastes_marked, sizeof pastes_marked - 1);
    atomic_store(&changed_fd, terminal->fd);
}

/* The terminal's settings during a session. */
static void choose_settings(const terminal_t *terminal)
{
    ours = saved;
    ours.c_cc[VINTR] = _POSIX_VDISABLE;
    if (terminal->forwarded)
        ours.c_cc[VSUSP] = _POSIX_VDISABLE;
    if (terminal->editor == NULL) {
        ours.c_cc[VEOL] = CTRL_C;
        ours.c_cc[VEOL2] = CTRL_Z;
        return;
    }
    ours.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ECHONL | IEXTEN);
    ours.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IGNCR | ISTRIP);
    ours.c_cc[VMIN] = 1;
    ours.c_cc[VTIME] = 0;
    atomic_store(&raw, true);
}

/* Whether those who have the terminal are those that it was read for. */
static bool in_front(const terminal_t *terminal)
{
    pid_t group = tcgetpgrp(terminal->fd);
    return group < 0 || group == terminal->group;
}

/* Follows Ctrl-Z and fg, which mpirun, the shell and we are told of at different times, or not at
 * all. Whether the screen shows something else than before. */
static bool follow(const terminal_t *terminal)
{
    struct termios now;
    if (!terminal->keys || tcgetattr(terminal->fd, &now) != 0)
        return false;
    bool set = now.c_lflag == ours.c_lflag && now.c_iflag == ours.c_iflag &&
               now.c_cc[VINTR] == ours.c_cc[VINTR],
         changed = atomic_load(&changed_fd) >= 0;
    if (!in_front(terminal)) {
        if (changed && set)
            terminal_restore();
        else
            atomic_store(&changed_fd, -1);
        return false;
    }
    if (changed && set)
        return false;
    apply(terminal);
    return true;
}

/* ---- Signals --------------------------------------------------------------------------------- */

static const int guarded[] = {SIGTSTP, SIGQUIT, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
#define N_GUARDED (sizeof guarded / sizeof *guarded)
static struct sigaction guarded_before[N_GUARDED];

static void guard(int number);

static void set_guard(int number)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = guard;
    action.sa_flags = SA_RESTART | SA_NODEFER;
    sigaction(number, &action, NULL);
}

/* Gives the terminal back, and lets the signal do what it would have done: stop, or end. */
static void guard(int number)
{
    int error = errno;
    terminal_restore();
    for (size_t i = 0; i < N_GUARDED; i++)
        if (guarded[i] == number)
            sigaction(number, &guarded_before[i], NULL);
    raise(number);
    if (number == SIGTSTP)
        set_guard(number); /* goes on; `follow` sets the terminal again */
    errno = error;
}

static void guard_all(void)
{
    for (size_t i = 0; i < N_GUARDED; i++) {
        sigaction(guarded[i], NULL, &guarded_before[i]);
        if (guarded_before[i].sa_handler != SIG_IGN)
            set_guard(guarded[i]);
    }
}

static void guard_none(void)
{
    for (size_t i = 0; i < N_GUARDED; i++)
        sigaction(guarded[i], &guarded_before[i], NULL);
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* The terminal that a process, we or mpirun, has as descriptor `number`; -1 when it is none. */
static int terminal_of(pid_t process, int number)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)process, number);
    int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && process == getpid())
        fd = fcntl(number, F_DUPFD_CLOEXEC, 3);
    if (fd >= 0 && !isatty(fd)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool same_terminal(int a, int b)
{
    struct stat first, second;
    return a >= 0 && b >= 0 && fstat(a, &first) == 0 && fstat(b, &second) == 0 &&
           first.st_rdev == second.st_rdev;
}

/* Output that mpirun would forward to the edited terminal is written there directly. */
static void redirect(terminal_t *terminal, pid_t launcher)
{
    fflush(NULL);
    for (int i = 0; i < 2; i++) {
        int number = STDOUT_FILENO + i, fd = terminal_of(launcher, number);
        if (same_terminal(fd, terminal->fd)) {
            terminal->before[i] = fcntl(number, F_DUPFD_CLOEXEC, 3);
            dup2(terminal->fd, number);
        }
        if (fd >= 0)
            close(fd);
    }
}

static line_input_t read_key(void *context, unsigned char *byte);

void terminal_open(terminal_t *terminal)
{
    *terminal = (terminal_t){.fd = -1, .before = {-1, -1}};
    bool under_mpirun = getenv("OMPI_COMM_WORLD_RANK") != NULL || getenv("PMI_RANK") != NULL ||
                        getenv("PMIX_RANK") != NULL;
    bool ours_alone = isatty(STDIN_FILENO);
    if (!ours_alone && !under_mpirun)
        return;
    pid_t owner = ours_alone ? getpid() : getppid();
    terminal->fd = terminal_of(owner, STDIN_FILENO);
    if (terminal->fd < 0 || tcgetattr(terminal->fd, &saved) != 0)
        return;
    int out = terminal_of(owner, STDOUT_FILENO);
    terminal->interactive = true;
    terminal->shown = out >= 0;
    if (out >= 0)
        close(out);
    terminal->group = getpgid(owner);
    terminal->editor = line_editor_open(terminal->fd, &saved, read_key, terminal);
    terminal->forwarded = !ours_alone;
    terminal->keys = terminal->editor != NULL || terminal->forwarded;
    if (!terminal->keys)
        return; /* all as it is */
    choose_settings(terminal);
    if (terminal->editor != NULL && terminal->forwarded)
        redirect(terminal, owner);
    ioctl(terminal->fd, TIOCGWINSZ, &terminal->size);
    guard_all();
    if (in_front(terminal))
        apply(terminal);
}

void terminal_close(terminal_t *terminal)
{
    terminal_restore();
    if (terminal->keys)
        guard_none();
    line_editor_close(terminal->editor);
    fflush(NULL);
    for (int i = 0; i < 2; i++)
        if (terminal->before[i] >= 0) {
            dup2(terminal->before[i], STDOUT_FILENO + i);
            close(terminal->before[i]);
        }
    if (terminal->fd >= 0)
        close(terminal->fd);
    free(terminal->buffer);
    *terminal = (terminal_t){.fd = -1, .before = {-1, -1}};
}

/* ---- Reading --------------------------------------------------------------------------------- */

static int make_room(terminal_t *terminal, fail_t *fail)
{
    if (terminal->begin > 0) {
        terminal->n_buffered -= terminal->begin;
        memmove(terminal->buffer, terminal->buffer + terminal->begin, terminal->n_buffered);
        terminal->begin = 0;
    }
    if (terminal->capacity - terminal->n_buffered >= 4096)
        return 0;
    size_t capacity = 2 * terminal->capacity + 4096;
    char *buffer = realloc(terminal->buffer, capacity);
    if (buffer == NULL)
        return fail_set(fail, FAIL_MEMORY, "standard input: no memory for a line of %zu bytes",
            terminal->n_buffered);
    terminal->buffer = buffer;
    terminal->capacity = capacity;
    return 0;
}

/* Looks at the last n bytes. Everything up to and with the last Ctrl-C is dropped. */
static void note_keys(terminal_t *terminal, size_t n)
{
    char *end = terminal->buffer + terminal->n_buffered;
    char *last = terminal->keys && n > 0 ? memrchr(end - n, CTRL_C, n) : NULL;
    char *stop = terminal->forwarded && n > 0 ? memrchr(end - n, CTRL_Z, n) : NULL;
    if (stop != NULL) {
        memmove(stop, stop + 1, (size_t)(end - stop) - 1);
        terminal->n_buffered--;
        terminal->stopping = true;
    }
    if (last == NULL)
        return;
    terminal->begin = (size_t)(last - terminal->buffer) + (stop == NULL || stop > last);
    terminal->interrupted = true;
}

/* Reads what is there, waiting for something first. False at the end, when a signal came (errno
 * EINTR), or with a failure. A terminal that hangs up (EIO) is an end. */
static bool fill(terminal_t *terminal, fail_t *fail)
{
    if (make_room(terminal, fail) != 0)
        return false;
    errno = 0;
    ssize_t n = read(STDIN_FILENO, terminal->buffer + terminal->n_buffered,
        terminal->capacity - terminal->n_buffered);
    if (n < 0 && errno == EINTR)
        return false;
    if (n < 0 && errno != EIO)
        fail_set(fail, FAIL_FILE, "standard input: cannot read: %s", strerror(errno));
    terminal->at_end = n <= 0;
    terminal->n_buffered += n > 0 ? (size_t)n : 0;
    note_keys(terminal, n > 0 ? (size_t)n : 0);
    return n > 0;
}

static bool take_interrupt(terminal_t *terminal)
{
    bool signalled = signals_take_sigint(), typed = terminal->interrupted;
    terminal->interrupted = false;
    return signalled || typed;
}

/* Whether somebody can continue a group of processes that is stopped: its first process's parent,
 * a shell. */
static bool has_shell(pid_t group)
{
    char path[64], text[512] = {0};
    long parent = 0;
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)group);
    FILE *file = fopen(path, "re");
    if (file != NULL && fread(text, 1, sizeof text - 1, file) > 0) {
        const char *name_end = strrchr(text, ')');
        if (name_end == NULL || sscanf(name_end + 1, " %*c %ld", &parent) != 1)
            parent = 0;
    }
    if (file != NULL)
        fclose(file);
    return parent > 1 && getpgid((pid_t)parent) != group && getsid((pid_t)parent) == getsid(group);
}

/* Ctrl-Z under mpirun. Returns when the terminal is mpirun's again; whether it was not. */
static bool stop_if_asked(terminal_t *terminal)
{
    const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000L};
    if (!terminal->stopping)
        return false;
    terminal->stopping = false;
    if (!has_shell(terminal->group))
        return false;
    terminal_restore();
    if (kill(-terminal->group, SIGSTOP) != 0)
        return follow(terminal);
    do
        nanosleep(&pause, NULL);
    while (!in_front(terminal) && !signals_ended());
    follow(terminal);
    return true;
}

static bool resized(terminal_t *terminal)
{
    struct winsize size;
    if (ioctl(terminal->fd, TIOCGWINSZ, &size) != 0 ||
        (size.ws_row == terminal->size.ws_row && size.ws_col == terminal->size.ws_col))
        return false;
    terminal->size = size;
    return true;
}

/* The editor's input. */
static line_input_t read_key(void *context, unsigned char *byte)
{
    terminal_t *terminal = context;
    fail_t ignored = {0};
    for (;;) {
        if (signals_ended())
            return LINE_END;
        if (take_interrupt(terminal))
            return LINE_INTERRUPT;
        if (terminal->begin < terminal->n_buffered) {
            *byte = (unsigned char)terminal->buffer[terminal->begin++];
            return LINE_BYTE;
        }
        if (terminal->at_end)
            return LINE_END;
        if (stop_if_asked(terminal) || follow(terminal))
            return LINE_REDRAW;
        if (resized(terminal))
            return LINE_RESIZED;
        struct pollfd ready = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&ready, 1, LOOK_MS) > 0 && !fill(terminal, &ignored) && ignored.status != 0)
            return LINE_END;
    }
}

static terminal_event_t read_edited(
    terminal_t *terminal, const char *prompt, char **line, size_t *bytes, fail_t *fail)
{
    follow(terminal);
    resized(terminal); /* the editor asks by itself when it begins */
    switch (line_editor_read(terminal->editor, prompt, line, bytes, fail)) {
    case LINE_TEXT:
        return TERMINAL_LINE;
    case LINE_INTERRUPTED:
        return TERMINAL_INTERRUPT;
    default:
        return TERMINAL_END;
    }
}

/* Removes the next n bytes of the buffer, and `skip` more. NULL is out of memory. */
static char *take(terminal_t *terminal, size_t n, size_t skip)
{
    char *line = malloc(n + 1);
    if (line != NULL) {
        memcpy(line, terminal->buffer + terminal->begin, n);
        line[n] = 0;
    }
    terminal->begin += n + skip;
    return line;
}

terminal_event_t terminal_read_line(
    terminal_t *terminal, const char *prompt, char **line, size_t *bytes, fail_t *fail)
{
    *line = NULL;
    if (terminal->editor != NULL)
        return read_edited(terminal, prompt, line, bytes, fail);
    for (size_t seen = 0;;) {
        if (signals_ended())
            return TERMINAL_END;
        if (take_interrupt(terminal))
            return TERMINAL_INTERRUPT;
        size_t n = terminal->n_buffered - terminal->begin;
        const char *begin = terminal->buffer + terminal->begin;
        const char *newline = n > seen ? memchr(begin + seen, '\n', n - seen) : NULL;
        if (newline == NULL && terminal->at_end && n == 0)
            return TERMINAL_END;
        if (newline != NULL || terminal->at_end) {
            *bytes = newline != NULL ? (size_t)(newline - begin) : n;
            if (terminal->interactive && *bytes >= TERMINAL_LONGEST_LINE) {
                terminal->begin += *bytes + (newline != NULL);
                return TERMINAL_CUT;
            }
            *line = take(terminal, *bytes, newline != NULL);
            if (*line == NULL)
                fail_set(fail, FAIL_MEMORY, "standard input: no memory for a line");
            return *line != NULL ? TERMINAL_LINE : TERMINAL_END;
        }
        seen = n;
        if (!fill(terminal, fail) && fail->status != 0)
            return TERMINAL_END;
        stop_if_asked(terminal);
    }
}

bool terminal_interrupted(terminal_t *terminal)
{
    struct pollfd ready = {.fd = STDIN_FILENO, .events = POLLIN};
    fail_t ignored = {0};
    if (terminal->keys && !terminal->at_end) {
        follow(terminal);
        if (poll(&ready, 1, 0) > 0)
            fill(terminal, &ignored);
        stop_if_asked(terminal);
    }
    return take_interrupt(terminal);
}
