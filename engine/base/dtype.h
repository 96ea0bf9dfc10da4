/* Element types and their conversions, bit for bit the same on every host. Pure functions, thread
 * safe. bf16 and f16 values are stored in uint16_t. */
#ifndef CHOIR_BASE_DTYPE_H
#define CHOIR_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum dtype { DTYPE_BF16, DTYPE_F16, DTYPE_F32, DTYPE_F64 } dtype_t;

/* Bytes of one element. */
size_t dtype_bytes(dtype_t dtype);

/* "bf16", "f16", "f32", "f64". */
const char *dtype_name(dtype_t dtype);

static inline uint32_t f32_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float f32_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float f32_from_bf16(uint16_t x)
{
    return f32_from_bits((uint32_t)x << 16);
}

/* Round to nearest, ties to even; every NaN becomes 0x7fc0, as PyTorch's c10::BFloat16 does. */
static inline uint16_t bf16_from_f32(float x)
{
    uint32_t bits = f32_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* x rounded to bf16 and widened again. */
static inline float f32_round_bf16(float x)
{
    return f32_from_bf16(bf16_from_f32(x));
}

/* IEEE binary16 to f32, exact, denormals kept. */
float f32_from_f16(uint16_t x);

/* OCP E4M3 (OCP 8-bit Floating Point Specification) to f32, exact; no infinities, 0x7f and 0xff are NaN. */
float f32_from_e4m3(uint8_t x);

/* The nearest e4m3 number, ties to even, of a magnitude below 464. */
static inline float f32_round_e4m3(float x)
{
    enum { DROPPED = 20 }; /* bits of the mantissa */
    uint32_t bits = f32_bits(x), magnitude = bits & 0x7fffffffu;
    /* Below 2^-6 numbers have steps of 2^-9, as this sum has. */
    float small = (f32_from_bits(magnitude) + 0x1p14f) - 0x1p14f;
    uint32_t rounded = (magnitude + (1u << (DROPPED - 1)) - 1 + (magnitude >> DROPPED & 1u)) &
                       ~((1u << DROPPED) - 1);
    uint32_t result = magnitude < 0x3c800000u ? f32_bits(small) : rounded;
    return f32_from_bits(result | (bits & 0x80000000u));
}

/* That number's code, which f32_from_e4m3 reads. */
uint8_t e4m3_from_f32(float x);

/* Converts n elements. dst and src must not overlap. Narrowing rounds to nearest, ties to even. */
void dtype_convert(void *dst, dtype_t dst_dtype, const void *src, dtype_t src_dtype, size_t n);

#endif
