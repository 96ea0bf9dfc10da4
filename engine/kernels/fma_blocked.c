/* Products of many rows of bf16 by fused multiply-add; few rows: fma_bf16.c. Compiled twice, see fma.h.
 *
 * In blocks, as K. Goto and R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): of
 * a block of inputs all rows are widened to f32 once, in the order in which register tiles read them. Then
 * the weights of one register tile after another are widened into the first-level cache, where they stay while
 * the rows stream past them from the second level. Every output is one chain, or a tree of chains in their order, so no bit
 * depends on it. */
#include "engine/kernels/fma_blocked.h"

#include "engine/base/size.h"
#include "engine/base/team.h"
#include "engine/kernels/blocked_tile.h"
#include "engine/kernels/denormals.h"
#include "engine/kernels/fold_tree.h"
#include "engine/kernels/widen.h"

/* Of a block of inputs a tile's weights, 24 or 16 KiB, stay in a first-level cache of 32, and the rows in the second. */
#ifdef __AVX512F__
#define BLOCKED_MULTIPLY blocked_multiply_avx512
#define BLOCKED_FOLD blocked_fold_avx512
#define BLOCK_INPUTS 96
#else
#define BLOCKED_MULTIPLY blocked_multiply_avx2
#define BLOCKED_FOLD blocked_fold_avx2
#define BLOCK_INPUTS 256
#endif
#define FOLD_ROWS 256 /* whose partial sums wait together, at most */
#define SPAN 32       /* inputs of the dot product amx's operation */

/* ---- Register tiles -------------------------------------------------------------------------- */

/* a: [inputs][ROWS]; b: [inputs][tile's outputs]; of a pair the odd input comes first. */
typedef struct tile {
    const float *a, *b;
    size_t inputs;
    /* from: [rows, tile's outputs] that are continued, NULL: from +0; to: written */
    const float *from;
    size_t from_stride;
    float *to;
    size_t to_stride;
    /* The fold: inputs of a chain, and where the block's sums go, from a row and an output on. */
    size_t chain;
    const fold_result_t *result;
    size_t row, output;
} tile_t;
TILE_TABLE_TYPE

INLINE void load_sums(
    const int rows, const int vectors, const float *from, size_t stride, tile_sums_t sum)
{
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = *(const mem_f32_t *)(from + (size_t)r * stride + LANES_F32 * v);
}

INLINE void store_sums(const int rows, const int vectors, tile_sums_t sum, float *to, size_t stride)
{
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            *(mem_f32_t *)(to + (size_t)r * stride + LANES_F32 * v) = sum[r][v];
}

/* Steps `apart` inputs apart, an even number of steps. */
INLINE void chain(const int rows, const int vectors, const size_t apart, const float *a,
    const float *b, size_t steps, tile_sums_t sum)
{
    const size_t a_step = apart * ROWS, b_step = apart * (size_t)vectors * LANES_F32;
    const float *end = b + steps * b_step;
    for (; b != end; a += 2 * a_step, b += 2 * b_step) {
        step(rows, vectors, a, b, sum);
        step(rows, vectors, a + a_step, b + b_step, sum);
    }
}

static const float no_sums[OUTPUTS] __attribute__((aligned(64)));

/* The dot product chain. */
INLINE void tile_chain(const int rows, const int vectors, const tile_t *y)
{
    tile_sums_t sum;
    load_sums(rows, vectors, y->from == NULL ? no_sums : y->from,
        y->from == NULL ? 0 : y->from_stride, sum);
    for (int r = 0; r < rows; r++)
        __builtin_prefetch(y->to + (size_t)r * y->to_stride);
    chain(rows, vectors, 1, y->a, y->b, y->inputs, sum);
    store_sums(rows, vectors, sum, y->to, y->to_stride);
}

/* Adds even and odd sums of a span to what was summed before. */
INLINE void add_span(const int rows, const int vectors, const float *from, size_t from_stride,
    tile_sums_t even, tile_sums_t odd, const tile_t *y)
{
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            vec_f32_t before = *(const mem_f32_t *)(from + (size_t)r * from_stride + LANES_F32 * v);
            *(mem_f32_t *)(y->to + (size_t)r * y->to_stride + LANES_F32 * v) =
                before + (even[r][v] + odd[r][v]);
        }
}

/* The dot product amx. */
INLINE void tile_spans(const int rows, const int vectors, const tile_t *y)
{
    const size_t outputs = (size_t)vectors * LANES_F32;
    const float *from = y->from == NULL ? no_sums : y->from;
    size_t from_stride = y->from == NULL ? 0 : y->from_stride;
    for (size_t i = 0; i < y->inputs; i += SPAN) {
        const float *a = y->a + i * ROWS, *b = y->b + i * outputs;
        size_t pairs = size_min(SPAN, y->inputs - i) / 2, whole = pairs / 2 * 2;
        tile_sums_t even = {{{0}}}, odd = {{{0}}};
        chain(rows, vectors, 2, a + ROWS, b + outputs, whole, even);
        if (whole < pairs)
            step(rows, vectors, a + (2 * whole + 1) * ROWS, b + (2 * whole + 1) * outputs, even);
        chain(rows, vectors, 2, a, b, whole, odd);
        if (whole < pairs)
            step(rows, vectors, a + 2 * whole * ROWS, b + 2 * whole * outputs, odd);
        add_span(rows, vectors, from, from_stride, even, odd, y);
        from = y->to;
        from_stride = y->to_stride;
    }
}

