/* Products of many rows of bf16 by fused multiply-add, for AVX2. Few rows, and AVX-512: fma_bf16.c.
 *
 * In blocks, as K. Goto and R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): of
 * a block of inputs all rows are widened to f32 once, in the order in which register tiles read them. Then
 * the weights of one register tile after another are widened into the first-level cache, where they stay while
 * the rows stream past them from the second level. Every output is one chain, so no bit depends on it. */
#include "engine/kernels/fma_blocked.h"

#include "engine/base/size.h"
#include "engine/base/team.h"
#include "engine/kernels/blocked_tile.h"
#include "engine/kernels/denormals.h"
#include "engine/kernels/widen.h"

/* A tile's weights take 16 KiB of a first-level cache of 32, the rows 512 KiB. */
#define BLOCK_INPUTS 256
#define SPAN 32 /* inputs of the dot product amx's operation */

/* ---- Register tiles -------------------------------------------------------------------------- */

/* a: [inputs][ROWS]; b: [inputs][OUTPUTS]; of a pair the odd input comes first.
 * from: [rows, OUTPUTS] that are continued, NULL: from +0; to: written. */
typedef struct tile {
    const float *a, *b;
    size_t inputs;
    const float *from;
    size_t from_stride;
    float *to;
    size_t to_stride;
} tile_t;

INLINE void load_sums(const int rows, const float *from, size_t stride, sums_t sum)
{
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] = *(const mem_f32_t *)(from + (size_t)r * stride + LANES_F32 * v);
}

INLINE void store_sums(const int rows, sums_t sum, float *to, size_t stride)
{
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++)
            *(mem_f32_t *)(to + (size_t)r * stride + LANES_F32 * v) = sum[r][v];
}

/* Steps `apart` inputs apart, an even number of steps. */
INLINE void chain(
    const int rows, const size_t apart, const float *a, const float *b, size_t steps, sums_t sum)
{
    const size_t a_step = apart * ROWS, b_step = apart * OUTPUTS;
    const float *end = b + steps * b_step;
    for (; b != end; a += 2 * a_step, b += 2 * b_step) {
        step(rows, a, b, sum);
        step(rows, a + a_step, b + b_step, sum);
    }
}

static const float no_sums[OUTPUTS] __attribute__((aligned(64)));

/* The dot product chain. */
INLINE void tile_chain(const int rows, const tile_t *y)
{
    sums_t sum;
    load_sums(rows, y->from == NULL ? no_sums : y->from, y->from == NULL ? 0 : y->from_stride, sum);
    for (int r = 0; r < rows; r++)
        __builtin_prefetch(y->to + (size_t)r * y->to_stride);
    chain(rows, 1, y->a, y->b, y->inputs, sum);
    store_sums(rows, sum, y->to, y->to_stride);
}

/* Adds even and odd sums of a span to what was summed before. */
INLINE void add_span(
    const int rows, const float *from, size_t from_stride, sums_t even, sums_t odd, const tile_t *y)
{
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) {
            vec_f32_t before = *(const mem_f32_t *)(from + (size_t)r * from_stride + LANES_F32 * v);
            *(mem_f32_t *)(y->to + (size_t)r * y->to_stride + LANES_F32 * v) =
                before + (even[r][v] + odd[r][v]);
        }
}

/* The dot product amx. */
INLINE void tile_spans(const int rows, const tile_t *y)
{
    const float *from = y->from == NULL ? no_sums : y->from;
    size_t from_stride = y->from == NULL ? 0 : y->from_stride;
    for (size_t i = 0; i < y->inputs; i += SPAN) {
        const float *a = y->a + i * ROWS, *b = y->b + i * OUTPUTS;
        size_t pairs = size_min(SPAN, y->inputs - i) / 2, whole = pairs / 2 * 2;
        sums_t even = {{{0}}}, odd = {{{0}}};
        chain(rows, 2, a + ROWS, b + OUTPUTS, whole, even);
        if (whole < pairs)
            step(rows, a + (2 * whole + 1) * ROWS, b + (2 * whole + 1) * OUTPUTS, even);
        chain(rows, 2, a, b, whole, odd);
        if (whole < pairs)
            step(rows, a + 2 * whole * ROWS, b + 2 * whole * OUTPUTS, odd);
        add_span(rows, from, from_stride, even, odd, y);
        from = y->to;
        from_stride = y->to_stride;
    }
}

