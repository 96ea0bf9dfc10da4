#include "launch/output.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/progress.h"

int output_write(output_t *output, const char *text, size_t bytes, fail_t *fail)
{
    while (bytes > 0 && !output->closed) {
        ssize_t n = write(STDOUT_FILENO, text, bytes);
        if (n >= 0) {
            text += n;
            bytes -= (size_t)n;
        } else if (errno == EPIPE) {
            output->closed = true;
        } else if (errno != EINTR) {
            return fail_set(fail, FAIL_FILE, "standard output: cannot write: %s", strerror(errno));
        }
    }
    return 0;
}

int output_json(output_t *output, const json_t *value, fail_t *fail)
{
    char *text = value == NULL ? NULL : json_dumps(value, JSON_COMPACT);
    if (text == NULL)
        return fail_set(fail, FAIL_MEMORY, "output: out of memory for a JSON line");
    size_t bytes = strlen(text);
    text[bytes] = '\n'; /* in place of the final zero: one write for the line */
    output_write(output, text, bytes + 1, fail);
    free(text);
    return fail->status;
}

void output_start(void)
{
    /* Not the direction that is used: so every read or write fails. */
    static const int directions[] = {O_WRONLY, O_RDONLY, O_RDONLY};
    for (int number = STDIN_FILENO; number <= STDERR_FILENO; number++)
        if (fcntl(number, F_GETFD) < 0 && open("/dev/null", directions[number]) < 0)
            return;
}

static bool reader_is_gone(void)
{
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
}

int output_finish(fail_t *fail)
{
    /* A stream forgets why an earlier write failed. */
    errno = 0;
    bool lost = fflush(stdout) != 0 || ferror(stdout) != 0;
    int error = errno;
    clearerr(stdout);
    /* Some file systems report errors only then. */
    int copy = lost ? -1 : dup(STDOUT_FILENO);
    if (copy >= 0 && close(copy) != 0) {
        lost = true;
        error = errno;
    }
    if (!lost || error == EPIPE || reader_is_gone())
        return fail->status;
    return fail_set(fail, FAIL_FILE, "standard output: cannot write: %s",
        error != 0 ? strerror(error) : "a part of it is lost");
}

void output_let_through(void)
{
    const struct timespec pause = {.tv_nsec = 100 * 1000 * 1000};
    progress_t where;
    /* mpirun gives rank 0 a terminal whatever its own output is: what counts is where messages end. */
    progress_open(&where, true);
    if (where.terminal >= 0 && isatty(STDOUT_FILENO))
        nanosleep(&pause, NULL);
    progress_close(&where);
}
