/* Packed int4 by fused multiply-add of f32. Compiled twice, see fma.h.
 *
 * With a code as the float 2^e + code (int4_vectors.h) b = (code - 8) scale + offset is one fused multiply-add,
 * fma(2^e + code, scale, offset - (2^e + 8) scale), where all of that is exact (int4_splits), as it is for scales and
 * zeros of a model. Elsewhere 2^e + 8 is taken away first. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/fma.h"
#include "engine/kernels/int4.h"
#include "engine/kernels/int4_vectors.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

#define VECTORS 4 /* of outputs that are multiplied together: as many chains hide the latency */
#ifdef __AVX512F__
#define FILL int4_fill_avx512
#define ROWS 4 /* 4 x 4 sums of 32 registers */
#else
#define FILL int4_fill_avx2
#define ROWS 2 /* 2 x 4 sums of 16 registers */
#endif
#define AHEAD_BYTES 1024

/* What makes b of some outputs: the scales, and the last operands. */
typedef struct scales {
    vec_f32_t scale[VECTORS], offset[VECTORS][INT4_PLACES];
} scales_t;

/* splits: of int4_splits. A constant after inlining */
INLINE void load_scales(const int vectors, const bool splits, const format_t *format,
    const void *group, size_t width, size_t first, scales_t *s)
{
    for (int v = 0; v < vectors; v++) {
        size_t at = first + (size_t)v * LANES_F32;
        const vec_f32_t none = {0};
        const vec_f32_t offset = format->zeros ? widen_bf16(int4_offsets(group, width) + at) : none;
        s->scale[v] = widen_bf16(int4_scales(group) + at);
        for (int j = 0; j < INT4_PLACES; j++)
            s->offset[v][j] =
                splits ? offset - SET_F32(int4_power[j] + 8.0f) * s->scale[v] : offset;
    }
}

INLINE vec_f32_t weights_of(const bool splits, vec_u32_t words, const scales_t *s, int v, int j)
{
    vec_f32_t code = int4_with_power(words, j);
    if (!splits)
        code = code - SET_F32(int4_power[j] + 8.0f);
    return FMA_F32(code, s->scale[v], s->offset[v][j]);
}

/* ---- Few rows -------------------------------------------------------------------------------- */

/* A group's inputs of some rows, widened. */
typedef struct wide_rows {
    float x[ROWS][INT4_MOST_GROUP] __attribute__((aligned(64)));
} wide_rows_t;

/* A panel's group, and which of its outputs are multiplied. */
typedef struct outputs {
    const format_t *format;
    const char *group;
    size_t width, first;
} outputs_t;

INLINE void chain_group(const int rows, const int vectors, const bool splits, const wide_rows_t *x,
    const outputs_t *o, vec_f32_t sum[ROWS][VECTORS])
{
    scales_t s;
    load_scales(vectors, splits, o->format, o->group, o->width, o->first, &s);
    const uint32_t *words = int4_words(o->format, o->group, o->width) + o->first;
    const size_t n_words = o->format->group / INT4_WORD, width = o->width;
    for (size_t w = 0; w < n_words; w++, words += width) {
        vec_u32_t word[VECTORS];
        for (int v = 0; v < vectors; v++) {
            word[v] = int4_first_part(words + LANES_F32 * v);
            if (v % (64 / REGISTER_BYTES) == 0)
                __builtin_prefetch((const char *)(words + LANES_F32 * v) + AHEAD_BYTES);
        }
#pragma GCC unroll 4
        for (int part = 0; part < INT4_PARTS; part++) {
            for (int v = 0; v < vectors && part > 0; v++)
                word[v] = int4_next_part(word[v], part, words + LANES_F32 * v);
            for (int j = 0; j < INT4_PLACES; j++)
                for (int v = 0; v < vectors; v++) {
                    vec_f32_t b = weights_of(splits, word[v], &s, v, j);
                    for (int r = 0; r < rows; r++)
                        sum[r][v] = FMA_F32(
                            SET_F32(x->x[r][w * INT4_WORD + (size_t)(part * INT4_PLACES + j)]), b,
                            sum[r][v]);
                }
        }
    }
}

