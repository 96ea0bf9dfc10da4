/* bf16 as f32 in registers of either width, and in blocks of weights and rows for products of f32 with f32. For
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

/* k inputs of a panel of n_tiles register tiles, `vectors` registers of outputs each: from the packed pairs
 * b [pairs][outputs of the panel][2] into wide [tile][pair][odd, even][outputs of a tile], 64-byte aligned. */
INLINE void widen_tiles(
    const size_t n_tiles, const size_t vectors, const uint16_t *b, size_t k, float *wide)
{
    const size_t outputs = vectors * LANES_F32;
    for (size_t i = 0; i < k; i += 2, b += 2 * n_tiles * outputs)
        for (size_t t = 0; t < n_tiles; t++)
            for (size_t v = 0; v < vectors; v++) {
                pair_t w = load_pair(b + 2 * (t * outputs + v * LANES_F32));
                float *to = wide + t * outputs * k + i * outputs + v * LANES_F32;
                *(vec_f32_t *)to = w.odd;
                *(vec_f32_t *)(to + outputs) = w.even;
            }
}

#define WIDEN_CASE(N_TILES, VECTORS)                                                               \
    case (N_TILES)*8 + (VECTORS):                                                                  \
        widen_tiles(N_TILES, VECTORS, b, k, wide);                                                 \
        break;

static inline void widen_weights(
    size_t n_tiles, size_t vectors, const uint16_t *b, size_t k, float *wide)
{
    switch (n_tiles * 8 + vectors) {
#ifdef __AVX512F__
        WIDEN_CASE(1, 1) WIDEN_CASE(1, 2) WIDEN_CASE(1, 3) WIDEN_CASE(1, 4)
#else
        WIDEN_CASE(1, 2)
        WIDEN_CASE(2, 2) WIDEN_CASE(3, 2) WIDEN_CASE(4, 2) WIDEN_CASE(1, 4) WIDEN_CASE(2, 4)
#endif
    }
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
