/* A single row with panels of packed bf16, unpacked in registers. Compiled for AVX2, AVX-512, and AVX-512 with
 * instructions for bf16; see fma.h.
 *
 * Several panels take turns, SPAN inputs of each at a time, so that memory is read as several streams. Pairs
 * with weights that the palette lacks are unpacked into the first-level cache and put right there; with the
 * operation of amx, which sums a whole span at once, their span. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/denormals.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/packed_vectors.h"
#include "engine/kernels/tiles.h"
#include "engine/kernels/widen.h"

#if defined(__AVX512BF16__)
#define FILL packed_row_fill_avx512_bf16
#elif defined(__AVX512F__)
#define FILL packed_row_fill_avx512
#else
#define FILL packed_row_fill_avx2
#endif

#define SPAN 32 /* inputs: of the dot product amx's operation; whole spans fill a block */
#define VECTORS (KERNEL_PANEL / LANES_F32)
/* Two spans ahead into the second-level cache, which waits for more lines at once than the first (bench/LOG.md). */
#define FAR_BYTES 6144
#define UNIT_VECTORS (VECTORS / 2) /* of a unit, 32 outputs */

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
INLINE void step(const bool dense, const int first, const int end, const uint8_t *from,
    vec_t palette, const uint16_t *x, vec_f32_t *odd, vec_f32_t *even)
{
    pair_t input = broadcast_pair(x);
    for (int unit = first; unit < end; unit++) {
        vec_t words[UNIT_VECTORS];
        load_unit(dense, from, palette, unit, words);
        for (int v = 0; v < UNIT_VECTORS; v++) {
            const int to = (unit - first) * UNIT_VECTORS + v;
            pair_t w = widen((vec_u32_t)words[v]);
            odd[to] = FMA_F32(input.odd, w.odd, odd[to]);
            even[to] = FMA_F32(input.even, w.even, even[to]);
        }
    }
}

/* ---- Spans ----------------------------------------------------------------------------------- */

/* Some pairs of a block. */
typedef struct span {
    const uint8_t *from; /* of a pair: packed, or unpacked */
    vec_t palette;
    size_t pairs;
} span_t;

INLINE void prefetch_pair(const uint8_t *from)
{
    for (size_t line = 0; line < PACKED_PAIR_BYTES; line += 64) {
        _mm_prefetch((const char *)from + PACKED_AHEAD_BYTES + line, _MM_HINT_T0);
        _mm_prefetch((const char *)from + FAR_BYTES + line, _MM_HINT_T1);
    }
}

INLINE void chain_span(const bool dense, const span_t *s, const uint16_t *x, float *c)
{
    const size_t bytes = dense ? sizeof(uint16_t) * PACKED_PAIR_WEIGHTS : PACKED_PAIR_BYTES;
    const uint8_t *from = s->from;
    const bool prefetches = !dense && streams_want_prefetching();
    vec_f32_t sum[VECTORS];
    for (int v = 0; v < VECTORS; v++)
        sum[v] = *(const mem_f32_t *)(c + LANES_F32 * v);
    for (size_t i = 0; i < s->pairs; i++, from += bytes) {
        if (prefetches)
            prefetch_pair(from);
#ifdef __AVX512BF16__
        int32_t pair;
        memcpy(&pair, x + 2 * i, sizeof pair);
        const __m512bh input = (__m512bh)_mm512_set1_epi32(pair);
        for (int unit = 0; unit < 2; unit++) {
            vec_t words[UNIT_VECTORS];
            load_unit(dense, from, s->palette, unit, words);
            for (int v = 0; v < UNIT_VECTORS; v++) {
                vec_f32_t *to = &sum[unit * UNIT_VECTORS + v];
                *to = (vec_f32_t)_mm512_dpbf16_ps((__m512)*to, (__m512bh)words[v], input);
            }
        }
#else
        step(dense, 0, 2, from, s->palette, x + 2 * i, sum, sum);
#endif
    }
    for (int v = 0; v < VECTORS; v++)
        *(mem_f32_t *)(c + LANES_F32 * v) = sum[v];
}

