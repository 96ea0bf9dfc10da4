#include "engine/base/out_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_BYTES 65536
#define MOST_LINKS 40
#define MOST_NAMES 1000 /* of parts that earlier processes left */

struct out_file {
    FILE *stream;
    int fd;
    int error;   /* errno of the first write that failed */
    char *path;  /* as given */
    char *place; /* path of a regular file, links followed; NULL: written directly */
    char *part;  /* its temporary path */
    bool is_new;
};

static int cannot_write(const char *path, int error, fail_t *fail)
{
    return fail_set(fail, FAIL_FILE, "%s: cannot write: %s", path, strerror(error));
}

/* ---- What a path leads to -------------------------------------------------------------------- */

/* The number in /dev/fd/N and its other names; -1 for other paths. Opened by its path, a regular
 * file would be written from its beginning. */
static int descriptor_of(const char *path)
{
    static const char *const folders[] = {"/dev/fd/", "/proc/self/fd/"};
    if (strcmp(path, "/dev/stdout") == 0 || strcmp(path, "-") == 0)
        return STDOUT_FILENO;
    if (strcmp(path, "/dev/stderr") == 0)
        return STDERR_FILENO;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        size_t n = strlen(folders[i]);
        char *end;
        if (strncmp(path, folders[i], n) != 0 || path[n] < '0' || path[n] > '9')
            continue;
        long number = strtol(path + n, &end, 10);
        return *end == 0 && number <= INT_MAX ? (int)number : -1;
    }
    return -1;
}

/* Follows one symbolic link: path becomes its target. False when path is none. */
static bool follow_link(char path[PATH_MAX])
{
    char held[PATH_MAX];
    ssize_t n = readlink(path, held, sizeof held - 1);
    if (n <= 0)
        return false;
    held[n] = 0;
    char *slash = strrchr(path, '/');
    if (held[0] == '/' || slash == NULL) {
        memcpy(path, held, (size_t)n + 1);
        return true;
    }
    if ((size_t)(slash + 1 - path) + (size_t)n >= PATH_MAX)
        return false;
    memcpy(slash + 1, held, (size_t)n + 1);
    return true;
}

/* Follows links to the last name, which need not exist, or to a descriptor: its number, else -1. */
static int resolve(char path[PATH_MAX], bool *loops)
{
    *loops = false;
    for (int i = 0; i <= MOST_LINKS; i++) {
        int number = descriptor_of(path);
        if (number >= 0 || !follow_link(path))
            return number;
    }
    *loops = true;
    return -1;
}

