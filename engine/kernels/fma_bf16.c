/* bf16 tiles by fused multiply-add of f32, for CPUs without vdpbf16ps or AMX.
 *
 * A single row reads its panel as one stream and widens in registers. Of few rows a block of inputs is widened at a
 * time; weights are widened again for every register tile, which takes less time than doing so aside. Many rows:
 * fma_blocked.c. Compiled twice, see fma.h. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/denormals.h"
#include "engine/kernels/few_rows.h"
#include "engine/kernels/fma_blocked.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tile_table.h"
#include "engine/kernels/tiles.h"
#include "engine/kernels/widen.h"

#ifdef __AVX512F__
#define FILL bf16_tiles_fill_avx512
#define BLOCKED_MULTIPLY blocked_multiply_avx512
#define VECTORS 4    /* of outputs in a register tile: 6 x 4 sums of 32 registers */
#define MOST_ROWS 64 /* that are few (bench/LOG.md) */
#else
#define FILL bf16_tiles_fill_avx2
#define BLOCKED_MULTIPLY blocked_multiply_avx2
#define VECTORS 2 /* 6 x 2 sums of 16 registers */
#define MOST_ROWS 32
#endif

#define ROWS TILE_ROWS
#define FEW_ROWS                                                                                   \
    2 /* at most these take FEW_VECTORS, so that enough chains hide the latency; sums of 3 fill all registers */
#define FEW_VECTORS 4
#define LINE_BYTES 64
#define SPAN 32 /* inputs of the dot product amx's operation, and of a page of a whole panel */

/* ---- One row --------------------------------------------------------------------------------- */

typedef vec_f32_t sums_t[TILE_VECTORS]; /* of a panel's outputs */

/* Inputs [from, to) of n panels, a pair of each in turn, so that each panel is a stream of the memory's: on most
 * CPUs one stream takes less than several do (tiles.h). odd and even may be the same sums: of each pair the
 * odd input comes first. Sums of one panel stay in registers, those of several in the first-level cache. */
INLINE void single_row_pairs(const int vectors, const size_t n, const uint16_t *x,
    const void *const *b, size_t from, size_t to, sums_t *odd, sums_t *even)
{
    const size_t width = (size_t)vectors * LANES_F32;
    for (size_t i = from; i < to; i += 2) {
        const pair_t input = broadcast_pair(x + i);
        for (size_t p = 0; p < n; p++) {
            const uint16_t *at = (const uint16_t *)b[p] + i * width;
            prefetch_stream(at, 2 * width * sizeof *at);
            for (int v = 0; v < vectors; v++) {
                const pair_t w = load_pair(at + 2 * LANES_F32 * v);
                odd[p][v] = FMA_F32(input.odd, w.odd, odd[p][v]);
                even[p][v] = FMA_F32(input.even, w.even, even[p][v]);
            }
        }
    }
}

/* The dot product chain: as many chains as there are outputs hide the latency. */
INLINE void single_row_chain(
    const int vectors, const size_t n, const uint16_t *x, const void *const *b, size_t k, sums_t *c)
{
    single_row_pairs(vectors, n, x, b, 0, k, c, c);
}

/* The dot product amx: two sums for an output. */
INLINE void single_row_amx(
    const int vectors, const size_t n, const uint16_t *x, const void *const *b, size_t k, sums_t *c)
{
    for (size_t i = 0; i < k; i += SPAN) {
        sums_t odd[KERNEL_TILE_PANELS], even[KERNEL_TILE_PANELS];
        for (size_t p = 0; p < n; p++)
            for (int v = 0; v < vectors; v++)
                odd[p][v] = even[p][v] = (vec_f32_t){0};
        single_row_pairs(vectors, n, x, b, i, size_min(i + SPAN, k), odd, even);
        for (size_t p = 0; p < n; p++)
            for (int v = 0; v < vectors; v++)
                c[p][v] = c[p][v] + (even[p][v] + odd[p][v]);
    }
}

