/* Reads a part of a quantised matrix, and unpacks its codes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "sharding/checkpoint/quantised_internal.h"

#define ALIGN 64
#define WORD_BYTES 4

static size_t per_word(const quantised_t *m)
{
    return 32 / m->scheme.bits;
}

static bool by_input(const quantised_t *m) /* [K, N] in the file */
{
    return m->scheme.layout == QUANTISED_GPTQ || m->scheme.layout == QUANTISED_AWQ;
}

static bool in_bytes(const quantised_t *m)
{
    return m->scheme.layout >= QUANTISED_INT8;
}

static uint32_t word_at(const unsigned char *words, size_t i)
{
    uint32_t word;
    memcpy(&word, words + i * WORD_BYTES, sizeof word);
    return word;
}

/* ---- The memory of a stage ------------------------------------------------------------------- */

/* Upper bounds for parts that begin anywhere. */
static size_t code_bytes(const quantised_t *m, size_t rows, size_t columns)
{
    if (in_bytes(m))
        return rows * columns;
    size_t words = 2 + (m->scheme.layout == QUANTISED_AWQ ? rows : columns) / per_word(m);
    return words * WORD_BYTES * (m->scheme.layout == QUANTISED_AWQ ? columns : rows);
}

static size_t zero_bytes(const quantised_t *m, size_t rows)
{
    if (m->zeros == NULL)
        return 0;
    return m->n_groups * (in_bytes(m) ? rows : (rows / per_word(m) + 2) * WORD_BYTES);
}

static size_t scale_rows(const quantised_t *m, size_t rows)
{
    return by_input(m) ? rows : size_min(rows, rows / m->block_rows + 2);
}

/* Hands out pieces of the memory; from NULL it only counts. */
static void *take(char *memory, size_t *used, size_t bytes)
{
    void *piece = memory == NULL ? NULL : memory + *used;
    *used += size_round_up(bytes, ALIGN);
    return piece;
}

static size_t lay_out(
    quantised_stage_t *stage, const quantised_t *m, size_t rows, size_t columns, char *memory)
{
    size_t used = 0, n_scales = scale_rows(m, rows) * m->n_groups,
           together = size_min(rows, QUANTISED_ROWS);
    take(memory, &used, sizeof *stage);
    stage->codes = take(memory, &used, code_bytes(m, rows, columns));
    /* Widened in place from the end. */
    stage->scales = take(memory, &used, n_scales * sizeof(float));
    stage->zeros = take(memory, &used, zero_bytes(m, rows));
    stage->group_of = take(
        memory, &used, size_max(columns, m->groups != NULL ? m->columns : 0) * sizeof(uint32_t));
    stage->row_stride = size_round_up(columns + 2 * 8, 8);
    stage->row_codes = take(memory, &used, together * stage->row_stride);
    stage->row_scales = take(memory, &used, together * m->n_groups * sizeof(float));
    stage->row_zeros = take(memory, &used, together * m->n_groups);
    stage->row = take(memory, &used, columns * sizeof(float));
    return used;
}

size_t quantised_stage_bytes(const quantised_t *matrix, size_t rows, size_t columns)
{
    quantised_stage_t unused;
    return lay_out(&unused, matrix, rows, columns, NULL);
}

/* ---- Reading --------------------------------------------------------------------------------- */

static int read_codes(checkpoint_t *checkpoint, quantised_stage_t *stage, fail_t *fail)
{
    const quantised_t *m = &stage->matrix;
    const quantised_part_t *part = &stage->part;
    bool along_outputs = m->scheme.layout == QUANTISED_AWQ;
    size_t begin = along_outputs ? part->row_begin : part->col_begin,
           end = along_outputs ? part->row_end : part->col_end;
    size_t unit = in_bytes(m) ? 1 : per_word(m);
    stage->word_begin = begin / unit;
    stage->words = (end + unit - 1) / unit - stage->word_begin;
    size_t word_end = stage->word_begin + stage->words;
    if (m->scheme.layout == QUANTISED_GPTQ)
        return checkpoint_read_raw(checkpoint, m->codes, stage->word_begin, word_end,
            part->row_begin, part->row_end, stage->codes, fail);
    if (along_outputs)
        return checkpoint_read_raw(checkpoint, m->codes, part->col_begin, part->col_end,
            stage->word_begin, word_end, stage->codes, fail);
    return checkpoint_read_raw(checkpoint, m->codes, part->row_begin, part->row_end,
        stage->word_begin, word_end, stage->codes, fail);
}

