/* The dot product fold by fused multiply-add of f32. A single row, and few of them, take the panel as it is
 * packed and widen in registers; many rows: fma_blocked.c. Compiled twice, see fma.h. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/few_rows.h"
#include "engine/kernels/fma_blocked.h"
#include "engine/kernels/fold_tree.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"
#include "engine/kernels/widen.h"

#ifdef __AVX512F__
#define FILL fold_fill_avx512
#define BLOCKED_FOLD blocked_fold_avx512
#define VECTORS 4    /* of outputs in a register tile */
#define MOST_ROWS 40 /* that are few (bench/LOG.md) */
#else
#define FILL fold_fill_avx2
#define BLOCKED_FOLD blocked_fold_avx2
#define VECTORS 2
#define MOST_ROWS 10
#endif

#define ROWS TILE_ROWS
#define FEW_ROWS 3 /* at most these take FEW_VECTORS, so that enough chains hide the latency */
#define FEW_VECTORS 4

#define CHUNK_ROWS 12 /* that are widened together: whole register tiles */
/* Floats between the planes of a row: not a power of two, so that rows fall into different sets of a
 * cache. */
#define PLANE (FOLD_BLOCK_INPUTS / 2 + 16)

/* ---- One row --------------------------------------------------------------------------------- */

/* A pair of inputs of one chain of each of n panels, a panel after the other, so that each is a stream of the memory's.
 * offset: elements from the panels' starts */
INLINE void pair_of_one_row(const int vectors, const size_t n, const uint16_t *x,
    const void *const *b, size_t offset, tile_sums_t sum)
{
    const pair_t input = broadcast_pair(x);
    for (size_t p = 0; p < n; p++) {
        const uint16_t *at = (const uint16_t *)b[p] + offset;
        prefetch_stream(at, 2 * (size_t)vectors * LANES_F32 * sizeof *at);
        for (int v = 0; v < vectors; v++) {
            const pair_t w = load_pair(at + 2 * LANES_F32 * v);
            sum[p][v] = FMA_F32(input.odd, w.odd, sum[p][v]);
            sum[p][v] = FMA_F32(input.even, w.even, sum[p][v]);
        }
    }
}

/* n_chains of `chain` inputs each, folded into c. Panels are in the place of rows. */
INLINE void tree_of_one_row(const int vectors, const size_t n, const uint16_t *x,
    const void *const *b, size_t offset, size_t n_chains, size_t chain, float *c, size_t c_panel)
{
    const size_t pair = 2 * (size_t)vectors * LANES_F32;
    tile_sums_t waiting[FOLD_HEIGHT], sum = {{{0}}};
    for (size_t q = 0; q < n_chains; q++) {
        fold_clear((int)n, vectors, sum);
        for (size_t i = 0; i < chain; i += 2, x += 2, offset += pair)
            pair_of_one_row(vectors, n, x, b, offset, sum);
        fold_in_block((int)n, vectors, q, q + 1 == n_chains, waiting, sum);
    }
    const fold_result_t result = {.to = c, .to_stride = c_panel};
    fold_store((int)n, vectors, &result, 0, 0, sum);
}

/* What is left after the 64 chains. Products of the last inputs are rounded before they are added. */
INLINE void rest_of_one_row(
    const int vectors, size_t inputs, const uint16_t *x, const uint16_t *b, float *c)
{
    const size_t width = (size_t)vectors * LANES_F32;
    const fold_shape_t s = fold_shape(inputs);
    float eight[KERNEL_PANEL] = {0};
    size_t at = FOLD_CHAINS * s.chain, last = at + FOLD_LANES * s.short_chain;
    if (inputs % FOLD_CHAINS == 0)
        return;
    if (s.short_chain > 0)
        tree_of_one_row(vectors, 1, x + at, (const void *const[]){b}, at * width, FOLD_LANES,
            s.short_chain, eight, 0);
    for (int v = 0; v < vectors; v++) {
        vec_f32_t sum = *(mem_f32_t *)(c + LANES_F32 * v) + *(mem_f32_t *)(eight + LANES_F32 * v);
        for (size_t i = last; i < last + s.last; i++) {
            pair_t w = load_pair(b + i / 2 * 2 * width + 2 * LANES_F32 * v);
            sum += SET_F32(f32_from_bf16(x[i])) * (i % 2 != 0 ? w.odd : w.even);
        }
        *(mem_f32_t *)(c + LANES_F32 * v) = sum;
    }
}

