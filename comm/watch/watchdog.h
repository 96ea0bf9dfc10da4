/* Detects that a run stalls (a rank that is stopped or has ended, a broken network, an endless
 * loop), reports the cause, and ends the run. watcher.h describes how; this is the part that needs
 * MPI. */
#ifndef CHOIR_COMM_WATCHDOG_H
#define CHOIR_COMM_WATCHDOG_H

#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"

typedef struct watchdog watchdog_t;

/* Collective over the group of all ranks; groups that are split off it afterwards are included.
 * From here on the run aborts if no rank makes progress for `seconds` (0: no watchdog, *watchdog is
 * NULL): one rank writes a message that names the rank that the others wait for, and every process
 * ends with status 1. before_end: called in each process just before, from another thread; may be
 * NULL. */
int watchdog_open(
    watchdog_t **watchdog, comm_t *comm, size_t seconds, void (*before_end)(void), fail_t *fail);
/* Collective. NULL is allowed (on all ranks). */
void watchdog_close(watchdog_t *watchdog);

#endif
