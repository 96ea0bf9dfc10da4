/* bf16 tiles by fused multiply-add of f32, for CPUs without vdpbf16ps or AMX.
 *
 * A single row widens weights in registers as it reads them. Two rows and more widen a block of the
 * panel and of themselves once, then multiply f32 with f32. Compiled twice, see fma.h. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/fma.h"
#include "engine/kernels/sources.h"
#include "engine/kernels/tiles.h"

#ifdef __AVX512F__
#define FILL bf16_tiles_fill_avx512
#define MANY_VECTORS 4 /* of outputs in a register tile: 6 x 4 sums of 32 registers */
#define FEW_VECTORS 4
#else
#define FILL bf16_tiles_fill_avx2
#define MANY_VECTORS 2 /* 6 x 2 sums of 16 registers */
#define FEW_VECTORS 4  /* 3 x 4 sums, so that as many chains hide the latency */
#endif

#define ROWS 6                                 /* of a register tile */
#define FEW_ROWS 3                             /* at most these take FEW_VECTORS */
#define MOST_VECTORS (KERNEL_PANEL / LANES_F32) /* of a panel */
#define LINE_BYTES 64
#define LINE_VECTORS (LINE_BYTES / REGISTER_BYTES)
#define AHEAD_BYTES 1024
#define SPAN 32 /* inputs of the dot product amx's operation, and of a page of a whole panel */

/* MXCSR's DAZ and FTZ: denormals as zero, as in vdpbf16ps and TDPBF16PS, for the products alone. */
#define FLUSH_BITS 0x8040u

/* Sets the control register. Arithmetic does not move across: what it works on is in memory that
 * `data` points to before and after. */
INLINE void set_control(unsigned bits, const void *data)
{
    __asm__ volatile("" ::"r"(data) : "memory");
    _mm_setcsr(bits);
    __asm__ volatile("" ::"r"(data) : "memory");
}

/* The two inputs of a pair: the odd one is its dword's upper half already in place, the even one is
 * shifted up. */
typedef struct pair_of_inputs {
    vec_f32_t odd, even;
} pair_t;

INLINE pair_t widen(vec_u32_t pairs)
{
    return (pair_t){(vec_f32_t)(pairs & 0xffff0000u), (vec_f32_t)(pairs << 16)};
}

INLINE pair_t load_pair(const uint16_t *pairs)
{
    return widen(*(const mem_u32_t *)pairs);
}

/* One pair in all lanes. */
INLINE pair_t broadcast_pair(const uint16_t *x)
{
    uint32_t pair;
    __builtin_memcpy(&pair, x, sizeof pair);
    return widen((vec_u32_t)(vec_f32_t)SET_F32(f32_from_bits(pair)));
}

/* ---- One row --------------------------------------------------------------------------------- */

/* Inputs [0, k), a page of weights or less, for `vectors` of a panel's outputs. odd and even may be
 * the same sums: of each pair the odd input comes first. */
INLINE void lone_page(const int vectors, const uint16_t *x, const uint16_t *b, size_t width,
    size_t k, vec_f32_t *odd, vec_f32_t *even)
{
    for (size_t i = 0; i < k; i += 2) {
        pair_t input = broadcast_pair(x + i);
        for (int v = 0; v < vectors; v++) {
            const uint16_t *at = b + i * width + 2 * LANES_F32 * v;
            pair_t w = load_pair(at);
            if (v % LINE_VECTORS == 0)
                __builtin_prefetch((const char *)at + AHEAD_BYTES);
            odd[v] = FMA_F32(input.odd, w.odd, odd[v]);
            even[v] = FMA_F32(input.even, w.even, even[v]);
        }
    }
}

/* The dot product chain: all outputs at once, so that the panel is one stream and as many chains as
 * there are hide the latency. */
INLINE void lone_chain(const int vectors, const uint16_t *x, const uint16_t *b, size_t k, float *c)
{
    const size_t width = (size_t)vectors * LANES_F32;
    vec_f32_t sum[MOST_VECTORS];
    for (int v = 0; v < vectors; v++)
        sum[v] = *(const mem_f32_t *)(c + LANES_F32 * v);
    for (size_t i = 0; i < k; i += SPAN) {
        prefetch_next_page(b + i * width, SPAN * width * sizeof *b);
        lone_page(vectors, x + i, b + i * width, width, size_min(k - i, SPAN), sum, sum);
    }
    for (int v = 0; v < vectors; v++)
        *(mem_f32_t *)(c + LANES_F32 * v) = sum[v];
}

