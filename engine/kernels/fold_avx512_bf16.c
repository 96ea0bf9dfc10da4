/* The dot product fold with vdpbf16ps, which is a chain's step for a pair of inputs where nothing is
 * denormal (fold.h); elsewhere fused multiply-adds. */
#include "engine/base/size.h"
#include "engine/kernels/fold_tree.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

#define ROWS 6 /* 6 x 4 sums, 4 vectors of weights and one broadcast fill the 32 registers */
/* Inputs of a block of chains, whose weights stay in the first-level cache while rows use them, and rows
 * whose partial sums wait together in the second. */
#define BLOCK_INPUTS 256
#define SLOT_ROWS 48

/* Chains [first, first + n) of `pairs` pairs each: a: of the first of them, as b. */
INLINE void register_tile(const int rows, const int vectors, const uint16_t *a, size_t a_stride,
    const uint16_t *b, size_t width, size_t first, size_t n, size_t pairs, const fold_slots_t *to)
{
    for (size_t q = first; q < first + n; q++) {
        vec_f32_t sum[ROWS][FOLD_VECTORS] = {{{0}}};
        for (size_t i = 0; i < pairs; i++, a += 2, b += 2 * width) {
            __m512bh w[FOLD_VECTORS];
            for (int v = 0; v < vectors; v++)
                w[v] = (__m512bh)_mm512_loadu_si512(b + 32 * v);
            for (int r = 0; r < rows; r++) {
                int32_t x;
                __builtin_memcpy(&x, a + (size_t)r * a_stride, sizeof x);
                __m512bh broadcast = (__m512bh)_mm512_set1_epi32(x);
                for (int v = 0; v < vectors; v++)
                    sum[r][v] = (vec_f32_t)_mm512_dpbf16_ps((__m512)sum[r][v], w[v], broadcast);
            }
        }
        fold_into(rows, vectors, q, to, sum);
    }
}

/* All chains of one row with n panels, a pair of each in turn, so that each is a stream of the memory's. */
INLINE void row_of_panels(const int n, const int vectors, const uint16_t *a, const void *const *b,
    size_t chain, const fold_slots_t *to)
{
    const size_t width = 16 * (size_t)vectors;
    size_t offset = 0;
    for (size_t q = 0; q < FOLD_CHAINS; q++) {
        vec_f32_t sum[KERNEL_TILE_PANELS][FOLD_VECTORS] = {{{0}}};
        for (size_t i = 0; i < chain; i += 2, a += 2, offset += 2 * width) {
            int32_t x;
            __builtin_memcpy(&x, a, sizeof x);
            __m512bh broadcast = (__m512bh)_mm512_set1_epi32(x);
            for (int p = 0; p < n; p++) {
                const uint16_t *at = (const uint16_t *)b[p] + offset;
                prefetch_stream(at, 2 * width * sizeof *at);
                for (int v = 0; v < vectors; v++)
                    sum[p][v] = (vec_f32_t)_mm512_dpbf16_ps(
                        (__m512)sum[p][v], (__m512bh)_mm512_loadu_si512(at + 32 * v), broadcast);
            }
        }
        fold_into(n, vectors, q, to, sum); /* panels as rows */
    }
}

#define ROW_CASE(N, V)                                                                             \
    case (N)*8 + (V):                                                                              \
        row_of_panels(N, V, a, b, chain, &to);                                                     \
        break;
#define ROW_CASES(N) ROW_CASE(N, 1) ROW_CASE(N, 2) ROW_CASE(N, 3) ROW_CASE(N, 4)

static void multiply_row(size_t n, const uint16_t *a, const void *const *b, size_t width,
    size_t chain, float *c, size_t c_panel)
{
    float waiting[FOLD_HEIGHT][KERNEL_TILE_PANELS * KERNEL_PANEL] __attribute__((aligned(64)));
    fold_slots_t to = {.height = FOLD_HEIGHT, .result_stride = c_panel};
    for (size_t h = 0; h < FOLD_HEIGHT; h++)
        to.at[h] = waiting[h];
    to.at[FOLD_HEIGHT] = c;
    switch (n * 8 + width / 16) {
        ROW_CASES(1) ROW_CASES(2) ROW_CASES(3) ROW_CASES(4)
    }
}

