/* Packed bf16 unpacked with vectors (packed.h): codes become high bytes by a lookup in the palette, and low and
 * high bytes are interleaved. For sources that are compiled several times, see fma.h. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_PACKED_VECTORS_H
#define CHOIR_KERNELS_PACKED_VECTORS_H

#include "engine/kernels/byte_vectors.h"
#include "engine/kernels/fma.h"
#include "engine/kernels/packed.h"
#include "engine/kernels/tiles.h"

#define PACKED_VECTORS (64 / REGISTER_BYTES) /* of a pair's codes */
#define UNPACK_AHEAD_BYTES 1024
#define PACKED_HALF_WORDS 32 /* of 16 outputs */

/* Low and high bytes of 32 outputs of a pair, the `part`-th vectors of them, interleaved. */
INLINE void packed_put_words(vec_t low, vec_t high, size_t part, uint16_t *to)
{
    to += part * REGISTER_BYTES / sizeof *to;
    STORE(to, FIRST_HALVES(low, high));
    STORE(to + PACKED_HALF_WORDS, SECOND_HALVES(low, high));
}

INLINE void packed_unpack_coded(const packed_block_t *block, size_t first, size_t n, uint16_t *to)
{
    const vec_t palette = PALETTE(block->palette);
    const uint8_t *from = packed_pair(block, first);
    for (size_t p = 0; p < n; p++, from += PACKED_PAIR_BYTES, to += PACKED_PAIR_WEIGHTS) {
        prefetch_unpacked(from, PACKED_PAIR_BYTES, UNPACK_AHEAD_BYTES);
        for (size_t i = 0; i < PACKED_VECTORS; i++) {
            vec_t codes = LOAD(from + PACKED_PAIR_WEIGHTS + i * REGISTER_BYTES);
            const uint8_t *low = from + i * REGISTER_BYTES;
            packed_put_words(LOAD(low), LOOK_UP(palette, LOW_CODES(codes)), i, to);
            packed_put_words(
                LOAD(low + 64), LOOK_UP(palette, HIGH_CODES(codes)), i, to + 2 * PACKED_HALF_WORDS);
        }
    }
}

INLINE void packed_unpack_spilled(const packed_block_t *block, size_t first, size_t n, uint16_t *to)
{
    for (size_t p = first; p < first + n; p++, to += PACKED_PAIR_WEIGHTS)
        for (size_t unit = 0; unit < 2; unit++)
            for (size_t i = 0; i < PACKED_VECTORS; i++) {
                size_t at = unit * 64 + i * REGISTER_BYTES;
                packed_put_words(LOAD(packed_pair(block, p) + at),
                    LOAD(packed_spilled(block, p) + at), i, to + unit * 2 * PACKED_HALF_WORDS);
            }
}

/* Pairs [first, first + n) of a block. to: [n][64][2] */
static inline void packed_unpack_pairs(
    const packed_block_t *block, size_t first, size_t n, uint16_t *to)
{
    if (block->n_exceptions == PACKED_SPILLED) {
        packed_unpack_spilled(block, first, n, to);
        return;
    }
    packed_unpack_coded(block, first, n, to);
    packed_patch(block, first, n, to);
}

#endif
