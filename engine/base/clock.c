#include "engine/base/clock.h"

#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <stdatomic.h>
#include <stdbool.h>
#endif

uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#if defined(__x86_64__)
/* Advanced power management information, "invariant TSC" (Intel SDM and AMD APM, CPUID). */
static bool counter_is_even(void)
{
    const unsigned leaf = 0x80000007u, invariant = 1u << 8;
    unsigned a, b, c, d;
    return __get_cpuid(leaf, &a, &b, &c, &d) && (d & invariant) != 0;
}

uint64_t clock_ticks(void)
{
    enum { UNKNOWN, EVEN, UNEVEN };
    static atomic_int kind = UNKNOWN; /* all threads find the same */
    int known = atomic_load_explicit(&kind, memory_order_relaxed);
    if (known == UNKNOWN) {
        known = counter_is_even() ? EVEN : UNEVEN;
        atomic_store_explicit(&kind, known, memory_order_relaxed);
    }
    return known == EVEN ? __builtin_ia32_rdtsc() : clock_ns();
}
#else
uint64_t clock_ticks(void)
{
    return clock_ns();
}
#endif
