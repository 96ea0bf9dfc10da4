/* Monotonic time. */
#ifndef CHOIR_BASE_CLOCK_H
#define CHOIR_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds since an arbitrary fixed point of this host. */
uint64_t clock_ns(void);

/* A count that rises evenly, the same on all cores, and takes less than half of clock_ns's time to
 * read: the time stamp counter of x86 CPUs where nothing changes its rate, else clock_ns. What a
 * tick is, two looks at both tell. */
uint64_t clock_ticks(void);

#endif
