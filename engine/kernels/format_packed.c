/* Packed bf16: its layout, packing, and unpacking in scalar C. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/fold.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/packed.h"

#define BLOCK_PAIRS (PACKED_INPUTS / 2)

/* ---- Elements -------------------------------------------------------------------------------- */

/* Where a weight of a pair lies among its bytes, so that interleaving the halves of vectors of low and high
 * bytes gives outputs in order: of each 32 outputs, 4 of the first 16 and 4 of the others by turns. */
static size_t place_of(size_t output, size_t input)
{
    size_t half = output % 32 / 16, four = output % 16 / 4;
    return output / 32 * 64 + four * 16 + half * 8 + output % 4 * 2 + input;
}

static uint8_t high_byte(const packed_block_t *block, size_t pair, size_t place)
{
    if (block->n_exceptions == PACKED_SPILLED)
        return packed_spilled(block, pair)[place];
    uint8_t codes = packed_pair(block, pair)[PACKED_PAIR_WEIGHTS + place % KERNEL_PANEL];
    return block->palette[place < KERNEL_PANEL ? codes & 15 : codes >> 4];
}

static void unpack_pairs(const packed_block_t *block, size_t first, size_t n, uint16_t *to)
{
    for (size_t p = 0; p < n; p++)
        for (size_t i = 0; i < PACKED_PAIR_WEIGHTS; i++) {
            size_t place = place_of(i / 2, i % 2);
            to[p * PACKED_PAIR_WEIGHTS + i] = (uint16_t)(packed_pair(block, first + p)[place] |
                                                         high_byte(block, first + p, place) << 8);
        }
    if (block->n_exceptions != PACKED_SPILLED)
        packed_patch(block, first, n, to);
}

static void unpack_packed(const void *panel, size_t first, size_t n, uint16_t *to)
{
    for (size_t k = first, some; k < first + n; k += some) {
        some = size_min(PACKED_INPUTS - k % PACKED_INPUTS, first + n - k);
        unpack_pairs(packed_block_of(panel, k), k % PACKED_INPUTS / 2, some / 2,
            to + (k - first) * KERNEL_PANEL);
    }
}

void packed_fill_scalar(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16)
        kernels->unpack_packed = unpack_packed;
}

/* Input k as it lies, of one output. */
static uint16_t weight_at(const void *panel, size_t k, size_t output)
{
    const packed_block_t *block = packed_block_of(panel, k);
    size_t pair = k % PACKED_INPUTS / 2, place = place_of(output, k % 2);
    uint32_t at = (uint32_t)(pair * PACKED_PAIR_WEIGHTS + output * 2 + k % 2);
    uint32_t high = high_byte(block, pair, place);
    if (block->n_exceptions != PACKED_SPILLED)
        for (size_t i = packed_exceptions_before(block, pair);
             i < block->n_exceptions && block->exceptions[i] >> 8 <= at; i++)
            if (block->exceptions[i] >> 8 == at)
                high = block->exceptions[i] & 0xff;
    return (uint16_t)(packed_pair(block, pair)[place] | high << 8);
}

/* ---- Packing --------------------------------------------------------------------------------- */

/* Vectors that compile to the registers that every host has. */
typedef uint8_t bytes_t __attribute__((vector_size(16)));
typedef uint16_t words_t __attribute__((vector_size(16)));
typedef int16_t signed_words_t __attribute__((vector_size(16)));
typedef words_t words_in_memory_t __attribute__((aligned(2), may_alias));
typedef bytes_t bytes_in_memory_t __attribute__((aligned(1), may_alias));

#define WORDS 8 /* of a vector */

/* The largest magnitude. */
static uint16_t most_magnitude(size_t n, const uint16_t *x)
{
    signed_words_t most = {0};
    for (size_t i = 0; i < n; i += WORDS) {
        signed_words_t magnitude =
            (signed_words_t)(*(const words_in_memory_t *)(x + i) & (uint16_t)0x7fff);
        signed_words_t more = magnitude > most;
        most = (more & magnitude) | (~more & most);
    }
    int16_t result = 0;
    for (int i = 0; i < WORDS; i++)
        result = most[i] > result ? most[i] : result;
    return (uint16_t)result;
}

/* The low and the high bytes of a vector of each half of 32 outputs. */
typedef struct split {
    bytes_t low, high;
} split_t;

static inline split_t split_words(const uint16_t *x, const uint16_t *y)
{
    bytes_t a = (bytes_t) * (const words_in_memory_t *)x;
    bytes_t b = (bytes_t) * (const words_in_memory_t *)y;
    return (split_t){__builtin_shuffle(a, b,
                         (bytes_t){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30}),
        __builtin_shuffle(
            a, b, (bytes_t){1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31})};
}

/* Codes of high bytes whose magnitudes are `least` and the seven above: the sign, then which of these. *beyond
 * gets bits where one is not. */
static inline bytes_t codes_of(bytes_t high, uint8_t least, bytes_t *beyond)
{
    bytes_t above = (high & 0x7f) - least;
    bytes_t sign = (bytes_t)((words_t)(high & 0x80) >> 4);
    *beyond |= above & 0xf8;
    return (above & 7) | sign;
}

