/* Packed bf16 to the dense layout, with vectors. Compiled twice, see fma.h.
 *
 * Codes become high bytes by a lookup in the palette, and low and high bytes are interleaved. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/fma.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/packed.h"

#ifdef __AVX512F__
#define FILL packed_fill_avx512
#define CODES 1 /* vectors of a pair's codes */
typedef __m512i vec_t;
#define LOAD(at) _mm512_loadu_si512(at)
#define STORE(at, x) _mm512_storeu_si512(at, x)
#define PALETTE(at) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(at)))
#define LOOK_UP(palette, codes) _mm512_shuffle_epi8(palette, codes)
#define LOW_CODES(x) _mm512_and_si512(x, _mm512_set1_epi8(15))
#define HIGH_CODES(x) _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15))
#define FIRST_HALVES(low, high) _mm512_unpacklo_epi8(low, high)
#define SECOND_HALVES(low, high) _mm512_unpackhi_epi8(low, high)
#else
#define FILL packed_fill_avx2
#define CODES 2
typedef __m256i vec_t;
#define LOAD(at) _mm256_loadu_si256((const __m256i *)(at))
#define STORE(at, x) _mm256_storeu_si256((__m256i *)(at), x)
#define PALETTE(at) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(at)))
#define LOOK_UP(palette, codes) _mm256_shuffle_epi8(palette, codes)
#define LOW_CODES(x) _mm256_and_si256(x, _mm256_set1_epi8(15))
#define HIGH_CODES(x) _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15))
#define FIRST_HALVES(low, high) _mm256_unpacklo_epi8(low, high)
#define SECOND_HALVES(low, high) _mm256_unpackhi_epi8(low, high)
#endif

#define AHEAD_BYTES 2048
#define HALF_WORDS 32 /* of 16 outputs */

/* Low and high bytes of 32 outputs of a pair, the `part`-th vectors of them, interleaved. */
INLINE void put_words(vec_t low, vec_t high, size_t part, uint16_t *to)
{
    to += part * REGISTER_BYTES / sizeof *to;
    STORE(to, FIRST_HALVES(low, high));
    STORE(to + HALF_WORDS, SECOND_HALVES(low, high));
}

INLINE void unpack_coded(const packed_block_t *block, size_t first, size_t n, uint16_t *to)
{
    const vec_t palette = PALETTE(block->palette);
    const uint8_t *from = packed_pair(block, first);
    for (size_t p = 0; p < n; p++, from += PACKED_PAIR_BYTES, to += PACKED_PAIR_WEIGHTS) {
        for (size_t line = 0; line < PACKED_PAIR_BYTES; line += 64)
            _mm_prefetch((const char *)from + AHEAD_BYTES + line, _MM_HINT_T0);
        for (size_t i = 0; i < CODES; i++) {
            vec_t codes = LOAD(from + PACKED_PAIR_WEIGHTS + i * REGISTER_BYTES);
            const uint8_t *low = from + i * REGISTER_BYTES;
            put_words(LOAD(low), LOOK_UP(palette, LOW_CODES(codes)), i, to);
            put_words(LOAD(low + 64), LOOK_UP(palette, HIGH_CODES(codes)), i, to + 2 * HALF_WORDS);
        }
    }
}

INLINE void unpack_spilled(const packed_block_t *block, size_t first, size_t n, uint16_t *to)
{
    for (size_t p = first; p < first + n; p++, to += PACKED_PAIR_WEIGHTS)
        for (size_t unit = 0; unit < 2; unit++)
            for (size_t i = 0; i < CODES; i++) {
                size_t at = unit * 64 + i * REGISTER_BYTES;
                put_words(LOAD(packed_pair(block, p) + at), LOAD(packed_spilled(block, p) + at), i,
                    to + unit * 2 * HALF_WORDS);
            }
}

static void unpack_packed(const void *panel, size_t first, size_t n, uint16_t *to)
{
    for (size_t k = first, some; k < first + n; k += some) {
        some = size_min(PACKED_INPUTS - k % PACKED_INPUTS, first + n - k);
        const packed_block_t *block = packed_block_of(panel, k);
        const size_t pair = k % PACKED_INPUTS / 2, pairs = some / 2;
        uint16_t *words = to + (k - first) * KERNEL_PANEL;
        if (block->n_exceptions == PACKED_SPILLED) {
            unpack_spilled(block, pair, pairs, words);
            continue;
        }
        unpack_coded(block, pair, pairs, words);
        packed_patch(block, pair, pairs, words);
    }
}

void FILL(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16)
        kernels->unpack_packed = unpack_packed;
}
