/* Monitors this process without MPI while watchdog.h cannot: at the start, until the ranks know
 * each other, and at the end. It has its own thread, which sleeps while no phase is entered. Its
 * functions are called by one thread, the one that is monitored. */
#ifndef CHOIR_COMM_GUARD_H
#define CHOIR_COMM_GUARD_H

#include <stddef.h>

typedef struct guard guard_t;

/* Local, before MPI has started. A phase that takes `seconds` (0: no guard) ends the process with
 * status 1 and a message: one rank of each host prints it, and names a stopped rank if there is
 * one. Otherwise it waits for at least ten seconds, since starting a run may take that long.
 * before_end: as for watchdog_open. Returns NULL with 0 seconds, or where no guard can be
 * started. */
guard_t *guard_open(size_t seconds, void (*before_end)(void));
/* Local. Monitors this phase from here on, "MPI_Init"; NULL: no phase. */
void guard_enter(guard_t *guard, const char *phase);
/* Local. NULL is allowed. */
void guard_close(guard_t *guard);

#endif
