/* A function for each size of a register tile, rows by registers of outputs, so that sizes are constants. A function of
 * its own for each: with 16 registers compilers do not keep all sums in them where much else is in the same function.
 * For sources that are compiled twice, see fma.h, and that define tile_t, what a register tile is about. Internal to
 * engine/kernels. */
#ifndef CHOIR_KERNELS_TILE_TABLE_H
#define CHOIR_KERNELS_TILE_TABLE_H

#include <stdbool.h>

#include "engine/kernels/fma.h"
#include "engine/kernels/kernels.h"

#define TILE_ROWS 6                             /* of a register tile, at most */
#define TILE_VECTORS (KERNEL_PANEL / LANES_F32) /* of a panel, at most */

#ifdef __AVX512F__
#define TILES_OF_ROWS(DO, NAME, R) DO(NAME, R, 1) DO(NAME, R, 2) DO(NAME, R, 3) DO(NAME, R, 4)
#define FOR_TILES(DO, NAME)                                                                        \
    TILES_OF_ROWS(DO, NAME, 1)                                                                     \
    TILES_OF_ROWS(DO, NAME, 2)                                                                     \
    TILES_OF_ROWS(DO, NAME, 3)                                                                     \
    TILES_OF_ROWS(DO, NAME, 4) TILES_OF_ROWS(DO, NAME, 5) TILES_OF_ROWS(DO, NAME, 6)
#else
#define FOR_TILES(DO, NAME)                                                                        \
    DO(NAME, 1, 2)                                                                                 \
    DO(NAME, 1, 4)                                                                                 \
    DO(NAME, 2, 2)                                                                                 \
    DO(NAME, 2, 4)                                                                                 \
    DO(NAME, 3, 2) DO(NAME, 3, 4) DO(NAME, 4, 2) DO(NAME, 5, 2) DO(NAME, 6, 2)
#endif

#define TILE_DEFINE(NAME, R, V)                                                                    \
    static __attribute__((noinline)) void NAME##_packed_##R##_##V(const tile_t *y)                 \
    {                                                                                              \
        NAME(true, R, V, y);                                                                       \
    }                                                                                              \
    static __attribute__((noinline)) void NAME##_widened_##R##_##V(const tile_t *y)                \
    {                                                                                              \
        NAME(false, R, V, y);                                                                      \
    }
#define TILE_ENTRY(NAME, R, V) [R][V] = {NAME##_widened_##R##_##V, NAME##_packed_##R##_##V},

/* [rows][vectors][packed]: NAME##_tiles of NAME(packed, rows, vectors, const tile_t *) */
#define DEFINE_TILE_TABLE(NAME)                                                                    \
    FOR_TILES(TILE_DEFINE, NAME)                                                                   \
    static void (*const NAME##_tiles[TILE_ROWS + 1][TILE_VECTORS + 1][2])(const tile_t *y) = {     \
        FOR_TILES(TILE_ENTRY, NAME)};

/* For the sums of a tile. Unrolled in any case: else compilers keep the sums in memory. */
#define FOR_SUMS                                                                                   \
    _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++)                                         \
        _Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++)

#endif
