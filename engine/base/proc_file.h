/* Small text files of the system: /proc, /sys. */
#ifndef CHOIR_BASE_PROC_FILE_H
#define CHOIR_BASE_PROC_FILE_H

#include <stdbool.h>
#include <stddef.h>

/* The file's first line, without its end. False, and "", when it cannot be read. */
bool proc_line(const char *path, char *line, size_t line_bytes);

/* The value of the first line "KEY: VALUE" whose key begins like that. False, and "": none. */
bool proc_value(const char *path, const char *key, char *value, size_t value_bytes);

#endif
