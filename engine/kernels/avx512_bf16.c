/* bf16 tiles with vdpbf16ps, which is the canonical chain's step for a pair of inputs. */
#include <immintrin.h>

#include "engine/base/size.h"
#include "engine/kernels/fma.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

#define ROWS                                                                                       \
    6 /* 6 x 4 accumulators, 4 vectors of weights and one broadcast fill the 32 registers */
#define VECTORS 4 /* of 16 outputs */
#define LINE_BYTES 64

#define STEP 32 /* inputs of a single row between tests for a new page: one page of a whole panel */

/* Who prefetches weights that come from memory, for which the hardware's prefetcher is too short. */
typedef enum stream {
    STREAM_NONE,
    STREAM_ALONE, /* the only register tile that prefetches them: all of them */
    STREAM_SHARED /* several tiles read them by turns, so that they stay in the second-level cache */
} stream_t;

/* What a register tile prefetches. */
typedef struct prefetch {
    const char *at;
    size_t bytes; /* for each pair of inputs */
} prefetch_t;

INLINE void prefetch_ahead(const stream_t stream, const int vectors, prefetch_t next, size_t pair)
{
    /* A tile that shares the panel prefetches at most half of it. */
    const int lines = stream == STREAM_ALONE ? vectors : (vectors + 1) / 2;
    const char *at = next.at + pair * next.bytes;
    for (int i = 0; i < lines; i++)
        if (stream == STREAM_ALONE)
            _mm_prefetch(at + i * LINE_BYTES, _MM_HINT_T0);
        else
            _mm_prefetch(at + i * LINE_BYTES, _MM_HINT_T1);
}

/* Inputs [i, end) of a register tile. */
INLINE void chain(const stream_t stream, const int rows, const int vectors, const uint16_t *a,
    size_t a_stride, const uint16_t *b, size_t width, prefetch_t next, size_t i, size_t end,
    __m512 sum[ROWS][VECTORS])
{
    for (; i < end; i += 2) {
        const uint16_t *pair = b + i * width;
        __m512bh w[VECTORS];
        if (stream != STREAM_NONE)
            prefetch_ahead(stream, vectors, next, i / 2);
        for (int v = 0; v < vectors; v++)
            w[v] = (__m512bh)_mm512_loadu_si512(pair + 32 * v);
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
INLINE void register_tile(const stream_t stream, const int rows, const int vectors,
    const uint16_t *a, size_t a_stride, const uint16_t *b, size_t width, size_t k, prefetch_t next,
    float *c, size_t c_stride, tile_mode_t mode)
{
    __m512 sum[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = mode == TILE_CHAIN ? _mm512_loadu_ps(c + (size_t)r * c_stride + 16 * v)
                                           : _mm512_setzero_ps();
    if (stream == STREAM_ALONE)
        for (size_t i = 0; i < k; i += STEP) {
            prefetch_next_page(b + i * width, STEP * width * sizeof *b);
            chain(
                stream, rows, vectors, a, a_stride, b, width, next, i, size_min(i + STEP, k), sum);
        }
    else
        chain(stream, rows, vectors, a, a_stride, b, width, next, 0, k, sum);
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
        if (stream == STREAM_ALONE)                                                                \
            register_tile(STREAM_ALONE, R, V, a, a_stride, b, width, k, next, c, c_stride, mode);  \
        else if (stream == STREAM_SHARED)                                                          \
            register_tile(STREAM_SHARED, R, V, a, a_stride, b, width, k, next, c, c_stride, mode); \
        else                                                                                       \
            register_tile(STREAM_NONE, R, V, a, a_stride, b, width, k, next, c, c_stride, mode);   \
        break;
#define CASES(R) CASE(R, 1) CASE(R, 2) CASE(R, 3) CASE(R, 4)

static void dispatch(stream_t stream, size_t rows, size_t vectors, const uint16_t *a,
    size_t a_stride, const uint16_t *b, size_t width, size_t k, prefetch_t next, float *c,
    size_t c_stride, tile_mode_t mode)
{
    switch (rows * 8 + vectors) {
        CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6)
    }
}

/* Rows so few that memory is the limit. Where streams want prefetching the first register tile prefetches all weights for
 * the others. Elsewhere register tiles have about as many rows each, and of several each prefetches its share of the weights
 * into the second-level cache, far enough ahead for the time that all take. */
static void tile_of_few(size_t rows, const uint16_t *a, size_t a_stride, const uint16_t *b,
    size_t width, size_t k, float *c, size_t c_stride, tile_mode_t mode)
{
    enum { ALONE_BYTES = 2048, SHARED_BYTES = 64 * 1024 };
    const size_t pair_bytes = 2 * width * sizeof *b;
    const bool first_prefetches = streams_want_prefetching();
    size_t tiles = (rows + ROWS - 1) / ROWS;
    stream_t stream = first_prefetches ? STREAM_ALONE : tiles > 1 ? STREAM_SHARED : STREAM_NONE;
    prefetch_t next = {
        (const char *)b + (first_prefetches ? ALONE_BYTES : SHARED_BYTES), pair_bytes};
    for (size_t r = 0, n; r < rows; r += n, tiles--) {
        n = first_prefetches ? size_min(rows - r, ROWS) : (rows - r + tiles - 1) / tiles;
        if (stream == STREAM_SHARED)
            next.bytes = pair_bytes * n / rows;
        dispatch(stream, n, width / 16, a + r * a_stride, a_stride, b, width, k, next,
            c + r * c_stride, c_stride, mode);
        next.at += k / 2 * next.bytes;
        if (stream == STREAM_ALONE)
            stream = STREAM_NONE;
    }
}

static void tile_bf16(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    if (rows < KERNEL_MANY_ROWS) {
        tile_of_few(rows, a, a_stride, b, width, k, c, c_stride, mode);
        return;
    }
    for (size_t r = 0; r < rows; r += ROWS)
        dispatch(STREAM_NONE, size_min(rows - r, ROWS), width / 16,
            (const uint16_t *)a + r * a_stride, a_stride, b, width, k, (prefetch_t){NULL, 0},
            (float *)c + r * c_stride, c_stride, mode);
}

/* ---- One row with panels, read in step ------------------------------------------------------- */

/* Sums of all panels stay in registers. */
INLINE void row_of_panels(const int n, const int vectors, const uint16_t *a, const void *const *b,
    size_t k, float *c, size_t c_panel, tile_mode_t mode)
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

void tiles_by_dot_product(kernels_t *kernels)
{
    kernels->tile = tile_bf16;
    kernels->tile_panels = NULL; /* nothing is widened */
}

/* Where vdpbf16ps multiplies less than fused multiply-adds: for as few rows as wait for memory. */
static void tile_by_rows(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    (rows < ROWS_BY_FMA ? tile_bf16 : tile_bf16_by_fma)(
        rows, a, a_stride, b, width, k, c, c_stride, mode);
}

void tiles_fill_avx512_bf16(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->row_panels = row_panels;
    if (dot_product_is_faster())
        tiles_by_dot_product(kernels);
    else
        kernels->tile = tile_by_rows;
}