/* A number of bytes as exponents, 2^(byte - 127); in place, from the end. */
static void widen_exponents(float *scales, size_t n)
{
    const unsigned char *bytes = (const unsigned char *)scales;
    for (size_t i = n; i-- > 0;)
        scales[i] = ldexpf(1.0f, (int)bytes[i] - 127);
}

static int check_scales(const quantised_stage_t *stage, size_t rows, size_t columns,
    size_t first_row, size_t first_column, fail_t *fail)
{
    const checkpoint_tensor_t *tensor = stage->matrix.scales;
    for (size_t i = 0; i < rows * columns; i++) {
        float s = stage->scales[i];
        if (!(s > 0 && s <= 3.4e38f))
            return fail_set(fail, FAIL_MODEL,
                "%s: tensor %s: expected scales above 0 and finite, found %g at [%zu, %zu]",
                tensor->file, tensor->name, (double)s, first_row + i / columns,
                first_column + i % columns);
    }
    return 0;
}

static int read_scales(checkpoint_t *checkpoint, quantised_stage_t *stage, fail_t *fail)
{
    const quantised_t *m = &stage->matrix;
    const quantised_part_t *part = &stage->part;
    const checkpoint_tensor_t *tensor = m->scales;
    size_t row_begin = 0, row_end = m->n_groups, col_begin = part->row_begin,
           col_end = part->row_end;
    stage->block_begin = part->row_begin / m->block_rows;
    if (!by_input(m)) {
        row_begin = stage->block_begin;
        row_end = (part->row_end + m->block_rows - 1) / m->block_rows;
        col_begin = 0;
        col_end = m->n_groups;
    }
    size_t n = (row_end - row_begin) * (col_end - col_begin);
    if (checkpoint_read_raw(
            checkpoint, tensor, row_begin, row_end, col_begin, col_end, stage->scales, fail) != 0)
        return fail->status;
    if (!tensor->readable)
        widen_exponents(stage->scales, n);
    else if (tensor->dtype != DTYPE_F32)
        for (size_t i = n; i-- > 0;) {
            uint16_t half;
            memcpy(&half, (const char *)stage->scales + i * sizeof half, sizeof half);
            stage->scales[i] =
                tensor->dtype == DTYPE_F16 ? f32_from_f16(half) : f32_from_bf16(half);
        }
    return check_scales(
        stage, row_end - row_begin, col_end - col_begin, row_begin, col_begin, fail);
}

static int read_zeros(checkpoint_t *checkpoint, quantised_stage_t *stage, fail_t *fail)
{
    const quantised_t *m = &stage->matrix;
    const quantised_part_t *part = &stage->part;
    size_t unit = in_bytes(m) ? m->block_rows : per_word(m);
    if (m->zeros == NULL)
        return 0;
    stage->zero_word_begin = part->row_begin / unit;
    stage->zero_words = (part->row_end + unit - 1) / unit - stage->zero_word_begin;
    size_t end = stage->zero_word_begin + stage->zero_words;
    if (!by_input(m))
        return checkpoint_read_raw(
            checkpoint, m->zeros, stage->zero_word_begin, end, 0, m->n_groups, stage->zeros, fail);
    if (checkpoint_read_raw(checkpoint, m->zeros, 0, m->n_groups, stage->zero_word_begin, end,
            stage->zeros, fail) != 0)
        return fail->status;
    /* The sum of whole words: what a field carries goes into the next, as in gptqmodel. */
    uint32_t *words = (uint32_t *)(void *)stage->zeros;
    uint32_t ones = m->scheme.bits == 4 ? 0x11111111u : 0x01010101u;
    if (m->scheme.zeros_minus_one)
        for (size_t i = 0; i < m->n_groups * stage->zero_words; i++)
            words[i] += ones;
    return 0;
}

static int check_groups(const quantised_t *m, const uint32_t *groups, fail_t *fail)
{
    const checkpoint_tensor_t *tensor = m->groups;
    for (size_t k = 0; k < m->columns; k++) {
        if (groups[k] >= m->n_groups)
            return fail_set(fail, FAIL_MODEL,
                "%s: tensor %s: expected groups from 0 to %zu, found %d at [%zu]", tensor->file,
                tensor->name, m->n_groups - 1, (int)groups[k], k);
        if (m->scheme.layout == QUANTISED_GPTQ && !m->scheme.act_order && groups[k] != k / m->group)
            return fail_set(fail, FAIL_MODEL,
                "%s: tensor %s: expected group %zu at [%zu], as desc_act is false, found %d",
                tensor->file, tensor->name, k / m->group, k, (int)groups[k]);
    }
    return 0;
}

