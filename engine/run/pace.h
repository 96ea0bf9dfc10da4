/* How many prompt rows a step may have that also decodes, so that answers under way go on.
 *
 * The rows of a prompt cost the more the later they stand, as attention reads all keys before them. So the time of a step
 * is decode + the sum over its prompt rows of (row + position p), where p is a row's position in its prompt. All three are
 * learned from the times of steps: decode as the median of the last steps without prompt rows, which a few slow ones do not
 * move; the others by a line through the time for each prompt row against the mean position, in which old steps count less
 * and less. A step that took longer than predicted makes the next ones shorter at once, and for a while. Chunks begin
 * small, and at most double. Steps of up to 5 ms are not limited, and until a step without prompt rows has been timed there are no prompt rows
 * beside answers. Never changes a bit. Plain data; pure functions of it: the clock is the caller's. One thread
 * at a time. */
#ifndef CHOIR_RUN_PACE_H
#define CHOIR_RUN_PACE_H

#include "engine/run/scheduler.h"

#define PACE_DECODES 15 /* last steps without prompt rows that are kept */

typedef struct pace {
    double decodes_ns[PACE_DECODES]; /* in a ring */
    size_t n_decodes;                /* so far */
    double decode_ns;                /* their median; 0: not known */
    /* Of recent steps with prompt rows, x the mean position, y the nanoseconds for each: how many, sums of x, y, xx, xy. */
    double n, x, y, xx, xy;
    double row_ns, position_ns;
    double slower; /* recent steps against the line: 1 as it says */
    size_t most_rows;
} pace_t;

/* A step took so long. */
void pace_learn(pace_t *pace, const scheduler_step_t *step, double ns);

/* For steps that are to take ratio times as long as one without prompt rows. */
scheduler_limit_t pace_limit(const pace_t *pace, double ratio);

#endif
