#include "comm/watch/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LAUNCHER_MS 4000 /* for a launcher to end the run by itself */
#define MOST_FILES 4096
#define STACK_BYTES ((size_t)512 << 10)

/* The text of a small file, "" when it cannot be read. */
static void read_text(const char *path, char *text, size_t text_bytes)
{
    ssize_t n = -1;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        n = read(file, text, text_bytes - 1);
        close(file);
    }
    text[n < 0 ? 0 : n] = 0;
}

process_t process_look(int pid)
{
    char path[64], line[1024];
    const process_t none = {.state = 'X'};
    process_t process = none;
    unsigned long long started = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    read_text(path, line, sizeof line);
    /* The name may hold any characters. After it: state, parent, 17 numbers, the start time. */
    char *at = strrchr(line, ')');
    if (at == NULL || sscanf(at + 1, " %c %d", &process.state, &process.parent) != 2)
        return none;
    at += 3;
    for (int i = 0; i < 18 && at != NULL; i++)
        at = strchr(at + 1, ' ');
    if (at == NULL || sscanf(at, "%llu", &started) != 1)
        return none;
    process.started = started;
    return process;
}

static uint64_t thread_clock(clockid_t clock)
{
    struct timespec time = {0};
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* By system calls, and by page faults below them, such as a page of a network's file. */
static uint64_t io_bytes(const char *path)
{
    static const char *const names[] = {"rchar: ", "wchar: ", "\nread_bytes: ", "\nwrite_bytes: "};
    char text[512];
    uint64_t bytes = 0;
    read_text(path, text, sizeof text);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *at = strstr(text, names[i]);
        bytes += at == NULL ? 0 : strtoull(at + strlen(names[i]), NULL, 10);
    }
    return bytes;
}

process_work_t process_work(void)
{
    uint64_t all = io_bytes("/proc/self/io"), own = io_bytes("/proc/thread-self/io");
    return (process_work_t){
        .cpu_ns = thread_clock(CLOCK_PROCESS_CPUTIME_ID) - thread_clock(CLOCK_THREAD_CPUTIME_ID),
        .io_bytes = all > own ? all - own : 0};
}

static bool is_one_of(long call, const long *calls, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (calls[i] == call)
            return true;
    return false;
}

process_place_t process_place(int thread)
{
    static const long of_descriptors[] = {SYS_read, SYS_readv, SYS_pread64, SYS_preadv, SYS_write,
        SYS_writev, SYS_pwrite64, SYS_pwritev, SYS_fsync, SYS_fdatasync, SYS_ftruncate,
        SYS_fallocate, SYS_fstat, SYS_getdents64};
    static const long of_names[] = {
#ifdef SYS_open /* x86 only, besides those that take a directory */
        SYS_open, SYS_stat, SYS_lstat, SYS_rename, SYS_unlink,
#endif
        SYS_openat, SYS_newfstatat, SYS_renameat2, SYS_unlinkat};
    char path[64], text[256];
    long call;
    unsigned long file;
    struct stat status;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", thread);
    read_text(path, text, sizeof text);
    if (sscanf(text, "%ld %lx", &call, &file) != 2)
        return PROCESS_ELSEWHERE;
    if (is_one_of(call, of_names, sizeof of_names / sizeof *of_names))
        return PROCESS_IN_FILE;
    if (!is_one_of(call, of_descriptors, sizeof of_descriptors / sizeof *of_descriptors) ||
        fstat((int)file, &status) != 0)
        return PROCESS_ELSEWHERE;
    return S_ISREG(status.st_mode) || S_ISDIR(status.st_mode) ? PROCESS_IN_FILE : PROCESS_IN_STREAM;
}

void process_pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

int process_start_thread(pthread_t *thread, void *(*run)(void *context), void *context)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, &attributes, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

/* Whether the launcher is that of the whole run, and not a daemon that starts a node's ranks. */
static bool is_mpirun(int pid)
{
    char path[64], name[32];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    read_text(path, name, sizeof name);
    return strncmp(name, "mpirun", 6) == 0 || strncmp(name, "mpiexec", 7) == 0 ||
           strncmp(name, "orterun", 7) == 0;
}

void process_see_launcher_off(int launcher)
{
    int handle = is_mpirun(launcher) ? (int)syscall(SYS_pidfd_open, launcher, 0) : -1;
    /* A fork without the handlers and locks of libraries, which a blocked thread may hold. */
    if (handle < 0 || syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) != 0)
        return;
    setsid();
    for (int file = 0; file < MOST_FILES; file++)
        if (file != handle)
            close(file);
    struct pollfd ended = {.fd = handle, .events = POLLIN};
    poll(&ended, 1, LAUNCHER_MS);
    syscall(SYS_pidfd_send_signal, handle, SIGKILL, NULL, 0);
    _exit(EXIT_SUCCESS);
}
