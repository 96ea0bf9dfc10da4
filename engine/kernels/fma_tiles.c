/* Tiles of f32 and f64 by fused multiply-add. Those of bf16: fma_bf16.c.
 *
 * Compiled twice, for AVX2 with FMA and for AVX-512F; only the width of a register and the number
 * of registers differ. */
#include "engine/base/size.h"
#include "engine/kernels/fma.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

#ifdef __AVX512F__
#define ROWS 6 /* 6 x 4 accumulators, 4 weights, 1 input of 32 registers */
#define VECTORS 4
#define FILL tiles_fill_avx512
#else
#define ROWS 6 /* 6 x 2 accumulators, 2 weights, 1 input of 16 registers */
#define VECTORS 2
#define FILL tiles_fill_avx2
#endif

/* A single row takes so many at once, if the panel has them, to read it as one stream. */
#define LONE_VECTORS 8

#define AHEAD_BYTES 2048
#define PAGE_OF_PANEL (4096 / KERNEL_PANEL) /* bytes of an output's weights in a page */

/* One register tile over k inputs, a leaf or less; continues from sum. `rows` and `vectors`
 * (registers of outputs) are constants after inlining. A single row tests for a new page of weights
 * from time to time, not at every input. */
#define DEFINE_CHAIN(NAME, REAL, VEC, MEM, LANES, FMA, SET, MOST_ROWS, MOST_VECTORS)               \
    INLINE void NAME(const int rows, const int vectors, const REAL *a, size_t a_stride,            \
        const REAL *b, size_t width, size_t k, VEC sum[MOST_ROWS][MOST_VECTORS])                   \
    {                                                                                              \
        const size_t step = rows == 1 ? PAGE_OF_PANEL / sizeof(REAL) : k;                          \
        for (size_t begin = 0; begin < k; begin += step) {                                         \
            size_t end = k - begin < step ? k : begin + step;                                      \
            if (rows == 1)                                                                         \
                prefetch_next_page(b + begin * width, step * width * sizeof *b);                   \
            for (size_t i = begin; i < end; i++) {                                                 \
                VEC w[MOST_VECTORS];                                                               \
                for (int v = 0; v < vectors; v++)                                                  \
                    w[v] = *(const MEM *)(b + i * width + LANES * v);                              \
                /* Prefetches weights beyond the hardware's own prefetcher. */                     \
                if (rows == 1)                                                                     \
                    for (int v = 0; v < vectors; v += 64 / REGISTER_BYTES)                         \
                        __builtin_prefetch(                                                        \
                            (const char *)(b + i * width + LANES * v) + AHEAD_BYTES);              \
                for (int r = 0; r < rows; r++) {                                                   \
                    VEC x = SET(a[(size_t)r * a_stride + i]);                                      \
                    for (int v = 0; v < vectors; v++)                                              \
                        sum[r][v] = FMA(x, w[v], sum[r][v]);                                       \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

DEFINE_CHAIN(chain_f32, float, vec_f32_t, mem_f32_t, LANES_F32, FMA_F32, SET_F32, ROWS, VECTORS)
DEFINE_CHAIN(
    single_row_chain_f32, float, vec_f32_t, mem_f32_t, LANES_F32, FMA_F32, SET_F32, 1, LONE_VECTORS)
DEFINE_CHAIN(chain_f64, double, vec_f64_t, mem_f64_t, LANES_F64, FMA_F64, SET_F64, ROWS, VECTORS)
DEFINE_CHAIN(single_row_chain_f64, double, vec_f64_t, mem_f64_t, LANES_F64, FMA_F64, SET_F64, 1,
    LONE_VECTORS)

#define DEFINE_REGISTER_TILE(NAME, CHAIN, REAL, VEC, MEM, LANES, MOST_ROWS, MOST_VECTORS)          \
    INLINE void NAME(const int rows, const int vectors, const REAL *a, size_t a_stride,            \
        const REAL *b, size_t width, size_t k, REAL *c, size_t c_stride, tile_mode_t mode)         \
    {                                                                                              \
        VEC sum[MOST_ROWS][MOST_VECTORS];                                                          \
        for (int r = 0; r < rows; r++)                                                             \
            for (int v = 0; v < vectors; v++)                                                      \
                if (mode == TILE_CHAIN)                                                            \
                    sum[r][v] = *(const MEM *)(c + (size_t)r * c_stride + LANES * v);              \
                else                                                                               \
                    sum[r][v] = (VEC){0};                                                          \
        CHAIN(rows, vectors, a, a_stride, b, width, k, sum);                                       \
        for (int r = 0; r < rows; r++)                                                             \
            for (int v = 0; v < vectors; v++) {                                                    \
                MEM *out = (MEM *)(c + (size_t)r * c_stride + LANES * v);                          \
                if (mode == TILE_ADD)                                                              \
                    sum[r][v] = *out + sum[r][v];                                                  \
                *out = sum[r][v];                                                                  \
            }                                                                                      \
    }

DEFINE_REGISTER_TILE(
    register_tile_f32, chain_f32, float, vec_f32_t, mem_f32_t, LANES_F32, ROWS, VECTORS)
DEFINE_REGISTER_TILE(single_row_register_tile_f32, single_row_chain_f32, float, vec_f32_t,
    mem_f32_t, LANES_F32, 1, LONE_VECTORS)
DEFINE_REGISTER_TILE(
    register_tile_f64, chain_f64, double, vec_f64_t, mem_f64_t, LANES_F64, ROWS, VECTORS)
DEFINE_REGISTER_TILE(single_row_register_tile_f64, single_row_chain_f64, double, vec_f64_t,
    mem_f64_t, LANES_F64, 1, LONE_VECTORS)

/* The leaves of each group, then the groups. */
#define DEFINE_GROUPS_TILE(NAME, CHAIN, REAL, VEC, MEM, LANES, MOST_ROWS, MOST_VECTORS)            \
    INLINE void NAME(const int rows, const int vectors, const REAL *a, size_t a_stride,            \
        const REAL *b, size_t width, size_t k, REAL *c, size_t c_stride, tile_mode_t mode)         \
    {                                                                                              \
        for (size_t first = 0; first < k; first += KERNEL_GROUP) {                                 \
            size_t end = k - first < KERNEL_GROUP ? k : first + KERNEL_GROUP;                      \
            VEC group[MOST_ROWS][MOST_VECTORS] = {{{0}}};                                          \
            CHAIN(rows, vectors, a + first, a_stride, b + first * width, width,                    \
                end - first < KERNEL_LEAF ? end - first : KERNEL_LEAF, group);                     \
            for (size_t i = first + KERNEL_LEAF; i < end; i += KERNEL_LEAF) {                      \
                VEC sum[MOST_ROWS][MOST_VECTORS] = {{{0}}};                                        \
                CHAIN(rows, vectors, a + i, a_stride, b + i * width, width,                        \
                    end - i < KERNEL_LEAF ? end - i : KERNEL_LEAF, sum);                           \
                for (int r = 0; r < rows; r++)                                                     \
                    for (int v = 0; v < vectors; v++)                                              \
                        group[r][v] = group[r][v] + sum[r][v];                                     \
            }                                                                                      \
            for (int r = 0; r < rows; r++)                                                         \
                for (int v = 0; v < vectors; v++) {                                                \
                    MEM *out = (MEM *)(c + (size_t)r * c_stride + LANES * v);                      \
                    if (first > 0 || mode == TILE_ADD)                                             \
                        group[r][v] = *out + group[r][v];                                          \
                    *out = group[r][v];                                                            \
                }                                                                                  \
        }                                                                                          \
    }

DEFINE_GROUPS_TILE(
    groups_tile_f32, chain_f32, float, vec_f32_t, mem_f32_t, LANES_F32, ROWS, VECTORS)
DEFINE_GROUPS_TILE(single_row_groups_tile_f32, single_row_chain_f32, float, vec_f32_t, mem_f32_t,
    LANES_F32, 1, LONE_VECTORS)
DEFINE_GROUPS_TILE(
    groups_tile_f64, chain_f64, double, vec_f64_t, mem_f64_t, LANES_F64, ROWS, VECTORS)
DEFINE_GROUPS_TILE(single_row_groups_tile_f64, single_row_chain_f64, double, vec_f64_t, mem_f64_t,
    LANES_F64, 1, LONE_VECTORS)

/* Calls NAME with constant rows and vectors. */
#define CASE(NAME, R, V)                                                                           \
    case (R)*16 + (V):                                                                             \
        NAME(R, V, a, a_stride, b, width, k, c, c_stride, mode);                                   \
        break;
#define LONE_CASES(NAME)                                                                           \
    CASE(NAME, 1, 1)                                                                               \
    CASE(NAME, 1, 2) CASE(NAME, 1, 3) CASE(NAME, 1, 4) CASE(NAME, 1, 6) CASE(NAME, 1, 8)
#ifdef __AVX512F__
#define CASES(NAME, R) CASE(NAME, R, 1) CASE(NAME, R, 2) CASE(NAME, R, 3) CASE(NAME, R, 4)
#else
#define CASES(NAME, R) CASE(NAME, R, 1) CASE(NAME, R, 2)
#endif
#define ALL_CASES(NAME)                                                                            \
    LONE_CASES(single_row_##NAME)                                                                  \
    CASES(NAME, 2) CASES(NAME, 3) CASES(NAME, 4) CASES(NAME, 5) CASES(NAME, 6)

#define DEFINE_TILE(TILE, NAME, REAL, LANES)                                                       \
    static void NAME##_dispatch(size_t rows, size_t vectors, const REAL *a, size_t a_stride,       \
        const REAL *b, size_t width, size_t k, REAL *c, size_t c_stride, tile_mode_t mode)         \
    {                                                                                              \
        switch (rows * 16 + vectors) {                                                             \
            ALL_CASES(NAME)                                                                        \
        }                                                                                          \
    }                                                                                              \
    static void TILE(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,     \
        size_t k, void *c, size_t c_stride, tile_mode_t mode)                                      \
    {                                                                                              \
        size_t n_vectors = width / LANES;                                                          \
        size_t most = rows == 1 ? LONE_VECTORS : VECTORS;                                          \
        for (size_t v = 0; v < n_vectors; v += most)                                               \
            for (size_t r = 0; r < rows; r += ROWS)                                                \
                NAME##_dispatch(size_min(rows - r, ROWS), size_min(n_vectors - v, most),           \
                    (const REAL *)a + r * a_stride, a_stride, (const REAL *)b + v * LANES, width,  \
                    k, (REAL *)c + r * c_stride + v * LANES, c_stride, mode);                      \
    }

DEFINE_TILE(tile_f32, register_tile_f32, float, LANES_F32)
DEFINE_TILE(tile_f64, register_tile_f64, double, LANES_F64)
DEFINE_TILE(tile_groups_f32, groups_tile_f32, float, LANES_F32)
DEFINE_TILE(tile_groups_f64, groups_tile_f64, double, LANES_F64)

void FILL(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16) {
        kernels->tile_wide = tile_f32;
    } else if (kernels->mode == DTYPE_F32) {
        kernels->tile = tile_f32;
        kernels->tile_groups = tile_groups_f32;
        kernels->tile_groups_panels = NULL; /* AVX2's registers are half as wide as AVX-512's */
    } else if (kernels->mode == DTYPE_F64) {
        kernels->tile = tile_f64;
        kernels->tile_groups = tile_groups_f64;
    }
}
