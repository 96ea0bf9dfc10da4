/* bf16 as f32 in registers of either width, and in blocks of rows for products of f32 with f32. For
 * sources that are compiled twice, see fma.h. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_WIDEN_H
#define CHOIR_KERNELS_WIDEN_H

#include <stddef.h>

#include "engine/kernels/fma.h"
#include "engine/kernels/kernels_internal.h"

/* The two inputs of a pair: the odd one is its dword's upper half already in place, the even one is
 * shifted up. */
typedef struct pair_of_inputs {
    vec_f32_t odd, even;
} pair_t;

INLINE pair_t widen(vec_u32_t pairs)
{
    return (pair_t){(vec_f32_t)(pairs & 0xffff0000u), (vec_f32_t)(pairs << 16)};
}

INLINE pair_t load_pair(const uint16_t *pairs)
{
    return widen(*(const mem_u32_t *)pairs);
}

/* One pair in all lanes. */
INLINE pair_t broadcast_pair(const uint16_t *x)
{
    uint32_t pair;
    __builtin_memcpy(&pair, x, sizeof pair);
    return widen((vec_u32_t)(vec_f32_t)SET_F32(f32_from_bits(pair)));
}

/* k inputs of a row, an even number, into their two planes. */
INLINE void widen_row(const uint16_t *x, size_t k, float *odd, float *even)
{
    size_t i = 0;
    for (; i + 2 * LANES_F32 <= k; i += 2 * LANES_F32) {
        pair_t pairs = load_pair(x + i);
        *(mem_f32_t *)&odd[i / 2] = pairs.odd;
        *(mem_f32_t *)&even[i / 2] = pairs.even;
    }
    for (; i < k; i += 2) {
        odd[i / 2] = f32_from_bf16(x[i + 1]);
        even[i / 2] = f32_from_bf16(x[i]);
    }
}

#endif
