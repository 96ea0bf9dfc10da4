/* Monotonic time. */
#ifndef CHOIR_BASE_CLOCK_H
#define CHOIR_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds since an arbitrary fixed point of this host. */
uint64_t clock_ns(void);

/* A counter with a constant rate, the same on all cores, that takes less than half of clock_ns's
 * time to read: the time stamp counter of x86 CPUs where its rate is constant, else clock_ns. Two
 * reads of both clocks give the length of a tick. */
uint64_t clock_ticks(void);

#endif