/* The dot product fold of a block of chains. */
INLINE void tile_fold(const int rows, const int vectors, const tile_t *y)
{
    const float *a = y->a, *b = y->b;
    const size_t n = y->inputs / y->chain, inputs = y->chain;
    tile_sums_t waiting[FOLD_HEIGHT], sum = {{{0}}};
    for (size_t q = 0; q < n; q++) {
        fold_clear(rows, vectors, sum);
        chain(rows, vectors, 1, a, b, inputs, sum);
        fold_in_block(rows, vectors, q, q + 1 == n, waiting, sum);
        a += inputs * ROWS;
        b += inputs * (size_t)vectors * LANES_F32;
    }
    fold_store(rows, vectors, y->result, y->row, y->output, sum);
}

DEFINE_TILE_TABLE(FOR_TILES, tile_chain)
DEFINE_TILE_TABLE(FOR_TILES, tile_spans)
DEFINE_TILE_TABLE(FOR_TILES, tile_fold)

/* ---- Blocks ---------------------------------------------------------------------------------- */

#define CHAIN_FLOATS ((PASS_ROWS + ROWS) * BLOCK_INPUTS)
#define FOLD_FLOATS ((FOLD_ROWS + ROWS) * FOLD_BLOCK_INPUTS)
#define MOST_FLOATS (CHAIN_FLOATS > FOLD_FLOATS ? CHAIN_FLOATS : FOLD_FLOATS)

typedef struct block {
    float weights[FOLD_BLOCK_INPUTS * OUTPUTS]
        __attribute__((aligned(64))); /* [inputs][tile's outputs] */
    /* [register tile][inputs][ROWS], and what a last vector has beyond ROWS */
    float rows[MOST_FLOATS + TRANSPOSED] __attribute__((aligned(64)));
} block_t;

/* One register tile's weights of k inputs. b: at the tile's first output. */
static void widen_tile(const uint16_t *b, size_t width, size_t vectors, size_t k, float *to)
{
    const size_t outputs = vectors * LANES_F32;
    for (size_t i = 0; i < k; i += 2, b += 2 * width, to += 2 * outputs)
        for (size_t v = 0; v < vectors; v++) {
            pair_t w = load_pair(b + 2 * v * LANES_F32);
            *(vec_f32_t *)(to + v * LANES_F32) = w.odd;
            *(vec_f32_t *)(to + outputs + v * LANES_F32) = w.even;
        }
}

/* 8 pairs of inputs of each row. Vectors overlap by the 2 that they have beyond ROWS, so they are written in
 * order. */
INLINE void widen_pairs(const size_t rows, const uint16_t *a, size_t a_stride, float *to)
{
    __m256i x[TRANSPOSED];
    const __m256i odd = _mm256_set1_epi32((int)0xffff0000u);
    load_transposed(rows, a, a_stride * sizeof *a, x);
    for (size_t i = 0; i < TRANSPOSED; i++, to += 2 * ROWS) {
        _mm256_storeu_si256((__m256i *)(void *)to, _mm256_and_si256(x[i], odd));
        _mm256_storeu_si256((__m256i *)(void *)(to + ROWS), _mm256_slli_epi32(x[i], 16));
    }
}

/* A register tile's rows, at most ROWS, of k inputs. */
INLINE void widen_rows(const size_t rows, const uint16_t *a, size_t a_stride, size_t k, float *to)
{
    size_t i = 0;
    for (; i + 2 * TRANSPOSED <= k; i += 2 * TRANSPOSED)
        widen_pairs(rows, a + i, a_stride, to + i * ROWS);
    for (; i < k; i++)
        for (size_t r = 0; r < rows; r++)
            to[i * ROWS + r] = f32_from_bf16(a[r * a_stride + (i ^ 1)]);
}

