/* The layout of the dot product fold. */
#include "engine/kernels/fold.h"

#include <string.h>

#include "engine/kernels/kernels.h"

/* Of a chain of `chain` places that holds `n` inputs, where its i-th lies: inputs come last, and the odd
 * place of a pair before the even one. */
static size_t place_in_chain(size_t chain, size_t n, size_t i)
{
    return (i + chain - n) ^ 1;
}

size_t fold_position(size_t inputs, size_t k)
{
    fold_shape_t s = fold_shape(inputs);
    size_t at = FOLD_CHAINS * s.chain;
    if (k < FOLD_CHAINS * s.chunks) {
        size_t r = k % FOLD_CHAINS / FOLD_LANES, l = k % FOLD_LANES;
        return (fold_order(l) * FOLD_LANES + fold_order(r)) * s.chain +
               place_in_chain(s.chain, s.chunks, k / FOLD_CHAINS);
    }
    k -= FOLD_CHAINS * s.chunks;
    if (k < FOLD_LANES * s.short_chain)
        return at + fold_order(k % FOLD_LANES) * s.short_chain + (k / FOLD_LANES ^ 1);
    return at + k;
}

/* Eight elements; shuffles of them compile to the registers that every host has. */
typedef int16_t eight_t __attribute__((vector_size(16)));
typedef eight_t eight_in_memory_t __attribute__((aligned(2), may_alias));

/* The smallest magnitude but for zero, as bf16; 0x7fff where all are zero. */
static int16_t least_magnitude(size_t n, const uint16_t *x)
{
    enum { LANES = 8, NONE = 0x7fff };
    eight_t least = (eight_t){0} + NONE;
    int16_t result = NONE;
    size_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        eight_t magnitude = *(const eight_in_memory_t *)(x + k) & NONE;
        magnitude |= (magnitude == 0) & NONE;
        eight_t less = magnitude < least;
        least = (less & magnitude) | (~less & least);
    }
    for (int i = 0; i < LANES; i++)
        result = least[i] < result ? least[i] : result;
    for (; k < n; k++) {
        int16_t magnitude = (int16_t)(x[k] & NONE);
        result = magnitude != 0 && magnitude < result ? magnitude : result;
    }
    return result;
}

/* Of values; 0 where all are zero. A denormal is deeper than anything may be. */
static uint32_t depth_of(size_t n, const uint16_t *x)
{
    enum { NONE = 0x7fff, DENORMAL = 1024 };
    int16_t least = least_magnitude(n, x);
    uint32_t exponent = (uint32_t)least >> 7;
    return least == NONE ? 0 : exponent == 0 ? DENORMAL : 256 - exponent;
}

/* 8 x 8, transposed. */
static void transpose(eight_t x[8])
{
    eight_t y[8];
    for (int i = 0; i < 4; i++) {
        y[2 * i] = __builtin_shuffle(x[i], x[i + 4], (eight_t){0, 8, 1, 9, 2, 10, 3, 11});
        y[2 * i + 1] = __builtin_shuffle(x[i], x[i + 4], (eight_t){4, 12, 5, 13, 6, 14, 7, 15});
    }
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __builtin_shuffle(y[i], y[i + 4], (eight_t){0, 8, 1, 9, 2, 10, 3, 11});
        x[2 * i + 1] = __builtin_shuffle(y[i], y[i + 4], (eight_t){4, 12, 5, 13, 6, 14, 7, 15});
    }
    for (int i = 0; i < 4; i++) {
        y[2 * i] = __builtin_shuffle(x[i], x[i + 4], (eight_t){0, 8, 1, 9, 2, 10, 3, 11});
        y[2 * i + 1] = __builtin_shuffle(x[i], x[i + 4], (eight_t){4, 12, 5, 13, 6, 14, 7, 15});
    }
    memcpy(x, y, sizeof y);
}

/* Places [at, at + 8) of the 8 chains of vector r. src: the inputs of place `at`, and so on; those of a pair
 * are read the other way round, because the odd place comes first. */
static void permute_eight(size_t chain, size_t at, size_t r, const uint16_t *src, uint16_t *dst)
{
    eight_t x[8];
    for (size_t i = 0; i < 8; i++)
        x[i] = *(const eight_in_memory_t *)(src + (i ^ 1) * FOLD_CHAINS);
    transpose(x);
    for (size_t l = 0; l < FOLD_LANES; l++)
        *(eight_in_memory_t *)(dst + (fold_order(l) * FOLD_LANES + fold_order(r)) * chain + at) =
            x[l];
}

