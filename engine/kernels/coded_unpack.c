/* Packed codes as dense bf16, a block of a panel at a time. Compiled twice, see fma.h. */
#include "engine/base/size.h"
#include "engine/kernels/coded_vectors.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

#ifdef __AVX512F__
#define FILL coded_fill_avx512
#else
#define FILL coded_fill_avx2
#endif
#define AHEAD_BYTES 2048

/* The lower halves of weights are zero. */
INLINE void unpack_pairs(const coded_kind_t kind, const uint8_t *pairs, size_t width,
    size_t n_pairs, const coded_outputs_t *of, uint16_t *b)
{
    const size_t pair_bytes = width * (kind.codes == CODES_INT4 ? 1 : 2);
    for (size_t i = 0; i < n_pairs; i++, pairs += pair_bytes, b += 2 * width) {
        prefetch_unpacked(pairs, pair_bytes, AHEAD_BYTES);
        for (size_t n = 0; n < width; n += LANES_F32) {
            coded_pair_t w = coded_weights_of_pair(kind, pairs, width, n, of);
            *(mem_u32_t *)(b + 2 * n) = (vec_u32_t)w.odd | (vec_u32_t)w.even >> 16;
        }
    }
}

#define UNPACK(KIND)                                                                               \
    if (width == KERNEL_PANEL)                                                                     \
        unpack_pairs(KIND, pairs, KERNEL_PANEL, n_pairs, of, b);                                   \
    else                                                                                           \
        unpack_pairs(KIND, pairs, width, n_pairs, of, b)

static void unpack_group(const format_t *format, const uint8_t *pairs, size_t width, size_t n_pairs,
    const coded_outputs_t *of, uint16_t *b)
{
    CODED_DISPATCH(format, of->positive, UNPACK);
}

static void coded_unpack(const format_t *format, const void *panel, size_t width, size_t first,
    size_t inputs, uint16_t *b)
{
    coded_outputs_t of;
    for (size_t k = first, n; k < first + inputs; k += n, b += n * width) {
        const size_t group = format->group, g = group == 0 ? 0 : k / group;
        n = (group == 0 ? first + inputs : size_min((g + 1) * group, first + inputs)) - k;
        if (coded_lay_out_group(format, panel, width, g, &of))
            unpack_group(format, coded_pairs(format, panel, width, k), width, n / 2, &of, b);
        else
            coded_unpack_scalar(format, panel, width, k, n, b);
    }
}

void FILL(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16)
        kernels->coded_unpack = coded_unpack;
}
