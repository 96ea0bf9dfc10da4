/* Packed codes as dense bf16, a block of a panel at a time. Compiled for AVX2, AVX-512, and AVX-512 with
 * instructions for bf16; see fma.h.
 *
 * Vectors run over elements as they lie: of an output the inputs of a pair, then the next output. Scales
 * and zeros of a group are laid out in the same way first. */
#include <math.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/coded.h"
#include "engine/kernels/fma.h"
#include "engine/kernels/kernels_internal.h"

#if defined(__AVX512BF16__)
#define FILL coded_fill_avx512_bf16
#elif defined(__AVX512F__)
#define FILL coded_fill_avx512
#else
#define FILL coded_fill_avx2
#endif
#define HALF (LANES_F32 / 2) /* outputs of a vector */
#define AHEAD_BYTES 2048
#define F8_AS_F16 0x1p8f /* an e4m3 number's bits, in their places of an f16, are so much less */

typedef uint64_t vec_u64_t __attribute__((vector_size(REGISTER_BYTES)));

/* ---- Vectors --------------------------------------------------------------------------------- */

/* HALF numbers of 1, 2 or 4 bytes, each in 64 bits. */
INLINE vec_u64_t load_bytes(const uint8_t *x)
{
#ifdef __AVX512F__
    return (vec_u64_t)_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(const void *)x));
#else
    uint32_t four;
    memcpy(&four, x, sizeof four);
    return (vec_u64_t)_mm256_cvtepu8_epi64(_mm_cvtsi32_si128((int)four));
#endif
}

INLINE vec_u64_t load_halves(const uint16_t *x)
{
#ifdef __AVX512F__
    return (vec_u64_t)_mm512_cvtepu16_epi64(_mm_loadu_si128((const __m128i *)(const void *)x));
#else
    return (vec_u64_t)_mm256_cvtepu16_epi64(_mm_loadl_epi64((const __m128i *)(const void *)x));
#endif
}

INLINE vec_u64_t load_floats(const float *x)
{
#ifdef __AVX512F__
    return (vec_u64_t)_mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i *)(const void *)x));
#else
    return (vec_u64_t)_mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i *)(const void *)x));
#endif
}

/* f16 to f32, each in 64 bits */
INLINE vec_u64_t load_f16(const uint16_t *x)
{
#ifdef __AVX512F__
    __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)x));
    return (vec_u64_t)_mm512_cvtepu32_epi64((__m256i)wide);
#else
    __m128 wide = _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(const void *)x));
    return (vec_u64_t)_mm256_cvtepu32_epi64((__m128i)wide);
#endif
}

/* The lower 32 bits of each 64, twice. */
INLINE vec_u32_t twice(vec_u64_t x)
{
    return (vec_u32_t)(x | x << 32);
}

INLINE vec_f32_t floats_of(vec_u32_t integers)
{
#ifdef __AVX512F__
    return (vec_f32_t)_mm512_cvtepi32_ps((__m512i)integers);
#else
    return (vec_f32_t)_mm256_cvtepi32_ps((__m256i)integers);
#endif
}

/* x rounded to f16 */
INLINE vec_f32_t round_f16(vec_f32_t x)
{
#ifdef __AVX512F__
    return (vec_f32_t)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#else
    return (vec_f32_t)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#endif
}

/* ---- Codes ----------------------------------------------------------------------------------- */

/* LANES_F32 codes as numbers: of int8 signed, of f8 divided by F8_AS_F16. */
INLINE vec_f32_t load_int4(const uint8_t *codes)
{
    vec_u64_t x = load_bytes(codes);
    return floats_of((vec_u32_t)((x | x << 28) & 0x0000000f0000000fu));
}

INLINE vec_f32_t load_int8(const uint8_t *codes)
{
#ifdef __AVX512F__
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)codes);
    return floats_of((vec_u32_t)_mm512_cvtepi8_epi32(bytes));
#else
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)codes);
    return floats_of((vec_u32_t)_mm256_cvtepi8_epi32(bytes));
