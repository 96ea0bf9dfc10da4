/* The layout of packed bf16, beside format.h, which describes it. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_PACKED_H
#define CHOIR_KERNELS_PACKED_H

#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/format.h"
#include "engine/kernels/kernels.h"

#define PACKED_INPUTS 256 /* of a block */
#define PACKED_PALETTE 16
#define PACKED_EXCEPTIONS 26
#define PACKED_SPILLED UINT32_MAX
#define PACKED_PAIR_WEIGHTS (2 * KERNEL_PANEL)
#define PACKED_PAIR_BYTES (3 * KERNEL_PANEL) /* low bytes, then codes */

typedef struct packed_block {
    uint8_t palette[PACKED_PALETTE];
    uint32_t n_exceptions; /* PACKED_SPILLED: high bytes lie elsewhere, and codes mean nothing */
    uint32_t unused;
    union {
        /* Ascending: (pair * 128 + output * 2 + input of the pair) << 8 | high byte */
        uint32_t exceptions[PACKED_EXCEPTIONS];
        int64_t spilled; /* bytes from the block to [pairs][128] high bytes */
    };
} packed_block_t;

_Static_assert(sizeof(packed_block_t) == 128, "a block's head is two cache lines");

/* Bytes of a block of so many inputs, an even number. */
static inline size_t packed_block_bytes(size_t inputs)
{
    return sizeof(packed_block_t) + inputs / 2 * PACKED_PAIR_BYTES;
}

/* The block of input k. */
static inline const packed_block_t *packed_block_of(const void *panel, size_t k)
{
    return (const packed_block_t *)(const void *)((const char *)panel +
                                                  k / PACKED_INPUTS *
                                                      packed_block_bytes(PACKED_INPUTS));
}

/* What a block has of a pair: 128 low bytes, then 64 codes. */
static inline const uint8_t *packed_pair(const packed_block_t *block, size_t pair)
{
    return (const uint8_t *)(block + 1) + pair * PACKED_PAIR_BYTES;
}

static inline const uint8_t *packed_spilled(const packed_block_t *block, size_t pair)
{
    return (const uint8_t *)block + block->spilled + pair * PACKED_PAIR_WEIGHTS;
}

/* Of a block's exceptions, the first one of a pair or later. */
static inline size_t packed_exceptions_before(const packed_block_t *block, size_t pair)
{
    size_t i = 0;
    while (i < block->n_exceptions && block->exceptions[i] >> 8 < pair * PACKED_PAIR_WEIGHTS)
        i++;
    return i;
}

/* Puts the exceptions of pairs [first, first + n) into what was unpacked of these. to: [n][64][2] */
static inline void packed_patch(const packed_block_t *block, size_t first, size_t n, uint16_t *to)
{
    size_t begin = first * PACKED_PAIR_WEIGHTS, end = (first + n) * PACKED_PAIR_WEIGHTS;
    for (size_t i = packed_exceptions_before(block, first); i < block->n_exceptions; i++) {
        size_t place = block->exceptions[i] >> 8;
        if (place >= end)
            break;
        uint16_t *word = to + (place - begin);
        *word = (uint16_t)((*word & 0xff) | block->exceptions[i] << 8);
    }
}

/* Bytes of a whole panel of such a format, without what follows its blocks; of blocks of so many inputs. */
static inline size_t packed_blocks_bytes(size_t inputs)
{
    size_t rest = inputs % PACKED_INPUTS;
    return inputs / PACKED_INPUTS * packed_block_bytes(PACKED_INPUTS) +
           (rest > 0 ? packed_block_bytes(rest) : 0);
}

#endif
