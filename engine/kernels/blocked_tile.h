/* What the blocked products of many rows share: a register tile and how rows lie for it. For sources that may be
 * compiled twice, see fma.h. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_BLOCKED_TILE_H
#define CHOIR_KERNELS_BLOCKED_TILE_H

#include "engine/base/team.h"
#include "engine/kernels/tile_table.h"

#define ROWS TILE_ROWS
#ifdef __AVX512F__
#define VECTORS 4 /* at most */
#else
#define VECTORS 2 /* always: as many outputs as KERNEL_LANES, so that every panel has whole tiles */
#endif
#define OUTPUTS (VECTORS * LANES_F32)
#define PASS_ROWS 512 /* at most, that lie in blocks together */

/* One input. a: [ROWS]; b: [vectors][LANES_F32] */
INLINE void step(const int rows, const int vectors, const float *a, const float *b, tile_sums_t sum)
{
    vec_f32_t w[VECTORS];
    for (int v = 0; v < vectors; v++)
        w[v] = *(const vec_f32_t *)(b + LANES_F32 * v);
    for (int r = 0; r < rows; r++) {
        vec_f32_t x = SET_F32(a[r]);
        for (int v = 0; v < vectors; v++)
            sum[r][v] = FMA_F32(x, w[v], sum[r][v]);
    }
}

#define TRANSPOSED 8 /* dwords of each of so many rows */

/* 8 x 8 dwords, transposed. */
INLINE void transpose(__m256i x[TRANSPOSED])
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

/* 8 dwords of each row, of zeros where there are fewer rows than 8, transposed. */
INLINE void load_transposed(const size_t rows, const void *a, size_t row_bytes, __m256i x[8])
{
    for (size_t r = 0; r < 8; r++) {
        x[r] = _mm256_setzero_si256();
        if (r < rows)
            x[r] = _mm256_loadu_si256(
                (const __m256i *)(const void *)((const char *)a + r * row_bytes));
    }
    transpose(x);
}

/* Panels as [dwords][width]: a dword is an input of f32, or a pair of inputs of bf16. */
typedef struct panels {
    const void *const *at;
    size_t n, width;
} panels_t;

/* While register tiles with `outputs` from j on of panel p are multiplied, those of dwords [first, first + n) of each
 * output, one tile's share of the next weights comes from memory: of the panel's next outputs, of the next panel, or of the
 * next dwords. share: of n */
INLINE void prefetch_weights(const panels_t *panels, size_t p, size_t j, size_t outputs,
    size_t first, size_t n, team_part_t share)
{
    enum { SECOND_LEVEL = 2, LINE_DWORDS = 16 };
    j += outputs;
    if (j == panels->width) {
        j = 0;
        p++;
    }
    if (p == panels->n) {
        p = 0;
        first += n;
    }
    const uint32_t *from = (const uint32_t *)panels->at[p] + first * panels->width + j;
    for (size_t i = share.begin; i < share.end; i++)
        for (size_t o = 0; o < outputs; o += LINE_DWORDS)
            __builtin_prefetch(from + i * panels->width + o, 0, SECOND_LEVEL);
}

#endif