/* As many units at once as leave registers for weights. */
INLINE void amx_span(const bool dense, const span_t *s, const uint16_t *x, float *c)
{
    const size_t bytes = dense ? sizeof(uint16_t) * PACKED_PAIR_WEIGHTS : PACKED_PAIR_BYTES;
    const int units = REGISTER_BYTES / 32;
    const bool prefetches = !dense && streams_want_prefetching();
    for (int unit = 0; unit < 2; unit += units) {
        const uint8_t *from = s->from;
        vec_f32_t odd[VECTORS] = {{0}}, even[VECTORS] = {{0}};
        for (size_t i = 0; i < s->pairs; i++, from += bytes) {
            if (prefetches && unit == 0)
                prefetch_pair(from);
            step(dense, unit, unit + units, from, s->palette, x + 2 * i, odd, even);
        }
        for (int v = 0; v < units * UNIT_VECTORS; v++) {
            mem_f32_t *sum = (mem_f32_t *)(c + LANES_F32 * (unit * UNIT_VECTORS + v));
            *sum = *sum + (even[v] + odd[v]);
        }
    }
}

/* ---- Panels ---------------------------------------------------------------------------------- */

/* Whether the palette of a block lacks weights of some of its pairs. */
static bool lacks(const packed_block_t *block, size_t first, size_t n)
{
    if (block->n_exceptions == 0)
        return false;
    if (block->n_exceptions == PACKED_SPILLED)
        return true;
    size_t i = packed_exceptions_before(block, first);
    return i < block->n_exceptions && block->exceptions[i] >> 8 < (first + n) * PACKED_PAIR_WEIGHTS;
}

/* A span some of whose weights the palette lacks: only the pairs that have them are unpacked. */
INLINE void chain_exceptions(
    const packed_block_t *block, size_t first, size_t pairs, const uint16_t *x, float *c)
{
    const size_t end = first + pairs;
    for (size_t pair = first, next; pair < end; pair = next + 1) {
        uint16_t words[PACKED_PAIR_WEIGHTS] __attribute__((aligned(64)));
        size_t i = packed_exceptions_before(block, pair);
        next = i < block->n_exceptions
                   ? size_min(block->exceptions[i] >> 8, end * PACKED_PAIR_WEIGHTS) /
                         PACKED_PAIR_WEIGHTS
                   : end;
        const span_t whole = {packed_pair(block, pair), PALETTE(block->palette), next - pair};
        chain_span(false, &whole, x + 2 * (pair - first), c);
        if (next == end)
            return;
        packed_unpack_pairs(block, next, 1, words);
        const span_t alone = {(const uint8_t *)words, whole.palette, 1};
        chain_span(true, &alone, x + 2 * (next - first), c);
    }
}

/* Inputs [k, k + 2 pairs) of a panel, within a span. */
INLINE void multiply_span(
    const bool amx, const void *panel, size_t k, size_t pairs, const uint16_t *x, float *c)
{
    const packed_block_t *block = packed_block_of(panel, k);
    const size_t first = k % PACKED_INPUTS / 2;
    span_t s = {packed_pair(block, first), PALETTE(block->palette), pairs};
    if (__builtin_expect(lacks(block, first, pairs), 0)) {
        uint16_t words[SPAN * KERNEL_PANEL] __attribute__((aligned(64)));
        if (!amx && block->n_exceptions != PACKED_SPILLED) {
            chain_exceptions(block, first, pairs, x, c);
            return;
        }
        packed_unpack_pairs(block, first, pairs, words);
        s.from = (const uint8_t *)words;
        (amx ? amx_span : chain_span)(true, &s, x, c);
    } else {
        (amx ? amx_span : chain_span)(false, &s, x, c);
    }
}

INLINE void multiply(const bool amx, const uint16_t *x, size_t n_panels, const void *const *panels,
    size_t first, size_t k, float *c, size_t c_panel)
{
    for (size_t i = 0, n; i < k; i += n) {
        n = size_min(SPAN - (first + i) % SPAN, k - i);
        for (size_t p = 0; p < n_panels; p++)
            multiply_span(amx, panels[p], first + i, n / 2, x + i, c + p * c_panel);
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
#ifndef __AVX512BF16__
    kernels->packed_row_amx = packed_row_amx;
#endif
}