#define CASE(R, V)                                                                                 \
    case (R)*8 + (V):                                                                              \
        register_tile(R, V, a, a_stride, b, width, first, n, pairs, to);                           \
        break;
#define CASES(R) CASE(R, 1) CASE(R, 2) CASE(R, 3) CASE(R, 4)

static void dispatch(size_t rows, const uint16_t *a, size_t a_stride, const uint16_t *b,
    size_t width, size_t first, size_t n, size_t pairs, const fold_slots_t *to)
{
    switch (rows * 8 + width / 16) {
        CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6)
    }
}

/* At most SLOT_ROWS rows with one panel. */
static void multiply(size_t rows, const uint16_t *a, size_t a_stride, const uint16_t *b,
    size_t width, size_t chain, float *c, size_t c_stride)
{
    float of_tile[FOLD_HEIGHT][ROWS * KERNEL_PANEL] __attribute__((aligned(64)));
    float of_rows[FOLD_HEIGHT][SLOT_ROWS * KERNEL_PANEL] __attribute__((aligned(64)));
    size_t n = rows <= ROWS ? FOLD_CHAINS : fold_block_chains(chain, BLOCK_INPUTS);
    for (size_t first = 0; first < FOLD_CHAINS; first += n)
        for (size_t r = 0; r < rows; r += ROWS) {
            fold_slots_t slots = {.height = FOLD_HEIGHT, .result_stride = c_stride};
            for (size_t h = 0; h < FOLD_HEIGHT; h++)
                slots.at[h] = (size_t)1 << h < n ? of_tile[h] : of_rows[h] + r * KERNEL_PANEL;
            slots.at[FOLD_HEIGHT] = c + r * c_stride;
            dispatch(size_min(ROWS, rows - r), a + r * a_stride + first * chain, a_stride,
                b + first * chain * width, width, first, n, chain / 2, &slots);
        }
}

/* How many of n panels, from the first on, vdpbf16ps can multiply with rows of this depth. */
static size_t normal_panels(uint32_t row_depth, size_t n, const void *const *b, size_t elements)
{
    size_t normal = 0;
    while (normal < n && fold_is_normal(row_depth, fold_depth(b[normal], elements)))
        normal++;
    return normal;
}

static void tile_fold(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride)
{
    const size_t chain = fold_shape(inputs).chain, elements = fold_inputs(inputs);
    uint32_t deepest = 0;
    for (size_t r = 0; r < rows; r++) {
        uint32_t depth = fold_depth(a + r * a_stride, elements);
        deepest = depth > deepest ? depth : deepest;
    }
    for (size_t p = 0, n; p < n_panels; p += n) {
        n = chain == 0 ? 0 : normal_panels(deepest, n_panels - p, b + p, elements * width);
        if (n == 0) {
            n = 1;
            tile_fold_by_fma(
                rows, a, a_stride, 1, b + p, width, inputs, c + p * c_panel, c_panel, c_stride);
            continue;
        }
        if (rows == 1)
            multiply_row(n, a, b + p, width, chain, c + p * c_panel, c_panel);
        for (size_t i = p; i < p + n; i++) {
            float *to = c + i * c_panel;
            for (size_t r = 0; rows > 1 && r < rows; r += SLOT_ROWS)
                multiply(size_min(SLOT_ROWS, rows - r), a + r * a_stride, a_stride, b[i], width,
                    chain, to + r * c_stride, c_stride);
            fold_rest_by_fma(rows, a, a_stride, b[i], width, inputs, to, c_stride);
        }
    }
}

void fold_fill_avx512_bf16(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16)
        kernels->tile_fold = tile_fold;
}