/* c is continued. */
INLINE void single_row_panels(const bool amx, const int vectors, const size_t n, const uint16_t *x,
    const void *const *b, size_t k, float *c, size_t c_panel)
{
    sums_t sum[KERNEL_TILE_PANELS];
    for (size_t p = 0; p < n; p++)
        for (int v = 0; v < vectors; v++)
            sum[p][v] = *(const mem_f32_t *)(c + p * c_panel + LANES_F32 * v);
    if (amx)
        single_row_amx(vectors, n, x, b, k, sum);
    else
        single_row_chain(vectors, n, x, b, k, sum);
    for (size_t p = 0; p < n; p++)
        for (int v = 0; v < vectors; v++)
            *(mem_f32_t *)(c + p * c_panel + LANES_F32 * v) = sum[p][v];
}

#define LONE_CASE(AMX, WIDTH)                                                                      \
    case WIDTH:                                                                                    \
        if (n == 1)                                                                                \
            single_row_panels(AMX, (WIDTH) / LANES_F32, 1, x, b, k, c, c_panel);                   \
        else                                                                                       \
            single_row_panels(AMX, (WIDTH) / LANES_F32, n, x, b, k, c, c_panel);                   \
        break;

#define DEFINE_LONE(NAME, AMX)                                                                     \
    static void NAME(size_t n, const uint16_t *x, const void *const *b, size_t width, size_t k,    \
        float *c, size_t c_panel)                                                                  \
    {                                                                                              \
        switch (width) {                                                                           \
            LONE_CASE(AMX, 16) LONE_CASE(AMX, 32) LONE_CASE(AMX, 48) LONE_CASE(AMX, 64)            \
        }                                                                                          \
    }

DEFINE_LONE(single_row_chain_dispatch, false)
DEFINE_LONE(single_row_amx_dispatch, true)

/* ---- More rows ------------------------------------------------------------------------------- */

/* Inputs that are worked on together, at most. Where streams want prefetching fewer: their weights stay in the first-level
 * cache. Elsewhere weights come from the second-level cache in any case, and longer blocks move sums less often. */
#define BLOCK_INPUTS 512
#define STREAMED_INPUTS 128
#define CHUNK_ROWS 12 /* that are widened together: whole register tiles */
/* Floats between the rows of a register tile: not a power of two, so that they fall into different
 * sets of a cache. */
#define PLANE (BLOCK_INPUTS / 2 + 16)

/* Odd inputs are multiplied before even ones, so they lie first. */
typedef struct wide_rows {
    float at[CHUNK_ROWS][2][PLANE] __attribute__((aligned(64)));
} wide_rows_t;

static void widen_rows(size_t rows, const uint16_t *a, size_t a_stride, size_t k, wide_rows_t *to)
{
    for (size_t r = 0; r < rows; r++)
        widen_row(a + r * a_stride, k, to->at[r][0], to->at[r][1]);
}

/* What is read next, a share while each pair of inputs is multiplied: all at once would wait for each other. The shares of
 * AT_ONCE pairs lie `apart` bytes from each other, those of the next so many `step` bytes on. */
#define AT_ONCE 4
typedef struct stream {
    const char *at;
    size_t share, apart, step; /* bytes */
    bool second_level;         /* the cache that it is read into; else the first */
} stream_t;

/* During the i-th of AT_ONCE pairs; a share is at most what a register tile has of a pair. */
INLINE void prefetch_share(const int vectors, const stream_t *next, size_t i)
{
    const char *at = next->at + i * next->apart;
    prefetch_line(at, next->second_level);
    /* Where a pair of all outputs is one line, that was it. */
    for (size_t j = LINE_BYTES; vectors * REGISTER_BYTES > LINE_BYTES && j < next->share;
         j += LINE_BYTES)
        prefetch_line(at + j, next->second_level);
}

/* A register tile's rows; its weights, at its first output of a panel of `width`; its sums; and what is prefetched
 * meanwhile. */
typedef struct tile {
    const float *a;
    const uint16_t *b;
    size_t width, pairs;
    stream_t next;
    float *c;
    size_t c_stride;
} tile_t;
TILE_TABLE_TYPE