static int read_groups(checkpoint_t *checkpoint, quantised_stage_t *stage, fail_t *fail)
{
    const quantised_t *m = &stage->matrix;
    size_t begin = stage->part.col_begin, n = stage->part.col_end - begin;
    uint32_t *groups = stage->group_of;
    if (m->groups == NULL) {
        for (size_t k = 0; k < n; k++)
            groups[k] = (uint32_t)((begin + k) / m->group);
    } else {
        if (checkpoint_read_raw(checkpoint, m->groups, 0, m->columns, 0, 1, groups, fail) != 0 ||
            check_groups(m, groups, fail) != 0)
            return fail->status;
        memmove(groups, groups + begin, n * sizeof *groups);
    }
    stage->in_order = true;
    for (size_t k = 1; k < n; k++)
        stage->in_order = stage->in_order && groups[k - 1] <= groups[k];
    return 0;
}

int quantised_order(
    checkpoint_t *checkpoint, const quantised_t *matrix, uint32_t *order, fail_t *fail)
{
    const size_t columns = matrix->columns;
    uint32_t *groups = calloc(columns + matrix->n_groups, sizeof *groups);
    uint32_t *next = groups + columns;
    if (groups == NULL)
        return fail_set(fail, FAIL_MEMORY, "order of %zu inputs: out of memory", columns);
    if (checkpoint_read_raw(checkpoint, matrix->groups, 0, columns, 0, 1, groups, fail) == 0)
        check_groups(matrix, groups, fail);
    for (size_t k = 0; k < columns && fail->status == 0; k++) {
        size_t place = groups[k] * matrix->group + next[groups[k]]++;
        if (next[groups[k]] > matrix->group)
            fail_set(fail, FAIL_MODEL,
                "%s: tensor %s: expected %zu inputs of each group, found more of group %u (--quantised-order dequantize computes it)",
                matrix->groups->file, matrix->groups->name, matrix->group, groups[k]);
        else
            order[place] = (uint32_t)k;
    }
    free(groups);
    return fail->status;
}

/* Of a symmetric matrix every zero is the middle. */
static int check_symmetric(const quantised_stage_t *stage, fail_t *fail)
{
    const quantised_t *m = &stage->matrix;
    uint32_t middle = m->scheme.bits == 4 ? 0x88888888u : 0x80808080u;
    if (m->zeros == NULL || m->scheme.zeros || !by_input(m))
        return 0;
    for (size_t i = 0; i < m->n_groups * stage->zero_words; i++)
        if (word_at(stage->zeros, i) != middle)
            return fail_set(fail, FAIL_MODEL,
                "%s: tensor %s: expected zeros of %u, as quantization_config says symmetric, found the word %08x",
                m->zeros->file, m->zeros->name, 1u << (m->scheme.bits - 1),
                word_at(stage->zeros, i));
    return 0;
}

int quantised_stage(checkpoint_t *checkpoint, const quantised_t *matrix, quantised_part_t part,
    void *memory, const quantised_stage_t **out, fail_t *fail)
{
    quantised_stage_t *stage = memory;
    *stage = (quantised_stage_t){.matrix = *matrix, .part = part};
    lay_out(stage, matrix, part.row_end - part.row_begin, part.col_end - part.col_begin, memory);
    *out = stage;
    if (read_codes(checkpoint, stage, fail) == 0 && read_scales(checkpoint, stage, fail) == 0 &&
        read_zeros(checkpoint, stage, fail) == 0 && check_symmetric(stage, fail) == 0)
        read_groups(checkpoint, stage, fail);
    return fail->status;
}

/* ---- Unpacking ------------------------------------------------------------------------------- */

/* The eight nibbles of a word, low ones first, as the bytes of a number. */
static uint64_t spread_nibbles(uint32_t word)
{
    uint64_t x = word;
    x = (x | x << 16) & 0x0000ffff0000ffffu;
    x = (x | x << 8) & 0x00ff00ff00ff00ffu;
    return (x | x << 4) & 0x0f0f0f0f0f0f0f0fu;
}

static void unpack_word(uint32_t word, unsigned bits, uint8_t *codes)
{
    uint64_t nibbles = spread_nibbles(word);
    if (bits == 4)
        memcpy(codes, &nibbles, sizeof nibbles);
    else
        memcpy(codes, &word, sizeof word);
}

/* AWQ: nibble i of a word is column ORDER[i] of its eight. */
static unsigned awq_shift(size_t column)
{
    static const unsigned char nibble[] = {0, 4, 1, 5, 2, 6, 3, 7};
    return 4u * nibble[column % 8];
}

