/* Messages for the user, on standard error; text that a program produces goes to standard output
 * and not through here. A line is written whole, so lines of several ranks do not mix. Thread safe.
 */
#ifndef CHOIR_BASE_LOG_H
#define CHOIR_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

typedef enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level_t;

/* Messages above this level are dropped. Default LOG_INFO. */
void log_set_level(log_level_t level);

/* Only one rank of a run logs, except errors. Default true. */
void log_set_speaker(bool speaker);

/* Called before each line is written: clears the drawn line of progress (progress.h). */
void log_set_before(void (*before)(void));

/* Writes "choir: MESSAGE\n" (with "warning: " or "error: " before the message). */
void log_write(log_level_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The plural ending of a word after a count: "s", or nothing for one. */
static inline const char *plural(size_t n)
{
    return n == 1 ? "" : "s";
}

#endif