static bool any(bytes_t x)
{
    uint64_t halves[2];
    memcpy(halves, &x, sizeof halves);
    return (halves[0] | halves[1]) != 0;
}

/* A pair's low bytes, and its codes of consecutive magnitudes; false where some are not among these. */
static bool pack_pair(const uint16_t *x, uint8_t least, uint8_t *to)
{
    bytes_t beyond = {0};
    for (size_t i = 0; i < 4; i++) {
        bytes_t codes[2];
        for (size_t unit = 0; unit < 2; unit++) {
            split_t s = split_words(x + unit * 64 + i * WORDS, x + unit * 64 + 32 + i * WORDS);
            *(bytes_in_memory_t *)(to + unit * 64 + i * 16) = s.low;
            codes[unit] = codes_of(s.high, least, &beyond);
        }
        *(bytes_in_memory_t *)(to + PACKED_PAIR_WEIGHTS + i * 16) =
            codes[0] | (bytes_t)((words_t)codes[1] << 4);
    }
    return !any(beyond);
}

/* Notes a pair's weights whose magnitude is not one of eight; one more than fit is enough. */
static void note_exceptions(const uint16_t *x, size_t pair, uint8_t least, packed_block_t *block)
{
    for (size_t i = 0; i < PACKED_PAIR_WEIGHTS; i++) {
        uint32_t high = x[i] >> 8, above = (high & 0x7f) - least;
        if (above < 8)
            continue;
        if (block->n_exceptions < PACKED_EXCEPTIONS)
            block->exceptions[block->n_exceptions] =
                (uint32_t)(pair * PACKED_PAIR_WEIGHTS + i) << 8 | high;
        block->n_exceptions++;
    }
}

/* Packs a block with the eight largest magnitudes; false: there are too many others. Normal weights have a few. */
static bool pack_largest(const uint16_t *x, size_t pairs, packed_block_t *block, uint8_t *to)
{
    uint8_t most = (uint8_t)(most_magnitude(pairs * PACKED_PAIR_WEIGHTS, x) >> 8);
    uint8_t least = most < 7 ? 0 : (uint8_t)(most - 7);
    for (size_t i = 0; i < PACKED_PALETTE; i++)
        block->palette[i] = (uint8_t)((least + i % 8) | (i / 8) << 7);
    block->n_exceptions = 0;
    for (size_t p = 0; p < pairs && block->n_exceptions <= PACKED_EXCEPTIONS; p++)
        if (!pack_pair(x + p * PACKED_PAIR_WEIGHTS, least, to + p * PACKED_PAIR_BYTES))
            note_exceptions(x + p * PACKED_PAIR_WEIGHTS, p, least, block);
    return block->n_exceptions <= PACKED_EXCEPTIONS;
}

/* The most frequent high bytes become the palette. code: [256] of each byte, PACKED_PALETTE: none */
static void choose_palette(
    const uint16_t *x, size_t n, uint8_t palette[PACKED_PALETTE], uint8_t code[256])
{
    uint32_t counts[256] = {0};
    for (size_t i = 0; i < n; i++)
        counts[x[i] >> 8]++;
    memset(code, PACKED_PALETTE, 256);
    for (uint8_t c = 0; c < PACKED_PALETTE; c++) {
        size_t best = 0;
        for (size_t i = 1; i < 256; i++)
            if (counts[i] > counts[best])
                best = i;
        palette[c] = (uint8_t)best;
        if (counts[best] > 0)
            code[best] = c;
        counts[best] = 0;
    }
}

/* The same as pack_largest with the most frequent high bytes, slower. Low bytes are packed in any case. */
static bool pack_frequent(const uint16_t *x, size_t pairs, packed_block_t *block, uint8_t *to)
{
    uint8_t code[256];
    choose_palette(x, pairs * PACKED_PAIR_WEIGHTS, block->palette, code);
    block->n_exceptions = 0;
    for (size_t p = 0; p < pairs; p++, x += PACKED_PAIR_WEIGHTS, to += PACKED_PAIR_BYTES) {
        uint8_t *codes = to + PACKED_PAIR_WEIGHTS;
        memset(codes, 0, KERNEL_PANEL);
        for (size_t i = 0; i < PACKED_PAIR_WEIGHTS; i++) {
            size_t place = place_of(i / 2, i % 2);
            uint8_t high = (uint8_t)(x[i] >> 8), c = code[high];
            to[place] = (uint8_t)x[i];
            if (c < PACKED_PALETTE) {
                codes[place % KERNEL_PANEL] |= (uint8_t)(place < KERNEL_PANEL ? c : c << 4);
                continue;
            }
            if (block->n_exceptions < PACKED_EXCEPTIONS)
                block->exceptions[block->n_exceptions] =
                    (uint32_t)(p * PACKED_PAIR_WEIGHTS + i) << 8 | high;
            block->n_exceptions++;
        }
    }
    return block->n_exceptions <= PACKED_EXCEPTIONS;
}

