/* Few rows with panels of packed bf16, unpacked in registers. Compiled for AVX2, AVX-512, and AVX-512 with
 * instructions for bf16; see fma.h.
 *
 * A panel's block is read once from memory, a pair of inputs at a time, while as many rows as have their sums in registers are
 * multiplied with it, and again from a cache for other rows. So memory works all the time, which it would not if blocks were
 * unpacked first and multiplied then. With one row several panels are read in step, a pair of each in turn, where
 * memory wants several streams. A pair with weights that the palette lacks is unpacked into the first-level cache and put
 * right there. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/denormals.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/packed_vectors.h"
#include "engine/kernels/tiles.h"
#include "engine/kernels/widen.h"

#define PACKED_AHEAD_BYTES 2048

#if defined(__AVX512BF16__)
#define FILL packed_rows_fill_avx512_bf16
#elif defined(__AVX512F__)
#define FILL packed_rows_fill_avx512
#else
#define FILL packed_rows_fill_avx2
#endif

#define AMX_SPAN 32 /* inputs of the dot product amx's operation; whole spans fill a block */
#define VECTORS (KERNEL_PANEL / LANES_F32)
#define UNITS 2 /* of a panel, 32 outputs each, whose codes lie in one half of a byte */
#define UNIT_VECTORS (VECTORS / UNITS)
/* Rows of a panel, and panels of one row, whose sums leave registers for weights. */
#define ROWS (REGISTER_BYTES < 64 ? 1 : 6)
#define STEP (REGISTER_BYTES < 64 ? 1 : KERNEL_TILE_PANELS)
#define AMX_STEP (REGISTER_BYTES < 64 ? 1 : 2)

/* ---- Pairs of inputs ------------------------------------------------------------------------- */

/* Weights of a pair of inputs, as they are packed or, dense, as they were unpacked. */
INLINE void load_unit(
    const bool dense, const uint8_t *from, vec_t palette, int unit, vec_t words[UNIT_VECTORS])
{
    for (int i = 0; i < PACKED_VECTORS && !dense; i++) {
        vec_t codes = LOAD(from + PACKED_PAIR_WEIGHTS + i * REGISTER_BYTES);
        vec_t low = LOAD(from + unit * 64 + i * REGISTER_BYTES);
        vec_t high = LOOK_UP(palette, unit == 0 ? LOW_CODES(codes) : HIGH_CODES(codes));
        words[i] = FIRST_HALVES(low, high);
        words[PACKED_VECTORS + i] = SECOND_HALVES(low, high);
    }
    for (int v = 0; v < UNIT_VECTORS && dense; v++)
        words[v] = LOAD(from + (unit * UNIT_VECTORS + v) * REGISTER_BYTES);
}

typedef vec_f32_t sums_t[VECTORS]; /* of a panel and a row */

/* Rows of inputs, `stride` apart. */
typedef struct rows {
    size_t n;
    const uint16_t *x;
    size_t stride;
} rows_t;

/* Adds products of vector `to` of a pair's weights and one row's inputs. */
INLINE void multiply_words(vec_t words, const uint16_t *x, int to, vec_f32_t *odd, vec_f32_t *even)
{
#ifdef __AVX512BF16__
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    odd[to] = (vec_f32_t)_mm512_dpbf16_ps(
        (__m512)odd[to], (__m512bh)words, (__m512bh)_mm512_set1_epi32(pair));
    (void)even;
#else
    const pair_t w = widen((vec_u32_t)words), input = broadcast_pair(x);
    odd[to] = FMA_F32(input.odd, w.odd, odd[to]);
    even[to] = FMA_F32(input.even, w.even, even[to]);
#endif
}

/* One pair for outputs of units [first, end). odd and even, of each row, may be the same sums: the odd input comes first. */
INLINE void multiply_pair(const bool dense, const int rows, const int first, const int end,
    const uint8_t *from, vec_t palette, rows_t x, sums_t *odd, sums_t *even)
{
    for (int unit = first; unit < end; unit++) {
        vec_t words[UNIT_VECTORS];
        load_unit(dense, from, palette, unit, words);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < UNIT_VECTORS; v++)
                multiply_words(words[v], x.x + (size_t)r * x.stride,
                    (unit - first) * UNIT_VECTORS + v, odd[r], even[r]);
    }
}

