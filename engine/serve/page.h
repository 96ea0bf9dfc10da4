/* The files of the page at /, which the build puts into the program. */
#ifndef CHOIR_SERVE_PAGE_H
#define CHOIR_SERVE_PAGE_H

#include <stddef.h>

typedef struct page_file {
    const char *path, *type;
    const unsigned char *data; /* [bytes] */
    size_t bytes;
} page_file_t;

/* Ends with a NULL path. */
extern const page_file_t page_files[];

#endif
