/* A single row with panels of packed bf16, unpacked in registers. Compiled for AVX2, AVX-512, and AVX-512 with
 * instructions for bf16; see fma.h.
 *
 * Several panels are read in step, a pair of inputs of each in turn, so that memory is read as several streams, with
 * all sums in registers. A pair with weights that the palette lacks is unpacked into the first-level cache and put
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
#define FILL packed_row_fill_avx512_bf16
#elif defined(__AVX512F__)
#define FILL packed_row_fill_avx512
#else
#define FILL packed_row_fill_avx2
#endif

#define AMX_SPAN 32 /* inputs of the dot product amx's operation; whole spans fill a block */
#define VECTORS (KERNEL_PANEL / LANES_F32)
#define UNITS 2 /* of a panel, 32 outputs each, whose codes lie in one half of a byte */
#define UNIT_VECTORS (VECTORS / UNITS)
/* Panels in step: as many as have their sums in registers. */
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

/* One pair for outputs of units [first, end). odd and even may be the same sums: the odd input comes first. */
INLINE void multiply_pair(const bool dense, const int first, const int end, const uint8_t *from,
    vec_t palette, const uint16_t *x, vec_f32_t *odd, vec_f32_t *even)
{
#ifdef __AVX512BF16__
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    const __m512bh input = (__m512bh)_mm512_set1_epi32(pair);
    (void)even;
#else
    pair_t input = broadcast_pair(x);
#endif
    for (int unit = first; unit < end; unit++) {
        vec_t words[UNIT_VECTORS];
        load_unit(dense, from, palette, unit, words);
        for (int v = 0; v < UNIT_VECTORS; v++) {
            const int to = (unit - first) * UNIT_VECTORS + v;
#ifdef __AVX512BF16__
            odd[to] = (vec_f32_t)_mm512_dpbf16_ps((__m512)odd[to], (__m512bh)words[v], input);
#else
            pair_t w = widen((vec_u32_t)words[v]);
            odd[to] = FMA_F32(input.odd, w.odd, odd[to]);
            even[to] = FMA_F32(input.even, w.even, even[to]);
#endif
        }
    }
}

/* ---- Blocks of several panels ---------------------------------------------------------------- */