/* Some rows with all panels. */
typedef struct job {
    const tile_table_t *tiles;
    size_t rows, n_tiles, a_stride;
    panels_t panels;
    const uint16_t *a;
    float *c;
    size_t c_panel, c_stride;
    /* The fold: inputs of a chain, 0: no fold; and partial sums that wait, [panels][FOLD_HEIGHT][FOLD_ROWS][KERNEL_PANEL] */
    size_t chain;
    float *waiting;
    float *aside; /* [panels][register tiles' outputs][rows][tile's outputs], NULL: sums are in c */
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

/* From a register tile's outputs on, `outputs` from j on of panel p. */
typedef struct outputs {
    size_t p, j, n;
} outputs_t;

static float *aside_at(const job_t *y, outputs_t o, size_t row)
{
    return y->aside + (o.p * y->panels.width + o.j) * y->rows + row * o.n;
}

/* c = c + what was summed aside, of a tile's outputs. */
static void add_aside(const job_t *y, outputs_t o)
{
    const float *sum = aside_at(y, o, 0);
    float *c = y->c + o.p * y->c_panel + o.j;
    unsigned flushed = denormals_keep(c);
    for (size_t r = 0; r < y->rows; r++, sum += o.n)
        for (size_t i = 0; i < o.n; i += LANES_F32) {
            mem_f32_t *to = (mem_f32_t *)(c + r * y->c_stride + i);
            *to = *to + *(const mem_f32_t *)(sum + i);
        }
    denormals_restore(flushed, c);
}

/* All rows, widened, with a register tile's outputs. */
static void multiply_tiles(const job_t *y, const block_t *block, inputs_t inputs, outputs_t o)
{
    tile_t tile = {.a = block->rows,
        .b = block->weights,
        .inputs = inputs.n,
        .chain = y->chain,
        .output = o.j};
    fold_result_t result;
    if (y->chain > 0) {
        result = fold_result(inputs.first / inputs.n, inputs.n / y->chain,
            y->waiting + o.p * FOLD_HEIGHT * FOLD_ROWS * KERNEL_PANEL, FOLD_ROWS,
            y->c + o.p * y->c_panel, y->c_stride);
        tile.result = &result;
    }
    for (size_t t = 0; t < y->n_tiles; t++, tile.a += ROWS * inputs.n) {
        team_part_t rows = team_part(y->rows, t, y->n_tiles);
        tile.row = rows.begin;
        tile.to = y->aside == NULL ? y->c + o.p * y->c_panel + rows.begin * y->c_stride + o.j
                                   : aside_at(y, o, rows.begin);
        tile.to_stride = y->aside == NULL ? y->c_stride : o.n;
        tile.from = inputs.begin ? NULL : tile.to;
        tile.from_stride = tile.to_stride;
        prefetch_weights(&y->panels, o.p, o.j, o.n, inputs.first / 2, inputs.n / 2,
            team_part(inputs.n / 2, t, y->n_tiles));
        (*y->tiles)[rows.end - rows.begin][o.n / LANES_F32](&tile);
    }
    if (inputs.end && y->aside != NULL)
        add_aside(y, o);
}

static void multiply_block(const job_t *y, inputs_t inputs)
{
    block_t block;
    widen_all_rows(y, inputs, block.rows);
    const size_t width = y->panels.width;
    for (outputs_t o = {0, 0, 0}; o.p < y->panels.n; o.p++)
        for (o.j = 0; o.j < width; o.j += o.n) {
            const uint16_t *b = y->panels.at[o.p];
            o.n = size_min(OUTPUTS, width - o.j);
            widen_tile(b + inputs.first * width + 2 * o.j, width, o.n / LANES_F32, inputs.n,
                block.weights);
            multiply_tiles(y, &block, inputs, o);
        }
}

void BLOCKED_MULTIPLY(bool amx, const blocked_rows_t *rows, size_t n_panels,
    const uint16_t *const *b, size_t width, size_t k, float *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode)
{
    float aside[KERNEL_MANY_PANELS * PASS_ROWS * KERNEL_PANEL];
    const void *panels[KERNEL_MANY_PANELS];
    for (size_t p = 0; p < n_panels; p++)
        panels[p] = b[p];
    job_t y = {.tiles = amx ? &tile_spans_tiles : &tile_chain_tiles,
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

void BLOCKED_FOLD(const blocked_rows_t *rows, size_t n_panels, const void *const *b, size_t width,
    size_t chain, float *c, size_t c_panel, size_t c_stride)
{
    float waiting[KERNEL_TILE_PANELS * FOLD_HEIGHT * FOLD_ROWS * KERNEL_PANEL]
        __attribute__((aligned(64)));
    const size_t n = fold_block_chains(chain, FOLD_BLOCK_INPUTS) * chain;
    const size_t n_passes = (rows->n + FOLD_ROWS - 1) / FOLD_ROWS;
    job_t y = {.tiles = &tile_fold_tiles,
        .a_stride = rows->stride,
        .panels = {b, n_panels, width},
        .c_panel = c_panel,
        .c_stride = c_stride,
        .chain = chain,
        .waiting = waiting};
    for (size_t pass = 0; pass < n_passes; pass++) {
        team_part_t part = team_part(rows->n, pass, n_passes);
        y.rows = part.end - part.begin;
        y.n_tiles = (y.rows + ROWS - 1) / ROWS;
        y.a = rows->x + part.begin * y.a_stride;
        y.c = c + part.begin * c_stride;
        for (size_t first = 0; first < FOLD_CHAINS * chain; first += n)
            multiply_block(&y, (inputs_t){.first = first, .n = n});
    }
}