INLINE void tile_chain(const int rows, const int vectors, const tile_t *y)
{
    const float *a = y->a;
    const uint16_t *b = y->b;
    float *c = y->c;
    const size_t width = y->width, pairs = y->pairs, c_stride = y->c_stride;
    stream_t next = y->next;
    tile_sums_t sum;
    size_t i = 0;
    FOR_SUMS
        sum[r][v] = *(const mem_f32_t *)(c + (size_t)r * c_stride + LANES_F32 * v);
    for (; i + AT_ONCE <= pairs; i += AT_ONCE, next.at += next.step)
        _Pragma("GCC unroll 4") for (size_t s = 0; s < AT_ONCE; s++)
        {
            prefetch_share(vectors, &next, s);
            few_rows_step(true, rows, vectors, PLANE, a, b, width, i + s, sum);
            few_rows_step(false, rows, vectors, PLANE, a, b, width, i + s, sum);
        }
    for (; i < pairs; i++) {
        few_rows_step(true, rows, vectors, PLANE, a, b, width, i, sum);
        few_rows_step(false, rows, vectors, PLANE, a, b, width, i, sum);
    }
    FOR_SUMS
        *(mem_f32_t *)(c + (size_t)r * c_stride + LANES_F32 * v) = sum[r][v];
}

INLINE void tile_spans(const int rows, const int vectors, const tile_t *y)
{
    const float *a = y->a;
    const uint16_t *b = y->b;
    stream_t next = y->next;
    for (size_t begin = 0; begin < y->pairs; begin += SPAN / 2) {
        const size_t end = size_min(begin + SPAN / 2, y->pairs);
        tile_sums_t even = {{{0}}}, odd = {{{0}}};
        size_t i = begin;
        for (; i + AT_ONCE <= end; i += AT_ONCE, next.at += next.step)
            _Pragma("GCC unroll 4") for (size_t s = 0; s < AT_ONCE; s++)
            {
                prefetch_share(vectors, &next, s);
                few_rows_step(false, rows, vectors, PLANE, a, b, y->width, i + s, even);
            }
        for (; i < end; i++)
            few_rows_step(false, rows, vectors, PLANE, a, b, y->width, i, even);
        for (i = begin; i < end; i++)
            few_rows_step(true, rows, vectors, PLANE, a, b, y->width, i, odd);
        FOR_SUMS {
            mem_f32_t *sum = (mem_f32_t *)(y->c + (size_t)r * y->c_stride + LANES_F32 * v);
            *sum = *sum + (even[r][v] + odd[r][v]);
        }
    }
}

DEFINE_TILE_TABLE(FOR_TILES_OF_FEW, tile_chain)
DEFINE_TILE_TABLE(FOR_TILES_OF_FEW, tile_spans)

/* ---- Tiles ----------------------------------------------------------------------------------- */

/* How a dot product is computed: c is continued. */
typedef struct dot_kernels {
    void (*single_row)(size_t n, const uint16_t *x, const void *const *b, size_t width, size_t k,
        float *c, size_t c_panel);
    const tile_table_t *tiles;
} dot_kernels_t;

static const dot_kernels_t chain_kernels = {single_row_chain_dispatch, &tile_chain_tiles};
static const dot_kernels_t amx_kernels = {single_row_amx_dispatch, &tile_spans_tiles};

/* Vectors of outputs in a register tile. */
static size_t tile_vectors(size_t rows, size_t width)
{
#ifdef __AVX512F__
    (void)rows;
    return width / LANES_F32;
#else
    return rows <= FEW_ROWS && width % (FEW_VECTORS * LANES_F32) == 0 ? FEW_VECTORS : VECTORS;
#endif
}

/* The products of some rows with panels: inputs [0, k) of each, all panels `width` wide. */
typedef struct job {
    const dot_kernels_t *dot;
    size_t rows, a_stride, n_panels, width, k;
    const uint16_t *a;
    const uint16_t *b[KERNEL_MANY_PANELS];
    float *c; /* continued */
    size_t c_panel, c_stride;
} job_t;

/* Rows of the next register tile where n are left. They are shared out evenly; but with AVX2 seven or eight rows leave two,
 * because twice two vectors of fewer than six rows have too few chains to hide the latency. */
static size_t tile_rows(size_t n)
{
    size_t n_tiles = (n + ROWS - 1) / ROWS;
    bool two_left = VECTORS < FEW_VECTORS && n > ROWS && n <= ROWS + FEW_ROWS;
    return two_left ? n - FEW_ROWS : (n + n_tiles - 1) / n_tiles;
}

