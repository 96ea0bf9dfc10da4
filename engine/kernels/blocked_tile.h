/* What the blocked products of many rows with AVX2 share: a register tile and how rows lie for it. Internal to
 * engine/kernels. */
#ifndef CHOIR_KERNELS_BLOCKED_TILE_H
#define CHOIR_KERNELS_BLOCKED_TILE_H

#include "engine/kernels/fma.h"

#define ROWS 6 /* of a register tile: 6 x 2 sums of 16 registers */
#define VECTORS 2
/* Of a register tile; as many as KERNEL_LANES, so that every panel has whole tiles. */
#define OUTPUTS (VECTORS * LANES_F32)
#define PASS_ROWS 512 /* at most, that lie in blocks together */

typedef vec_f32_t sums_t[ROWS][VECTORS];

/* One input. a: [ROWS]; b: [OUTPUTS] */
INLINE void step(const int rows, const float *a, const float *b, sums_t sum)
{
    vec_f32_t w[VECTORS];
    for (int v = 0; v < VECTORS; v++)
        w[v] = *(const vec_f32_t *)(b + LANES_F32 * v);
    for (int r = 0; r < rows; r++) {
        vec_f32_t x = SET_F32(a[r]);
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] = FMA_F32(x, w[v], sum[r][v]);
    }
}

/* 8 x 8 dwords, transposed. */
INLINE void transpose(__m256i x[8])
{
    __m256i y[8];
    for (int i = 0; i < 8; i += 2) {
        y[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm256_unpacklo_epi64(y[i + j], y[i + 2 + j]);
            x[i + 2 * j + 1] = _mm256_unpackhi_epi64(y[i + j], y[i + 2 + j]);
        }
    for (int j = 0; j < 4; j++) {
        __m256i low = x[j], high = x[4 + j];
        x[j] = _mm256_permute2x128_si256(low, high, 0x20);
        x[4 + j] = _mm256_permute2x128_si256(low, high, 0x31);
    }
}

#endif
