#include "engine/forward/fake_quantise.h"

#include <math.h>

#include "engine/base/dtype.h"
#include "engine/base/size.h"

#define GROUP 128
#define EPS 0x1p-7f /* of bf16: the scale where it would be zero */

static float clamp(float x, float least, float most)
{
    return x < least ? least : x > most ? most : x;
}

/* The least and the largest of values and zero. */
static void range_of(size_t n, const uint16_t *x, float *least, float *most)
{
    *least = *most = 0;
    for (size_t i = 0; i < n; i++) {
        float value = f32_from_bf16(x[i]);
        *least = value < *least ? value : *least;
        *most = value > *most ? value : *most;
    }
}

static float scale_of(float range, float steps)
{
    float scale = f32_round_bf16(range / steps);
    return scale == 0 ? EPS : scale;
}

/* A zero that compressed-tensors adds makes -0 to +0. */
static void int8_symmetric(size_t n, const uint16_t *x, float scale, uint16_t *y)
{
    for (size_t i = 0; i < n; i++) {
        float q = clamp(f32_round_bf16(f32_from_bf16(x[i]) / scale) + 0.0f, -128, 127);
        y[i] = bf16_from_f32(rintf(q) * scale);
    }
}

static void int8_with_zero(size_t n, const uint16_t *x, float least, float most, uint16_t *y)
{
    float scale = f32_round_bf16(f32_round_bf16(most - least) / 255.0f), zero = -128;
    if (scale == 0)
        scale = EPS;
    else
        zero =
            rintf(clamp(f32_round_bf16(-128.0f - f32_round_bf16(least / scale)), -128, 127)) + 0.0f;
    for (size_t i = 0; i < n; i++) {
        float q = f32_round_bf16(f32_round_bf16(f32_from_bf16(x[i]) / scale) + zero);
        y[i] = bf16_from_f32(f32_round_bf16(rintf(clamp(q, -128, 127)) - zero) * scale);
    }
}

static void f8(size_t n, const uint16_t *x, float scale, uint16_t *y)
{
    for (size_t i = 0; i < n; i++) {
        float q = clamp(f32_round_bf16(f32_from_bf16(x[i]) / scale) + 0.0f, -448, 448);
        y[i] = bf16_from_f32(f32_round_e4m3(q) * scale);
    }
}

void fake_quantise_row(quantised_activation_t kind, size_t n, const uint16_t *x, uint16_t *y)
{
    size_t group = kind == QUANTISED_FP8_GROUP ? GROUP : n;
    for (size_t k = 0; k < n; k += group) {
        size_t some = size_min(group, n - k);
        float least, most;
        range_of(some, x + k, &least, &most);
        float magnitude = most > -least ? most : -least;
        if (kind == QUANTISED_INT8_TOKEN)
            int8_symmetric(some, x + k, scale_of(magnitude, 127.5f), y + k);
        else if (kind == QUANTISED_INT8_TOKEN_ZERO)
            int8_with_zero(some, x + k, least, most, y + k);
        else
            f8(some, x + k, scale_of(magnitude, 448.0f), y + k);
    }
}
