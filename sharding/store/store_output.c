#include "sharding/store/store_output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/base/file_at.h"
#include "engine/base/path.h"
#include "sharding/store/store_format.h"

static int fail_writing(const char *path, int error, fail_t *fail)
{
    if (error == ENOSPC || error == EDQUOT || error == EFBIG)
        return fail_set(fail, FAIL_FILE,
            "%s: no room to write: %s; make room and run the same command again", path,
            strerror(error));
    return fail_set(fail, FAIL_FILE, "%s: cannot write: %s", path, strerror(error));
}

/* ---- The folder ------------------------------------------------------------------------------ */

/* Without slashes at the end. */
static size_t name_length(const char *out)
{
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/')
        n--;
    return n;
}

char *store_partial_name(const char *out, uint64_t id)
{
    char *name;
    int n = asprintf(&name, "%.*s.partial-%s", (int)name_length(out), out, store_hex(id).text);
    return n < 0 ? NULL : name;
}

static int refuse_existing(const char *out, fail_t *fail)
{
    if (access(out, F_OK) == 0)
        return fail_set(fail, FAIL_FILE, "%s: expected nothing there yet, found something", out);
    return 0;
}

int store_partial_begin(const char *out, const char *partial, bool *made, fail_t *fail)
{
    *made = false;
    if (refuse_existing(out, fail) != 0)
        return fail->status;
    *made = mkdir(partial, 0777) == 0;
    if (!*made && errno != EEXIST)
        return fail_set(
            fail, FAIL_FILE, "%s: cannot make this folder: %s", partial, strerror(errno));
    if (access(partial, W_OK) != 0)
        return fail_set(fail, FAIL_FILE, "%s: cannot write there: %s", partial, strerror(errno));
    return 0;
}

uint64_t store_partial_room(const char *partial)
{
    struct statvfs space;
    if (statvfs(partial, &space) != 0 || space.f_blocks == 0)
        return UINT64_MAX;
    return (uint64_t)space.f_bavail * space.f_frsize;
}

static int sync_directory(const char *path, fail_t *fail)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP))
        fail_writing(path, errno, fail);
    if (fd >= 0)
        close(fd);
    return fail->status;
}

int store_partial_publish(const char *partial, const char *out, fail_t *fail)
{
    if (sync_directory(partial, fail) != 0 || refuse_existing(out, fail) != 0)
        return fail->status;
    if (rename(partial, out) != 0)
        return fail_set(
            fail, FAIL_FILE, "%s: cannot give it the name %s: %s", partial, out, strerror(errno));
    char *parent = strndup(out, name_length(out)),
         *slash = parent == NULL ? NULL : strrchr(parent, '/');
    if (slash != NULL && slash != parent)
        *slash = 0;
    /* The folder is whole either way. */
    fail_t ignored = {0};
    if (parent != NULL)
        sync_directory(slash == NULL ? "." : slash == parent ? "/" : parent, &ignored);
    free(parent);
    return 0;
}

/* ---- Files ----------------------------------------------------------------------------------- */

int store_output_open(store_output_t *output, const char *directory, const char *name, fail_t *fail)
{
    *output = (store_output_t){.path = path_join(directory, name), .fd = -1};
    if (output->path == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", directory);
    output->fd = open(output->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (output->fd < 0)
        return fail_writing(output->path, errno, fail);
    /* File systems without locks let it pass. */
    if (flock(output->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return fail_set(fail, FAIL_FILE,
            "%s: another choir shard is writing it; wait for its end, or end it", output->path);
    return 0;
}

int store_output_write(
    const store_output_t *output, uint64_t offset, const void *bytes, size_t n, fail_t *fail)
{
    int error;
    if (file_write_at(output->fd, offset, bytes, n, &error) < n)
        return fail_writing(output->path, error, fail);
    return 0;
}

int store_output_resize(const store_output_t *output, uint64_t bytes, fail_t *fail)
{
    if (ftruncate(output->fd, (off_t)bytes) != 0)
        return fail_writing(output->path, errno, fail);
    return 0;
}

int store_output_close(store_output_t *output, fail_t *fail)
{
    if (output->fd >= 0) {
        if (fail->status == 0 && fdatasync(output->fd) != 0)
            fail_writing(output->path, errno, fail);
        if (close(output->fd) != 0 && fail->status == 0)
            fail_writing(output->path, errno, fail);
    }
    free(output->path);
    *output = (store_output_t){.fd = -1};
    return fail->status;
}

int store_output_file(
    const char *directory, const char *name, const void *bytes, size_t n, fail_t *fail)
{
    store_output_t output;
    if (store_output_open(&output, directory, name, fail) == 0 &&
        store_output_write(&output, 0, bytes, n, fail) == 0)
        store_output_resize(&output, n, fail);
    return store_output_close(&output, fail);
}
