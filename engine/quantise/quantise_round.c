#include <math.h>

#include "engine/base/dtype.h"
#include "engine/quantise/quantise_round.h"

#define SMALLEST 0x1p-14f /* of the scales: f16's smallest normal number */

static uint16_t round_scale(float scale, bool bf16)
{
    uint16_t half;
    if (bf16)
        return bf16_from_f32(scale);
    dtype_convert(&half, DTYPE_F16, &scale, DTYPE_F32, 1);
    return half;
}

uint16_t quantise_scale(size_t n, const float *weights, unsigned bits, bool bf16, float *scale)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(weights[i]));
    uint16_t stored = round_scale(fmaxf(most / ((float)((1u << bits) - 1) / 2), SMALLEST), bf16);
    *scale = bf16 ? f32_from_bf16(stored) : f32_from_f16(stored);
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
