/* Rounding to bf16 for loops of elementwise kernels. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_ELEMENTWISE_H
#define CHOIR_KERNELS_ELEMENTWISE_H

#include "engine/kernels/kernels.h"

/* bf16_from_f32 without its early return, so that loops vectorise. */
static inline uint16_t round_bf16(float x)
{
    uint32_t bits = f32_bits(x);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

#endif
