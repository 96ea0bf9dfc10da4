/* Names of files in directories. */
#ifndef CHOIR_BASE_PATH_H
#define CHOIR_BASE_PATH_H

#include <stdbool.h>

/* DIRECTORY/NAME, the caller's to free; NULL when out of memory. A slash at the directory's end is not doubled. */
char *path_join(const char *directory, const char *name);

bool path_exists(const char *directory, const char *name);

#endif
