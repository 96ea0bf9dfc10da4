/* Lines of a descriptor, none of them longer than a limit, in memory in proportion to the limit.
 *
 * For what other programs write: JSON lines. A line beyond the limit is reported as soon as the
 * limit is exceeded, with its beginning, and the rest of it is passed over; so the reader can go
 * on with the next. A byte order mark at the start of the input is dropped. Owns its buffer,
 * borrows descriptor and name. One thread. */
#ifndef CHOIR_BASE_LINES_H
#define CHOIR_BASE_LINES_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

typedef struct lines {
    int descriptor;
    const char *name; /* what messages call the input */
    size_t max_bytes; /* of a line without its newline */
    size_t number;    /* of the line that was taken last, from 1 */
    bool ended;       /* the input has ended; lines may be left to take */
    char *text;       /* [at, end) is not taken yet; in [at, scanned) there is no newline */
    size_t at, scanned, end, capacity;
    bool passing_over; /* the rest of a line that is too long */
} lines_t;

typedef enum lines_state {
    LINES_LINE, /* the next line */
    LINES_LONG, /* the beginning of one that is too long */
    LINES_MORE, /* no complete line: call lines_fill first */
    LINES_END
} lines_state_t;

void lines_open(lines_t *lines, int descriptor, const char *name, size_t max_bytes);
void lines_close(lines_t *lines);

/* Reads once, and waits up to wait_ms for something to read (negative: as long as it takes).
 * FAIL_FILE, FAIL_MEMORY. */
int lines_fill(lines_t *lines, int wait_ms, fail_t *fail);

/* Takes the next line of the bytes read: *text [*bytes] without its newline, followed by a zero,
 * valid until the next call of lines_fill. */
lines_state_t lines_take(lines_t *lines, char **text, size_t *bytes);

/* Records that the line taken last is too long. FAIL_FORMAT. */
int lines_too_long(const lines_t *lines, fail_t *fail);

/* The next line, without a limit of time: 1, or 0 at the end, or negative, also for a line that is
 * too long. */
int lines_next(lines_t *lines, char **text, size_t *bytes, fail_t *fail);

#endif