#endif
}

INLINE vec_f32_t load_f8(const uint8_t *codes)
{
    enum { MANTISSA_BITS_MORE = 7, WITHOUT_BIT_14 = 0xbfff };
#ifdef __AVX512F__
    __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)codes));
    x = _mm256_slli_epi16(x, MANTISSA_BITS_MORE);
    x = _mm256_and_si256(x, _mm256_set1_epi16((short)WITHOUT_BIT_14));
    return (vec_f32_t)_mm512_cvtph_ps(x);
#else
    __m128i x = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)codes));
    x = _mm_slli_epi16(x, MANTISSA_BITS_MORE);
    x = _mm_and_si128(x, _mm_set1_epi16((short)WITHOUT_BIT_14));
    return (vec_f32_t)_mm256_cvtph_ps(x);
#endif
}

/* Two vectors rounded to bf16; no value is denormal. */
INLINE void store_pair(uint16_t *to, vec_f32_t first, vec_f32_t second)
{
#ifdef __AVX512BF16__
    __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    memcpy(to, &both, sizeof both);
#else
    vec_u32_t x[2] = {(vec_u32_t)first, (vec_u32_t)second};
    for (int i = 0; i < 2; i++)
        x[i] = (x[i] + 0x7fffu + (x[i] >> 16 & 1u)) >> 16;
#ifdef __AVX512F__
    __m256i low = _mm512_cvtepi32_epi16((__m512i)x[0]), high = _mm512_cvtepi32_epi16((__m512i)x[1]);
    memcpy(to, &low, sizeof low);
    memcpy(to + LANES_F32, &high, sizeof high);
#else
    __m256i both = _mm256_packus_epi32((__m256i)x[0], (__m256i)x[1]);
    both = _mm256_permute4x64_epi64(both, 0xd8);
    memcpy(to, &both, sizeof both);
#endif
#endif
}

/* ---- Groups ---------------------------------------------------------------------------------- */

/* Scales and zeros of a group's elements; of f8 scales times F8_AS_F16. */
typedef struct elements {
    float scales[2 * KERNEL_PANEL] __attribute__((aligned(64)));
    float zeros[2 * KERNEL_PANEL] __attribute__((aligned(64)));
} elements_t;

INLINE vec_u64_t load_scales(dtype_t type, const void *scales, size_t n)
{
    if (type == DTYPE_F32)
        return load_floats((const float *)scales + n);
    if (type == DTYPE_F16)
        return load_f16((const uint16_t *)scales + n);
    return load_halves((const uint16_t *)scales + n) << 16;
}

/* Whether all weights of the group are normal numbers and rounded as such. */
static bool lay_out_group(const format_t *format, const void *panel, size_t width, size_t columns,
    size_t g, elements_t *e)
{
    const float least = 0x1p-100f, most = 0x1p100f;
    const void *scales = coded_scales(format, panel, width, g);
    const uint8_t *zeros = format->zeros ? coded_zeros(format, panel, width, columns, g) : NULL;
    const float middle = format->codes == CODES_INT4 ? 8.0f : 0.0f,
                signed_by = format->codes == CODES_INT8 ? 128.0f : 0.0f,
                times = format->codes == CODES_F8 ? F8_AS_F16 : 1.0f;
    vec_u32_t outside = {0};
    for (size_t n = 0; n < width; n += HALF) {
        vec_f32_t scale = (vec_f32_t)twice(load_scales(format->scale_type, scales, n));
        vec_f32_t zero = SET_F32(middle);
        if (zeros != NULL)
            zero = floats_of(twice(load_bytes(zeros + n))) - SET_F32(signed_by);
        vec_f32_t magnitude = (vec_f32_t)((vec_u32_t)scale & 0x7fffffffu);
        /* Padding has scales of zero. */
        outside |=
            (vec_u32_t)((scale != 0.0f) & (magnitude < least)) | (vec_u32_t)(magnitude > most);
        *(vec_f32_t *)(e->scales + 2 * n) = scale * SET_F32(times);
        *(vec_f32_t *)(e->zeros + 2 * n) = zero;
    }
    uint32_t any = 0;
    for (size_t i = 0; i < LANES_F32; i++)
        any |= outside[i];
    return any == 0;
}

