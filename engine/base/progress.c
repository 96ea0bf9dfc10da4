#include "engine/base/progress.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <fcntl.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/size.h"

#define BAR_WIDTH 30
#define REDRAW_NS UINT64_C(100000000)
#define LINE_NS (PROGRESS_LINE_S * UINT64_C(1000000000))
/* A message passes through mpirun, and reaches the terminal a little later than the drawn line. */
#define MESSAGE_NS UINT64_C(200000000)
#define MOST_PARENTS 16
/* What is left is told from then on: the first steps are slower than the others. */
#define KNOWN_PART 0.01
#define KNOWN_S 10.0

/* Process-wide by nature: the line that is drawn now, and when a message last cleared it. */
static atomic_int drawn_on = -1;
static _Atomic uint64_t message_ns;

static void write_terminal(int fd, const char *text, size_t bytes)
{
    ssize_t done = write(fd, text, bytes);
    (void)done;
}

static void clear_line(void)
{
    static const char clear[] = "\r\x1b[K";
    int fd = atomic_exchange(&drawn_on, -1);
    if (fd >= 0)
        write_terminal(fd, clear, sizeof clear - 1);
}

static void before_message(void)
{
    clear_line();
    atomic_store(&message_ns, clock_ns());
}

/* ---- The terminal ---------------------------------------------------------------------------- */

static pid_t parent_of(pid_t pid)
{
    char path[64], text[512];
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    if (n <= 0)
        return 0;
    text[n] = 0;
    /* "PID (NAME) STATE PARENT ...": a name may hold anything but ends at the last bracket. */
    const char *end = strrchr(text, ')');
    return end != NULL && sscanf(end + 1, " %*c %d", &parent) == 1 ? (pid_t)parent : 0;
}

/* This process's parent, or choir-run where that filters the launcher's messages: "PID@HOST". */
static pid_t first_parent(void)
{
    const char *launcher = getenv("CHOIR_LAUNCHER");
    char host[256] = "";
    char *end;
    if (launcher == NULL || gethostname(host, sizeof host - 1) != 0)
        return getppid();
    long pid = strtol(launcher, &end, 10);
    return pid > 1 && *end == '@' && strcmp(end + 1, host) == 0 ? (pid_t)pid : getppid();
}

/* Standard error of the first parent that has another one than this process: mpirun's. A shell in
 * between, which mpirun started, has the same. -1 when that is no terminal. */
static int launcher_terminal(pid_t *launcher_group)
{
    struct stat own, theirs;
    pid_t pid = first_parent();
    if (fstat(STDERR_FILENO, &own) != 0)
        return -1;
    for (int i = 0; i < MOST_PARENTS && pid > 1; i++, pid = parent_of(pid)) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)pid, STDERR_FILENO);
        if (stat(path, &theirs) != 0)
            return -1;
        if (theirs.st_dev == own.st_dev && theirs.st_ino == own.st_ino)
            continue;
        if (!S_ISCHR(theirs.st_mode))
            return -1;
        int fd = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
        if (fd >= 0 && !isatty(fd)) {
            close(fd);
            fd = -1;
        }
        *launcher_group = getpgid(pid);
        return fd;
    }
    return -1;
}

static bool under_launcher(void)
{
    return getenv("OMPI_COMM_WORLD_RANK") != NULL || getenv("PMIX_RANK") != NULL ||
           getenv("PMI_RANK") != NULL;
}

/* Whether this run is in the foreground of the terminal, and writing does not stop the process:
 * ranks are in the background of mpirun, and `stty tostop` forbids those to write. */
static bool may_draw(const progress_t *progress)
{
    struct termios settings;
    pid_t foreground = progress->terminal < 0 ? 0 : tcgetpgrp(progress->terminal);
    if (progress->terminal < 0)
        return false;
    if (foreground < 0 || foreground == getpgrp())
        return true;
    return foreground == progress->launcher_group &&
           tcgetattr(progress->terminal, &settings) == 0 && (settings.c_lflag & TOSTOP) == 0;
}