/* The dot product amx: two sums for an output, so fewer outputs at once; they stay on a page. */
INLINE void lone_amx(const int vectors, const uint16_t *x, const uint16_t *b, size_t k, float *c)
{
    const size_t width = (size_t)vectors * LANES_F32;
    for (size_t i = 0; i < k; i += SPAN) {
        prefetch_next_page(b + i * width, SPAN * width * sizeof *b);
        for (int first = 0; first < vectors; first += FEW_VECTORS) {
            const int n = vectors - first < FEW_VECTORS ? vectors - first : FEW_VECTORS;
            vec_f32_t odd[FEW_VECTORS] = {{0}}, even[FEW_VECTORS] = {{0}};
            lone_page(n, x + i, b + i * width + 2 * LANES_F32 * first, width,
                size_min(k - i, SPAN), odd, even);
            for (int v = 0; v < n; v++) {
                mem_f32_t *sum = (mem_f32_t *)(c + LANES_F32 * (first + v));
                *sum = *sum + (even[v] + odd[v]);
            }
        }
    }
}

#define LONE_CASE(NAME, WIDTH)                                                                     \
    case WIDTH:                                                                                    \
        NAME((WIDTH) / LANES_F32, x, b, k, c);                                                     \
        break;

#define DEFINE_LONE(DISPATCH, NAME)                                                                \
    static void DISPATCH(const uint16_t *x, const uint16_t *b, size_t width, size_t k, float *c)   \
    {                                                                                              \
        switch (width) {                                                                           \
            LONE_CASE(NAME, 16) LONE_CASE(NAME, 32) LONE_CASE(NAME, 48) LONE_CASE(NAME, 64)        \
        }                                                                                          \
    }

DEFINE_LONE(lone_chain_dispatch, lone_chain)
DEFINE_LONE(lone_amx_dispatch, lone_amx)

/* ---- More rows ------------------------------------------------------------------------------- */

/* Inputs of a panel that are widened together. */
#ifndef BLOCK_INPUTS
#define BLOCK_INPUTS 256
#endif
/* Floats between the rows of a register tile: not a power of two, so that they fall into different
 * sets of a cache. */
#define PLANE (BLOCK_INPUTS / 2 + 16)

/* Odd inputs are multiplied before even ones, so they lie first. */
typedef struct wide_block {
    /* [outputs / tile's outputs][pairs][odd, even][tile's outputs] */
    float weights[BLOCK_INPUTS * KERNEL_PANEL] __attribute__((aligned(64)));
    float rows[ROWS][2][PLANE] __attribute__((aligned(64)));
} wide_block_t;

static void widen_weights(
    size_t vectors, const uint16_t *b, size_t width, size_t k, float *wide)
{
    size_t n = vectors * LANES_F32;
    for (size_t i = 0; i < k; i += 2)
        for (size_t j = 0; j < width; j += LANES_F32) {
            pair_t w = load_pair(b + i * width + 2 * j);
            float *to = wide + j / n * n * k + i * n + j % n;
            *(mem_f32_t *)to = w.odd;
            *(mem_f32_t *)(to + n) = w.even;
        }
}

static void widen_rows(size_t rows, const uint16_t *a, size_t a_stride, size_t k, wide_block_t *to)
{
    for (size_t r = 0; r < rows; r++) {
        const uint16_t *x = a + r * a_stride;
        size_t i = 0;
        for (; i + 2 * LANES_F32 <= k; i += 2 * LANES_F32) {
            pair_t pairs = load_pair(x + i);
            *(mem_f32_t *)&to->rows[r][0][i / 2] = pairs.odd;
            *(mem_f32_t *)&to->rows[r][1][i / 2] = pairs.even;
        }
        for (; i < k; i += 2) {
            to->rows[r][0][i / 2] = f32_from_bf16(x[i + 1]);
            to->rows[r][1][i / 2] = f32_from_bf16(x[i]);
        }
    }
}

