/* A single row with panels of f32 or f64, which are read in step, an input of each in turn: each panel is
 * a stream of the memory's. That of bf16: fma_bf16.c. Compiled twice, see fma.h. */
#include "engine/base/size.h"
#include "engine/kernels/fma.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

#ifdef __AVX512F__
#define FILL single_row_fill_avx512
#else
#define FILL single_row_fill_avx2
#endif

/* As tile_groups (fma_tiles.c): leaves of a group, then groups. vectors: of a panel, a constant after
 * inlining; n: panels. Sums of one panel stay in registers, those of several in the first-level cache. */
#define DEFINE_ROW(NAME, REAL, VEC, MEM, LANES, FMA, SET)                                          \
    typedef VEC NAME##_sums_t[KERNEL_PANEL / LANES];                                               \
                                                                                                   \
    INLINE void NAME##_leaf(const int vectors, const size_t n, const REAL *a,                      \
        const void *const *b, size_t from, size_t to, NAME##_sums_t *sum)                          \
    {                                                                                              \
        const size_t width = (size_t)vectors * LANES;                                              \
        for (size_t p = 0; p < n; p++)                                                             \
            for (int v = 0; v < vectors; v++)                                                      \
                sum[p][v] = (VEC){0};                                                              \
        for (size_t i = from; i < to; i++) {                                                       \
            const VEC x = SET(a[i]);                                                               \
            for (size_t p = 0; p < n; p++) {                                                       \
                const REAL *at = (const REAL *)b[p] + i * width;                                   \
                prefetch_stream(at, width * sizeof *at);                                           \
                for (int v = 0; v < vectors; v++)                                                  \
                    sum[p][v] = FMA(x, *(const MEM *)(at + LANES * v), sum[p][v]);                 \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    INLINE void NAME##_groups(const int vectors, const size_t n, const REAL *a,                    \
        const void *const *b, size_t k, REAL *c, size_t c_panel, tile_mode_t mode)                 \
    {                                                                                              \
        for (size_t first = 0; first < k; first += KERNEL_GROUP) {                                 \
            size_t end = size_min(first + KERNEL_GROUP, k);                                        \
            NAME##_sums_t group[KERNEL_TILE_PANELS], leaf[KERNEL_TILE_PANELS];                     \
            NAME##_leaf(vectors, n, a, b, first, size_min(first + KERNEL_LEAF, end), group);       \
            for (size_t i = first + KERNEL_LEAF; i < end; i += KERNEL_LEAF) {                      \
                NAME##_leaf(vectors, n, a, b, i, size_min(i + KERNEL_LEAF, end), leaf);            \
                for (size_t p = 0; p < n; p++)                                                     \
                    for (int v = 0; v < vectors; v++)                                              \
                        group[p][v] = group[p][v] + leaf[p][v];                                    \
            }                                                                                      \
            for (size_t p = 0; p < n; p++)                                                         \
                for (int v = 0; v < vectors; v++) {                                                \
                    MEM *out = (MEM *)(c + p * c_panel + LANES * v);                               \
                    if (first > 0 || mode == TILE_ADD)                                             \
                        group[p][v] = *out + group[p][v];                                          \
                    *out = group[p][v];                                                            \
                }                                                                                  \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void NAME(const void *a, size_t n, const void *const *b, size_t width, size_t k,        \
        void *c, size_t c_panel, tile_mode_t mode)                                                 \
    {                                                                                              \
        switch (width) {                                                                           \
            WIDTH(NAME, LANES, 16)                                                                 \
            WIDTH(NAME, LANES, 32) WIDTH(NAME, LANES, 48) WIDTH(NAME, LANES, 64)                   \
        }                                                                                          \
    }

#define WIDTH(NAME, LANES, OUTPUTS)                                                                \
    case OUTPUTS:                                                                                  \
        if (n == 1)                                                                                \
            NAME##_groups((OUTPUTS) / LANES, 1, a, b, k, c, c_panel, mode);                        \
        else                                                                                       \
            NAME##_groups((OUTPUTS) / LANES, n, a, b, k, c, c_panel, mode);                        \
        break;

DEFINE_ROW(row_f32, float, vec_f32_t, mem_f32_t, LANES_F32, FMA_F32, SET_F32)
DEFINE_ROW(row_f64, double, vec_f64_t, mem_f64_t, LANES_F64, FMA_F64, SET_F64)

void FILL(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_F32)
        kernels->row_groups_panels = row_f32;
    else if (kernels->mode == DTYPE_F64)
        kernels->row_groups_panels = row_f64;
}