INLINE void chain_outputs(const int rows, const int vectors, const bool splits,
    const wide_rows_t *x, const outputs_t *o, bool begins, float *c, size_t c_stride)
{
    vec_f32_t sum[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            if (begins)
                sum[r][v] = (vec_f32_t){0};
            else
                sum[r][v] = *(const mem_f32_t *)(c + (size_t)r * c_stride + LANES_F32 * v);
    chain_group(rows, vectors, splits, x, o, sum);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            *(mem_f32_t *)(c + (size_t)r * c_stride + LANES_F32 * v) = sum[r][v];
}

#define CASE(R, V)                                                                                 \
    case (R)*8 + (V):                                                                              \
        if (int4_splits(o->format, o->group, o->width, o->first, (V)*LANES_F32))                   \
            chain_outputs(R, V, true, x, o, begins, c, c_stride);                                  \
        else                                                                                       \
            chain_outputs(R, V, false, x, o, begins, c, c_stride);                                 \
        break;
#ifdef __AVX512F__
#define CASES(R) CASE(R, 1) CASE(R, 2) CASE(R, 3) CASE(R, 4)
#else
#define CASES(R) CASE(R, 2) CASE(R, 4)
#endif

static void chain_dispatch(size_t rows, size_t vectors, const wide_rows_t *x, const outputs_t *o,
    bool begins, float *c, size_t c_stride)
{
    switch (rows * 8 + vectors) {
        CASES(1)
        CASES(2)
#ifdef __AVX512F__
        CASES(3)
        CASES(4)
#endif
    }
}

static void widen_rows(size_t rows, const uint16_t *a, size_t a_stride, const uint32_t *order,
    size_t first, size_t n, wide_rows_t *to)
{
    for (size_t r = 0; r < rows; r++) {
        const uint16_t *x = a + r * a_stride;
        for (size_t i = 0; i < n && order == NULL; i += LANES_F32)
            *(vec_f32_t *)&to->x[r][i] = widen_bf16(x + first + i);
        for (size_t i = 0; i < n && order != NULL; i++)
            to->x[r][i] = f32_from_bf16(x[order[first + i]]);
    }
}

static void int4_tile(size_t rows, const uint16_t *a, size_t a_stride, const uint32_t *order,
    const format_t *format, const void *panel, size_t width, size_t columns, float *c,
    size_t c_stride)
{
    wide_rows_t x;
    const size_t group_bytes = int4_group_bytes(format, width), n_vectors = width / LANES_F32;
    for (size_t r = 0; r < rows; r += ROWS) {
        size_t n = size_min(rows - r, ROWS);
        outputs_t o = {.format = format, .group = panel, .width = width};
        for (size_t k = 0; k < columns; k += format->group, o.group += group_bytes) {
            widen_rows(n, a + r * a_stride, a_stride, order, k, format->group, &x);
            for (size_t v = 0; v < n_vectors; v += VECTORS) {
                o.first = v * LANES_F32;
                chain_dispatch(n, size_min(n_vectors - v, VECTORS), &x, &o, k == 0,
                    c + r * c_stride + o.first, c_stride);
            }
        }
    }
}

/* ---- Many rows ------------------------------------------------------------------------------- */

INLINE void unpack_group(const bool splits, const format_t *format, const char *group, size_t width,
    size_t first, float *b)
{
    scales_t s;
    load_scales(1, splits, format, group, width, first, &s);
    const uint32_t *words = int4_words(format, group, width) + first;
    for (size_t i = 0; i < format->group; i += INT4_WORD, words += width) {
        vec_u32_t word = int4_first_part(words);
        float *to = b + i * width + first;
#pragma GCC unroll 4
        for (int part = 0; part < INT4_PARTS; part++) {
            if (part > 0)
                word = int4_next_part(word, part, words);
            for (int j = 0; j < INT4_PLACES; j++, to += width)
                *(mem_f32_t *)to = weights_of(splits, word, &s, 0, j);
        }
    }
}

static void int4_unpack(
    const format_t *format, const void *groups, size_t width, size_t inputs, float *b)
{
    const char *group = groups;
    for (size_t k = 0; k < inputs; k += format->group, group += int4_group_bytes(format, width)) {
        const bool splits = int4_splits(format, group, width, 0, width);
        for (size_t first = 0; first < width; first += LANES_F32)
            if (splits)
                unpack_group(true, format, group, width, first, b + k * width);
            else
                unpack_group(false, format, group, width, first, b + k * width);
    }
}

void FILL(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->int4_tile = int4_tile;
    kernels->int4_unpack = int4_unpack;
}
