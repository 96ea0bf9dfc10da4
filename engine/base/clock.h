/* Monotonic time. */
#ifndef CHOIR_BASE_CLOCK_H
#define CHOIR_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds since an arbitrary fixed point of this host. */
uint64_t clock_ns(void);

#endif
