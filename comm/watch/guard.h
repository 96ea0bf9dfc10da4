/* Watches this process by itself while watchdog.h cannot: before MPI has started, until the ranks
 * know each other, and when they have said goodbye. A thread of its own, which sleeps while nothing
 * is to be watched. Its functions are called by one thread, the one that is watched. */
#ifndef CHOIR_COMM_GUARD_H
#define CHOIR_COMM_GUARD_H

#include <stddef.h>

typedef struct guard guard_t;

/* Local, before MPI has started. A phase that takes `seconds` (0: no guard) ends the process with
 * status 1 and a message: of the ranks of a host one speaks, and names one that is stopped if there
 * is one. Where there is none it takes ten seconds at least, since starting a run may. before_end:
 * as for watchdog_open. NULL where no guard is wanted, or none can be had. */
guard_t *guard_open(size_t seconds, void (*before_end)(void));
/* Local. From here on this phase is watched, "MPI_Init"; NULL: none is. */
void guard_enter(guard_t *guard, const char *phase);
/* Local. NULL is allowed. */
void guard_close(guard_t *guard);

#endif
