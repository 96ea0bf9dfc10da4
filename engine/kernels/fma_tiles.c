/* Tiles by fused multiply-add: f32, f64, and bf16 on CPUs without vdpbf16ps or AMX.
 *
 * Compiled twice, for AVX2 with FMA and for AVX-512F; only the width of a register and the number
 * of registers differ. */
#include <immintrin.h>

#include "engine/kernels/sources.h"
#include "engine/kernels/tiles.h"

#ifdef __AVX512F__
#define REGISTER_BYTES 64
#define ROWS 6 /* 6 x 4 accumulators, 4 weights, 1 input of 32 registers */
#define VECTORS 4
#define ROWS_BF16 4 /* a pair of weights takes two registers */
#define VECTORS_BF16 4
#define FMA_F32(a, b, c) ((vec_f32_t)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define FMA_F64(a, b, c) ((vec_f64_t)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define SET_F32(x) ((vec_f32_t)_mm512_set1_ps(x))
#define SET_F64(x) ((vec_f64_t)_mm512_set1_pd(x))
#define FILL tiles_fill_avx512
#else
#define REGISTER_BYTES 32
#define ROWS 6 /* 6 x 2 accumulators, 2 weights, 1 input of 16 registers */
#define VECTORS 2
#define ROWS_BF16 4
#define VECTORS_BF16 2
#define FMA_F32(a, b, c) ((vec_f32_t)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define FMA_F64(a, b, c) ((vec_f64_t)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define SET_F32(x) ((vec_f32_t)_mm256_set1_ps(x))
#define SET_F64(x) ((vec_f64_t)_mm256_set1_pd(x))
#define FILL tiles_fill_avx2
#endif

#define LANES_F32 (REGISTER_BYTES / 4)
#define LANES_F64 (REGISTER_BYTES / 8)

typedef float vec_f32_t __attribute__((vector_size(REGISTER_BYTES)));
typedef double vec_f64_t __attribute__((vector_size(REGISTER_BYTES)));
typedef uint32_t vec_u32_t __attribute__((vector_size(REGISTER_BYTES)));
/* The same in memory, at any address. */
typedef vec_f32_t mem_f32_t __attribute__((aligned(4), may_alias));
typedef vec_f64_t mem_f64_t __attribute__((aligned(8), may_alias));
typedef vec_u32_t mem_u32_t __attribute__((aligned(2), may_alias));

#define AHEAD_BYTES 2048
#define AHEAD_BYTES_AMX 1024
#define PAGE_OF_PANEL (4096 / KERNEL_PANEL) /* bytes of an output's weights in a page */
#define INLINE static inline __attribute__((always_inline))

/* One register tile over k inputs, a leaf or less; goes on from what sum holds. `rows` and
 * `vectors` (registers of outputs) are constants after inlining. A lone row looks at pages of
 * weights now and then, not at every input. */