/* The 64 chains of a row; zeros come first where there is one too many places. */
static void permute(const fold_shape_t *s, const uint16_t *src, uint16_t *dst)
{
    size_t zero = s->chain - s->chunks, at = 2 * zero;
    for (size_t r = 0; r < FOLD_LANES; r++)
        for (size_t i = at; i + 8 <= s->chain; i += 8)
            permute_eight(s->chain, i, r, src + (i - zero) * FOLD_CHAINS + FOLD_LANES * r, dst);
    size_t done = at + (s->chain - at) / 8 * 8;
    for (size_t q = 0; q < FOLD_CHAINS; q++) {
        const uint16_t *from =
            src + FOLD_LANES * fold_order(q % FOLD_LANES) + fold_order(q / FOLD_LANES);
        uint16_t *to = dst + q * s->chain;
        if (zero != 0) {
            to[1] = 0;
            to[0] = from[0];
        }
        for (size_t i = done; i < s->chain; i++)
            to[i ^ 1] = from[FOLD_CHAINS * (i - zero)];
    }
}

void fold_pack_row(size_t inputs, const uint16_t *src, uint16_t *dst)
{
    fold_shape_t s = fold_shape(inputs);
    size_t elements = fold_inputs(inputs);
    uint32_t depth = depth_of(inputs, src);
    if (s.chain > 0)
        permute(&s, src, dst);
    for (size_t k = FOLD_CHAINS * s.chunks; k < inputs; k++)
        dst[fold_position(inputs, k)] = src[k];
    if (s.last % 2 != 0)
        dst[elements - 1] = 0;
    memset(dst + elements, 0, FOLD_DEPTH_BYTES);
    memcpy(dst + elements, &depth, sizeof depth);
}

/* ---- Panels ---------------------------------------------------------------------------------- */

static size_t panel_bytes(size_t columns, size_t width)
{
    return fold_inputs(columns) * width * sizeof(uint16_t) + FOLD_DEPTH_BYTES;
}

static size_t matrix_bytes(const format_t *self, size_t rows, size_t columns)
{
    (void)self;
    size_t outputs = kernel_padded_outputs(rows), whole = outputs / KERNEL_PANEL;
    size_t rest = outputs % KERNEL_PANEL;
    return columns == 0 ? 0
                        : whole * panel_bytes(columns, KERNEL_PANEL) +
                              (rest > 0 ? panel_bytes(columns, rest) : 0);
}

static size_t vector_bytes(const format_t *self, size_t elements)
{
    (void)self;
    return kernel_padded_outputs(elements) * sizeof(uint16_t);
}

static size_t offset(const format_t *self, size_t columns, size_t width, size_t p, size_t k)
{
    (void)self;
    return p * panel_bytes(columns, KERNEL_PANEL) + k * width * sizeof(uint16_t);
}

/* One pair of inputs of all rows: cache lines of each are used for 64 pairs that follow. */
static void pack_pair(
    size_t rows, size_t columns, const uint16_t *first, const uint16_t *second, uint32_t *to)
{
    if (first == NULL)
        for (size_t r = 0; r < rows; r++)
            to[r] = second[r * columns];
    else
        for (size_t r = 0; r < rows; r++)
            to[r] = (uint32_t)first[r * columns] << 16 | second[r * columns];
}

static void pack_rows(const format_t *self, size_t rows, size_t columns, const void *src,
    void *panel, size_t width, size_t first_output)
{
    (void)self;
    fold_shape_t s = fold_shape(columns);
    const uint16_t *x = src;
    uint32_t *to = (uint32_t *)panel + first_output;
    for (size_t pair = 0; pair < s.chain / 2; pair++)
        for (size_t p = 0; p < FOLD_CHAINS; p++) {
            size_t chain = fold_order(p % FOLD_LANES) * FOLD_LANES + fold_order(p / FOLD_LANES);
            size_t chunk = 2 * pair + s.chunks - s.chain; /* wraps where a zero comes first */
            bool zero = pair == 0 && s.chunks != s.chain;
            const uint16_t *first = zero ? NULL : x + chunk * FOLD_CHAINS + p;
            pack_pair(rows, columns, first, x + (chunk + 1) * FOLD_CHAINS + p,
                to + (chain * s.chain / 2 + pair) * width);
        }
    for (size_t k = FOLD_CHAINS * s.chunks; k < columns; k++) {
        size_t at = fold_position(columns, k);
        for (size_t r = 0; r < rows; r++)
            ((uint16_t *)(to + at / 2 * width + r))[at % 2] = x[r * columns + k];
    }
    uint32_t *depth = (uint32_t *)panel + fold_inputs(columns) / 2 * width;
    uint32_t deepest = depth_of(rows * columns, x);
    *depth = deepest > *depth ? deepest : *depth;
}

static void unpack_row(
    const format_t *self, size_t columns, const void *panel, size_t width, size_t output, void *dst)
{
    (void)self;
    for (size_t k = 0; k < columns; k++) {
        size_t at = fold_position(columns, k);
        ((uint16_t *)dst)[k] = ((const uint16_t *)panel)[(at / 2 * width + output) * 2 + at % 2];
    }
}

const format_t *format_fold(void)
{
    static const format_t fold = {.name = "bf16",
        .row_dtype = DTYPE_BF16,
        .matrix_bytes = matrix_bytes,
        .vector_bytes = vector_bytes,
        .offset = offset,
        .pack_rows = pack_rows,
        .unpack_row = unpack_row};
    return &fold;
}
