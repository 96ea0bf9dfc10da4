/* A function for each size of a register tile, rows by registers of outputs, so that sizes are constants. A function of
 * its own for each: with 16 registers compilers do not keep all sums in them where much else is in the same function.
 * For sources that are compiled twice, see fma.h, and that define tile_t, what a register tile is about. Internal to
 * engine/kernels. */
#ifndef CHOIR_KERNELS_TILE_TABLE_H
#define CHOIR_KERNELS_TILE_TABLE_H

#include "engine/kernels/fma.h"
#include "engine/kernels/kernels.h"

/* 6 x 4 sums of 32 registers, or 6 x 2 of 16. */
#define TILE_ROWS 6                             /* of a register tile, at most */
#define TILE_VECTORS (KERNEL_PANEL / LANES_F32) /* of a panel */

typedef vec_f32_t tile_sums_t[TILE_ROWS][TILE_VECTORS];

#define TILES_OF_ROWS(DO, NAME, V)                                                                 \
    DO(NAME, 1, V) DO(NAME, 2, V) DO(NAME, 3, V) DO(NAME, 4, V) DO(NAME, 5, V) DO(NAME, 6, V)
#ifdef __AVX512F__
#define FOR_TILES(DO, NAME)                                                                        \
    TILES_OF_ROWS(DO, NAME, 1)                                                                     \
    TILES_OF_ROWS(DO, NAME, 2) TILES_OF_ROWS(DO, NAME, 3) TILES_OF_ROWS(DO, NAME, 4)
#define FOR_TILES_OF_FEW(DO, NAME) FOR_TILES(DO, NAME)
#else
#define FOR_TILES(DO, NAME) TILES_OF_ROWS(DO, NAME, 2)
/* Few rows need more outputs for enough chains to hide the latency. */
#define FOR_TILES_OF_FEW(DO, NAME) FOR_TILES(DO, NAME) DO(NAME, 1, 4) DO(NAME, 2, 4) DO(NAME, 3, 4)
#endif

#define TILE_DEFINE(NAME, R, V)                                                                    \
    static __attribute__((noinline)) void NAME##_##R##_##V(const tile_t *y)                        \
    {                                                                                              \
        NAME(R, V, y);                                                                             \
    }
#define TILE_ENTRY(NAME, R, V) [R][V] = NAME##_##R##_##V,

/* static const tile_table_t NAME_tiles, [rows][vectors], of NAME(rows, vectors, const tile_t *); FOR: which of them */
#define DEFINE_TILE_TABLE(FOR, NAME)                                                               \
    FOR(TILE_DEFINE, NAME)                                                                         \
    static const tile_table_t NAME##_tiles = {FOR(TILE_ENTRY, NAME)};

/* For the sums of a tile. Unrolled in any case: else compilers keep the sums in memory. */
#define FOR_SUMS                                                                                   \
    _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++)                                         \
        _Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++)

/* Of a source's tile_t. */
#define TILE_TABLE_TYPE                                                                            \
    typedef void tile_fn_t(const tile_t *y);                                                       \
    typedef tile_fn_t *tile_table_t[TILE_ROWS + 1][TILE_VECTORS + 1];

#endif