typedef void tile_fn_t(const tile_t *tile);

/* A function of its own for each number of rows, so that sums stay in registers. */
#define DEFINE_SIZE(NAME, R)                                                                       \
    static __attribute__((noinline)) void NAME##_##R(const tile_t *y)                              \
    {                                                                                              \
        NAME(R, y);                                                                                \
    }
#define DEFINE_SIZES(NAME)                                                                         \
    DEFINE_SIZE(NAME, 1)                                                                           \
    DEFINE_SIZE(NAME, 2)                                                                           \
    DEFINE_SIZE(NAME, 3)                                                                           \
    DEFINE_SIZE(NAME, 4)                                                                           \
    DEFINE_SIZE(NAME, 5)                                                                           \
    DEFINE_SIZE(NAME, 6)                                                                           \
    static tile_fn_t *const NAME##_of_rows[ROWS + 1] = {                                           \
        NULL, NAME##_1, NAME##_2, NAME##_3, NAME##_4, NAME##_5, NAME##_6};

DEFINE_SIZES(tile_chain)
DEFINE_SIZES(tile_spans)

/* ---- Blocks ---------------------------------------------------------------------------------- */

typedef struct block {
    float weights[BLOCK_INPUTS * OUTPUTS] __attribute__((aligned(64))); /* [inputs][OUTPUTS] */
    /* [register tile][inputs][ROWS], and what a last vector has beyond ROWS */
    float rows[(PASS_ROWS + ROWS) * BLOCK_INPUTS + LANES_F32] __attribute__((aligned(64)));
} block_t;

/* One register tile's weights of k inputs. b: at the tile's first output. */
static void widen_tile(const uint16_t *b, size_t width, size_t k, float *to)
{
    for (size_t i = 0; i < k; i += 2, b += 2 * width, to += 2 * OUTPUTS)
        for (size_t v = 0; v < VECTORS; v++) {
            pair_t w = load_pair(b + 2 * v * LANES_F32);
            *(vec_f32_t *)(to + v * LANES_F32) = w.odd;
            *(vec_f32_t *)(to + OUTPUTS + v * LANES_F32) = w.even;
        }
}

/* 8 pairs of inputs of each row. Vectors overlap by the 2 that they have beyond ROWS, so they are written in
 * order. */
INLINE void widen_pairs(const size_t rows, const uint16_t *a, size_t a_stride, float *to)
{
    __m256i x[LANES_F32];
    load_transposed(rows, a, a_stride * sizeof *a, x);
    for (size_t i = 0; i < LANES_F32; i++) {
        pair_t pair = widen((vec_u32_t)x[i]);
        *(mem_f32_t *)(to + 2 * i * ROWS) = pair.odd;
        *(mem_f32_t *)(to + (2 * i + 1) * ROWS) = pair.even;
    }
}

/* A register tile's rows, at most ROWS, of k inputs. */
INLINE void widen_rows(const size_t rows, const uint16_t *a, size_t a_stride, size_t k, float *to)
{
    const size_t step = 2 * LANES_F32;
    size_t i = 0;
    for (; i + step <= k; i += step)
        widen_pairs(rows, a + i, a_stride, to + i * ROWS);
    for (; i < k; i++)
        for (size_t r = 0; r < rows; r++)
            to[i * ROWS + r] = f32_from_bf16(a[r * a_stride + (i ^ 1)]);
}

/* Some rows with all panels. */
typedef struct job {
    tile_fn_t *const *tiles;
    size_t rows, n_tiles, a_stride;
    panels_t panels;
    const uint16_t *a;
    float *c;
    size_t c_panel, c_stride;
    float *aside; /* [panels][register tile's outputs][rows][OUTPUTS], NULL: sums are in c */
} job_t;

/* A block of inputs, and whether it begins and ends the sums. */
typedef struct inputs {
    size_t first, n;
    bool begin, end;
} inputs_t;

