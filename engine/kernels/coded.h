/* The layout of packed codes that are dequantised inside the product (format.h). Internal to
 * engine/kernels. */
#ifndef CHOIR_KERNELS_CODED_H
#define CHOIR_KERNELS_CODED_H

#include "engine/kernels/format.h"

static inline size_t coded_scale_bytes(const format_t *format)
{
    return format->scale_type == DTYPE_F32 ? 4 : 2;
}

static inline size_t coded_groups(size_t group, size_t columns)
{
    return group == 0 ? 1 : (columns + group - 1) / group;
}

/* Bytes of a panel's codes of `inputs` inputs, an even number or all. */
static inline size_t coded_code_bytes(const format_t *format, size_t width, size_t inputs)
{
    return inputs / 2 * width * (format->codes == CODES_INT4 ? 1 : 2);
}

/* The parts of group g of a panel, which the caller may write if the panel is its own. */
static inline void *coded_scales(const format_t *format, const void *panel, size_t width, size_t g)
{
    const size_t head = width * (coded_scale_bytes(format) + (format->zeros ? 1 : 0));
    return (char *)panel + g * (head + coded_code_bytes(format, width, format->group));
}

static inline uint8_t *coded_zeros(
    const format_t *format, const void *panel, size_t width, size_t g)
{
    return (uint8_t *)coded_scales(format, panel, width, g) + width * coded_scale_bytes(format);
}

/* Codes of the pair of inputs k and k + 1, k even. */
static inline uint8_t *coded_pairs(
    const format_t *format, const void *panel, size_t width, size_t k)
{
    const size_t g = format->group == 0 ? 0 : k / format->group;
    return coded_zeros(format, panel, width, g) + (format->zeros ? width : 0) +
           coded_code_bytes(format, width, k - g * format->group);
}

#endif
