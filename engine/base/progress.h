/* How far long work is, for the person at the terminal.
 *
 * Where standard error ends at a terminal, one line of it is drawn again and again: also under
 * mpirun, which reads the ranks' standard error through a pipe and writes to a terminal of its own.
 * Elsewhere (a file, a pipe, a job in the background) a plain line is logged every PROGRESS_LINE_S
 * seconds, so that short work says nothing. log_write clears the drawn line before a message.
 *
 * One progress_t is open at a time in a process, and belongs to one thread. */
#ifndef CHOIR_BASE_PROGRESS_H
#define CHOIR_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PROGRESS_LINE_S 10

/* How libraries tell how far they are, without knowing who shows it: in bytes or tokens. */
typedef void (*progress_fn)(void *context, uint64_t done, uint64_t total);

typedef struct progress {
    bool shown;
    int terminal;         /* to draw on; -1: none */
    bool owned;           /* the terminal was opened for this */
    pid_t launcher_group; /* of mpirun; 0: not under mpirun */
    const char *what;     /* the bar is of */
    uint64_t begin_ns, last_ns;
} progress_t;

/* shown: false on other ranks than the coordinator, and with --quiet. Time begins to count. */
void progress_open(progress_t *progress, bool shown);

/* Clears the line. */
void progress_close(progress_t *progress);

/* Whether anything would be shown now. If not, nothing needs to be computed for it. */
bool progress_is_due(const progress_t *progress);

/* A line of the caller's text, without "choir: " and newline. Truncated to the terminal's width. */
void progress_show(progress_t *progress, const char *text);

/* "loading [#####     ]  50% of 120 MiB, 7 s left". unit_size: of what `done` and `total` count;
 * unit NULL: no amounts. The time is told from 1% or 10 s on, and lines of a log are written from then. Another `what`
 * than before begins a bar of its own, whose time counts from then. */
void progress_bar(progress_t *progress, const char *what, uint64_t done, uint64_t total,
    const char *unit, double unit_size);

#endif