#define WIDTH_CASES(CALL)                                                                          \
    switch (width) {                                                                               \
    case 16:                                                                                       \
        CALL(16 / LANES_F32);                                                                      \
        break;                                                                                     \
    case 32:                                                                                       \
        CALL(32 / LANES_F32);                                                                      \
        break;                                                                                     \
    case 48:                                                                                       \
        CALL(48 / LANES_F32);                                                                      \
        break;                                                                                     \
    default:                                                                                       \
        CALL(64 / LANES_F32);                                                                      \
    }

static void single_row(size_t n, const uint16_t *x, const void *const *b, size_t width,
    size_t inputs, float *c, size_t c_panel)
{
    const size_t chain = fold_shape(inputs).chain;
    for (size_t p = 0; chain == 0 && p < n; p++)
        memset(c + p * c_panel, 0, width * sizeof *c);
    if (chain == 0)
        return;
#define TREE_OF(N, VECTORS) tree_of_one_row(VECTORS, N, x, b, 0, FOLD_CHAINS, chain, c, c_panel)
#define TREE_OF_1(VECTORS) TREE_OF(1, VECTORS)
#define TREE_OF_2(VECTORS) TREE_OF(2, VECTORS)
#define TREE_OF_3(VECTORS) TREE_OF(3, VECTORS)
#define TREE_OF_4(VECTORS) TREE_OF(4, VECTORS)
    switch (n) {
    case 1:
        WIDTH_CASES(TREE_OF_1)
        break;
    case 2:
        WIDTH_CASES(TREE_OF_2)
        break;
    case 3:
        WIDTH_CASES(TREE_OF_3)
        break;
    default:
        WIDTH_CASES(TREE_OF_4)
    }
}

static void rest(size_t rows, const uint16_t *a, size_t a_stride, const uint16_t *b, size_t width,
    size_t inputs, float *c, size_t c_stride)
{
#define REST(VECTORS) rest_of_one_row(VECTORS, inputs, a + r * a_stride, b, c + r * c_stride)
    for (size_t r = 0; inputs % FOLD_CHAINS != 0 && r < rows; r++)
        WIDTH_CASES(REST)
}

/* ---- Few rows -------------------------------------------------------------------------------- */

/* The products of some rows with panels, all `width` wide. */
typedef struct job {
    size_t rows, a_stride, n_panels, width, chain;
    const uint16_t *a;
    const uint16_t *b[KERNEL_TILE_PANELS];
    float *c;
    size_t c_panel, c_stride;
} job_t;

/* Some rows of a block of chains, widened. Odd inputs are multiplied before even ones, so they lie first. */
typedef struct wide_rows {
    float at[CHUNK_ROWS][2][PLANE] __attribute__((aligned(64)));
    size_t first, n_chains; /* in the order of the tree */
} wide_rows_t;

/* Sums of blocks of chains of all rows, by their height. */
typedef struct waiting {
    float of_rows[KERNEL_TILE_PANELS][FOLD_HEIGHT * MOST_ROWS * KERNEL_PANEL]
        __attribute__((aligned(64)));
} waiting_t;

static size_t tile_vectors(size_t rows, size_t width)
{
#ifdef __AVX512F__
    (void)rows;
    return width / LANES_F32;
#else
    return rows <= FEW_ROWS && width % (FEW_VECTORS * LANES_F32) == 0 ? FEW_VECTORS : VECTORS;
#endif
}

/* A register tile of n chains of `pairs` pairs each; its weights, at its first output of a panel of `width`; its sums go
 * to a row and an output of the result. */
typedef struct tile {
    const float *a;
    const uint16_t *b;
    size_t width, n, pairs;
    const fold_result_t *result;
    size_t row, output;
} tile_t;
TILE_TABLE_TYPE

INLINE void register_tile(const int rows, const int vectors, const tile_t *y)
{
    const float *a = y->a;
    const uint16_t *b = y->b;
    const size_t width = y->width, n = y->n, pairs = y->pairs;
    /* Meanwhile the same outputs of the next block come nearer. */
    const uint16_t *next = b + n * pairs * width * 2;
    const bool second_level = !streams_want_prefetching();
    tile_sums_t waiting[FOLD_HEIGHT], sum = {{{0}}};
    for (size_t q = 0, i = 0; q < n; q++) {
        fold_clear(rows, vectors, sum);
        for (size_t end = i + pairs; i < end; i++) {
            for (int v = 0; v < vectors; v += 64 / REGISTER_BYTES)
                prefetch_line(
                    (const char *)(next + 2 * (i * width + (size_t)v * LANES_F32)), second_level);
            few_rows_step(true, rows, vectors, PLANE, a, b, width, i, sum);
            few_rows_step(false, rows, vectors, PLANE, a, b, width, i, sum);
        }
        fold_in_block(rows, vectors, q, q + 1 == n, waiting, sum);
    }
    fold_store(rows, vectors, y->result, y->row, y->output, sum);
}

