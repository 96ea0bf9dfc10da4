/* Finds the rank that blocks a run, from the progress records that a monitor has received. Pure
 * functions. Times are in the monitor's own ticks, so a machine that was suspended for an hour
 * causes no message. */
#ifndef CHOIR_COMM_VERDICT_H
#define CHOIR_COMM_VERDICT_H

#include <stdbool.h>
#include <stddef.h>

#include "comm/watch/progress_record.h"

/* What a monitor knows of a rank. */
typedef struct verdict_view {
    progress_view_t record; /* the latest that is known */
    size_t still;           /* ticks since it changed */
    size_t silent;          /* ticks since the last message of the rank's own watcher */
    bool heard;             /* whether there was one: a rank whose messages never arrive is not
                         * judged */
    char state; /* of the process, as in /proc/PID/stat, reported by a rank of its host: 'T'
                 * stopped, 'Z' ended; 0 when nothing is known */
    const char *host;
    int pid;
} verdict_view_t;

typedef struct verdict_limits {
    size_t limit; /* ticks without progress */
    size_t quiet; /* ticks without a message after which a rank counts as silent */
    double seconds_a_tick;
} verdict_limits_t;

/* The rank that blocks the run, or -1. First, a process that has ended. Else, when a rank has been
 * silent for the limit, or no rank of a group with work has made progress for as long: the rank
 * that is silent, or that computes while others wait for it, or that is behind.
 *
 * views: [n]. */
int verdict_find(const verdict_view_t *views, size_t n, const verdict_limits_t *limits);

/* Whether the rank's process is known to have ended. */
bool verdict_has_ended(const verdict_view_t *view);

/* Whether the rank's own watcher still sends messages, so that it can be asked for its stack. */
bool verdict_answers(const verdict_view_t *view, const verdict_limits_t *limits);

/* "no progress for 30 s: rank 1 on node2 (process 71) is ..., in step 3, layer 2, MLP; ranks 0, 2-3
 * wait for it in step 3, ..., gather of activations". stack: "" when there is none. */
void verdict_text(const verdict_view_t *views, size_t n, int culprit,
    const verdict_limits_t *limits, const char *stack, char *text, size_t text_bytes);

#endif
