/* Packed bf16 to the dense layout, with vectors. Compiled twice, see fma.h. */
#include "engine/base/size.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/packed_vectors.h"

#ifdef __AVX512F__
#define FILL packed_fill_avx512
#else
#define FILL packed_fill_avx2
#endif

static void unpack_packed(const void *panel, size_t first, size_t n, uint16_t *to)
{
    for (size_t k = first, some; k < first + n; k += some) {
        some = size_min(PACKED_INPUTS - k % PACKED_INPUTS, first + n - k);
        packed_unpack_pairs(packed_block_of(panel, k), k % PACKED_INPUTS / 2, some / 2,
            to + (k - first) * KERNEL_PANEL);
    }
}

void FILL(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16)
        kernels->unpack_packed = unpack_packed;
}