/* ---- Blocks of several panels ---------------------------------------------------------------- */

/* A panel's block that is being read. */
typedef struct block_cursor {
    const packed_block_t *block;
    size_t next; /* pair with weights that the palette lacks */
} cursor_t;

/* From `pair` on. */
INLINE void find_next(cursor_t *at, size_t pair)
{
    const packed_block_t *block = at->block;
    if (block->n_exceptions == PACKED_SPILLED) {
        at->next = pair;
        return;
    }
    const size_t i = packed_exceptions_before(block, pair);
    at->next =
        i < block->n_exceptions ? (block->exceptions[i] >> 8) / PACKED_PAIR_WEIGHTS : SIZE_MAX;
}

/* A pair with weights that the palette of one of the blocks lacks. */
INLINE void multiply_lacking(const int n, const int rows, const int unit, const int units,
    cursor_t *at, size_t pair, rows_t x, sums_t *odd, sums_t *even)
{
    for (int p = 0; p < n; p++) {
        uint16_t words[PACKED_PAIR_WEIGHTS] __attribute__((aligned(64)));
        packed_unpack_pairs(at[p].block, pair, 1, words);
        multiply_pair(true, rows, unit, unit + units, (const uint8_t *)words,
            PALETTE(at[p].block->palette), x, odd + p * rows, even + p * rows);
        if (at[p].next == pair)
            find_next(&at[p], pair + 1);
    }
}

INLINE void prefetch_pair(const uint8_t *from)
{
    prefetch_next_page(from, PACKED_PAIR_BYTES);
    for (size_t line = 0; line < PACKED_PAIR_BYTES; line += 64)
        _mm_prefetch((const char *)from + PACKED_AHEAD_BYTES + line, _MM_HINT_T0);
}

