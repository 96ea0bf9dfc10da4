/* The tile function of each instruction set and mode. Internal to engine/kernels; called only where
 * the CPU has the instructions. Signature and meaning: kernels_t.tile. */
#ifndef CHOIR_KERNELS_TILES_H
#define CHOIR_KERNELS_TILES_H

#include <stdint.h>

#include "engine/kernels/kernels.h"

/* A lone row reads its weights once, as one stream, `bytes` at a time. The hardware's own prefetch
 * stops where a page of 4 KiB ends; the first lines of the next one, asked for a page ahead, set it
 * off again (bench/LOG.md). */
static inline __attribute__((always_inline)) void prefetch_next_page(const void *at, size_t bytes)
{
    enum { PAGE_BYTES = 4096, LINE_BYTES = 64, LINES = 4, SECOND_LEVEL = 2 };
    if ((uintptr_t)at % PAGE_BYTES < bytes)
        for (int i = 0; i < LINES; i++)
            __builtin_prefetch((const char *)at + PAGE_BYTES + LINE_BYTES * i, 0, SECOND_LEVEL);
}

#define DECLARE_TILE(NAME)                                                                         \
    void NAME(size_t rows, const void *a, size_t a_stride, const void *b, size_t width, size_t k,  \
        void *c, size_t c_stride, tile_mode_t mode)

DECLARE_TILE(tile_scalar_bf16);
DECLARE_TILE(tile_scalar_f32);
DECLARE_TILE(tile_scalar_f64);
DECLARE_TILE(tile_avx2_bf16);
DECLARE_TILE(tile_avx2_f32);
DECLARE_TILE(tile_avx2_f64);
DECLARE_TILE(tile_avx512_bf16_by_fma);
DECLARE_TILE(tile_avx512_f32);
DECLARE_TILE(tile_avx512_f64);
DECLARE_TILE(tile_avx512_bf16);
/* By the dot product amx. */
DECLARE_TILE(tile_scalar_amx);
DECLARE_TILE(tile_avx2_amx);
DECLARE_TILE(tile_avx512_amx);
DECLARE_TILE(tile_amx);
/* Meaning: kernels_t.tile_amx_slabs. */
DECLARE_TILE(tile_amx_slabs);
/* Meaning: kernels_t.hold_tiles, release_tiles. */
void tiles_amx_hold(void);
void tiles_amx_release(void);
/* Meaning: kernels_t.tile_groups. */
DECLARE_TILE(tile_groups_scalar_f32);
DECLARE_TILE(tile_groups_scalar_f64);
DECLARE_TILE(tile_groups_avx2_f32);
DECLARE_TILE(tile_groups_avx2_f64);
DECLARE_TILE(tile_groups_avx512_f32);
DECLARE_TILE(tile_groups_avx512_f64);

#endif
