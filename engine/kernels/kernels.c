#include "engine/kernels/kernels.h"

#include "engine/kernels/kernels_internal.h"

#define ENTRY(needs, fill) {needs, fill},

static const struct kernel_source {
    isa_t needs;
    void (*fill)(kernels_t *kernels);
} sources[] = {KERNEL_SOURCES(ENTRY)};

void kernels_get(kernels_t *kernels, isa_t isa, dtype_t mode)
{
    *kernels = (kernels_t){.isa = isa_name(isa), .mode = mode};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        if (isa_has(isa, sources[i].needs))
            sources[i].fill(kernels);
}

#if defined(__x86_64__)
void kernels_get_dot_product(kernels_t *kernels)
{
    kernels_get(kernels, ISA_AVX512_BF16, DTYPE_BF16);
    tiles_by_dot_product(kernels);
    fold_by_dot_product(kernels);
    packed_by_dot_product(kernels);
    if (isa_has(isa_detect(), CPU_AVX512_VBMI))
        coded_by_dot_product(kernels);
}
#endif