/* Pairs [pair, end) of a block of each of n panels, for outputs of `units` units. x: of those pairs */
INLINE void multiply_pairs(const bool prefetches, const int n, const int rows, const int unit,
    const int units, cursor_t *at, size_t pair, size_t end, rows_t x, sums_t *odd, sums_t *even)
{
    for (;; pair++, x.x += 2) {
        size_t stop = end;
        for (int p = 0; p < n; p++)
            stop = size_min(stop, at[p].next);
        for (; pair < stop; pair++, x.x += 2)
            for (int p = 0; p < n; p++) {
                const uint8_t *from = packed_pair(at[p].block, pair);
                if (prefetches && unit == 0)
                    prefetch_pair(from);
                multiply_pair(false, rows, unit, unit + units, from, PALETTE(at[p].block->palette),
                    x, odd + p * rows, even + p * rows);
            }
        if (pair == end)
            return;
        multiply_lacking(n, rows, unit, units, at, pair, x, odd, even);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* Where sums are: of panels `panel` and of rows `row` apart. */
typedef struct outputs {
    float *c;
    size_t panel, row;
} outputs_t;

INLINE mem_f32_t *output(outputs_t to, int p, int r, int v)
{
    return (mem_f32_t *)(to.c + (size_t)p * to.panel + (size_t)r * to.row + LANES_F32 * v);
}

/* Rows with pairs [pair, end) of a block of each of n panels. The first three are constants. */
INLINE void multiply_rows(const bool prefetches, const int n, const int rows, cursor_t *at,
    size_t pair, size_t end, rows_t x, outputs_t to)
{
    sums_t sum[ROWS > STEP ? ROWS : STEP];
    for (int p = 0; p < n; p++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++)
                sum[p * rows + r][v] = *output(to, p, r, v);
    multiply_pairs(prefetches, n, rows, 0, UNITS, at, pair, end, x, sum, sum);
    for (int p = 0; p < n; p++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++)
                *output(to, p, r, v) = sum[p * rows + r][v];
}

/* One row by the dot product amx: pairs of a span are added up apart, as many units at once as leave registers for weights. */
INLINE void multiply_spans(const bool prefetches, const int n, cursor_t *at, size_t pair,
    size_t end, rows_t x, outputs_t to)
{
    const int units = REGISTER_BYTES / 32;
    for (size_t stop; pair < end; x.x += 2 * (stop - pair), pair = stop) {
        stop = size_min(end, (pair / (AMX_SPAN / 2) + 1) * (AMX_SPAN / 2));
        for (int unit = 0; unit < UNITS; unit += units) {
            sums_t odd[AMX_STEP], even[AMX_STEP];
            for (int p = 0; p < n; p++)
                for (int v = 0; v < units * UNIT_VECTORS; v++)
                    odd[p][v] = even[p][v] = (vec_f32_t){0};
            cursor_t reader[AMX_STEP];
            for (int p = 0; p < n; p++)
                reader[p] = at[p];
            multiply_pairs(prefetches, n, 1, unit, units, reader, pair, stop, x, odd, even);
            for (int p = 0; p < n && unit + units == UNITS; p++)
                at[p] = reader[p];
            for (int p = 0; p < n; p++)
                for (int v = 0; v < units * UNIT_VECTORS; v++)
                    *output(to, p, 0, unit * UNIT_VECTORS + v) += even[p][v] + odd[p][v];
        }
    }
}

/* ---- Panels ---------------------------------------------------------------------------------- */

#define CASE(R)                                                                                    \
    case R:                                                                                        \
        if ((R) <= ROWS)                                                                           \
            multiply_rows(prefetches, 1, (R) <= ROWS ? (R) : 1, at, pair, end, x, to);             \
        break;

/* 1 to ROWS rows. */
INLINE void multiply_some(const bool prefetches, size_t rows, cursor_t *at, size_t pair, size_t end,
    rows_t x, outputs_t to)
{
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
    }
}

/* Inputs [first, first + k) of a block of each of n panels; of several panels, and by the dot product amx, with one row. More
 * rows than ROWS are taken about as many at a time, of which the first bring the weights from memory. The first three are
 * constants. */
INLINE void multiply_block(const bool amx, const bool prefetches, const int n, rows_t rows,
    const void *const *panels, size_t first, size_t k, outputs_t to)
{
    const size_t pair = first % PACKED_INPUTS / 2, end = pair + k / 2;
    bool from_memory = true;
    for (size_t parts = (rows.n + ROWS - 1) / ROWS, left = rows.n; parts > 0; parts--) {
        cursor_t at[KERNEL_TILE_PANELS];
        for (int p = 0; p < n; p++) {
            at[p] = (cursor_t){packed_block_of(panels[p], first), 0};
            find_next(&at[p], pair);
        }
        rows.n = (left + parts - 1) / parts;
        if (amx)
            multiply_spans(prefetches, n, at, pair, end, rows, to);
        else if (n > 1)
            multiply_rows(prefetches, n, 1, at, pair, end, rows, to);
        else if (prefetches && from_memory)
            multiply_some(true, rows.n, at, pair, end, rows, to);
        else
            multiply_some(false, rows.n, at, pair, end, rows, to);
        from_memory = false;
        left -= rows.n;
        rows.x += rows.n * rows.stride;
        to.c += rows.n * to.row;
    }
}

/* Adds to sums. */
INLINE void multiply_panels(const bool amx, const bool prefetches, const int n, rows_t rows,
    const void *const *panels, size_t first, size_t k, outputs_t to)
{
    for (size_t end = first + k, some; first < end; first += some, rows.x += some) {
        some = size_min(PACKED_INPUTS - first % PACKED_INPUTS, end - first);
        multiply_block(amx, prefetches, n, rows, panels, first, some, to);
    }
}

/* One row takes several panels in step where streams want prefetching. */
INLINE void multiply(const bool amx, rows_t rows, size_t n_panels, const void *const *panels,
    size_t first, size_t k, outputs_t to)
{
    const int step = amx ? AMX_STEP : STEP;
    const bool prefetches = streams_want_prefetching();
    for (size_t p = 0, n; p < n_panels; p += n, to.c += n * to.panel, panels += n) {
        n = prefetches && rows.n == 1 && n_panels - p >= (size_t)step ? (size_t)step : 1;
        if (!prefetches)
            multiply_panels(amx, false, 1, rows, panels, first, k, to);
        else if (n == 1)
            multiply_panels(amx, true, 1, rows, panels, first, k, to);
        else
            multiply_panels(amx, true, step, rows, panels, first, k, to);
    }
}

INLINE void run(const bool amx, rows_t rows, size_t n_panels, const void *const *panels,
    size_t first, size_t k, outputs_t to, tile_mode_t mode)
{
    float leaf[KERNEL_TILE_PANELS * KERNEL_MANY_ROWS * KERNEL_PANEL] __attribute__((aligned(64)));
    const outputs_t sum =
        mode == TILE_ADD ? (outputs_t){leaf, rows.n * KERNEL_PANEL, KERNEL_PANEL} : to;
    for (size_t p = 0; p < n_panels && mode != TILE_CHAIN; p++)
        for (size_t r = 0; r < rows.n; r++)
            memset(sum.c + p * sum.panel + r * sum.row, 0, KERNEL_PANEL * sizeof *leaf);
    unsigned saved = denormals_flush(sum.c);
    multiply(amx, rows, n_panels, panels, first, k, sum);
    denormals_restore(saved, sum.c);
    for (size_t p = 0; p < n_panels && mode == TILE_ADD; p++)
        for (size_t r = 0; r < rows.n; r++)
            for (size_t j = 0; j < KERNEL_PANEL; j++)
                to.c[p * to.panel + r * to.row + j] += sum.c[p * sum.panel + r * sum.row + j];
}

static void packed_rows(size_t rows, const uint16_t *x, size_t x_stride, size_t n_panels,
    const void *const *panels, size_t first, size_t k, float *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode)
{
    run(false, (rows_t){rows, x, x_stride}, n_panels, panels, first, k,
        (outputs_t){c, c_panel, c_stride}, mode);
}

#if defined(__AVX512BF16__)
/* Where vdpbf16ps multiplies less than fused multiply-adds, as tiles do. */
static void packed_rows_by_number(size_t rows, const uint16_t *x, size_t x_stride, size_t n_panels,
    const void *const *panels, size_t first, size_t k, float *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode)
{
    (rows < ROWS_BY_FMA ? packed_rows : packed_rows_by_fma)(
        rows, x, x_stride, n_panels, panels, first, k, c, c_panel, c_stride, mode);
}

void packed_by_dot_product(kernels_t *kernels)
{
    kernels->packed_rows = packed_rows;
}
#elif defined(__AVX512F__)
void packed_rows_by_fma(size_t rows, const uint16_t *x, size_t x_stride, size_t n_panels,
    const void *const *panels, size_t first, size_t k, float *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode)
{
    packed_rows(rows, x, x_stride, n_panels, panels, first, k, c, c_panel, c_stride, mode);
}
#endif

#ifndef __AVX512BF16__
static void packed_row_amx(const uint16_t *x, size_t n_panels, const void *const *panels,
    size_t first, size_t k, float *c, size_t c_panel, tile_mode_t mode)
{
    run(true, (rows_t){1, x, 0}, n_panels, panels, first, k, (outputs_t){c, c_panel, 0}, mode);
}
#endif

void FILL(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->packed_rows = packed_rows;
    kernels->packed_rows_most = ROWS == 1 ? 1 : KERNEL_MANY_ROWS - 1;
    kernels->packed_row_step = STEP;
#ifdef __AVX512BF16__
    if (!dot_product_is_faster())
        kernels->packed_rows = packed_rows_by_number;
#else
    kernels->packed_row_amx = packed_row_amx;
    kernels->packed_row_amx_step = AMX_STEP;
#endif
}