static void widen_all_rows(const job_t *y, inputs_t inputs, float *to)
{
    for (size_t t = 0; t < y->n_tiles; t++, to += ROWS * inputs.n) {
        team_part_t rows = team_part(y->rows, t, y->n_tiles);
        const uint16_t *a = y->a + rows.begin * y->a_stride + inputs.first;
        if (rows.end - rows.begin == ROWS)
            widen_rows(ROWS, a, y->a_stride, inputs.n, to);
        else
            widen_rows(rows.end - rows.begin, a, y->a_stride, inputs.n, to);
    }
}

static float *aside_at(const job_t *y, size_t p, size_t j, size_t row)
{
    return y->aside + (p * y->panels.width + j) * y->rows + row * OUTPUTS;
}

/* c = c + what was summed aside, of a tile's outputs. */
static void add_aside(const job_t *y, size_t p, size_t j)
{
    const float *sum = aside_at(y, p, j, 0);
    float *c = y->c + p * y->c_panel + j;
    unsigned flushed = denormals_keep(c);
    for (size_t r = 0; r < y->rows; r++, sum += OUTPUTS)
        for (size_t i = 0; i < OUTPUTS; i += LANES_F32) {
            mem_f32_t *to = (mem_f32_t *)(c + r * y->c_stride + i);
            *to = *to + *(const mem_f32_t *)(sum + i);
        }
    denormals_restore(flushed, c);
}

/* All rows, widened, with outputs from j on of panel p. */
static void multiply_tiles(
    const job_t *y, const block_t *block, inputs_t inputs, size_t p, size_t j)
{
    tile_t tile = {.a = block->rows, .b = block->weights, .inputs = inputs.n};
    for (size_t t = 0; t < y->n_tiles; t++, tile.a += ROWS * inputs.n) {
        team_part_t rows = team_part(y->rows, t, y->n_tiles);
        tile.to = y->aside == NULL ? y->c + p * y->c_panel + rows.begin * y->c_stride + j
                                   : aside_at(y, p, j, rows.begin);
        tile.to_stride = y->aside == NULL ? y->c_stride : OUTPUTS;
        tile.from = inputs.begin ? NULL : tile.to;
        tile.from_stride = tile.to_stride;
        prefetch_weights(&y->panels, p, j, inputs.first / 2, inputs.n / 2,
            team_part(inputs.n / 2, t, y->n_tiles));
        y->tiles[rows.end - rows.begin](&tile);
    }
    if (inputs.end && y->aside != NULL)
        add_aside(y, p, j);
}

static void multiply_block(const job_t *y, inputs_t inputs)
{
    block_t block;
    widen_all_rows(y, inputs, block.rows);
    const size_t width = y->panels.width;
    for (size_t p = 0; p < y->panels.n; p++)
        for (size_t j = 0; j < width; j += OUTPUTS) {
            const uint16_t *b = y->panels.at[p];
            widen_tile(b + inputs.first * width + 2 * j, width, inputs.n, block.weights);
            multiply_tiles(y, &block, inputs, p, j);
        }
}

void blocked_multiply_avx2(bool amx, const blocked_rows_t *rows, size_t n_panels,
    const uint16_t *const *b, size_t width, size_t k, float *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode)
{
    float aside[KERNEL_MANY_PANELS * PASS_ROWS * KERNEL_PANEL];
    const void *panels[KERNEL_MANY_PANELS];
    for (size_t p = 0; p < n_panels; p++)
        panels[p] = b[p];
    job_t y = {.tiles = amx ? tile_spans_of_rows : tile_chain_of_rows,
        .a_stride = rows->stride,
        .panels = {panels, n_panels, width},
        .c_panel = c_panel,
        .c_stride = c_stride,
        .aside = mode == TILE_ADD ? aside : NULL};
    for (size_t first = 0; first < rows->n; first += PASS_ROWS) {
        y.rows = size_min(PASS_ROWS, rows->n - first);
        y.n_tiles = (y.rows + ROWS - 1) / ROWS;
        y.a = rows->x + first * y.a_stride;
        y.c = c + first * c_stride;
        unsigned saved = denormals_flush(y.c);
        for (size_t at = 0; at < k; at += BLOCK_INPUTS) {
            size_t n = size_min(BLOCK_INPUTS, k - at);
            multiply_block(&y, (inputs_t){at, n, at == 0 && mode != TILE_CHAIN, at + n == k});
        }
        denormals_restore(saved, y.c);
    }
}
