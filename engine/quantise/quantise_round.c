#include <math.h>

#include "engine/base/dtype.h"
#include "engine/quantise/quantise_internal.h"

#define SMALLEST 0x1p-14f /* of the scales: f16's smallest normal number */

static uint16_t round_scale(float scale, bool bf16)
{
    uint16_t half;
    if (bf16)
        return bf16_from_f32(scale);
    dtype_convert(&half, DTYPE_F16, &scale, DTYPE_F32, 1);
    return half;
}

uint16_t quantise_round(
    size_t n, const float *weights, unsigned bits, bool bf16, float *scale, uint8_t *codes)
{
    const float middle = (float)(1u << (bits - 1)), top = (float)((1u << bits) - 1);
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(weights[i]));
    uint16_t stored = round_scale(fmaxf(most / (top / 2), SMALLEST), bf16);
    *scale = bf16 ? f32_from_bf16(stored) : f32_from_f16(stored);
    for (size_t i = 0; i < n; i++) {
        float code = rintf(weights[i] / *scale) + middle;
        codes[i] = (uint8_t)fminf(fmaxf(code, 0), top);
    }
    return stored;
}

void quantise_pack(size_t n, unsigned bits, const uint8_t *codes, uint32_t *words)
{
    const size_t per_word = 32 / bits;
    for (size_t w = 0; w < n / per_word; w++) {
        uint32_t word = 0;
        for (size_t i = 0; i < per_word; i++)
            word |= (uint32_t)codes[w * per_word + i] << (i * bits);
        words[w] = word;
    }
}
