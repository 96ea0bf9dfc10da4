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

/* The parts of a panel; of group g, or of pair k / 2 of inputs. */
static inline const void *coded_scales(
    const format_t *format, const void *panel, size_t width, size_t g)
{
    return (const char *)panel + g * width * coded_scale_bytes(format);
}

static inline const uint8_t *coded_zeros(
    const format_t *format, const void *panel, size_t width, size_t columns, size_t g)
{
    size_t groups = coded_groups(format->group, columns);
    return (const uint8_t *)coded_scales(format, panel, width, groups) + g * width;
}

static inline const uint8_t *coded_pairs(
    const format_t *format, const void *panel, size_t width, size_t columns, size_t k)
{
    size_t groups = coded_groups(format->group, columns);
    return coded_zeros(format, panel, width, columns, format->zeros ? groups : 0) +
           k / 2 * width * (format->codes == CODES_INT4 ? 1 : 2);
}

#endif