/* ---- Showing --------------------------------------------------------------------------------- */

void progress_open(progress_t *progress, bool shown)
{
    *progress = (progress_t){.shown = shown, .terminal = -1, .begin_ns = clock_ns()};
    progress->last_ns = progress->begin_ns;
    if (!shown)
        return;
    log_set_before(before_message);
    if (isatty(STDERR_FILENO)) {
        progress->terminal = STDERR_FILENO;
    } else if (under_launcher()) {
        progress->terminal = launcher_terminal(&progress->launcher_group);
        progress->owned = progress->terminal >= 0;
    }
}

void progress_close(progress_t *progress)
{
    if (!progress->shown)
        return;
    clear_line();
    if (progress->owned)
        close(progress->terminal);
    *progress = (progress_t){.terminal = -1};
}

bool progress_is_due(const progress_t *progress)
{
    uint64_t since_ns = clock_ns() - progress->last_ns;
    if (!progress->shown || since_ns < REDRAW_NS)
        return false;
    /* Another thread's message may be later than a clock that was read before it. */
    if (progress->owned && atomic_load(&message_ns) + MESSAGE_NS > clock_ns())
        return false;
    return since_ns >= LINE_NS || may_draw(progress);
}

/* Bytes of text that fit into one line of the terminal; whole characters of UTF-8. */
static size_t fitting(int terminal, const char *text, size_t bytes)
{
    struct winsize size = {0};
    size_t columns = ioctl(terminal, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
    if (bytes < columns)
        return bytes;
    bytes = columns - 1;
    while (bytes > 0 && ((unsigned char)text[bytes] & 0xc0) == 0x80)
        bytes--;
    return bytes;
}

void progress_show(progress_t *progress, const char *text)
{
    char line[1100];
    if (!progress_is_due(progress))
        return;
    progress->last_ns = clock_ns();
    if (!may_draw(progress)) {
        log_write(LOG_INFO, "%s", text);
        return;
    }
    int used = snprintf(line, sizeof line - 8, "\rchoir: %s", text);
    size_t bytes = (size_t)used < sizeof line - 8 ? (size_t)used : sizeof line - 9;
    bytes = 1 + fitting(progress->terminal, line + 1, bytes - 1);
    memcpy(line + bytes, "\x1b[K", 3);
    write_terminal(progress->terminal, line, bytes + 3);
    atomic_store(&drawn_on, progress->terminal);
}

void progress_bar(progress_t *progress, const char *what, uint64_t done, uint64_t total,
    const char *unit, double unit_size)
{
    char text[256], amount[64] = "", left[48] = "", bar[BAR_WIDTH + 4] = ":";
    if (progress->what != NULL && progress->what != what)
        progress->begin_ns = clock_ns();
    progress->what = what;
    if (total == 0 || done == 0 || !progress_is_due(progress))
        return;
    double part = (double)done / (double)total;
    double seconds = (double)(clock_ns() - progress->begin_ns) * 1e-9;
    if (unit != NULL)
        snprintf(amount, sizeof amount, " of %.0f %s", (double)total / unit_size, unit);
    /* A bar is drawn without the time; a line waits for it. */
    bool known = part >= KNOWN_PART || seconds >= KNOWN_S, drawn = may_draw(progress);
    if (!known && !drawn)
        return;
    if (drawn) {
        size_t filled = size_min((size_t)(part * BAR_WIDTH), BAR_WIDTH);
        snprintf(bar, sizeof bar, " [%*s]", BAR_WIDTH, "");
        memset(bar + 2, '#', filled);
    }
    if (known)
        snprintf(left, sizeof left, ", %.0f s left", seconds / part - seconds);
    snprintf(text, sizeof text, "%s%s %3.0f%%%s%s", what, bar, 100 * part, amount, left);
    progress_show(progress, text);
}