/* What comes nearer while `bytes` of panel p are multiplied: the same panel's next block; on CPUs that read one stream faster
 * than several (tiles.h), what is multiplied next. */
static const char *prefetched(const job_t *y, size_t p, size_t bytes)
{
    if (streams_want_prefetching())
        return (const char *)y->b[p] + bytes;
    return p + 1 < y->n_panels ? (const char *)y->b[p + 1] : (const char *)y->b[0] + bytes;
}

/* Register tiles of n widened rows, of which `first` come before, with panel p. Each row prefetches its share, as several
 * streams where that is faster; else into the second-level cache, see few_rows.h. */
static void multiply_tiles(
    const job_t *y, const wide_rows_t *wide, size_t first, size_t n, size_t p)
{
    const bool one_stream = !streams_want_prefetching();
    const size_t bytes = y->k * y->width * sizeof(uint16_t), streams = one_stream ? 1 : AT_ONCE;
    tile_t tile = {.width = y->width, .pairs = y->k / 2, .c_stride = y->c_stride};
    tile.next.second_level = one_stream;
    tile.next.at = prefetched(y, p, bytes) + bytes / streams / y->rows * first;
    for (size_t r = 0, m; r < n; r += m) {
        m = tile_rows(n - r);
        size_t vectors = tile_vectors(m, y->width), outputs = vectors * LANES_F32;
        size_t share = 2 * sizeof(uint16_t) * outputs * m / y->rows;
        tile.a = &wide->at[r][0][0];
        tile.next.share = share;
        tile.next.apart = one_stream ? share : bytes / streams;
        tile.next.step = share * AT_ONCE / streams;
        for (size_t j = 0; j < y->width; j += outputs) {
            tile.b = y->b[p] + 2 * j;
            tile.c = y->c + p * y->c_panel + (first + r) * y->c_stride + j;
            (*y->dot->tiles)[m][vectors](&tile);
            tile.next.at += tile.pairs * share / streams;
        }
    }
}

/* While panel p is multiplied, its share of the next chunk of rows, from `first` on, comes from beyond
 * the first-level cache. */
static void prefetch_rows(const job_t *y, size_t first, size_t p)
{
    for (size_t r = first + p; r < size_min(first + CHUNK_ROWS, y->rows); r += y->n_panels)
        for (size_t i = 0; i < y->k; i += LINE_BYTES / sizeof *y->a)
            __builtin_prefetch(y->a + r * y->a_stride + i);
}

static void multiply_block(const job_t *y)
{
    wide_rows_t wide;
    for (size_t r = 0, n; r < y->rows; r += n) {
        n = size_min(CHUNK_ROWS, y->rows - r);
        widen_rows(n, y->a + r * y->a_stride, y->a_stride, y->k, &wide);
        for (size_t p = 0; p < y->n_panels; p++) {
            prefetch_rows(y, r + n, p);
            multiply_tiles(y, &wide, r, n, p);
        }
    }
}

/* Block after block of inputs, denormals as zero. */
static void multiply(const job_t *whole)
{
    const size_t step = streams_want_prefetching() ? STREAMED_INPUTS : BLOCK_INPUTS;
    unsigned saved = denormals_flush(whole->c);
    job_t y = *whole;
    for (size_t k = 0; k < whole->k; k += step) {
        y.k = size_min(step, whole->k - k);
        multiply_block(&y);
        y.a += step;
        for (size_t p = 0; p < y.n_panels; p++)
            y.b[p] += step * y.width;
    }
    denormals_restore(saved, whole->c);
}

/* A single row with panels [first, first + n). */
static void multiply_single_row(const job_t *y, size_t first, size_t n, tile_mode_t mode)
{
    float leaf[KERNEL_TILE_PANELS * KERNEL_PANEL];
    const void *panels[KERNEL_TILE_PANELS];
    float *c = y->c + first * y->c_panel, *sums = mode == TILE_ADD ? leaf : c;
    size_t stride = mode == TILE_ADD ? KERNEL_PANEL : y->c_panel;
    for (size_t p = 0; p < n; p++) {
        panels[p] = y->b[first + p];
        if (mode != TILE_CHAIN)
            memset(sums + p * stride, 0, y->width * sizeof *sums);
    }
    unsigned saved = denormals_flush(sums);
    y->dot->single_row(n, y->a, panels, y->width, y->k, sums, stride);
    denormals_restore(saved, sums);
    for (size_t p = 0; p < n && mode == TILE_ADD; p++)
        for (size_t j = 0; j < y->width; j++)
            c[p * y->c_panel + j] += leaf[p * KERNEL_PANEL + j];
}

