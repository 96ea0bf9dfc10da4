/* The rate of 8-bit dot products. No kernel uses them; it bounds the speed of quantised weights on
 * this CPU. */
#include "engine/kernels/roof.h"
#include "engine/kernels/roof_internal.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define CHAINS 24                  /* more than latency times throughput of any CPU here */
#define VECTOR_OPERATIONS (2 * 64) /* of one vpdpbusd of 512 bits */

__attribute__((target("avx512f,avx512vnni"))) static double multiply_vectors(uint64_t steps)
{
    __m512i chains[CHAINS];
    __m512i x = _mm512_set1_epi8(1);
    for (int i = 0; i < CHAINS; i++)
        chains[i] = _mm512_setzero_si512();
    for (uint64_t k = 0; k < steps; k += CHAINS) {
        _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) chains[i] =
            _mm512_dpbusd_epi32(chains[i], x, x);
        __asm__ volatile("" : "+v"(x));
    }
    __m512i sum = _mm512_setzero_si512();
    for (int i = 0; i < CHAINS; i++)
        sum = _mm512_add_epi32(sum, chains[i]);
    return (double)_mm512_reduce_add_epi32(sum);
}

double roof_multiply_int8(isa_t isa, uint64_t steps, double *operations)
{
    *operations = 0;
    if (isa_has(isa, CPU_AMX_INT8))
        return roof_tiles_int8(steps, operations);
    if (!isa_has(isa, ISA_AVX512 | CPU_AVX512_VNNI))
        return 0;
    steps = (steps + CHAINS - 1) / CHAINS * CHAINS;
    *operations = (double)steps * VECTOR_OPERATIONS;
    return multiply_vectors(steps);
}
#else
double roof_multiply_int8(isa_t isa, uint64_t steps, double *operations)
{
    (void)isa, (void)steps;
    *operations = 0;
    return 0;
}
#endif
