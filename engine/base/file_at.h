/* Reading and writing at an offset of a file: interrupts and transfers that stop short are gone on with. */
#ifndef CHOIR_BASE_FILE_AT_H
#define CHOIR_BASE_FILE_AT_H

#include <stddef.h>
#include <stdint.h>

/* Bytes read. Fewer than asked for at the file's end (then *error is 0) and where reading fails (errno). */
size_t file_read_at(int fd, uint64_t offset, void *dst, size_t bytes, int *error);

/* What went wrong of a read that gave too little: strerror(error), or "the file ends there". */
const char *file_read_error(int error);

/* Bytes written. Fewer than asked for where writing fails; then *error is the errno, else 0. */
size_t file_write_at(int fd, uint64_t offset, const void *src, size_t bytes, int *error);

#endif