/* One input of each pair, into sum. */
INLINE void wide_step(const int rows, const int vectors, const float *a, const float *b,
    vec_f32_t sum[ROWS][MOST_VECTORS])
{
    vec_f32_t w[MOST_VECTORS];
    for (int v = 0; v < vectors; v++)
        w[v] = *(const vec_f32_t *)(b + LANES_F32 * v);
    for (int r = 0; r < rows; r++) {
        vec_f32_t x = SET_F32(a[(size_t)r * 2 * PLANE]);
        for (int v = 0; v < vectors; v++)
            sum[r][v] = FMA_F32(x, w[v], sum[r][v]);
    }
}

INLINE void wide_chain(const int rows, const int vectors, const float *a, const float *b,
    size_t pairs, float *c, size_t c_stride)
{
    const size_t n = (size_t)vectors * LANES_F32;
    vec_f32_t sum[ROWS][MOST_VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = *(const mem_f32_t *)(c + (size_t)r * c_stride + LANES_F32 * v);
    for (size_t i = 0; i < pairs; i++) {
        wide_step(rows, vectors, a + i, b + 2 * i * n, sum);
        wide_step(rows, vectors, a + i + PLANE, b + 2 * i * n + n, sum);
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            *(mem_f32_t *)(c + (size_t)r * c_stride + LANES_F32 * v) = sum[r][v];
}

INLINE void wide_amx(const int rows, const int vectors, const float *a, const float *b,
    size_t pairs, float *c, size_t c_stride)
{
    const size_t n = (size_t)vectors * LANES_F32;
    for (size_t begin = 0; begin < pairs; begin += SPAN / 2) {
        size_t end = size_min(begin + SPAN / 2, pairs);
        vec_f32_t even[ROWS][MOST_VECTORS] = {{{0}}}, odd[ROWS][MOST_VECTORS] = {{{0}}};
        for (size_t i = begin; i < end; i++)
            wide_step(rows, vectors, a + i + PLANE, b + 2 * i * n + n, even);
        for (size_t i = begin; i < end; i++)
            wide_step(rows, vectors, a + i, b + 2 * i * n, odd);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) {
                mem_f32_t *sum = (mem_f32_t *)(c + (size_t)r * c_stride + LANES_F32 * v);
                *sum = *sum + (even[r][v] + odd[r][v]);
            }
    }
}

#define WIDE_CASE(NAME, R, V)                                                                      \
    case (R)*8 + (V):                                                                              \
        NAME(R, V, a, b, pairs, c, c_stride);                                                      \
        break;
#ifdef __AVX512F__
#define WIDE_CASES(NAME, R)                                                                        \
    WIDE_CASE(NAME, R, 1) WIDE_CASE(NAME, R, 2) WIDE_CASE(NAME, R, 3) WIDE_CASE(NAME, R, 4)
#define WIDE_FEW_CASES(NAME, R) WIDE_CASES(NAME, R)
#else
#define WIDE_CASES(NAME, R) WIDE_CASE(NAME, R, 2)
#define WIDE_FEW_CASES(NAME, R) WIDE_CASE(NAME, R, 2) WIDE_CASE(NAME, R, 4)
#endif

#define DEFINE_WIDE(DISPATCH, NAME)                                                                \
    static void DISPATCH(size_t rows, size_t vectors, const float *a, const float *b,              \
        size_t pairs, float *c, size_t c_stride)                                                   \
    {                                                                                              \
        switch (rows * 8 + vectors) {                                                              \
            WIDE_FEW_CASES(NAME, 1)                                                                \
            WIDE_FEW_CASES(NAME, 2)                                                                \
            WIDE_FEW_CASES(NAME, 3)                                                                \
            WIDE_CASES(NAME, 4)                                                                    \
            WIDE_CASES(NAME, 5)                                                                    \
            WIDE_CASES(NAME, 6)                                                                    \
        }                                                                                          \
    }

DEFINE_WIDE(wide_chain_dispatch, wide_chain)
DEFINE_WIDE(wide_amx_dispatch, wide_amx)

/* ---- Tiles ----------------------------------------------------------------------------------- */

/* How a dot product is computed: c is continued. */
typedef struct dot_kernels {
    void (*lone)(const uint16_t *x, const uint16_t *b, size_t width, size_t k, float *c);
    void (*wide)(size_t rows, size_t vectors, const float *a, const float *b, size_t pairs,
        float *c, size_t c_stride);
} dot_kernels_t;

static const dot_kernels_t chain_kernels = {lone_chain_dispatch, wide_chain_dispatch};
static const dot_kernels_t amx_kernels = {lone_amx_dispatch, wide_amx_dispatch};

/* Vectors of outputs in a register tile. */
static size_t tile_vectors(size_t rows, size_t width)
{
#ifdef __AVX512F__
    (void)rows;
    return width / LANES_F32;
#else
    return rows <= FEW_ROWS && width % (FEW_VECTORS * LANES_F32) == 0 ? FEW_VECTORS : MANY_VECTORS;
#endif
}

/* Lines of the next block of a panel, a few for each register tile. */
static void prefetch_lines(const char *from, const char *end)
{
    for (; from < end; from += LINE_BYTES)
        __builtin_prefetch(from, 0, 2);
}

/* c continued by inputs [0, k) of a block. */
static void multiply_block(const dot_kernels_t *dot, size_t rows, const uint16_t *a,
    size_t a_stride, const uint16_t *b, size_t width, size_t k, float *c, size_t c_stride)
{
    wide_block_t block;
    size_t vectors = tile_vectors(rows, width), outputs = vectors * LANES_F32;
    widen_weights(vectors, b, width, k, block.weights);
    const char *next = (const char *)(b + k * width);
    size_t block_bytes = k * width * sizeof *b;
    for (size_t r = 0, n; r < rows; r += n) {
        size_t n_groups = (rows - r + ROWS - 1) / ROWS;
        n = (rows - r + n_groups - 1) / n_groups;
        widen_rows(n, a + r * a_stride, a_stride, k, &block);
        for (size_t j = 0; j < width; j += outputs) {
            size_t begin = block_bytes / rows * r + block_bytes / rows * n / width * j;
            size_t bytes = block_bytes / rows * n / width * outputs;
            prefetch_lines(next + begin / LINE_BYTES * LINE_BYTES, next + begin + bytes);
            dot->wide(n, vectors, &block.rows[0][0][0], block.weights + j * k, k / 2,
                c + r * c_stride + j, c_stride);
        }
    }
}

/* c continued by inputs [0, k), denormals as zero. */
static void multiply(const dot_kernels_t *dot, size_t rows, const uint16_t *a, size_t a_stride,
    const uint16_t *b, size_t width, size_t k, float *c, size_t c_stride)
{
    unsigned saved = _mm_getcsr();
    set_control(saved | FLUSH_BITS, c);
    if (rows == 1)
        dot->lone(a, b, width, k, c);
    else
        for (size_t i = 0; i < k; i += BLOCK_INPUTS)
            multiply_block(dot, rows, a + i, a_stride, b + i * width, width,
                size_min(k - i, BLOCK_INPUTS), c, c_stride);
    set_control(saved, c);
}

#define LEAF_ROWS 96 /* that are summed aside at a time */

/* As kernels_t.tile. */
static void multiply_tile(const dot_kernels_t *dot, size_t rows, const uint16_t *a,
    size_t a_stride, const uint16_t *b, size_t width, size_t k, float *c, size_t c_stride,
    tile_mode_t mode)
{
    float leaf[LEAF_ROWS * KERNEL_PANEL];
    if (mode != TILE_ADD) {
        for (size_t r = 0; r < rows && mode == TILE_SET; r++)
            memset(c + r * c_stride, 0, width * sizeof *c);
        multiply(dot, rows, a, a_stride, b, width, k, c, c_stride);
        return;
    }
    for (size_t r0 = 0, n; r0 < rows; r0 += n) {
        n = size_min(LEAF_ROWS, rows - r0);
        memset(leaf, 0, n * width * sizeof *leaf);
        multiply(dot, n, a + r0 * a_stride, a_stride, b, width, k, leaf, width);
        for (size_t r = 0; r < n; r++)
            for (size_t j = 0; j < width; j++)
                c[(r0 + r) * c_stride + j] += leaf[r * width + j];
    }
}

static void tile_bf16(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    multiply_tile(&chain_kernels, rows, a, a_stride, b, width, k, c, c_stride, mode);
}

static void tile_amx(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    multiply_tile(&amx_kernels, rows, a, a_stride, b, width, k, c, c_stride, mode);
}

#ifdef __AVX512F__
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
    }
}