#define DEFINE_CHAIN(NAME, REAL, VEC, MEM, LANES, FMA, SET)                                        \
    INLINE void NAME(const int rows, const int vectors, const REAL *a, size_t a_stride,            \
        const REAL *b, size_t width, size_t k, VEC sum[ROWS][VECTORS])                             \
    {                                                                                              \
        const size_t step = rows == 1 ? PAGE_OF_PANEL / sizeof(REAL) : k;                          \
        for (size_t begin = 0; begin < k; begin += step) {                                         \
            size_t end = k - begin < step ? k : begin + step;                                      \
            if (rows == 1)                                                                         \
                prefetch_next_page(b + begin * width, step * width * sizeof *b);                   \
            for (size_t i = begin; i < end; i++) {                                                 \
                VEC w[VECTORS];                                                                    \
                for (int v = 0; v < vectors; v++)                                                  \
                    w[v] = *(const MEM *)(b + i * width + LANES * v);                              \
                /* One stream of weights, ahead of the hardware's own prefetch. */                 \
                if (rows == 1)                                                                     \
                    for (int v = 0; v < vectors; v++)                                              \
                        __builtin_prefetch(                                                        \
                            (const char *)(b + i * width + LANES * v) + AHEAD_BYTES);              \
                for (int r = 0; r < rows; r++) {                                                   \
                    VEC x = SET(a[(size_t)r * a_stride + i]);                                      \
                    for (int v = 0; v < vectors; v++)                                              \
                        sum[r][v] = FMA(x, w[v], sum[r][v]);                                       \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

DEFINE_CHAIN(chain_f32, float, vec_f32_t, mem_f32_t, LANES_F32, FMA_F32, SET_F32)
DEFINE_CHAIN(chain_f64, double, vec_f64_t, mem_f64_t, LANES_F64, FMA_F64, SET_F64)

#define DEFINE_REGISTER_TILE(NAME, CHAIN, REAL, VEC, MEM, LANES)                                   \
    INLINE void NAME(const int rows, const int vectors, const REAL *a, size_t a_stride,            \
        const REAL *b, size_t width, size_t k, REAL *c, size_t c_stride, tile_mode_t mode)         \
    {                                                                                              \
        VEC sum[ROWS][VECTORS];                                                                    \
        for (int r = 0; r < rows; r++)                                                             \
            for (int v = 0; v < vectors; v++)                                                      \
                if (mode == TILE_CHAIN)                                                            \
                    sum[r][v] = *(const MEM *)(c + (size_t)r * c_stride + LANES * v);              \
                else                                                                               \
                    sum[r][v] = (VEC){0};                                                          \
        CHAIN(rows, vectors, a, a_stride, b, width, k, sum);                                       \
        for (int r = 0; r < rows; r++)                                                             \
            for (int v = 0; v < vectors; v++) {                                                    \
                MEM *out = (MEM *)(c + (size_t)r * c_stride + LANES * v);                          \
                if (mode == TILE_ADD)                                                              \
                    sum[r][v] = *out + sum[r][v];                                                  \
                *out = sum[r][v];                                                                  \
            }                                                                                      \
    }

DEFINE_REGISTER_TILE(register_tile_f32, chain_f32, float, vec_f32_t, mem_f32_t, LANES_F32)
DEFINE_REGISTER_TILE(register_tile_f64, chain_f64, double, vec_f64_t, mem_f64_t, LANES_F64)

/* The leaves of each group, then the groups. */
#define DEFINE_GROUPS_TILE(NAME, CHAIN, REAL, VEC, MEM, LANES)                                     \
    INLINE void NAME(const int rows, const int vectors, const REAL *a, size_t a_stride,            \
        const REAL *b, size_t width, size_t k, REAL *c, size_t c_stride, tile_mode_t mode)         \
    {                                                                                              \
        for (size_t first = 0; first < k; first += KERNEL_GROUP) {                                 \
            size_t end = k - first < KERNEL_GROUP ? k : first + KERNEL_GROUP;                      \
            VEC group[ROWS][VECTORS] = {{{0}}};                                                    \
            CHAIN(rows, vectors, a + first, a_stride, b + first * width, width,                    \
                end - first < KERNEL_LEAF ? end - first : KERNEL_LEAF, group);                     \
            for (size_t i = first + KERNEL_LEAF; i < end; i += KERNEL_LEAF) {                      \
                VEC sum[ROWS][VECTORS] = {{{0}}};                                                  \
                CHAIN(rows, vectors, a + i, a_stride, b + i * width, width,                        \
                    end - i < KERNEL_LEAF ? end - i : KERNEL_LEAF, sum);                           \
                for (int r = 0; r < rows; r++)                                                     \
                    for (int v = 0; v < vectors; v++)                                              \
                        group[r][v] = group[r][v] + sum[r][v];                                     \
            }                                                                                      \
            for (int r = 0; r < rows; r++)                                                         \
                for (int v = 0; v < vectors; v++) {                                                \
                    MEM *out = (MEM *)(c + (size_t)r * c_stride + LANES * v);                      \
                    if (first > 0 || mode == TILE_ADD)                                             \
                        group[r][v] = *out + group[r][v];                                          \
                    *out = group[r][v];                                                            \
                }                                                                                  \
        }                                                                                          \
    }

DEFINE_GROUPS_TILE(groups_tile_f32, chain_f32, float, vec_f32_t, mem_f32_t, LANES_F32)
DEFINE_GROUPS_TILE(groups_tile_f64, chain_f64, double, vec_f64_t, mem_f64_t, LANES_F64)

/* bf16: a pair's odd half is its dword's upper half already in place; the even half is shifted up.
 */
typedef struct pair_of_weights {
    vec_f32_t even, odd;
} pair_t;

INLINE pair_t load_pair(const uint16_t *weights)
{
    vec_u32_t pair = *(const mem_u32_t *)weights;
    return (pair_t){(vec_f32_t)(pair << 16), (vec_f32_t)(pair & 0xffff0000u)};
}

/* The dot product chain, over k inputs. */
INLINE void chain_bf16(const int rows, const int vectors, const uint16_t *a, size_t a_stride,
    const uint16_t *b, size_t width, size_t k, vec_f32_t sum[ROWS_BF16][VECTORS_BF16])
{
    for (size_t i = 0; i < k; i += 2) {
        pair_t w[VECTORS_BF16];
        for (int v = 0; v < vectors; v++)
            w[v] = load_pair(b + i * width + 2 * LANES_F32 * v);
        for (int r = 0; r < rows; r++) {
            const uint16_t *x = a + (size_t)r * a_stride + i;
            vec_f32_t odd = SET_F32(f32_from_bf16(x[1])), even = SET_F32(f32_from_bf16(x[0]));
            for (int v = 0; v < vectors; v++)
                sum[r][v] = FMA_F32(odd, w[v].odd, sum[r][v]);
            for (int v = 0; v < vectors; v++)
                sum[r][v] = FMA_F32(even, w[v].even, sum[r][v]);
        }
    }
}

/* The dot product amx. */
INLINE void steps_amx(const int rows, const int vectors, const uint16_t *a, size_t a_stride,
    const uint16_t *b, size_t width, size_t k, vec_f32_t sum[ROWS_BF16][VECTORS_BF16])
{
    for (size_t i0 = 0; i0 < k; i0 += 32) {
        size_t end = k - i0 < 32 ? k : i0 + 32;
        for (int r = 0; r < rows; r++) {
            vec_f32_t even[VECTORS_BF16] = {{0}}, odd[VECTORS_BF16] = {{0}};
            if (rows == 1)
                prefetch_next_page(b + i0 * width, 32 * width * sizeof *b);
            for (size_t i = i0; i < end; i += 2) {
                const uint16_t *x = a + (size_t)r * a_stride + i;
                vec_f32_t x_even = SET_F32(f32_from_bf16(x[0]));
                vec_f32_t x_odd = SET_F32(f32_from_bf16(x[1]));
                for (int v = 0; v < vectors; v++) {
                    const uint16_t *at = b + i * width + 2 * LANES_F32 * v;
                    pair_t w = load_pair(at);
                    if (rows == 1)
                        __builtin_prefetch((const char *)at + AHEAD_BYTES_AMX);
                    even[v] = FMA_F32(x_even, w.even, even[v]);
                    odd[v] = FMA_F32(x_odd, w.odd, odd[v]);
                }
            }
            for (int v = 0; v < vectors; v++)
                sum[r][v] = sum[r][v] + (even[v] + odd[v]);
        }
    }
}

/* MXCSR's DAZ and FTZ: denormals as zero, as in vdpbf16ps and TDPBF16PS, for the products alone. */
#define FLUSH_BITS 0x8040u

#define DEFINE_REGISTER_TILE_BF16(NAME, PRODUCTS)                                                    \
    INLINE void NAME(const int rows, const int vectors, const uint16_t *a, size_t a_stride,          \
        const uint16_t *b, size_t width, size_t k, float *c, size_t c_stride, tile_mode_t mode)      \
    {                                                                                                \
        unsigned saved = _mm_getcsr();                                                               \
        _mm_setcsr(saved | FLUSH_BITS);                                                              \
        vec_f32_t sum[ROWS_BF16][VECTORS_BF16];                                                      \
        for (int r = 0; r < rows; r++)                                                               \
            for (int v = 0; v < vectors; v++)                                                        \
                if (mode == TILE_CHAIN)                                                              \
                    sum[r][v] = *(const mem_f32_t *)(c + (size_t)r * c_stride + LANES_F32 * v);      \
                else                                                                                 \
                    sum[r][v] = (vec_f32_t){0};                                                      \
        PRODUCTS(rows, vectors, a, a_stride, b, width, k, sum);                                      \
        /* The sums are stored before the control register is restored, so that no arithmetic      \
         * moves across; leaves are added as ordinary f32. */ \
        vec_f32_t leaf[ROWS_BF16][VECTORS_BF16];                                                     \
        for (int r = 0; r < rows; r++)                                                               \
            for (int v = 0; v < vectors; v++)                                                        \
                leaf[r][v] = sum[r][v];                                                              \
        __asm__ volatile("" : "+m"(leaf)::"memory");                                                 \
        _mm_setcsr(saved);                                                                           \
        for (int r = 0; r < rows; r++)                                                               \
            for (int v = 0; v < vectors; v++) {                                                      \
                mem_f32_t *out = (mem_f32_t *)(c + (size_t)r * c_stride + LANES_F32 * v);            \
                if (mode == TILE_ADD)                                                                \
                    leaf[r][v] = *out + leaf[r][v];                                                  \
                *out = leaf[r][v];                                                                   \
            }                                                                                        \
    }

DEFINE_REGISTER_TILE_BF16(register_tile_bf16, chain_bf16)
DEFINE_REGISTER_TILE_BF16(register_tile_amx, steps_amx)

/* Calls NAME with constant rows and vectors. */
#define CASE(NAME, R, V)                                                                           \
    case (R)*8 + (V):                                                                              \
        NAME(R, V, a, a_stride, b, width, k, c, c_stride, mode);                                   \
        break;
#ifdef __AVX512F__
#define CASES(NAME, R) CASE(NAME, R, 1) CASE(NAME, R, 2) CASE(NAME, R, 3) CASE(NAME, R, 4)
#else
#define CASES(NAME, R) CASE(NAME, R, 1) CASE(NAME, R, 2)
#endif
#define CASES_4(NAME) CASES(NAME, 1) CASES(NAME, 2) CASES(NAME, 3) CASES(NAME, 4)
#define CASES_6(NAME) CASES_4(NAME) CASES(NAME, 5) CASES(NAME, 6)

#define DEFINE_TILE(TILE, NAME, CASES_N, ELEMENT, REAL, LANES, PAIR, MAX_ROWS, MAX_VECTORS)        \
    static void NAME##_dispatch(size_t rows, size_t vectors, const ELEMENT *a, size_t a_stride,    \
        const ELEMENT *b, size_t width, size_t k, REAL *c, size_t c_stride, tile_mode_t mode)      \
    {                                                                                              \
        switch (rows * 8 + vectors) {                                                              \
            CASES_N(NAME)                                                                          \
        }                                                                                          \
    }                                                                                              \
    static void TILE(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,     \
        size_t k, void *c, size_t c_stride, tile_mode_t mode)                                      \
    {                                                                                              \
        size_t n_vectors = width / LANES;                                                          \
        for (size_t r = 0; r < rows; r += MAX_ROWS)                                                \
            for (size_t v = 0; v < n_vectors; v += MAX_VECTORS)                                    \
                NAME##_dispatch(rows - r < MAX_ROWS ? rows - r : MAX_ROWS,                         \
                    n_vectors - v < MAX_VECTORS ? n_vectors - v : MAX_VECTORS,                     \
                    (const ELEMENT *)a + r * a_stride, a_stride,                                   \
                    (const ELEMENT *)b + v * LANES * PAIR, width, k,                               \
                    (REAL *)c + r * c_stride + v * LANES, c_stride, mode);                         \
    }

DEFINE_TILE(tile_f32, register_tile_f32, CASES_6, float, float, LANES_F32, 1, ROWS, VECTORS)
DEFINE_TILE(tile_f64, register_tile_f64, CASES_6, double, double, LANES_F64, 1, ROWS, VECTORS)
DEFINE_TILE(tile_groups_f32, groups_tile_f32, CASES_6, float, float, LANES_F32, 1, ROWS, VECTORS)
DEFINE_TILE(tile_groups_f64, groups_tile_f64, CASES_6, double, double, LANES_F64, 1, ROWS, VECTORS)
DEFINE_TILE(
    tile_bf16, register_tile_bf16, CASES_4, uint16_t, float, LANES_F32, 2, ROWS_BF16, VECTORS_BF16)
DEFINE_TILE(
    tile_amx, register_tile_amx, CASES_4, uint16_t, float, LANES_F32, 2, ROWS_BF16, VECTORS_BF16)

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
    } else if (kernels->mode == DTYPE_F32) {
        kernels->tile = tile_f32;
        kernels->tile_groups = tile_groups_f32;
    } else {
        kernels->tile = tile_f64;
        kernels->tile_groups = tile_groups_f64;
    }
}