DEFINE_TILE_TABLE(FOR_TILES_OF_FEW, register_tile)

static void widen_rows(size_t rows, const uint16_t *a, size_t a_stride, size_t k, wide_rows_t *to)
{
    for (size_t r = 0; r < rows; r++)
        widen_row(a + r * a_stride, k, to->at[r][0], to->at[r][1]);
}

/* Register tiles of n widened rows, of which `first` come before, with panel p. Rows are shared out evenly, and
 * one column of tiles after another finds its weights in the first-level cache. */
static void multiply_tiles(
    const job_t *y, const wide_rows_t *wide, waiting_t *waiting, size_t first, size_t n, size_t p)
{
    size_t groups = (n + ROWS - 1) / ROWS, most = (n + groups - 1) / groups;
    size_t vectors = tile_vectors(most, y->width);
    const fold_result_t result = fold_result(wide->first / wide->n_chains, wide->n_chains,
        waiting->of_rows[p], MOST_ROWS, y->c + p * y->c_panel, y->c_stride);
    tile_t tile = {
        .width = y->width, .n = wide->n_chains, .pairs = y->chain / 2, .result = &result};
    for (tile.output = 0; tile.output < y->width; tile.output += vectors * LANES_F32) {
        tile.b = y->b[p] + wide->first * y->chain * y->width + 2 * tile.output;
        for (size_t r = 0, m, left = groups; r < n; r += m, left--) {
            m = (n - r + left - 1) / left;
            tile.a = &wide->at[r][0][0];
            tile.row = first + r;
            register_tile_tiles[m][vectors](&tile);
        }
    }
}

/* At most MOST_ROWS rows. */
static void multiply(const job_t *y)
{
    wide_rows_t wide;
    waiting_t waiting;
    wide.n_chains = fold_block_chains(y->chain, FOLD_BLOCK_INPUTS);
    size_t k = wide.n_chains * y->chain;
    for (wide.first = 0; wide.first < FOLD_CHAINS; wide.first += wide.n_chains)
        for (size_t r = 0, n; r < y->rows; r += n) {
            n = size_min(CHUNK_ROWS, y->rows - r);
            widen_rows(n, y->a + r * y->a_stride + wide.first * y->chain, y->a_stride, k, &wide);
            for (size_t p = 0; p < y->n_panels; p++)
                multiply_tiles(y, &wide, &waiting, r, n, p);
        }
}

/* ---- The kernel ------------------------------------------------------------------------------ */

static void tile_fold(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride)
{
    const fold_shape_t s = fold_shape(inputs);
    job_t y = {rows, a_stride, n_panels, width, s.chain, a, {NULL}, c, c_panel, c_stride};
    for (size_t p = 0; p < n_panels; p++)
        y.b[p] = b[p];
    bool in_blocks = rows > 1 && s.chain > 0 && s.chain <= FOLD_BLOCK_INPUTS;
    if (in_blocks && rows > MOST_ROWS)
        BLOCKED_FOLD(&(blocked_rows_t){a, rows, a_stride}, n_panels, b, width, s.chain, c, c_panel,
            c_stride);
    else if (in_blocks)
        multiply(&y);
    else
        for (size_t r = 0; r < rows; r++)
            single_row(n_panels, a + r * a_stride, b, width, inputs, c + r * c_stride, c_panel);
    for (size_t p = 0; p < n_panels; p++)
        rest(rows, a, a_stride, b[p], width, inputs, c + p * c_panel, c_stride);
}

#ifdef __AVX512F__
void tile_fold_by_fma(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride)
{
    tile_fold(rows, a, a_stride, n_panels, b, width, inputs, c, c_panel, c_stride);
}

void fold_rest_by_fma(size_t rows, const uint16_t *a, size_t a_stride, const void *b, size_t width,
    size_t inputs, float *c, size_t c_stride)
{
    rest(rows, a, a_stride, b, width, inputs, c, c_stride);
}
#endif

void FILL(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16)
        kernels->tile_fold = tile_fold;
}
