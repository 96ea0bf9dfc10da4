#include "engine/base/dtype.h"

size_t dtype_bytes(dtype_t dtype)
{
    return dtype == DTYPE_F64 ? 8 : dtype == DTYPE_F32 ? 4 : 2;
}

const char *dtype_name(dtype_t dtype)
{
    static const char *const names[] = {"bf16", "f16", "f32", "f64"};
    return names[dtype];
}

float f32_from_f16(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16;
    uint32_t exponent = (x >> 10) & 31u;
    uint32_t mantissa = x & 0x3ffu;
    if (exponent == 31)
        return f32_from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent != 0)
        return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    /* Zero or denormal: mantissa * 2^-24 is exact in f32. */
    float magnitude = (float)mantissa * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

float f32_from_e4m3(uint8_t x)
{
    uint32_t exponent = x >> 3 & 15u, mantissa = x & 7u;
    float magnitude = exponent == 15 && mantissa == 7 ? f32_from_bits(0x7fc00000u)
                      : exponent == 0                 ? (float)mantissa * 0x1p-9f
                                      : f32_from_bits((exponent + 120) << 23 | mantissa << 20);
    return x & 0x80u ? -magnitude : magnitude;
}

uint8_t e4m3_from_f32(float x)
{
    uint32_t bits = f32_bits(f32_round_e4m3(x)), magnitude = bits & 0x7fffffffu;
    uint32_t code = magnitude < 0x3c800000u ? (uint32_t)(f32_from_bits(magnitude) * 0x1p9f)
                                            : (magnitude >> 20) - (120u << 3);
    return (uint8_t)(code | (bits >> 24 & 0x80u));
}

static uint16_t f16_from_f64(double x)
{
    /* Only used to write test checkpoints; goes through exact comparisons on the bit pattern. */
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 48 & 0x8000u);
    double magnitude = x < 0 ? -x : x;
    if (x != x)
        return 0x7e00;
    if (magnitude >= 65520.0)
        return (uint16_t)(sign | 0x7c00u);
    int exponent = (int)(bits >> 52 & 0x7ff) - 1023;
    if (exponent < -14)
        exponent = -14;
    /* One unit in the last place is 2^(exponent - 10); adding and subtracting 1.5 * 2^52 units
     * rounds to nearest even in double. */
    uint64_t unit_bits = (uint64_t)(exponent - 10 + 1023) << 52;
    double unit;
    memcpy(&unit, &unit_bits, sizeof unit);
    double big = 0x1.8p52 * unit;
    volatile double rounded = magnitude + big;
    rounded -= big;
    uint32_t units = (uint32_t)(rounded / unit);
    return (uint16_t)(sign | (((uint32_t)(exponent + 14) << 10) + units));
}

static double load(const void *src, dtype_t dtype, size_t i)
{
    switch (dtype) {
    case DTYPE_BF16:
        return f32_from_bf16(((const uint16_t *)src)[i]);
    case DTYPE_F16:
        return f32_from_f16(((const uint16_t *)src)[i]);
    case DTYPE_F32:
        return ((const float *)src)[i];
    default:
        return ((const double *)src)[i];
    }
}

/* One rounding from f64: to f32 towards zero, with the last bit set when digits were lost (round to
 * odd). The second rounding then gives the same as from all digits. */
static uint16_t bf16_from_f64(double x)
{
    float f = (float)x;
    if (x != x || (double)f == x)
        return bf16_from_f32(f);
    uint32_t bits = f32_bits(f);
    double magnitude = x < 0 ? -x : x;
    if ((double)f32_from_bits(bits & 0x7fffffffu) > magnitude)
        bits--;
    return bf16_from_f32(f32_from_bits(bits | 1u));
}

static void f16_widen(uint16_t *bf16, float *f32, const uint16_t *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(src[i] & 0x8000u) << 16, magnitude = src[i] & 0x7fffu;
        /* Shifted into place and scaled by 2^112: exact, denormals included; infinity and NaN
         * separately. */
        float value = f32_from_bits(magnitude << 13) * 0x1p112f;
        uint32_t bits = f32_bits(value);
        bits = (magnitude >= 0x7c00u ? 0x7f800000u | magnitude << 13 : bits) | sign;
        if (f32 != NULL)
            f32[i] = f32_from_bits(bits);
        else
            bf16[i] = bf16_from_f32(f32_from_bits(bits));
    }
}

void dtype_convert(void *dst, dtype_t dst_dtype, const void *src, dtype_t src_dtype, size_t n)
{
    if (dst_dtype == src_dtype) {
        memcpy(dst, src, n * dtype_bytes(src_dtype));
        return;
    }
    /* The pairs that load whole checkpoints have their own loops, which compilers vectorise. */
    if (dst_dtype == DTYPE_BF16 && src_dtype == DTYPE_F32) {
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)dst)[i] = bf16_from_f32(((const float *)src)[i]);
        return;
    }
    if (dst_dtype == DTYPE_F32 && src_dtype == DTYPE_BF16) {
        for (size_t i = 0; i < n; i++)
            ((float *)dst)[i] = f32_from_bf16(((const uint16_t *)src)[i]);
        return;
    }
    if (src_dtype == DTYPE_F16 && dst_dtype == DTYPE_BF16) {
        f16_widen(dst, NULL, src, n);
        return;
    }
    if (src_dtype == DTYPE_F16 && dst_dtype == DTYPE_F32) {
        f16_widen(NULL, dst, src, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        double value = load(src, src_dtype, i);
        switch (dst_dtype) {
        case DTYPE_BF16:
            ((uint16_t *)dst)[i] = bf16_from_f64(value);
            break;
        case DTYPE_F16:
            ((uint16_t *)dst)[i] = f16_from_f64(value);
            break;
        case DTYPE_F32:
            ((float *)dst)[i] = (float)value;
            break;
        default:
            ((double *)dst)[i] = value;
        }
    }
}
