/* Notices when a run no longer gets on, says why, and ends it: a rank that was stopped or has
 * ended, a network that was cut, a loop without end. watcher.h says how; here is its part in MPI.
 */
#ifndef CHOIR_COMM_WATCHDOG_H
#define CHOIR_COMM_WATCHDOG_H

#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"

typedef struct watchdog watchdog_t;

/* Collective over the group of all ranks; groups that are split off it afterwards are watched with
 * it. From here on a run in which nobody gets on for `seconds` (0: no watchdog, *watchdog is NULL)
 * ends: one rank writes a message that names the rank that holds the others up, and every process
 * ends with status 1. before_end: called in each of them just before, from another thread; may be
 * NULL. */
int watchdog_open(
    watchdog_t **watchdog, comm_t *comm, size_t seconds, void (*before_end)(void), fail_t *fail);
/* Collective. NULL is allowed (on all ranks). */
void watchdog_close(watchdog_t *watchdog);

#endif