/* High bytes of a block go elsewhere. */
static int spill_block(
    const uint16_t *x, size_t pairs, packed_block_t *block, spill_t *spill, fail_t *fail)
{
    size_t bytes = pairs * PACKED_PAIR_WEIGHTS;
    size_t at = atomic_fetch_add(&spill->used, bytes);
    if (at + bytes > spill->bytes)
        return fail_set(fail, FAIL_MEMORY,
            "packed weights: expected at most %zu bytes of blocks with too many different exponents, found more; use --weights dense",
            spill->bytes);
    uint8_t *to = (uint8_t *)spill->at + at;
    block->n_exceptions = PACKED_SPILLED;
    block->spilled = (int64_t)((intptr_t)to - (intptr_t)block);
    for (size_t p = 0; p < pairs; p++)
        for (size_t i = 0; i < PACKED_PAIR_WEIGHTS; i++)
            to[p * PACKED_PAIR_WEIGHTS + place_of(i / 2, i % 2)] =
                (uint8_t)(x[p * PACKED_PAIR_WEIGHTS + i] >> 8);
    return 0;
}

/* inputs: as they lie, an even number */
static int pack_blocks(
    size_t inputs, const uint16_t *dense, void *panel, spill_t *spill, fail_t *fail)
{
    for (size_t k = 0; k < inputs; k += PACKED_INPUTS) {
        const uint16_t *x = dense + k * KERNEL_PANEL;
        packed_block_t *block = (packed_block_t *)(uintptr_t)packed_block_of(panel, k);
        size_t pairs = size_min(BLOCK_PAIRS, (inputs - k) / 2);
        uint8_t *to = (uint8_t *)(block + 1);
        if (!pack_largest(x, pairs, block, to) && !pack_frequent(x, pairs, block, to) &&
            spill_block(x, pairs, block, spill, fail) != 0)
            return fail->status;
    }
    return 0;
}

/* ---- Formats --------------------------------------------------------------------------------- */

static const format_t packed_plain, packed_fold;

const format_t *format_of_packed(const format_t *packed)
{
    return packed == &packed_fold ? format_fold() : format_dense(DTYPE_BF16);
}

bool format_packs(const format_t *format, size_t width)
{
    return format->kind == FORMAT_PACKED && width == KERNEL_PANEL;
}

/* Inputs as a panel has them, and bytes behind them. */
static size_t inputs_of(const format_t *format, size_t columns)
{
    return format == &packed_fold ? fold_inputs(columns)
                                  : kernel_padded_inputs(DTYPE_BF16, columns);
}

static size_t tail_bytes(const format_t *format)
{
    return format == &packed_fold ? FOLD_DEPTH_BYTES : 0;
}

static size_t panel_bytes(const format_t *format, size_t columns)
{
    return columns == 0 ? 0 : packed_blocks_bytes(inputs_of(format, columns)) + tail_bytes(format);
}

static size_t matrix_bytes(const format_t *self, size_t rows, size_t columns)
{
    size_t outputs = kernel_padded_outputs(rows), rest = outputs % KERNEL_PANEL;
    return outputs / KERNEL_PANEL * panel_bytes(self, columns) +
           (rest > 0 ? format_matrix_bytes(format_of_packed(self), rest, columns) : 0);
}

static size_t vector_bytes(const format_t *self, size_t elements)
{
    (void)self;
    return kernel_padded_outputs(elements) * sizeof(uint16_t);
}

static size_t offset(const format_t *self, size_t columns, size_t width, size_t p, size_t k)
{
    size_t panel = p * panel_bytes(self, columns);
    const format_t *dense = format_of_packed(self);
    if (!format_packs(self, width))
        return panel + dense->offset(dense, columns, width, 0, k);
    return panel + k / PACKED_INPUTS * packed_block_bytes(PACKED_INPUTS);
}

static int pack_panel(const format_t *self, size_t columns, const void *dense, void *panel,
    spill_t *spill, fail_t *fail)
{
    size_t inputs = inputs_of(self, columns);
    memcpy((char *)panel + packed_blocks_bytes(inputs),
        (const uint16_t *)dense + inputs * KERNEL_PANEL, tail_bytes(self));
    return pack_blocks(inputs, dense, panel, spill, fail);
}

static void unpack_row(
    const format_t *self, size_t columns, const void *panel, size_t width, size_t output, void *dst)
{
    const format_t *dense = format_of_packed(self);
    uint16_t *to = dst;
    if (!format_packs(self, width)) {
        dense->unpack_row(dense, columns, panel, width, output, dst);
        return;
    }
    for (size_t k = 0; k < columns; k++)
        to[k] = weight_at(panel, self == &packed_fold ? fold_position(columns, k) : k, output);
}

#define PACKED                                                                                     \
    .name = "packed-bf16", .kind = FORMAT_PACKED, .row_dtype = DTYPE_BF16,                         \
    .matrix_bytes = matrix_bytes, .vector_bytes = vector_bytes, .offset = offset,                  \
    .pack_panel = pack_panel, .unpack_row = unpack_row

static const format_t packed_plain = {PACKED}, packed_fold = {PACKED};

const format_t *format_packed(const format_t *dense)
{
    return dense == format_fold() ? &packed_fold : &packed_plain;
}
