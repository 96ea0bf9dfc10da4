/* Products of many rows of f32 by fused multiply-add, for AVX2: by leaves and groups. Few rows, AVX-512 and f64:
 * fma_tiles.c.
 *
 * In blocks as fma_blocked.c: of a block of inputs all rows are written once in the order in which register tiles
 * read them, then the weights of one register tile after another are copied into the first-level cache, where they
 * stay while the rows stream past them from the second level. In a panel a register tile's weights are 256 bytes
 * apart, which lets them use a quarter of the first-level cache's sets only. */
#include "engine/base/size.h"
#include "engine/base/team.h"
#include "engine/kernels/blocked_tile.h"
#include "engine/kernels/kernels_internal.h"

/* Whole groups. A tile's weights take 16 KiB of a first-level cache of 32, the rows 512 KiB. */
#define BLOCK_INPUTS 256

/* ---- Register tiles -------------------------------------------------------------------------- */

/* A chain of n inputs from +0, at most a leaf. A whole leaf has no loop: the loop's branch, mispredicted at its end,
 * would delay the next leaf. */
INLINE void leaf(const int rows, const float *a, const float *b, size_t n, tile_sums_t sum)
{
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++)
            sum[r][v] = (vec_f32_t){0};
    if (n == KERNEL_LEAF) {
#pragma GCC unroll 32
        for (int i = 0; i < KERNEL_LEAF; i++)
            step(rows, VECTORS, a + i * ROWS, b + i * OUTPUTS, sum);
    } else {
        for (size_t i = 0; i < n; i++)
            step(rows, VECTORS, a + i * ROWS, b + i * OUTPUTS, sum);
    }
}

/* Leaves of n inputs, at most a group, added left to right. */
INLINE void add_leaves(const int rows, const float *a, const float *b, size_t n, tile_sums_t group)
{
    leaf(rows, a, b, size_min(n, KERNEL_LEAF), group);
    for (size_t i = KERNEL_LEAF; i < n; i += KERNEL_LEAF) {
        tile_sums_t sum;
        leaf(rows, a + i * ROWS, b + i * OUTPUTS, size_min(n - i, KERNEL_LEAF), sum);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++)
                group[r][v] = group[r][v] + sum[r][v];
    }
}

/* a: [inputs][ROWS]; b: [inputs][OUTPUTS]; c: [rows, OUTPUTS], written, or added to */
typedef struct tile {
    const float *a, *b;
    size_t inputs;
    bool add;
    float *c;
    size_t c_stride;
} tile_t;
TILE_TABLE_TYPE

INLINE void tile_groups(const int rows, const int vectors, const tile_t *y)
{
    bool add = y->add;
    for (int r = 0; r < rows; r++)
        __builtin_prefetch(y->c + (size_t)r * y->c_stride);
    for (size_t i = 0; i < y->inputs; i += KERNEL_GROUP, add = true) {
        tile_sums_t group;
        add_leaves(rows, y->a + i * ROWS, y->b + i * OUTPUTS, size_min(y->inputs - i, KERNEL_GROUP),
            group);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) {
                mem_f32_t *to = (mem_f32_t *)(y->c + (size_t)r * y->c_stride + LANES_F32 * v);
                if (add)
                    group[r][v] = *to + group[r][v];
                *to = group[r][v];
            }
    }
}

DEFINE_TILE_TABLE(FOR_TILES, tile_groups)

/* ---- Blocks ---------------------------------------------------------------------------------- */

typedef struct block {
    float weights[BLOCK_INPUTS * OUTPUTS] __attribute__((aligned(64))); /* [inputs][OUTPUTS] */
    /* [register tile][inputs][ROWS], and what a last vector has beyond ROWS */
    float rows[(PASS_ROWS + ROWS) * BLOCK_INPUTS + LANES_F32] __attribute__((aligned(64)));
} block_t;

/* Some rows with all panels. */
typedef struct job {
    size_t rows, n_tiles, a_stride;
    panels_t panels;
    const float *a;
    float *c;
    size_t c_panel, c_stride;
    bool add;
} job_t;

