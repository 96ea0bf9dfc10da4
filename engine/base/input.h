/* Opening files that are read, so that nothing which is no file holds a run up.
 *
 * Files of a model directory are read at any offset, more than once and by every rank, so they have
 * to be regular files: opening a FIFO would wait for a writer without end, and what a device gives is
 * gone once it is read. Prompts, templates and task data are read once, from front to end, and may
 * be streams. Thread safe. */
#ifndef CHOIR_BASE_INPUT_H
#define CHOIR_BASE_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "engine/base/status.h"

bool input_is_directory(const char *path);

/* 0 where it is one. FAIL_FILE: "PATH: expected WHAT, found a FIFO". what: "a model directory" */
int input_check_directory(const char *path, const char *what, fail_t *fail);

/* A descriptor of a regular file, with its state. Never waits. FAIL_FILE names the kind found. On
 * failure *descriptor is -1. */
int input_open(const char *path, int *descriptor, struct stat *state, fail_t *fail);

/* A descriptor of a regular file, a FIFO or another stream, to be read from front to end. Waits for
 * a FIFO's writer. FAIL_FILE; then *descriptor is -1. */
int input_open_stream(const char *path, int *descriptor, fail_t *fail);

/* Reads what is left of an open file or stream, as below; `name` is what messages call it. */
int input_read_all(
    int fd, const char *name, size_t max_bytes, char **text, size_t *bytes, fail_t *fail);

/* Reads a regular file, a FIFO or another stream to its end into freshly allocated memory with a
 * zero byte after its end; the caller frees it. FAIL_FILE, FAIL_FORMAT with more than max_bytes,
 * FAIL_MEMORY. */
int input_read_stream(const char *path, size_t max_bytes, char **text, size_t *bytes, fail_t *fail);

#endif