/* The message for a path that cannot be written; NULL for those that can. */
static const char *unfit(mode_t mode)
{
    return S_ISDIR(mode)    ? "a folder"
           : S_ISBLK(mode)  ? "a block device"
           : S_ISSOCK(mode) ? "a socket"
                            : NULL;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* ".choir-PID-N" in the folder of the place: short, so that a long name is no problem. */
static int create_part(out_file_t *o, fail_t *fail)
{
    const char *slash = strrchr(o->place, '/');
    int folder = slash == NULL ? 0 : (int)(slash + 1 - o->place);
    for (int i = 0; i < MOST_NAMES; i++) {
        if (asprintf(&o->part, "%.*s.choir-%ld-%d", folder, o->place, (long)getpid(), i) < 0) {
            o->part = NULL;
            return fail_set(fail, FAIL_MEMORY, "%s: out of memory", o->path);
        }
        o->fd = open(o->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (o->fd >= 0)
            return 0;
        int error = errno;
        free(o->part);
        o->part = NULL;
        if (error != EEXIST)
            return cannot_write(o->path, error, fail);
    }
    return cannot_write(o->path, EEXIST, fail);
}

/* Sets the mode and, where allowed, the owner of the replaced file. Changing the owner clears mode
 * bits. */
static void keep_mode(int fd, const struct stat *found)
{
    int ignored = fchown(fd, found->st_uid, found->st_gid);
    (void)ignored;
    fchmod(fd, found->st_mode & 0777);
}

static int open_replacement(out_file_t *o, const char *target, fail_t *fail)
{
    struct stat found;
    bool exists = stat(target, &found) == 0;
    if (exists && faccessat(AT_FDCWD, target, W_OK, AT_EACCESS) != 0)
        return cannot_write(o->path, errno, fail);
    o->place = strdup(target);
    if (o->place == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", o->path);
    if (create_part(o, fail) != 0)
        return fail->status;
    if (exists)
        keep_mode(o->fd, &found);
    return 0;
}

static int open_target(out_file_t *o, const char *target, out_mode_t mode, fail_t *fail)
{
    struct stat found;
    bool exists = stat(target, &found) == 0, is_regular = exists && S_ISREG(found.st_mode);
    const char *kind = exists ? unfit(found.st_mode) : NULL;
    if (kind != NULL)
        return fail_set(fail, FAIL_FILE, "%s: expected a file to write, found %s", o->path, kind);
    o->is_new = !is_regular || mode == OUT_REPLACE || found.st_size == 0;
    if (mode == OUT_REPLACE && (!exists || is_regular))
        return open_replacement(o, target, fail);
    int flags = O_WRONLY | O_CLOEXEC | O_NOCTTY;
    if (!exists || is_regular)
        flags |= O_APPEND | O_CREAT;
    o->fd = open(target, flags, 0666);
    return o->fd < 0 ? cannot_write(o->path, errno, fail) : 0;
}

static int open_descriptor(out_file_t *o, int number, fail_t *fail)
{
    o->is_new = true;
    if (number == STDOUT_FILENO) {
        o->stream = stdout; /* in order with other output */
        return 0;
    }
    o->fd = fcntl(number, F_DUPFD_CLOEXEC, 0);
    return o->fd < 0 ? cannot_write(o->path, errno, fail) : 0;
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* Keeps the errno of the first failure, which a stream forgets. */
static ssize_t write_stream(void *cookie, const char *text, size_t bytes)
{
    out_file_t *o = cookie;
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(o->fd, text + done, bytes - done);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno != EINTR) {
            if (o->error == 0)
                o->error = errno;
            return 0; /* an error, by this interface */
        }
    }
    return (ssize_t)bytes;
}

static int open_stream(out_file_t *o, fail_t *fail)
{
    if (o->stream == NULL)
        o->stream = fopencookie(o, "w", (cookie_io_functions_t){.write = write_stream});
    if (o->stream == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", o->path);
    if (o->stream != stdout)
        setvbuf(o->stream, NULL, _IOFBF, BUFFER_BYTES);
    return 0;
}

int out_file_open(out_file_t **out, const char *path, out_mode_t mode, fail_t *fail)
{
    char target[PATH_MAX];
    bool loops = false;
    *out = NULL;
    if (path[0] == 0)
        return fail_set(fail, FAIL_FILE, "expected the name of a file to write, found nothing");
    if (strlen(path) >= sizeof target)
        return cannot_write(path, ENAMETOOLONG, fail);
    out_file_t *o = calloc(1, sizeof *o);
    memcpy(target, path, strlen(path) + 1);
    int number = resolve(target, &loops);
    if (o == NULL ||
        (o->path = strdup(number == STDOUT_FILENO ? "standard output" : path)) == NULL) {
        free(o);
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", path);
    }
    o->fd = -1;
    if (loops)
        cannot_write(path, ELOOP, fail);
    else if (number >= 0)
        open_descriptor(o, number, fail);
    else
        open_target(o, target, mode, fail);
    if (fail->status != 0 || open_stream(o, fail) != 0) {
        out_file_drop(o);
        return fail->status;
    }
    *out = o;
    return 0;
}

FILE *out_file_stream(const out_file_t *out)
{
    return out->stream;
}

int out_file_flush(out_file_t *o, fail_t *fail)
{
    errno = 0;
    if (fflush(o->stream) == 0)
        return 0;
    int error = o->error != 0 ? o->error : errno != 0 ? errno : EIO;
    if (o->stream == stdout && error == EPIPE)
        return 0;
    return cannot_write(o->path, error, fail);
}

bool out_file_is_stdout(const out_file_t *out)
{
    return out->stream == stdout;
}

bool out_file_is_new(const out_file_t *out)
{
    return out->is_new;
}

/* ---- Closing --------------------------------------------------------------------------------- */

static void release(out_file_t *o)
{
    if (o->stream != NULL && o->stream != stdout)
        fclose(o->stream);
    if (o->fd >= 0)
        close(o->fd);
    free(o->path);
    free(o->place);
    free(o->part);
    free(o);
}

/* A new name in a folder is permanent once the folder itself is synced. */
static void sync_folder_of(char *place)
{
    char *slash = strrchr(place, '/');
    if (slash != NULL)
        slash[slash == place ? 1 : 0] = 0;
    int folder = open(slash == NULL ? "." : place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
        fsync(folder);
        close(folder);
    }
}

static int put_in_place(out_file_t *o, fail_t *fail)
{
    if (fdatasync(o->fd) != 0) {
        cannot_write(o->path, errno, fail);
    } else if (rename(o->part, o->place) != 0) {
        fail_set(fail, FAIL_FILE, "%s: cannot be replaced: %s; what was to be written is in %s",
            o->path, strerror(errno), o->part);
        return fail->status; /* a run's result is kept */
    }
    if (fail->status != 0)
        unlink(o->part);
    else
        sync_folder_of(o->place);
    return fail->status;
}

int out_file_close(out_file_t *o, fail_t *fail)
{
    fail_t own = {0};
    if (o == NULL)
        return fail->status;
    /* Standard output keeps its error for the check at the end of the run. */
    bool lost = fflush(o->stream) != 0 || ferror(o->stream) != 0;
    if (lost && o->stream != stdout) {
        cannot_write(o->path, o->error != 0 ? o->error : EIO, &own);
        if (o->part != NULL)
            unlink(o->part);
    } else if (o->part != NULL) {
        put_in_place(o, &own);
    }
    release(o);
    if (own.status != 0)
        fail_set(fail, own.status, "%s", own.message);
    return fail->status;
}

void out_file_drop(out_file_t *o)
{
    if (o == NULL)
        return;
    if (o->part != NULL)
        unlink(o->part);
    release(o);
}

int out_file_write(const char *path, const char *text, size_t bytes, fail_t *fail)
{
    out_file_t *out;
    if (out_file_open(&out, path, OUT_REPLACE, fail) != 0)
        return fail->status;
    fwrite(text, 1, bytes, out_file_stream(out));
    return out_file_close(out, fail);
}