/* Inputs [first, first + n). */
typedef struct inputs {
    size_t first, n;
} inputs_t;

/* A register tile's rows, at most ROWS, of k inputs. Vectors overlap by the 2 that they have beyond ROWS, so they are
 * written in order. */
INLINE void pack_rows(const size_t rows, const float *a, size_t a_stride, size_t k, float *to)
{
    size_t i = 0;
    for (; i + LANES_F32 <= k; i += LANES_F32) {
        __m256i x[LANES_F32];
        load_transposed(rows, a + i, a_stride * sizeof *a, x);
        for (size_t j = 0; j < LANES_F32; j++)
            _mm256_storeu_si256((__m256i *)(void *)(to + (i + j) * ROWS), x[j]);
    }
    for (; i < k; i++)
        for (size_t r = 0; r < rows; r++)
            to[i * ROWS + r] = a[r * a_stride + i];
}

static void pack_all_rows(const job_t *y, inputs_t inputs, float *to)
{
    for (size_t t = 0; t < y->n_tiles; t++, to += ROWS * inputs.n) {
        team_part_t rows = team_part(y->rows, t, y->n_tiles);
        const float *a = y->a + rows.begin * y->a_stride + inputs.first;
        if (rows.end - rows.begin == ROWS)
            pack_rows(ROWS, a, y->a_stride, inputs.n, to);
        else
            pack_rows(rows.end - rows.begin, a, y->a_stride, inputs.n, to);
    }
}

/* One register tile's weights. */
static void pack_tile(const float *b, size_t width, size_t k, float *to)
{
    for (size_t i = 0; i < k; i++)
        for (size_t v = 0; v < OUTPUTS; v += LANES_F32)
            *(vec_f32_t *)(to + i * OUTPUTS + v) = *(const mem_f32_t *)(b + i * width + v);
}

static void multiply_block(const job_t *y, inputs_t inputs)
{
    block_t block;
    pack_all_rows(y, inputs, block.rows);
    const size_t width = y->panels.width;
    for (size_t p = 0; p < y->panels.n; p++)
        for (size_t j = 0; j < width; j += OUTPUTS) {
            const float *b = y->panels.at[p];
            pack_tile(b + inputs.first * width + j, width, inputs.n, block.weights);
            for (size_t t = 0; t < y->n_tiles; t++) {
                team_part_t rows = team_part(y->rows, t, y->n_tiles);
                prefetch_weights(&y->panels, p, j, OUTPUTS, inputs.first, inputs.n,
                    team_part(inputs.n, t, y->n_tiles));
                tile_groups_tiles[rows.end - rows.begin][VECTORS](
                    &(tile_t){block.rows + t * ROWS * inputs.n, block.weights, inputs.n,
                        y->add || inputs.first > 0,
                        y->c + p * y->c_panel + rows.begin * y->c_stride + j, y->c_stride});
            }
        }
}

static void tile_groups_panels(size_t rows, const void *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t k, void *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode)
{
    job_t y = {.a_stride = a_stride,
        .panels = {b, n_panels, width},
        .c_panel = c_panel,
        .c_stride = c_stride,
        .add = mode == TILE_ADD};
    size_t n_passes = (rows + PASS_ROWS - 1) / PASS_ROWS;
    for (size_t pass = 0; pass < n_passes; pass++) {
        team_part_t part = team_part(rows, pass, n_passes);
        y.rows = part.end - part.begin;
        y.n_tiles = (y.rows + ROWS - 1) / ROWS;
        y.a = (const float *)a + part.begin * a_stride;
        y.c = (float *)c + part.begin * c_stride;
        for (size_t first = 0; first < k; first += BLOCK_INPUTS)
            multiply_block(&y, (inputs_t){first, size_min(BLOCK_INPUTS, k - first)});
    }
}

void f32_blocked_fill_avx2(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_F32)
        kernels->tile_groups_panels = tile_groups_panels;
}