/* Kinds of codes; constants after inlining. */
typedef struct kind {
    code_type_t codes;
    bool rounds_f16, zeros;
} kind_t;

INLINE vec_f32_t weights_at(const kind_t kind, const uint8_t *pairs, size_t e, const elements_t *of)
{
    vec_f32_t x = kind.codes == CODES_INT4   ? load_int4(pairs + e / 2)
                  : kind.codes == CODES_INT8 ? load_int8(pairs + e)
                                             : load_f8(pairs + e);
    if (kind.zeros || kind.codes == CODES_INT4)
        x = x - *(const vec_f32_t *)(of->zeros + e);
    x = x * *(const vec_f32_t *)(of->scales + e);
    return kind.rounds_f16 ? round_f16(x) : x;
}

INLINE void unpack_pairs(const kind_t kind, const uint8_t *pairs, size_t width, size_t n_pairs,
    const elements_t *of, uint16_t *b)
{
    const size_t pair_bytes = width * (kind.codes == CODES_INT4 ? 1 : 2);
    for (size_t i = 0; i < n_pairs; i++, pairs += pair_bytes, b += 2 * width) {
        for (size_t byte = 0; byte < pair_bytes; byte += 64)
            __builtin_prefetch(pairs + byte + AHEAD_BYTES);
        for (size_t e = 0; e < 2 * width; e += 2 * LANES_F32)
            store_pair(
                b + e, weights_at(kind, pairs, e, of), weights_at(kind, pairs, e + LANES_F32, of));
    }
}

#define UNPACK(CODES, F16, ZEROS)                                                                  \
    do {                                                                                           \
        const kind_t kind = {CODES, F16, ZEROS};                                                   \
        if (width == KERNEL_PANEL)                                                                 \
            unpack_pairs(kind, pairs, KERNEL_PANEL, n_pairs, of, b);                               \
        else                                                                                       \
            unpack_pairs(kind, pairs, width, n_pairs, of, b);                                      \
    } while (0)
#define UNPACK_INT(CODES)                                                                          \
    do {                                                                                           \
        if (format->scale_type == DTYPE_F16 && format->zeros)                                      \
            UNPACK(CODES, true, true);                                                             \
        else if (format->scale_type == DTYPE_F16)                                                  \
            UNPACK(CODES, true, false);                                                            \
        else if (format->zeros)                                                                    \
            UNPACK(CODES, false, true);                                                            \
        else                                                                                       \
            UNPACK(CODES, false, false);                                                           \
    } while (0)

static void unpack_group(const format_t *format, const uint8_t *pairs, size_t width, size_t n_pairs,
    const elements_t *of, uint16_t *b)
{
    if (format->codes == CODES_INT4)
        UNPACK_INT(CODES_INT4);
    else if (format->codes == CODES_INT8)
        UNPACK_INT(CODES_INT8);
    else
        UNPACK(CODES_F8, false, false);
}

static void coded_unpack(const format_t *format, const void *panel, size_t width, size_t columns,
    size_t first, size_t inputs, uint16_t *b)
{
    elements_t of;
    for (size_t k = first, n; k < first + inputs; k += n, b += n * width) {
        size_t group = format->group == 0 ? columns : format->group, g = k / group;
        n = size_min((g + 1) * group, first + inputs) - k;
        if (lay_out_group(format, panel, width, columns, g, &of))
            unpack_group(
                format, coded_pairs(format, panel, width, columns, k), width, n / 2, &of, b);
        else
            coded_unpack_scalar(format, panel, width, columns, k, n, b);
    }
}

void FILL(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16)
        kernels->coded_unpack = coded_unpack;
}
