/* The layout of packed int4 (format.h). Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_INT4_H
#define CHOIR_KERNELS_INT4_H

#include "engine/kernels/format.h"

#define INT4_WORD 8 /* codes of a word */
#define INT4_MOST_GROUP 256

/* Bytes of a group of a panel. */
static inline size_t int4_group_bytes(const format_t *format, size_t width)
{
    return width * (format->group / 2 + (format->zeros ? 4 : 2));
}

/* The parts of a group. */
static inline const uint16_t *int4_scales(const void *group)
{
    return group;
}

static inline const uint16_t *int4_offsets(const void *group, size_t width)
{
    return (const uint16_t *)group + width;
}

static inline const uint32_t *int4_words(const format_t *format, const void *group, size_t width)
{
    return (
        const uint32_t *)(const void *)((const uint16_t *)group + width * (format->zeros ? 2 : 1));
}

static inline unsigned int4_code(uint32_t word, size_t i)
{
    return word >> 4 * i & 15u;
}

#endif
