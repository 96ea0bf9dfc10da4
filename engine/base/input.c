#include "engine/base/input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/array.h"
#include "engine/base/size.h"

#define FIRST_BYTES ((size_t)64 << 10)

/* The kind of a file, for messages: "a FIFO", "a directory", "a regular file". */
static const char *kind_of(mode_t mode)
{
    return S_ISREG(mode)    ? "a regular file"
           : S_ISDIR(mode)  ? "a directory"
           : S_ISFIFO(mode) ? "a FIFO"
           : S_ISSOCK(mode) ? "a socket"
           : S_ISCHR(mode)  ? "a character device"
           : S_ISBLK(mode)  ? "a block device"
                            : "something else";
}

bool input_is_directory(const char *path)
{
    struct stat state;
    return stat(path, &state) == 0 && S_ISDIR(state.st_mode);
}

int input_check_directory(const char *path, const char *what, fail_t *fail)
{
    struct stat state;
    if (stat(path, &state) != 0)
        return fail_set(fail, FAIL_FILE, "%s: expected %s: %s", path, what, strerror(errno));
    if (!S_ISDIR(state.st_mode))
        return fail_set(
            fail, FAIL_FILE, "%s: expected %s, found %s", path, what, kind_of(state.st_mode));
    return 0;
}

static int fail_kind(const char *path, mode_t mode, fail_t *fail)
{
    return fail_set(fail, FAIL_FILE, "%s: expected a regular file, found %s", path, kind_of(mode));
}

int input_open(const char *path, int *descriptor, struct stat *state, fail_t *fail)
{
    *descriptor = -1;
    /* Before opening, since opening a device may have effects; and again on the open file, which
     * does not wait for the writer of a FIFO that replaced it in between. */
    if (stat(path, state) == 0 && !S_ISREG(state->st_mode))
        return fail_kind(path, state->st_mode, fail);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, state) != 0)
        fail_set(fail, FAIL_FILE, "%s: cannot open: %s", path, strerror(errno));
    else if (!S_ISREG(state->st_mode))
        fail_kind(path, state->st_mode, fail);
    if (fail->status == 0)
        *descriptor = fd;
    else if (fd >= 0)
        close(fd);
    return fail->status;
}

static int read_rest(
    int fd, const char *path, size_t max_bytes, char **text, size_t *bytes, fail_t *fail)
{
    size_t capacity = 0;
    for (ssize_t got = 1; got != 0;) {
        /* For at least one more byte, and the zero behind them. */
        if (array_reserve(text, &capacity, size_max(FIRST_BYTES, *bytes + 2), 1, path, fail) != 0)
            return fail->status;
        got = read(fd, *text + *bytes, capacity - *bytes - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_set(fail, FAIL_FILE, "%s: cannot read: %s", path, strerror(errno));
        *bytes += (size_t)got;
        if (*bytes > max_bytes)
            return fail_set(
                fail, FAIL_FORMAT, "%s: expected at most %zu bytes, found more", path, max_bytes);
    }
    (*text)[*bytes] = 0;
    return 0;
}

int input_open_stream(const char *path, int *descriptor, fail_t *fail)
{
    struct stat state;
    int fd = *descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fstat(fd, &state) != 0)
        fail_set(fail, FAIL_FILE, "%s: cannot open: %s", path, strerror(errno));
    else if (S_ISDIR(state.st_mode))
        fail_set(
            fail, FAIL_FILE, "%s: expected a regular file or a stream, found a directory", path);
    if (fail->status != 0 && fd >= 0) {
        close(fd);
        *descriptor = -1;
    }
    return fail->status;
}

int input_read_all(
    int fd, const char *name, size_t max_bytes, char **text, size_t *bytes, fail_t *fail)
{
    *text = NULL;
    *bytes = 0;
    if (read_rest(fd, name, max_bytes, text, bytes, fail) != 0) {
        free(*text);
        *text = NULL;
    }
    return fail->status;
}

int input_read_stream(const char *path, size_t max_bytes, char **text, size_t *bytes, fail_t *fail)
{
    int fd;
    *text = NULL;
    *bytes = 0;
    if (input_open_stream(path, &fd, fail) != 0)
        return fail->status;
    input_read_all(fd, path, max_bytes, text, bytes, fail);
    close(fd);
    return fail->status;
}
