/* Denormals as zero, as in vdpbf16ps and TDPBF16PS, for products by fused multiply-add alone. Internal to
 * engine/kernels; x86 only. */
#ifndef CHOIR_KERNELS_DENORMALS_H
#define CHOIR_KERNELS_DENORMALS_H

#include <immintrin.h>

/* Sets the control register. Arithmetic does not move across: what it works on is in memory that
 * `data` points to before and after. */
static inline void denormals_restore(unsigned control, const void *data)
{
    __asm__ volatile("" ::"r"(data) : "memory");
    _mm_setcsr(control);
    __asm__ volatile("" ::"r"(data) : "memory");
}

#define DENORMALS_DAZ_AND_FTZ 0x8040u

/* Takes denormals as zero, or as what they are. Returns what denormals_restore takes. */
static inline unsigned denormals_flush(const void *data)
{
    unsigned control = _mm_getcsr();
    denormals_restore(control | DENORMALS_DAZ_AND_FTZ, data);
    return control;
}

static inline unsigned denormals_keep(const void *data)
{
    unsigned control = _mm_getcsr();
    denormals_restore(control & ~DENORMALS_DAZ_AND_FTZ, data);
    return control;
}

#endif