static void unpack_awq(const quantised_stage_t *stage, size_t first, size_t n)
{
    size_t columns = stage->part.col_end - stage->part.col_begin;
    for (size_t r = 0; r < n; r++) {
        unsigned shift = awq_shift(first + r);
        const unsigned char *words =
            stage->codes + ((first + r) / 8 - stage->word_begin) * WORD_BYTES;
        uint8_t *to = stage->row_codes + r * stage->row_stride;
        for (size_t k = 0; k < columns; k++)
            to[k] = (uint8_t)(word_at(words, k * stage->words) >> shift & 15u);
    }
}

/* Codes of outputs [first, first + n), from the word of the part's first input on. */
static void unpack_codes(const quantised_stage_t *stage, size_t first, size_t n)
{
    const quantised_t *m = &stage->matrix;
    size_t staged = stage->part.row_end - stage->part.row_begin,
           from = first - stage->part.row_begin;
    if (m->scheme.layout == QUANTISED_AWQ) {
        unpack_awq(stage, first, n);
        return;
    }
    for (size_t r = 0; r < n; r++) {
        uint8_t *to = stage->row_codes + r * stage->row_stride;
        const unsigned char *row = stage->codes + (from + r) * stage->words;
        if (m->scheme.layout == QUANTISED_INT8)
            for (size_t k = 0; k < stage->words; k++)
                to[k] = row[k] ^ 0x80u;
        else if (in_bytes(m))
            memcpy(to, row, stage->words);
        else if (m->scheme.layout == QUANTISED_PACKED)
            for (size_t w = 0; w < stage->words; w++)
                unpack_word(word_at(stage->codes, (from + r) * stage->words + w), m->scheme.bits,
                    to + w * per_word(m));
    }
    /* Word by word of all outputs, in the order of memory. */
    if (m->scheme.layout == QUANTISED_GPTQ)
        for (size_t w = 0; w < stage->words; w++)
            for (size_t r = 0; r < n; r++)
                unpack_word(word_at(stage->codes, w * staged + from + r), m->scheme.bits,
                    stage->row_codes + r * stage->row_stride + w * per_word(m));
}

static uint8_t zero_of(const quantised_stage_t *stage, size_t row, size_t group)
{
    const quantised_t *m = &stage->matrix;
    if (m->scheme.layout >= QUANTISED_FP8)
        return 0;
    if (m->zeros == NULL)
        return (uint8_t)(1u << (m->scheme.bits - 1));
    if (in_bytes(m))
        return stage->zeros[(row / m->block_rows - stage->zero_word_begin) * m->n_groups + group] ^
               0x80u;
    size_t at = row / per_word(m) - stage->zero_word_begin;
    uint32_t word = word_at(
        stage->zeros, by_input(m) ? group * stage->zero_words + at : at * m->n_groups + group);
    unsigned shift = m->scheme.layout == QUANTISED_AWQ
                         ? awq_shift(row)
                         : (unsigned)(row % per_word(m)) * m->scheme.bits;
    return (uint8_t)(word >> shift & ((1u << m->scheme.bits) - 1));
}

static float scale_of(const quantised_stage_t *stage, size_t row, size_t group)
{
    const quantised_t *m = &stage->matrix;
    size_t staged = stage->part.row_end - stage->part.row_begin;
    return by_input(m)
               ? stage->scales[group * staged + row - stage->part.row_begin]
               : stage->scales[(row / m->block_rows - stage->block_begin) * m->n_groups + group];
}

void quantised_unpack(
    const quantised_stage_t *stage, size_t row_begin, size_t row_end, quantised_rows_t *rows)
{
    const quantised_t *m = &stage->matrix;
    size_t n = row_end - row_begin;
    bool whole_words = !in_bytes(m) && m->scheme.layout != QUANTISED_AWQ;
    unpack_codes(stage, row_begin, n);
    for (size_t r = 0; r < n; r++)
        for (size_t g = 0; g < m->n_groups; g++) {
            stage->row_scales[r * m->n_groups + g] = scale_of(stage, row_begin + r, g);
            stage->row_zeros[r * m->n_groups + g] = zero_of(stage, row_begin + r, g);
        }
    *rows = (quantised_rows_t){.n = n,
        .columns = stage->part.col_end - stage->part.col_begin,
        .n_groups = m->n_groups,
        .codes = stage->row_codes + (whole_words ? stage->part.col_begin % per_word(m) : 0),
        .codes_stride = stage->row_stride,
        .scales = stage->row_scales,
        .zeros = stage->row_zeros,
        .group_of = stage->group_of,
        .in_order = stage->in_order};
}
