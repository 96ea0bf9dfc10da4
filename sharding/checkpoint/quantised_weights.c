/* Weights of codes, with the roundings of Hugging Face's libraries on a CPU. */
#include <string.h>

#include "engine/base/size.h"
#include "sharding/checkpoint/quantised_internal.h"

/* x rounded to f16 and widened again. */
static float round_f16(float x)
{
    uint32_t bits = f32_bits(x), magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x477ff000u) /* 65520 and more, infinities, NaN */
        return f32_from_bits(magnitude > 0x7f800000u ? bits : (bits & 0x80000000u) | 0x7f800000u);
    /* Denormals of f16 have steps of 2^-24; so has this sum. */
    float denormal = (f32_from_bits(magnitude) + 0.5f) - 0.5f;
    uint32_t rounded = (magnitude + 0xfffu + (magnitude >> 13 & 1u)) & ~0x1fffu;
    uint32_t result = magnitude < 0x38800000u ? f32_bits(denormal) : rounded;
    return f32_from_bits(result | (bits & 0x80000000u));
}

static float round_to(float x, dtype_t dtype)
{
    return dtype == DTYPE_BF16 ? f32_round_bf16(x) : x;
}

float quantised_weight(quantised_layout_t layout, dtype_t dtype, uint8_t code, float s, uint8_t z)
{
    float q = (float)((int)code - (int)z);
    switch (layout) {
    case QUANTISED_GPTQ:
    case QUANTISED_AWQ: /* scales are f16 there; the product is exact */
        return round_to(round_f16(round_f16(s) * q), dtype);
    case QUANTISED_FP8_INV:
        return round_to(f32_from_e4m3(code) * s, dtype);
    case QUANTISED_FP8:
        q = f32_from_e4m3(code);
        break;
    default:
        break;
    }
    return round_to(round_to(q, dtype) * round_to(s, dtype), dtype);
}

/* All weights that inputs of a group can have. */
static void fill_table(
    const quantised_stage_t *stage, dtype_t dtype, float s, uint8_t z, float *table)
{
    const quantised_scheme_t *scheme = &stage->matrix.scheme;
    for (size_t code = 0; code < (size_t)1 << scheme->bits; code++)
        table[code] = quantised_weight(scheme->layout, dtype, (uint8_t)code, s, z);
}

static void weigh_row(
    const quantised_stage_t *stage, const quantised_rows_t *rows, size_t r, dtype_t dtype)
{
    const quantised_scheme_t *scheme = &stage->matrix.scheme;
    const uint8_t *codes = rows->codes + r * rows->codes_stride;
    const float *scales = rows->scales + r * rows->n_groups;
    const uint8_t *zeros = rows->zeros + r * rows->n_groups;
    float table[256], last_scale = 0;
    int last_zero = -1;
    for (size_t k = 0, end; k < rows->columns; k = end) {
        uint32_t g = rows->group_of[k];
        for (end = k + 1; end < rows->columns && rows->group_of[end] == g;)
            end++;
        bool same = scales[g] == last_scale && zeros[g] == last_zero;
        if (!same && (end - k) * 2 > (size_t)1 << scheme->bits) {
            fill_table(stage, dtype, scales[g], zeros[g], table);
            last_scale = scales[g];
            last_zero = zeros[g];
            same = true;
        }
        for (; k < end; k++)
            stage->row[k] =
                same ? table[codes[k]]
                     : quantised_weight(scheme->layout, dtype, codes[k], scales[g], zeros[g]);
    }
}

void quantised_weights(
    const quantised_stage_t *stage, const quantised_rows_t *rows, dtype_t dtype, void *dst)
{
    size_t row_bytes = rows->columns * dtype_bytes(dtype);
    for (size_t r = 0; r < rows->n; r++) {
        weigh_row(stage, rows, r, dtype);
        dtype_convert((char *)dst + r * row_bytes, dtype, stage->row, DTYPE_F32, rows->columns);
    }
}
