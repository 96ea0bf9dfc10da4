/* A folder of files that is made under a name of its own and gets its final one when it is whole: stores, and the
 * source files that a store is unpacked into.
 *
 * All functions are Local. Of the ranks one begins and publishes; each file is one rank's, which a lock sees to.
 * Failures are FAIL_FILE or FAIL_MEMORY, and name the file. Writing to different files is thread safe. */
#ifndef CHOIR_SHARDING_STORE_OUTPUT_H
#define CHOIR_SHARDING_STORE_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

/* OUT.partial-ID without slashes at OUT's end, the caller's to free; NULL when out of memory. */
char *store_partial_name(const char *out, uint64_t id);

/* Refuses when there is something at `out`, or when nothing can be written in `partial`. *made: whether the folder
 * was made now; else an earlier attempt left it. */
int store_partial_begin(const char *out, const char *partial, bool *made, fail_t *fail);

/* Bytes that its file system has free; UINT64_MAX when that cannot be told. */
uint64_t store_partial_room(const char *partial);

/* Gives the folder its final name, on disk. Refuses when there is something of that name. */
int store_partial_publish(const char *partial, const char *out, fail_t *fail);

/* A file being written; path is owned. */
typedef struct store_output {
    char *path;
    int fd;
} store_output_t;

/* Opens or makes DIRECTORY/NAME; what is in it stays. Refused while another process has it open here.
 * store_output_close is needed on failure too. */
int store_output_open(
    store_output_t *output, const char *directory, const char *name, fail_t *fail);

int store_output_write(
    const store_output_t *output, uint64_t offset, const void *bytes, size_t n, fail_t *fail);

/* Cuts off what lies behind, or adds zeros. */
int store_output_resize(const store_output_t *output, uint64_t bytes, fail_t *fail);

/* On disk, when it returns 0. */
int store_output_close(store_output_t *output, fail_t *fail);

/* All of a file at once. */
int store_output_file(
    const char *directory, const char *name, const void *bytes, size_t n, fail_t *fail);

#endif
