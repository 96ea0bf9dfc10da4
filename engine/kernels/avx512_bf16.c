/* bf16 tiles with vdpbf16ps, which is the canonical chain's step for a pair of inputs. */
#include <immintrin.h>

#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

#define ROWS                                                                                       \
    6 /* 6 x 4 accumulators, 4 vectors of weights and one broadcast fill the 32 registers */
#define VECTORS 4 /* of 16 outputs */
#define PREFETCH_BYTES 2048

#define STEP 32 /* inputs of a single row between tests for a new page: one page of a whole panel */

/* Inputs [i, end) of a register tile. streams: it reads weights that no tile before it has read, as
 * one stream, for which the hardware's prefetcher is too short. */
static inline __attribute__((always_inline)) void chain(const bool streams, const int rows,
    const int vectors, const uint16_t *a, size_t a_stride, const uint16_t *b, size_t width,
    size_t i, size_t end, __m512 sum[ROWS][VECTORS])
{
    for (; i < end; i += 2) {
        const uint16_t *pair = b + i * width;
        __m512bh w[VECTORS];
        for (int v = 0; v < vectors; v++) {
            w[v] = (__m512bh)_mm512_loadu_si512(pair + 32 * v);
            if (streams)
                _mm_prefetch((const char *)(pair + 32 * v) + PREFETCH_BYTES, _MM_HINT_T0);
        }
        for (int r = 0; r < rows; r++) {
            int32_t x;
            __builtin_memcpy(&x, a + (size_t)r * a_stride + i, sizeof x);
            __m512bh broadcast = (__m512bh)_mm512_set1_epi32(x);
            for (int v = 0; v < vectors; v++)
                sum[r][v] = _mm512_dpbf16_ps(sum[r][v], w[v], broadcast);
        }
    }
}

/* One register tile: `rows` x 16 * `vectors` outputs. rows and vectors are constants after
 * inlining. */
static inline __attribute__((always_inline)) void register_tile(const bool streams, const int rows,
    const int vectors, const uint16_t *a, size_t a_stride, const uint16_t *b, size_t width,
    size_t k, float *c, size_t c_stride, tile_mode_t mode)
{
    __m512 sum[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = mode == TILE_CHAIN ? _mm512_loadu_ps(c + (size_t)r * c_stride + 16 * v)
                                           : _mm512_setzero_ps();
    if (streams)
        for (size_t i = 0; i < k; i += STEP) {
            prefetch_next_page(b + i * width, STEP * width * sizeof *b);
            chain(
                streams, rows, vectors, a, a_stride, b, width, i, k - i < STEP ? k : i + STEP, sum);
        }
    else
        chain(streams, rows, vectors, a, a_stride, b, width, 0, k, sum);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            float *out = c + (size_t)r * c_stride + 16 * v;
            if (mode == TILE_ADD)
                sum[r][v] = _mm512_add_ps(_mm512_loadu_ps(out), sum[r][v]);
            _mm512_storeu_ps(out, sum[r][v]);
        }
}

#define CASE(R, V)                                                                                 \
    case (R)*8 + (V):                                                                              \
        if (streams)                                                                               \
            register_tile(true, R, V, a, a_stride, b, width, k, c, c_stride, mode);                \
        else                                                                                       \
            register_tile(false, R, V, a, a_stride, b, width, k, c, c_stride, mode);               \
        break;
#define CASES(R) CASE(R, 1) CASE(R, 2) CASE(R, 3) CASE(R, 4)

static void dispatch(bool streams, size_t rows, size_t vectors, const uint16_t *a, size_t a_stride,
    const uint16_t *b, size_t width, size_t k, float *c, size_t c_stride, tile_mode_t mode)
{
    switch (rows * 8 + vectors) {
        CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6)
    }
}

static void tile_bf16(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    for (size_t r = 0; r < rows; r += ROWS) {
        size_t n = rows - r < ROWS ? rows - r : ROWS;
        dispatch(r == 0 && rows < KERNEL_MANY_ROWS, n, width / 16,
            (const uint16_t *)a + r * a_stride, a_stride, b, width, k, (float *)c + r * c_stride,
            c_stride, mode);
    }
}

/* ---- One row with panels, read in step ------------------------------------------------------- */

/* Sums of all panels stay in registers. */
static inline __attribute__((always_inline)) void row_of_panels(const int n, const int vectors,
    const uint16_t *a, const void *const *b, size_t k, float *c, size_t c_panel, tile_mode_t mode)
{
    const size_t width = 16 * (size_t)vectors;
    __m512 sum[KERNEL_TILE_PANELS][VECTORS];
    for (int p = 0; p < n; p++)
        for (int v = 0; v < vectors; v++)
            sum[p][v] = mode == TILE_CHAIN ? _mm512_loadu_ps(c + (size_t)p * c_panel + 16 * v)
                                           : _mm512_setzero_ps();
    for (size_t i = 0; i < k; i += 2) {
        int32_t x;
        __builtin_memcpy(&x, a + i, sizeof x);
        __m512bh broadcast = (__m512bh)_mm512_set1_epi32(x);
        for (int p = 0; p < n; p++) {
            const uint16_t *pair = (const uint16_t *)b[p] + i * width;
            prefetch_stream(pair, 2 * width * sizeof *pair);
            for (int v = 0; v < vectors; v++)
                sum[p][v] = _mm512_dpbf16_ps(
                    sum[p][v], (__m512bh)_mm512_loadu_si512(pair + 32 * v), broadcast);
        }
    }
    for (int p = 0; p < n; p++)
        for (int v = 0; v < vectors; v++) {
            float *out = c + (size_t)p * c_panel + 16 * v;
            if (mode == TILE_ADD)
                sum[p][v] = _mm512_add_ps(_mm512_loadu_ps(out), sum[p][v]);
            _mm512_storeu_ps(out, sum[p][v]);
        }
}

#define ROW_CASE(N, V)                                                                             \
    case (N)*8 + (V):                                                                              \
        row_of_panels(N, V, a, b, k, c, c_panel, mode);                                            \
        break;
#define ROW_CASES(N) ROW_CASE(N, 1) ROW_CASE(N, 2) ROW_CASE(N, 3) ROW_CASE(N, 4)

static void row_panels(const void *a, size_t n_panels, const void *const *b, size_t width, size_t k,
    void *c, size_t c_panel, tile_mode_t mode)
{
    switch (n_panels * 8 + width / 16) {
        ROW_CASES(1) ROW_CASES(2) ROW_CASES(3) ROW_CASES(4)
    }
}

void tiles_fill_avx512_bf16(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16) {
        kernels->tile = tile_bf16;
        kernels->row_panels = row_panels;
        kernels->tile_panels = NULL; /* nothing is widened */
    }
}
