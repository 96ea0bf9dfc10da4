#include "sharding/store/store_stage.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file_at.h"
#include "engine/base/log.h"

struct store_stage {
    char directory[PATH_MAX];
    size_t n_files;
    int *files;
    atomic_bool full; /* writing has ended */
    _Atomic uint64_t bytes_written;
};

static int make_directory(const char *path, fail_t *fail)
{
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return fail_set(
            fail, FAIL_FILE, "%s: cannot make this folder for --stage: %s", path, strerror(errno));
    return 0;
}

static int open_files(store_stage_t *stage, const store_manifest_t *manifest, fail_t *fail)
{
    stage->files = malloc((manifest->n_data + 1) * sizeof *stage->files);
    if (stage->files == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", stage->directory);
    for (size_t i = 0; i < manifest->n_data; i++) {
        char path[PATH_MAX + STORE_DATA_NAME_BYTES + 2];
        snprintf(path, sizeof path, "%s/%s", stage->directory, manifest->data[i].name);
        int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (file < 0)
            return fail_set(fail, FAIL_FILE, "%s: cannot open: %s", path, strerror(errno));
        stage->files[stage->n_files++] = file;
    }
    return 0;
}

int store_stage_open(
    store_stage_t **out, const char *directory, const store_manifest_t *manifest, fail_t *fail)
{
    *out = NULL;
    store_stage_t *stage = calloc(1, sizeof *stage);
    if (stage == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", directory);
    int n = snprintf(stage->directory, sizeof stage->directory, "%s/choir-%s", directory,
        store_hex(manifest->checksum).text);
    if (n < 0 || (size_t)n >= sizeof stage->directory)
        fail_set(fail, FAIL_USAGE, "--stage: expected a shorter path, found %.80s", directory);
    else if (make_directory(directory, fail) == 0 && make_directory(stage->directory, fail) == 0)
        open_files(stage, manifest, fail);
    if (fail->status != 0) {
        store_stage_close(stage);
        return fail->status;
    }
    *out = stage;
    return 0;
}

void store_stage_close(store_stage_t *stage)
{
    if (stage == NULL)
        return;
    for (size_t i = 0; i < stage->n_files; i++)
        close(stage->files[i]);
    free(stage->files);
    free(stage);
}

void store_stage_read(store_stage_t *stage, size_t data, uint64_t offset, void *dst, size_t bytes)
{
    int error;
    size_t done = file_read_at(stage->files[data], offset, dst, bytes, &error);
    memset((char *)dst + done, 0, bytes - done);
}

void store_stage_write(
    store_stage_t *stage, size_t data, uint64_t offset, const void *src, size_t bytes)
{
    int error;
    if (atomic_load(&stage->full))
        return;
    if (file_write_at(stage->files[data], offset, src, bytes, &error) == bytes)
        atomic_fetch_add_explicit(&stage->bytes_written, bytes, memory_order_relaxed);
    else if (!atomic_exchange(&stage->full, true))
        log_write(LOG_WARN, "%s: cannot stage more: %s; the rest is read from the store",
            stage->directory, strerror(error));
}

void store_stage_expect(store_stage_t *stage, size_t data, uint64_t offset, size_t bytes)
{
    posix_fadvise(stage->files[data], (off_t)offset, (off_t)bytes, POSIX_FADV_WILLNEED);
}

uint64_t store_stage_bytes_written(const store_stage_t *stage)
{
    return atomic_load_explicit(&stage->bytes_written, memory_order_relaxed);
}
