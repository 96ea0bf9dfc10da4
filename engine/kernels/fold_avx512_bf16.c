/* The dot product fold of two rows and more with vdpbf16ps, which is a chain's step for a pair of inputs where
 * nothing is denormal (fold.h); elsewhere fused multiply-adds. They multiply a single row too, as fast as memory
 * gives weights, which is faster than by vdpbf16ps (bench/LOG.md). */
#include "engine/base/size.h"
#include "engine/kernels/fold_tree.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

/* 6 x 4 sums of one chain, or 3 x 4 of two chains that are folded together, so that half as many sums are stored;
 * 4 vectors of weights and one broadcast fill the 32 registers. */
#define ROWS TILE_ROWS
#define PAIR_ROWS 3
/* Inputs of a block of chains, whose weights stay in the first-level cache while rows use them, and rows
 * whose partial sums wait together in the second. With fewer rows a panel comes from the third too often. */
#define BLOCK_INPUTS 256
#define SLOT_ROWS 192

/* One pair of inputs of `rows` rows, into sum. */
INLINE void step(const int rows, const int vectors, const uint16_t *a, size_t a_stride,
    const uint16_t *b, tile_sums_t sum)
{
    __m512bh w[TILE_VECTORS];
    for (int v = 0; v < vectors; v++) {
        w[v] = (__m512bh)_mm512_loadu_si512(b + 32 * v);
        __asm__("" : "+v"(w[v])); /* else compilers load it again for every row */
    }
    for (int r = 0; r < rows; r++) {
        int32_t x;
        __builtin_memcpy(&x, a + (size_t)r * a_stride, sizeof x);
        __m512bh broadcast = (__m512bh)_mm512_set1_epi32(x);
        for (int v = 0; v < vectors; v++)
            sum[r][v] = (vec_f32_t)_mm512_dpbf16_ps((__m512)sum[r][v], w[v], broadcast);
    }
}

/* `abreast` chains, 1 or 2, folded. */
INLINE void chains(const int rows, const int vectors, const int abreast, const uint16_t *a,
    size_t a_stride, const uint16_t *b, size_t pairs, tile_sums_t sum)
{
    const size_t width = 16 * (size_t)vectors, a_chain = 2 * pairs, b_chain = 2 * pairs * width;
    tile_sums_t second;
    fold_clear(rows, vectors, sum);
    fold_clear(rows, vectors, second);
    for (size_t i = 0; i < pairs; i++, a += 2, b += 2 * width) {
        step(rows, vectors, a, a_stride, b, sum);
        if (abreast == 2)
            step(rows, vectors, a + a_chain, a_stride, b + b_chain, second);
    }
    if (abreast == 2)
        fold_add(rows, vectors, sum, second, sum);
}

/* Rows with a block of chains. */
typedef struct block {
    const uint16_t *a, *b;
    size_t a_stride, n_chains, pairs;
    fold_result_t result;
} block_t;

INLINE void register_tile(
    const int rows, const int vectors, const int abreast, const block_t *y, size_t row)
{
    tile_sums_t waiting[FOLD_HEIGHT], sum = {{{0}}};
    const uint16_t *a = y->a + row * y->a_stride, *b = y->b;
    const size_t n = y->n_chains / abreast, step = 2 * y->pairs * abreast;
    for (size_t q = 0; q < n; q++, a += step, b += step * 16 * vectors) {
        chains(rows, vectors, abreast, a, y->a_stride, b, y->pairs, sum);
        fold_in_block(rows, vectors, q, q + 1 == n, waiting, sum);
    }
    fold_store(rows, vectors, &y->result, row, 0, sum);
}

#define LAST_CASE(R, V, N)                                                                         \
    case R:                                                                                        \
        register_tile(R, V, N, y, row);                                                            \
        break;

