/* Codes, scales and words of quantised weights. Pure functions. Internal to engine/quantise/. */
#ifndef CHOIR_QUANTISE_QUANTISE_ROUND_H
#define CHOIR_QUANTISE_QUANTISE_ROUND_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The scale of a group, as stored, and its value in *scale: the largest magnitude over (2^bits - 1) / 2, rounded to bf16
 * or f16. A group of zeros has the scale 2^-14. */
uint16_t quantise_scale(size_t n, const float *weights, unsigned bits, bool bf16, float *scale);

/* The code of a weight, nearest, even, with 2^(bits - 1) added, and its value. */
static inline uint8_t quantise_code(float weight, float scale, unsigned bits, float *value)
{
    const float middle = (float)(1u << (bits - 1)), top = (float)((1u << bits) - 1);
    float code = fminf(fmaxf(rintf(weight / scale) + middle, 0), top);
    *value = (code - middle) * scale;
    return (uint8_t)code;
}

/* Codes into words, low bits first. n: a multiple of a word's codes; words: [n bits / 32] */
void quantise_pack(size_t n, unsigned bits, const uint8_t *codes, uint32_t *words);

#endif
