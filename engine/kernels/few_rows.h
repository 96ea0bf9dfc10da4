/* What register tiles of few rows of bf16 share, whose weights are widened in registers. For sources that are compiled
 * twice, see fma.h. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_FEW_ROWS_H
#define CHOIR_KERNELS_FEW_ROWS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/kernels/tile_table.h"
#include "engine/kernels/widen.h"

/* Weights that are used later come into the second-level cache where streams do not want prefetching (tiles.h): from memory
 * the first-level caches of those CPUs take only so many lines at a time. */
INLINE void prefetch_line(const char *at, bool second_level)
{
    enum { SECOND_LEVEL = 2 };
    if (second_level)
        __builtin_prefetch(at, 0, SECOND_LEVEL);
    else
        __builtin_prefetch(at);
}

/* One input of pair i, into sum. a: of each row the odd inputs, then the even ones, `plane` floats apart; b: at the tile's
 * first output of a panel of `width` */
INLINE void few_rows_step(const bool odd, const int rows, const int vectors, const size_t plane,
    const float *a, const uint16_t *b, size_t width, size_t i, tile_sums_t sum)
{
    vec_f32_t w[TILE_VECTORS];
    for (int v = 0; v < vectors; v++) {
        pair_t pair = load_pair(b + 2 * (i * width + (size_t)v * LANES_F32));
        w[v] = odd ? pair.odd : pair.even;
    }
    for (int r = 0; r < rows; r++) {
        vec_f32_t x = SET_F32(a[(2 * (size_t)r + (odd ? 0 : 1)) * plane + i]);
        for (int v = 0; v < vectors; v++)
            sum[r][v] = FMA_F32(x, w[v], sum[r][v]);
    }
}

#endif
