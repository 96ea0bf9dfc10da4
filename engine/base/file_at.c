#include "engine/base/file_at.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/size.h"

/* Linux transfers at most 2 GiB - 4 KiB at once anyway. */
#define MOST_BYTES ((size_t)1 << 30)

size_t file_read_at(int fd, uint64_t offset, void *dst, size_t bytes, int *error)
{
    size_t done = 0;
    *error = 0;
    while (done < bytes) {
        ssize_t got = pread(
            fd, (char *)dst + done, size_min(bytes - done, MOST_BYTES), (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            *error = errno;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    return done;
}

const char *file_read_error(int error)
{
    return error != 0 ? strerror(error) : "the file ends there";
}

size_t file_write_at(int fd, uint64_t offset, const void *src, size_t bytes, int *error)
{
    size_t done = 0;
    *error = 0;
    while (done < bytes) {
        ssize_t put = pwrite(fd, (const char *)src + done, size_min(bytes - done, MOST_BYTES),
            (off_t)(offset + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            *error = put < 0 ? errno : ENOSPC;
            break;
        }
        done += (size_t)put;
    }
    return done;
}
