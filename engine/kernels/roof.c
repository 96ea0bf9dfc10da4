#include "engine/kernels/roof.h"

#include "engine/kernels/roof_internal.h"
#include "engine/kernels/tiles.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define CHAINS 24 /* more than latency times throughput of any CPU here */

#define TURN_BYTES 256 /* of a stream, before the next stream's */

/* Both halves of each dword are added, as products with weights of bf16 do it: with less to do between loads, CPUs of
 * Intel read a tenth less (bench/LOG.md). Vectors no wider than the target's registers: of wider ones GCC keeps the sums
 * in memory. */
#define DEFINE_READ(NAME, TARGET, BYTES)                                                           \
    TARGET static uint64_t NAME(const char *data, size_t part, size_t streams)                     \
    {                                                                                              \
        typedef uint32_t vec_t __attribute__((vector_size(BYTES)));                                \
        enum { VECTORS = TURN_BYTES / (BYTES), SUMS = VECTORS < 8 ? VECTORS : 8 };                 \
        vec_t sums[SUMS] = {{0}};                                                                  \
        for (size_t i = 0; i < part; i += TURN_BYTES) {                                            \
            const char *from = data + i;                                                           \
            for (size_t s = 0; s < streams; s++, from += part) {                                   \
                prefetch_stream(from, TURN_BYTES);                                                 \
                _Pragma("GCC unroll 16") for (int v = 0; v < VECTORS; v++)                         \
                {                                                                                  \
                    vec_t x = ((const vec_t *)(const void *)from)[v];                              \
                    sums[v % SUMS] += x & 0xffff0000u;                                             \
                    sums[v % SUMS] += x << 16;                                                     \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        uint64_t total = 0;                                                                        \
        for (size_t i = 0; i < SUMS; i++)                                                          \
            for (size_t lane = 0; lane < (BYTES) / sizeof(uint32_t); lane++)                       \
                total += sums[i][lane];                                                            \
        return total;                                                                              \
    }

#if defined(__x86_64__)
DEFINE_READ(read_512, __attribute__((target("avx512f"))), 64)
DEFINE_READ(read_256, __attribute__((target("avx2"))), 32)
#endif
DEFINE_READ(read_128, , 16)

uint64_t roof_read(const void *data, size_t bytes)
{
    const size_t streams = panels_in_step();
    size_t part = bytes / streams / TURN_BYTES * TURN_BYTES;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return read_512(data, part, streams);
    if (__builtin_cpu_supports("avx2"))
        return read_256(data, part, streams);
#endif
    return read_128(data, part, streams);
}

#if defined(__x86_64__)
/* Unrolled loops over an array in registers; the empty statement keeps x from being hoisted. */
#define DEFINE_ROOF(NAME, TARGET, VEC, ZERO, STEP, X_TYPE, X_VALUE)                                \
    __attribute__((target(TARGET))) static double NAME(uint64_t steps)                             \
    {                                                                                              \
        VEC chains[CHAINS];                                                                        \
        X_TYPE x = X_VALUE;                                                                        \
        for (int i = 0; i < CHAINS; i++)                                                           \
            chains[i] = ZERO;                                                                      \
        for (uint64_t k = 0; k < steps; k += CHAINS) {                                             \
            _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) chains[i] = STEP;            \
            __asm__ volatile("" : "+v"(x));                                                        \
        }                                                                                          \
        double sum = 0;                                                                            \
        for (int i = 0; i < CHAINS; i++)                                                           \
            sum += (double)chains[i][0];                                                           \
        return sum;                                                                                \
    }

DEFINE_ROOF(roof_512_bf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(),
    _mm512_dpbf16_ps(chains[i], (__m512bh)x, (__m512bh)x), __m512i, _mm512_set1_epi32(0x3f803f80))
DEFINE_ROOF(roof_512_f32, "avx512f", __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(x, x, chains[i]),
    __m512, _mm512_set1_ps(1))
DEFINE_ROOF(roof_512_f64, "avx512f", __m512d, _mm512_setzero_pd(), _mm512_fmadd_pd(x, x, chains[i]),
    __m512d, _mm512_set1_pd(1))
#undef CHAINS
#define CHAINS 12 /* 16 registers */
DEFINE_ROOF(roof_256_f32, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_fmadd_ps(x, x, chains[i]),
    __m256, _mm256_set1_ps(1))
DEFINE_ROOF(roof_256_f64, "avx2,fma", __m256d, _mm256_setzero_pd(),
    _mm256_fmadd_pd(x, x, chains[i]), __m256d, _mm256_set1_pd(1))

double roof_multiply(isa_t isa, dtype_t mode, uint64_t steps, double *flop)
{
    uint64_t per_step = 0;
    double value = 0;
    if (isa_has(isa, ISA_AMX) && mode == DTYPE_BF16)
        return roof_tiles_bf16(steps, flop);
    steps = (steps + 23) / 24 * 24;
    if (isa_has(isa, ISA_AVX512_BF16) && mode == DTYPE_BF16 && dot_product_is_faster()) {
        per_step = 64;
        value = roof_512_bf16(steps);
    } else if (isa_has(isa, ISA_AVX512)) {
        per_step = mode == DTYPE_F64 ? 16 : 32;
        value = mode == DTYPE_F64 ? roof_512_f64(steps) : roof_512_f32(steps);
    } else if (isa_has(isa, ISA_AVX2)) {
        per_step = mode == DTYPE_F64 ? 8 : 16;
        value = mode == DTYPE_F64 ? roof_256_f64(steps) : roof_256_f32(steps);
    }
    *flop = (double)(per_step * steps);
    return value;
}
#else
double roof_multiply(isa_t isa, dtype_t mode, uint64_t steps, double *flop)
{
    (void)isa, (void)mode, (void)steps;
    *flop = 0;
    return 0;
}
#endif
