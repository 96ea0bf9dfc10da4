/* The files that a run writes, all in one way:
 *
 * - A regular file, or none yet, is written beside its place, and takes the place (rename) when it
 *   is whole and on disk. Until then, and after a failure, what was there stays. The new file has
 *   the mode of the one that it replaces, and its owner where that is allowed. A symbolic link
 *   stays; the file that it leads to is replaced.
 * - A character device, a FIFO, /dev/stdout, /dev/fd/N and "-" (standard output) are opened and
 *   written, and stay what they are.
 * - Folders, block devices and sockets are refused, as is a file that may not be written.
 *
 * OUT_APPEND adds to the end of a regular file in place of replacing it.
 * An out_file_t belongs to one thread at a time. */
#ifndef CHOIR_BASE_OUT_FILE_H
#define CHOIR_BASE_OUT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "engine/base/status.h"

typedef struct out_file out_file_t;

typedef enum out_mode { OUT_REPLACE, OUT_APPEND } out_mode_t;

/* Whether it can be written is seen here, and not after the run. *out is NULL on failure
 * (FAIL_FILE, FAIL_MEMORY). path is copied. */
int out_file_open(out_file_t **out, const char *path, out_mode_t mode, fail_t *fail);

/* The stream to write to, until the file is closed; buffered. out_file_close reports write
 * errors. */
FILE *out_file_stream(const out_file_t *out);

/* Writes the buffer, so that rows are visible, and an error ends a long run soon. A reader of
 * standard output that has closed it is no failure. FAIL_FILE. */
int out_file_flush(out_file_t *out, fail_t *fail);

bool out_file_is_stdout(const out_file_t *out);
/* Whether the file was empty: false where OUT_APPEND appends to existing bytes. */
bool out_file_is_new(const out_file_t *out);

/* Writes the rest and renames the file to its path. FAIL_FILE when anything was lost. Closes in any
 * case. NULL: nothing happens. */
int out_file_close(out_file_t *out, fail_t *fail);

/* Closes without replacing: the old file stays. NULL: nothing happens. */
void out_file_drop(out_file_t *out);

/* All of a file at once. */
int out_file_write(const char *path, const char *text, size_t bytes, fail_t *fail);

#endif
