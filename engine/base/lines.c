#include "engine/base/lines.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/size.h"

#define READ_BYTES 65536

static const char byte_order_mark[] = "\xef\xbb\xbf";

void lines_open(lines_t *lines, int descriptor, const char *name, size_t max_bytes)
{
    *lines = (lines_t){.descriptor = descriptor, .name = name, .max_bytes = max_bytes};
}

void lines_close(lines_t *lines)
{
    free(lines->text);
    *lines = (lines_t){.descriptor = -1, .ended = true};
}

/* Makes room for READ_BYTES and a zero behind them. */
static int make_room(lines_t *lines, fail_t *fail)
{
    if (lines->at > 0)
        memmove(lines->text, lines->text + lines->at, lines->end - lines->at);
    lines->scanned -= lines->at;
    lines->end -= lines->at;
    lines->at = 0;
    if (lines->capacity - lines->end > READ_BYTES)
        return 0;
    size_t most = size_max(lines->max_bytes, READ_BYTES) + 2 * READ_BYTES;
    size_t capacity = size_min(most, size_max(4 * READ_BYTES, 2 * lines->capacity));
    char *larger = realloc(lines->text, capacity);
    if (larger == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "%s: out of memory for a line of %zu bytes", lines->name, capacity);
    lines->text = larger;
    lines->capacity = capacity;
    return 0;
}

int lines_fill(lines_t *lines, int wait_ms, fail_t *fail)
{
    struct pollfd ready = {.fd = lines->descriptor, .events = POLLIN};
    /* Buffered lines are to be taken first. */
    bool full = lines->end - lines->at > lines->max_bytes;
    if (lines->ended || full || poll(&ready, 1, wait_ms) <= 0)
        return 0;
    if (make_room(lines, fail) != 0)
        return fail->status;
    ssize_t n = read(lines->descriptor, lines->text + lines->end, READ_BYTES);
    if (n < 0 && errno != EINTR && errno != EAGAIN)
        return fail_set(fail, FAIL_FILE, "%s: cannot read: %s", lines->name, strerror(errno));
    if (n == 0)
        lines->ended = true;
    if (n > 0)
        lines->end += (size_t)n;
    return 0;
}

/* Returns [at, at + bytes) as the next line, and continues at `next`. */
static lines_state_t give(lines_t *lines, size_t length, size_t next, char **text, size_t *bytes)
{
    bool too_long = length > lines->max_bytes;
    *text = lines->text + lines->at;
    *bytes = too_long ? lines->max_bytes : length;
    (*text)[*bytes] = 0;
    if (lines->number++ == 0 && *bytes >= 3 && memcmp(*text, byte_order_mark, 3) == 0) {
        *text += 3;
        *bytes -= 3;
    }
    lines->at = lines->scanned = next;
    return too_long ? LINES_LONG : LINES_LINE;
}

lines_state_t lines_take(lines_t *lines, char **text, size_t *bytes)
{
    for (;;) {
        size_t length = lines->end - lines->at;
        char *newline =
            length == 0 ? NULL
                        : memchr(lines->text + lines->scanned, '\n', lines->end - lines->scanned);
        bool passing_over = lines->passing_over;
        if (passing_over)
            lines->at = newline != NULL ? (size_t)(newline - lines->text) + 1 : lines->end;
        lines->scanned = passing_over ? lines->at : lines->end;
        lines->passing_over = passing_over && newline == NULL;
        if (passing_over && newline != NULL)
            continue;
        if (newline != NULL)
            return give(lines, (size_t)(newline - lines->text) - lines->at,
                (size_t)(newline - lines->text) + 1, text, bytes);
        if (!passing_over && length > lines->max_bytes) {
            lines->passing_over = true;
            return give(lines, length, lines->end, text, bytes);
        }
        if (!lines->ended)
            return LINES_MORE;
        return passing_over || length == 0 ? LINES_END
                                           : give(lines, length, lines->end, text, bytes);
    }
}

int lines_too_long(const lines_t *lines, fail_t *fail)
{
    return fail_set(fail, FAIL_FORMAT, "%s: line %zu: expected at most %zu bytes, found more",
        lines->name, lines->number, lines->max_bytes);
}

int lines_next(lines_t *lines, char **text, size_t *bytes, fail_t *fail)
{
    for (;;)
        switch (lines_take(lines, text, bytes)) {
        case LINES_LINE:
            return 1;
        case LINES_LONG:
            return lines_too_long(lines, fail);
        case LINES_END:
            return 0;
        default:
            if (lines_fill(lines, -1, fail) != 0)
                return fail->status;
        }
}
