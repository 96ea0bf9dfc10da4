/* The list of sources, in ascending order: each fills the slots that it improves. */
#include "engine/kernels/kernels.h"

#include "engine/kernels/kernels_internal.h"

static const struct kernel_source {
    isa_t needs;
    void (*fill)(kernels_t *kernels);
} sources[] = {
    {0, elementwise_fill_baseline},
    {0, sdpa_fill_baseline},
    {0, tiles_fill_scalar},
    {0, fold_fill_scalar},
#if defined(__x86_64__)
    {ISA_AVX2, elementwise_fill_avx2},
    {ISA_AVX2, sdpa_fill_avx2},
    {ISA_AVX2, tiles_fill_avx2},
    {ISA_AVX2, bf16_tiles_fill_avx2},
    {ISA_AVX512, elementwise_fill_avx512},
    {ISA_AVX512, sdpa_fill_avx512},
    {ISA_AVX512, tiles_fill_avx512},
    {ISA_AVX512, bf16_tiles_fill_avx512},
    {ISA_AVX512, bf16_fill_avx512},
    {ISA_AVX512_BF16, bf16_fill_avx512_bf16},
    {ISA_AVX512_BF16, tiles_fill_avx512_bf16},
    {ISA_AMX, tiles_fill_amx},
#endif
};

void kernels_get(kernels_t *kernels, isa_t isa, dtype_t mode)
{
    *kernels = (kernels_t){.isa = isa_name(isa), .mode = mode};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        if (isa_has(isa, sources[i].needs))
            sources[i].fill(kernels);
}