#define DEFINE_BLOCK(V)                                                                            \
    static void long_chains_##V(const block_t *y, size_t rows)                                     \
    {                                                                                              \
        size_t row = 0;                                                                            \
        for (; row + ROWS <= rows; row += ROWS)                                                    \
            register_tile(ROWS, V, 1, y, row);                                                     \
        switch (rows - row) {                                                                      \
            LAST_CASE(1, V, 1)                                                                     \
            LAST_CASE(2, V, 1) LAST_CASE(3, V, 1) LAST_CASE(4, V, 1) LAST_CASE(5, V, 1)            \
        }                                                                                          \
    }                                                                                              \
    static void short_chains_##V(const block_t *y, size_t rows)                                    \
    {                                                                                              \
        size_t row = 0;                                                                            \
        for (; row + PAIR_ROWS <= rows; row += PAIR_ROWS)                                          \
            register_tile(PAIR_ROWS, V, 2, y, row);                                                \
        switch (rows - row) {                                                                      \
            LAST_CASE(1, V, 2) LAST_CASE(2, V, 2)                                                  \
        }                                                                                          \
    }
DEFINE_BLOCK(1)
DEFINE_BLOCK(2)
DEFINE_BLOCK(3)
DEFINE_BLOCK(4)

typedef void block_fn_t(const block_t *y, size_t rows);
static block_fn_t *const blocks[TILE_VECTORS + 1][2] = {{NULL, NULL},
    {long_chains_1, short_chains_1}, {long_chains_2, short_chains_2},
    {long_chains_3, short_chains_3}, {long_chains_4, short_chains_4}};

/* At most SLOT_ROWS rows with one panel. */
static void multiply(size_t rows, const uint16_t *a, size_t a_stride, const uint16_t *b,
    size_t width, size_t chain, float *c, size_t c_stride)
{
    float waiting[FOLD_HEIGHT * SLOT_ROWS * KERNEL_PANEL] __attribute__((aligned(64)));
    size_t n = rows <= ROWS ? FOLD_CHAINS : fold_block_chains(chain, BLOCK_INPUTS);
    bool two_abreast = rows > ROWS && n > 1;
    for (size_t q = 0; q * n < FOLD_CHAINS; q++) {
        const block_t y = {.a = a + q * n * chain,
            .b = b + q * n * chain * width,
            .a_stride = a_stride,
            .n_chains = n,
            .pairs = chain / 2,
            .result = fold_result(q, n, waiting, SLOT_ROWS, c, c_stride)};
        blocks[width / 16][two_abreast](&y, rows);
    }
}

static void tile_fold(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride)
{
    const size_t chain = fold_shape(inputs).chain, elements = fold_inputs(inputs);
    uint32_t deepest = 0;
    if (rows == 1) {
        tile_fold_by_fma(rows, a, a_stride, n_panels, b, width, inputs, c, c_panel, c_stride);
        return;
    }
    for (size_t r = 0; r < rows; r++) {
        uint32_t depth = fold_depth(a + r * a_stride, elements);
        deepest = depth > deepest ? depth : deepest;
    }
    for (size_t p = 0; p < n_panels; p++, c += c_panel) {
        if (chain == 0 || !fold_is_normal(deepest, fold_depth(b[p], elements * width))) {
            tile_fold_by_fma(rows, a, a_stride, 1, b + p, width, inputs, c, c_panel, c_stride);
            continue;
        }
        for (size_t r = 0; r < rows; r += SLOT_ROWS)
            multiply(size_min(SLOT_ROWS, rows - r), a + r * a_stride, a_stride, b[p], width, chain,
                c + r * c_stride, c_stride);
        fold_rest_by_fma(rows, a, a_stride, b[p], width, inputs, c, c_stride);
    }
}

void fold_by_dot_product(kernels_t *kernels)
{
    kernels->tile_fold = tile_fold;
}

/* Elsewhere fused multiply-adds stay. */
void fold_fill_avx512_bf16(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16 && dot_product_is_faster())
        fold_by_dot_product(kernels);
}