static void clear(const job_t *y)
{
    for (size_t p = 0; p < y->n_panels; p++)
        for (size_t r = 0; r < y->rows; r++)
            memset(y->c + p * y->c_panel + r * y->c_stride, 0, y->width * sizeof *y->c);
}

/* c = c + (chain from +0) */
static void add_leaf(const job_t *whole)
{
    float leaf[KERNEL_MANY_PANELS * MOST_ROWS * KERNEL_PANEL];
    job_t y = *whole;
    y.c = leaf;
    y.c_stride = y.width;
    y.c_panel = y.rows * y.width;
    memset(leaf, 0, y.n_panels * y.c_panel * sizeof *leaf);
    multiply(&y);
    for (size_t p = 0; p < y.n_panels; p++)
        for (size_t r = 0; r < y.rows; r++) {
            float *to = whole->c + p * whole->c_panel + r * whole->c_stride;
            for (size_t j = 0; j < y.width; j++)
                to[j] += leaf[p * y.c_panel + r * y.width + j];
        }
}

static void run(const job_t *y, tile_mode_t mode)
{
    if (y->rows == 1) {
        for (size_t p = 0; p < y->n_panels; p += KERNEL_TILE_PANELS)
            multiply_single_row(y, p, size_min(y->n_panels - p, KERNEL_TILE_PANELS), mode);
        return;
    }
    if (y->rows > MOST_ROWS) {
        BLOCKED_MULTIPLY(y->dot == &amx_kernels, &(blocked_rows_t){y->a, y->rows, y->a_stride},
            y->n_panels, y->b, y->width, y->k, y->c, y->c_panel, y->c_stride, mode);
        return;
    }
    if (mode == TILE_SET)
        clear(y);
    if (mode == TILE_ADD)
        add_leaf(y);
    else
        multiply(y);
}

#define DEFINE_TILES(TILE, DOT)                                                                    \
    static void TILE(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,     \
        size_t k, void *c, size_t c_stride, tile_mode_t mode)                                      \
    {                                                                                              \
        run(&(job_t){&(DOT), rows, a_stride, 1, width, k, a, {b}, c, 0, c_stride}, mode);          \
    }                                                                                              \
    static void TILE##_panels(size_t rows, const void *a, size_t a_stride, size_t n_panels,        \
        const void *const *b, size_t width, size_t k, void *c, size_t c_panel, size_t c_stride,    \
        tile_mode_t mode)                                                                          \
    {                                                                                              \
        job_t y = {&(DOT), rows, a_stride, n_panels, width, k, a, {NULL}, c, c_panel, c_stride};   \
        for (size_t p = 0; p < n_panels; p++)                                                      \
            y.b[p] = b[p];                                                                         \
        run(&y, mode);                                                                             \
    }                                                                                              \
    static void TILE##_row(const void *a, size_t n_panels, const void *const *b, size_t width,     \
        size_t k, void *c, size_t c_panel, tile_mode_t mode)                                       \
    {                                                                                              \
        TILE##_panels(1, a, 0, n_panels, b, width, k, c, c_panel, 0, mode);                        \
    }

DEFINE_TILES(tile_bf16, chain_kernels)
DEFINE_TILES(tile_amx, amx_kernels)

#ifdef __AVX512F__
void tile_bf16_by_fma(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    tile_bf16(rows, a, a_stride, b, width, k, c, c_stride, mode);
}

void tile_amx_by_fma(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    tile_amx(rows, a, a_stride, b, width, k, c, c_stride, mode);
}
#endif

void FILL(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16) {
        kernels->tile = tile_bf16;
        kernels->tile_amx = tile_amx;
        kernels->tile_panels = tile_bf16_panels;
        kernels->tile_amx_panels = tile_amx_panels;
        kernels->row_panels = tile_bf16_row;
        kernels->row_amx_panels = tile_amx_row;
    }
}