typedef vec_f32_t sums_t[VECTORS];

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
INLINE void multiply_lacking(const int n, const int unit, const int units, cursor_t *at,
    size_t pair, const uint16_t *x, sums_t *odd, sums_t *even)
{
    for (int p = 0; p < n; p++) {
        uint16_t words[PACKED_PAIR_WEIGHTS] __attribute__((aligned(64)));
        packed_unpack_pairs(at[p].block, pair, 1, words);
        multiply_pair(true, unit, unit + units, (const uint8_t *)words,
            PALETTE(at[p].block->palette), x, odd[p], even[p]);
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
INLINE void multiply_pairs(const bool prefetches, const int n, const int unit, const int units,
    cursor_t *at, size_t pair, size_t end, const uint16_t *x, sums_t *odd, sums_t *even)
{
    for (;; pair++, x += 2) {
        size_t stop = end;
        for (int p = 0; p < n; p++)
            stop = size_min(stop, at[p].next);
        for (; pair < stop; pair++, x += 2)
            for (int p = 0; p < n; p++) {
                const uint8_t *from = packed_pair(at[p].block, pair);
                if (prefetches && unit == 0)
                    prefetch_pair(from);
                multiply_pair(false, unit, unit + units, from, PALETTE(at[p].block->palette), x,
                    odd[p], even[p]);
            }
        if (pair == end)
            return;
        multiply_lacking(n, unit, units, at, pair, x, odd, even);
    }
}

/* The same by the dot product amx: pairs of a span are added up apart, as many units at once as leave registers
 * for weights. */
INLINE void multiply_spans(const bool prefetches, const int n, cursor_t *at, size_t pair,
    size_t end, const uint16_t *x, sums_t *sum)
{
    const int units = REGISTER_BYTES / 32;
    for (size_t stop; pair < end; x += 2 * (stop - pair), pair = stop) {
        stop = size_min(end, (pair / (AMX_SPAN / 2) + 1) * (AMX_SPAN / 2));
        for (int unit = 0; unit < UNITS; unit += units) {
            sums_t odd[KERNEL_TILE_PANELS], even[KERNEL_TILE_PANELS];
            for (int p = 0; p < n; p++)
                for (int v = 0; v < units * UNIT_VECTORS; v++)
                    odd[p][v] = even[p][v] = (vec_f32_t){0};
            cursor_t reader[KERNEL_TILE_PANELS];
            for (int p = 0; p < n; p++)
                reader[p] = at[p];
            multiply_pairs(prefetches, n, unit, units, reader, pair, stop, x, odd, even);
            for (int p = 0; p < n && unit + units == UNITS; p++)
                at[p] = reader[p];
            for (int p = 0; p < n; p++)
                for (int v = 0; v < units * UNIT_VECTORS; v++) {
                    vec_f32_t *to = &sum[p][unit * UNIT_VECTORS + v];
                    *to = *to + (even[p][v] + odd[p][v]);
                }
        }
    }
}

/* ---- Panels ---------------------------------------------------------------------------------- */

/* Adds to c. The first three are constants. */
INLINE void multiply_panels(const bool amx, const bool prefetches, const int n, const uint16_t *x,
    const void *const *panels, size_t first, size_t k, float *c, size_t c_panel)
{
    sums_t sum[KERNEL_TILE_PANELS];
    cursor_t at[KERNEL_TILE_PANELS];
    for (int p = 0; p < n; p++)
        for (int v = 0; v < VECTORS; v++)
            sum[p][v] = *(const mem_f32_t *)(c + (size_t)p * c_panel + LANES_F32 * v);
    for (size_t end = first + k, some; first < end; first += some, x += some) {
        some = size_min(PACKED_INPUTS - first % PACKED_INPUTS, end - first);
        const size_t pair = first % PACKED_INPUTS / 2;
        for (int p = 0; p < n; p++) {
            at[p] = (cursor_t){packed_block_of(panels[p], first), 0};
            find_next(&at[p], pair);
        }
        if (amx)
            multiply_spans(prefetches, n, at, pair, pair + some / 2, x, sum);
        else
            multiply_pairs(prefetches, n, 0, UNITS, at, pair, pair + some / 2, x, sum, sum);
    }
    for (int p = 0; p < n; p++)
        for (int v = 0; v < VECTORS; v++)
            *(mem_f32_t *)(c + (size_t)p * c_panel + LANES_F32 * v) = sum[p][v];
}

INLINE void multiply(const bool amx, const uint16_t *x, size_t n_panels, const void *const *panels,
    size_t first, size_t k, float *c, size_t c_panel)
{
    const int step = amx ? AMX_STEP : STEP;
    const bool prefetches = streams_want_prefetching();
    for (size_t p = 0, n; p < n_panels; p += n, c += n * c_panel, panels += n) {
        n = prefetches && n_panels - p >= (size_t)step ? (size_t)step : 1;
        if (!prefetches)
            multiply_panels(amx, false, 1, x, panels, first, k, c, c_panel);
        else if (n == 1)
            multiply_panels(amx, true, 1, x, panels, first, k, c, c_panel);
        else
            multiply_panels(amx, true, step, x, panels, first, k, c, c_panel);
    }
}

INLINE void run(const bool amx, const uint16_t *x, size_t n_panels, const void *const *panels,
    size_t first, size_t k, float *c, size_t c_panel, tile_mode_t mode)
{
    float leaf[KERNEL_TILE_PANELS * KERNEL_PANEL] __attribute__((aligned(64)));
    float *sum = mode == TILE_ADD ? leaf : c;
    size_t stride = mode == TILE_ADD ? KERNEL_PANEL : c_panel;
    for (size_t p = 0; p < n_panels && mode != TILE_CHAIN; p++)
        memset(sum + p * stride, 0, KERNEL_PANEL * sizeof *sum);
    unsigned saved = denormals_flush(sum);
    multiply(amx, x, n_panels, panels, first, k, sum, stride);
    denormals_restore(saved, sum);
    for (size_t p = 0; p < n_panels && mode == TILE_ADD; p++)
        for (size_t j = 0; j < KERNEL_PANEL; j++)
            c[p * c_panel + j] += leaf[p * KERNEL_PANEL + j];
}

static void packed_row(const uint16_t *x, size_t n_panels, const void *const *panels, size_t first,
    size_t k, float *c, size_t c_panel, tile_mode_t mode)
{
    run(false, x, n_panels, panels, first, k, c, c_panel, mode);
}

#ifndef __AVX512BF16__
static void packed_row_amx(const uint16_t *x, size_t n_panels, const void *const *panels,
    size_t first, size_t k, float *c, size_t c_panel, tile_mode_t mode)
{
    run(true, x, n_panels, panels, first, k, c, c_panel, mode);
}
#endif

void FILL(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->packed_row = packed_row;
    kernels->packed_row_step = STEP;
#ifndef __AVX512BF16__
    kernels->packed_row_amx = packed_row_amx;
    kernels->packed_row_amx_step = AMX_STEP;
#endif
}
