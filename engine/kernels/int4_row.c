/* A single row with panels of packed int4. Compiled twice, see fma.h.
 *
 * Without zeros a step of the chain is fma(x (code - 8), scale, acc): x (code - 8), 12 bits, is exact, so the product that
 * is rounded is that of x and b. With AVX-512 x (code - 8) is looked up in a table of 16 numbers for each input, which
 * all outputs share; vpermps reads the lowest four bits of an index and ignores the others. With AVX2 it is a fused
 * multiply-add: a code in a float's mantissa, at bit 8 or 12, is the float 2^15 + c or 2^15 + 16 c; times x or x / 16, and
 * 2^15 + 8 or 2^11 + 8 times x taken away, that gives x (c - 8); all of these are exact.
 *
 * That holds for inputs and scales of ordinary size, or zero: then nothing overflows, and all products are multiples of
 * 2^-149. So no sum is rounded to -0, and the sign of a product that is zero, which may differ, has no effect. Other
 * inputs and scales, and sums of -0 that those leave behind, are multiplied as it is defined.
 *
 * With zeros b is made as it is defined, with AVX2 as in int4_fma.c; what int4_splits excludes there is multiplied as
 * it is defined. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/fma.h"
#include "engine/kernels/int4.h"
#include "engine/kernels/int4_vectors.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

#ifdef __AVX512F__
#define FILL int4_row_fill_avx512
#else
#define FILL int4_row_fill_avx2
#endif

typedef int32_t vec_i32_t __attribute__((vector_size(REGISTER_BYTES)));

#define VECTORS 4     /* of outputs whose sums stay in registers */
#define SPAN 128      /* inputs that a panel is multiplied with before the next panel's turn */
#define TURNS_AHEAD 2 /* whose weights are prefetched, of panels one by one */

/* bf16 magnitudes: products of the least are multiples of 2^-149, 2^15 times the largest input is finite. */
#define LEAST_INPUT 0x0b80u /* 2^-104 */
#define MOST_INPUT 0x6c80u  /* 2^90 */
#define LEAST_SCALE 0x3080u /* 2^-30 */
#define MOST_SCALE 0x4e80u  /* 2^30 */

#ifdef __AVX512F__
/* n: a multiple of 32 */
INLINE bool all_within_wide(const uint16_t *x, size_t n, uint16_t least, uint16_t most)
{
    __mmask32 outside = 0;
    for (size_t i = 0; i < n; i += 32) {
        const __m512i magnitude =
            _mm512_and_si512(_mm512_loadu_si512(x + i), _mm512_set1_epi16(0x7fff));
        outside |= _mm512_mask_cmpgt_epu16_mask(_mm512_test_epi16_mask(magnitude, magnitude),
            _mm512_sub_epi16(magnitude, _mm512_set1_epi16((short)least)),
            _mm512_set1_epi16((short)(most - least)));
    }
    return outside == 0;
}
#endif

/* n: a multiple of LANES_U16 */
INLINE bool all_within(const uint16_t *x, size_t n, uint16_t least, uint16_t most)
{
    vec_u16_t outside = {0};
#ifdef __AVX512F__
    if (n % 32 == 0)
        return all_within_wide(x, n, least, most);
#endif
    for (size_t i = 0; i < n; i += LANES_U16) {
        const vec_u16_t magnitude = load_u16(x + i) & 0x7fff;
        outside |=
            (vec_u16_t)(magnitude - least > (uint16_t)(most - least)) & (vec_u16_t)(magnitude != 0);
    }
    return !any_u16(outside);
}

/* They are computed before what follows, and kept: the compiler would mix the operations of several inputs, which the CPU
 * spreads less evenly over its units, and load words again for every use. */
#define in_registers(VECTORS, X)                                                                   \
    for (int v_ = 0; v_ < (VECTORS); v_++)                                                         \
    __asm__ volatile("" : "+v"((X)[v_]))

/* ---- Eight inputs ---------------------------------------------------------------------------- */

#ifdef __AVX512F__
/* What a span's inputs are looked up in. */
typedef struct prepared {
    float table[SPAN][16] __attribute__((aligned(64))); /* x (code - 8) */
} prepared_t;

static void prepare(const float *x, size_t n, prepared_t *to)
{
    const __m512 codes = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    for (size_t i = 0; i < n; i++)
        _mm512_store_ps(to->table[i], _mm512_mul_ps(_mm512_set1_ps(x[i]), codes));
}

INLINE void multiply_words(const int vectors, const uint32_t *words, const prepared_t *x, size_t i,
    const vec_f32_t *scale, vec_f32_t *sum)
{
    vec_u32_t word[VECTORS];
    for (int v = 0; v < vectors; v++)
        word[v] = load_words(words + LANES_F32 * v);
    in_registers(vectors, word);
#pragma GCC unroll 8
    for (int j = 0; j < INT4_WORD; j++) {
        const __m512 table = _mm512_load_ps(x->table[i + (size_t)j]);
        vec_u32_t codes[VECTORS];
        vec_f32_t product[VECTORS];
        for (int v = 0; v < vectors; v++)
            codes[v] = word[v] >> 4 * j;
        in_registers(vectors, codes);
        for (int v = 0; v < vectors; v++)
            product[v] = (vec_f32_t)_mm512_permutexvar_ps((__m512i)codes[v], table);
        in_registers(vectors, product);
        for (int v = 0; v < vectors; v++)
            sum[v] = FMA_F32(product[v], scale[v], sum[v]);
        in_registers(vectors, sum);
    }
}

/* With zeros: b by a table of the 16 codes, as it is defined. */
#define OFFSETS 1

INLINE vec_f32_t offset_of(vec_f32_t zero, vec_f32_t scale, int i)
{
    (void)scale;
    (void)i;
    return zero;
}

static bool has_exact_offsets(const format_t *format, const void *group, size_t width)
{
    (void)format;
    (void)group;
    (void)width;
    return true;
}

INLINE void multiply_words_with_zeros(const int vectors, const uint32_t *words, const float *x,
    const vec_f32_t *scale, const vec_f32_t offset[VECTORS][OFFSETS], vec_f32_t *sum)
{
    const __m512 codes = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    vec_u32_t word[VECTORS];
    for (int v = 0; v < vectors; v++)
        word[v] = load_words(words + LANES_F32 * v);
    in_registers(vectors, word);
#pragma GCC unroll 8
    for (int j = 0; j < INT4_WORD; j++)
        for (int v = 0; v < vectors; v++) {
            const __m512 code = _mm512_permutexvar_ps((__m512i)(word[v] >> 4 * j), codes);
            sum[v] = FMA_F32(SET_F32(x[j]), FMA_F32(code, scale[v], offset[v][0]), sum[v]);
        }
}
#else
/* What a span's codes, as floats, are multiplied with, and what is added then. */
typedef struct prepared {
    float factor[SPAN], addend[SPAN];
} prepared_t;

static void prepare(const float *x, size_t n, prepared_t *to)
{
    for (size_t i = 0; i < n; i += 2) {
        to->factor[i] = x[i];
        to->factor[i + 1] = x[i + 1] * 0x1p-4f;
        to->addend[i] = -(0x1p15f + 8.0f) * x[i];
        to->addend[i + 1] = -(0x1p11f + 8.0f) * x[i + 1];
    }
}

/* Bits 16 to 31 of 2^15, and what is kept with them of a pair of codes. */
#define EIGHT(x)                                                                                   \
    {                                                                                              \
        x, x, x, x, x, x, x, x                                                                     \
    }
static const vec_u32_t constants[3] = {EIGHT(0x47000000u), EIGHT(0xffff0f00u), EIGHT(0xfffff000u)};

/* Two inputs at a time: their codes are moved to bits 8 to 15 by loading from other bytes, of which the first is a
 * scale's, and the last is in the word or behind the last one. Sums, scales and words take 12 of 16 registers. */
INLINE void multiply_words(const int vectors, const uint32_t *words, const prepared_t *x, size_t i,
    const vec_f32_t *scale, vec_f32_t *sum)
{
#pragma GCC unroll 4
    for (int pair = 0; pair < INT4_WORD / 2; pair++) {
        const vec_u32_t *constant = constants;
        __asm__ volatile(""
                         : "+r"(constant)); /* or they are kept in registers, and sums in memory */
        vec_u32_t both[VECTORS];
        for (int v = 0; v < vectors; v++) {
            const char *at = (const char *)(words + LANES_F32 * v);
            both[v] = pair < 2 ? load_words(at + pair - 1) : load_words(at) >> 8 * (pair - 1);
            both[v] = (vec_u32_t)_mm256_blend_epi16((__m256i)both[v], (__m256i)constant[0], 0xaa);
        }
        for (int j = 0; j < 2; j++) {
            const vec_u32_t mask = constant[1 + j];
            const vec_f32_t factor = SET_F32(x->factor[i + (size_t)(2 * pair + j)]),
                            addend = SET_F32(x->addend[i + (size_t)(2 * pair + j)]);
            for (int v = 0; v < vectors; v++) {
                const vec_f32_t code = FMA_F32((vec_f32_t)(both[v] & mask), factor, addend);
                sum[v] = FMA_F32(code, scale[v], sum[v]);
            }
            in_registers(vectors, sum);
        }
    }
}

/* With zeros: b as in int4_fma.c. */
#define OFFSETS INT4_PLACES

INLINE vec_f32_t offset_of(vec_f32_t zero, vec_f32_t scale, int i)
{
    return zero - SET_F32(int4_power[i] + 8.0f) * scale;
}

static bool has_exact_offsets(const format_t *format, const void *group, size_t width)
{
    return int4_splits(format, group, width, 0, width);
}

INLINE void multiply_words_with_zeros(const int vectors, const uint32_t *words, const float *x,
    const vec_f32_t *scale, const vec_f32_t offset[VECTORS][OFFSETS], vec_f32_t *sum)
{
    vec_u32_t word[VECTORS];
    for (int v = 0; v < vectors; v++)
        word[v] = int4_first_part(words + LANES_F32 * v);
#pragma GCC unroll 4
    for (int part = 0; part < INT4_PARTS; part++) {
        for (int v = 0; v < vectors && part > 0; v++)
            word[v] = int4_next_part(word[v], part, words + LANES_F32 * v);
        for (int j = 0; j < INT4_PLACES; j++, x++)
            for (int v = 0; v < vectors; v++) {
                const vec_f32_t code = int4_with_power(word[v], j);
                sum[v] = FMA_F32(SET_F32(*x), FMA_F32(code, scale[v], offset[v][j]), sum[v]);
            }
    }
}
#endif

/* ---- A turn ---------------------------------------------------------------------------------- */

/* A span of a row. */
typedef struct inputs {
    size_t n;
    bool ordinary;
    float x[SPAN];
    prepared_t prepared;
} inputs_t;

/* What is prefetched while weights are multiplied, as many lines at a time as are multiplied meanwhile: of
 * KERNEL_TILE_PANELS streams, or all of one, into the second-level cache. */
#define STEP_LINES KERNEL_TILE_PANELS
#define LINE_BYTES 64
typedef struct ahead {
    const char *at[STEP_LINES]; /* the first time */
    size_t next, more;          /* bytes behind these; more: 0: nothing is prefetched */
} ahead_t;

/* What of a panel is multiplied with a span: whole groups, or a part of one. */
typedef struct piece {
    const format_t *format;
    const char *group;  /* the first one */
    size_t width, skip; /* inputs of the group before the span */
    ahead_t *ahead;
} piece_t;

/* The next lines. streams: are several */
INLINE void prefetch_step(const bool streams, ahead_t *ahead)
{
    enum { FIRST_LEVEL = 3, SECOND_LEVEL = 2 };
    if (ahead->more == 0)
        return;
    for (size_t i = 0; i < STEP_LINES; i++)
        __builtin_prefetch(ahead->at[i] + ahead->next, 0, streams ? FIRST_LEVEL : SECOND_LEVEL);
    ahead->next += ahead->more;
}

/* Scales and, with zeros, the last operands of b. */
INLINE void load_scales(const int vectors, const bool zeros, const char *group, size_t width,
    size_t first, vec_f32_t *scale, vec_f32_t offset[VECTORS][OFFSETS])
{
    for (int v = 0; v < vectors; v++)
        scale[v] = widen_bf16(int4_scales(group) + first + LANES_F32 * v);
    in_registers(vectors, scale);
    for (int v = 0; v < vectors && zeros; v++)
        for (int i = 0; i < OFFSETS; i++)
            offset[v][i] = offset_of(
                widen_bf16(int4_offsets(group, width) + first + LANES_F32 * v), scale[v], i);
}

/* Outputs from `first` on. */
INLINE void multiply_outputs(const bool streams, const int vectors, const bool zeros,
    const size_t width, const piece_t *p, const inputs_t *in, size_t first, float *c)
{
    const size_t group_bytes = int4_group_bytes(p->format, width),
                 some = size_min(p->format->group - p->skip, in->n),
                 inputs_of_step =
                     INT4_WORD * (STEP_LINES * LINE_BYTES / REGISTER_BYTES / (size_t)vectors);
    const char *group = p->group;
    ahead_t ahead = *p->ahead;
    vec_f32_t scale[VECTORS], offset[VECTORS][OFFSETS], sum[VECTORS];
    for (int v = 0; v < vectors; v++)
        sum[v] = *(const mem_f32_t *)(c + first + LANES_F32 * v);
    for (size_t i = 0; i < in->n; i += some, group += group_bytes) {
        const uint32_t *words =
            int4_words(p->format, group, width) + p->skip / INT4_WORD * width + first;
        load_scales(vectors, zeros, group, width, first, scale, offset);
        if (first == 0)
            prefetch_step(streams, &ahead);
        for (size_t k = i; k < i + some; k += INT4_WORD, words += width) {
            if (k % inputs_of_step == 0)
                prefetch_step(streams, &ahead);
            if (zeros)
                multiply_words_with_zeros(vectors, words, in->x + k, scale, offset, sum);
            else
                multiply_words(vectors, words, &in->prepared, k, scale, sum);
        }
    }
    p->ahead->next = ahead.next;
    for (int v = 0; v < vectors; v++)
        *(mem_f32_t *)(c + first + LANES_F32 * v) = sum[v];
}

INLINE void multiply_panel(
    const bool streams, const bool zeros, const piece_t *p, const inputs_t *in, float *c)
{
    size_t first = 0;
    if (p->width == KERNEL_PANEL)
        for (; first < KERNEL_PANEL; first += VECTORS * LANES_F32)
            multiply_outputs(streams, VECTORS, zeros, KERNEL_PANEL, p, in, first, c);
    for (; first < p->width; first += KERNEL_LANES)
        multiply_outputs(streams, KERNEL_LANES / LANES_F32, zeros, p->width, p, in, first, c);
}

static void multiply(const piece_t *p, const inputs_t *in, float *c)
{
    const bool streams = p->ahead->more == LINE_BYTES, zeros = p->format->zeros;
    if (streams && zeros)
        multiply_panel(true, true, p, in, c);
    else if (streams)
        multiply_panel(true, false, p, in, c);
    else if (zeros)
        multiply_panel(false, true, p, in, c);
    else
        multiply_panel(false, false, p, in, c);
}

/* As it is defined. Returns whether a sum is -0. */
static __attribute__((noinline)) bool multiply_any(const piece_t *p, const inputs_t *in, float *c)
{
    vec_u32_t minus_zeros = {0};
    for (size_t first = 0; first < p->width; first += LANES_F32) {
        const char *group = p->group;
        vec_f32_t sum = *(const mem_f32_t *)(c + first);
        for (size_t i = 0, k = p->skip; i < in->n; i++, k++) {
            if (k == p->format->group) {
                group += int4_group_bytes(p->format, p->width);
                k = 0;
            }
            const uint32_t *words =
                int4_words(p->format, group, p->width) + k / INT4_WORD * p->width + first;
            const vec_u32_t code = load_words(words) >> (uint32_t)(4 * (k % INT4_WORD)) & 15u;
            const vec_f32_t number = __builtin_convertvector((vec_i32_t)code - 8, vec_f32_t);
            vec_f32_t offset = {0};
            if (p->format->zeros)
                offset = widen_bf16(int4_offsets(group, p->width) + first);
            const vec_f32_t b = FMA_F32(number, widen_bf16(int4_scales(group) + first), offset);
            sum = FMA_F32(SET_F32(in->x[i]), b, sum);
        }
        *(mem_f32_t *)(c + first) = sum;
        minus_zeros |= (vec_u32_t)((vec_u32_t)sum == 0x80000000u);
    }
    uint32_t any = 0;
    for (size_t i = 0; i < LANES_F32; i++)
        any |= minus_zeros[i];
    return any != 0;
}

/* ---- A row ----------------------------------------------------------------------------------- */

/* n inputs from `first` on. */
static void take_inputs(const bool zeros, const uint16_t *x, const uint32_t *order, size_t first,
    size_t n, inputs_t *to)
{
    uint16_t ordered[SPAN];
    for (size_t i = 0; i < n && order != NULL; i++)
        ordered[i] = x[order[first + i]];
    const uint16_t *from = order != NULL ? ordered : x + first;
    to->n = n;
    to->ordinary = zeros || all_within(from, n, LEAST_INPUT, MOST_INPUT);
    for (size_t i = 0; i < n; i++)
        to->x[i] = f32_from_bf16(from[i]);
    if (to->ordinary && !zeros)
        prepare(to->x, n, &to->prepared);
}

/* Where an input is in a panel: bytes to its group and to its words, and the inputs of the group before it. */
typedef struct place {
    size_t group, words, skip;
} place_t;

static place_t place_of(const format_t *format, size_t width, size_t k)
{
    const size_t group = k / format->group * int4_group_bytes(format, width),
                 skip = k % format->group;
    const uint32_t *words = int4_words(format, NULL, width) + skip / INT4_WORD * width;
    return (place_t){group, group + (uintptr_t)words, skip};
}

/* Whether a panel with n inputs is multiplied the quick way, as far as its scales are concerned. */
static bool is_ordinary(const piece_t *p, size_t n)
{
    const char *group = p->group;
    bool ordinary = true;
    for (size_t i = 0; i < p->skip + n;
         i += p->format->group, group += int4_group_bytes(p->format, p->width))
        ordinary &= p->format->zeros
                        ? has_exact_offsets(p->format, group, p->width)
                        : all_within(int4_scales(group), p->width, LEAST_SCALE, MOST_SCALE);
    return ordinary;
}

/* The panels of a call, and a span in turn. */
typedef struct call {
    const format_t *format;
    size_t n_panels, width, columns, k;
    const void *const *panels;
    size_t after; /* bytes from a panel to what is multiplied next, if it follows in memory */
} call_t;

/* Prepares what panel p prefetches, or a set of panels from p on. Where streams want prefetching that is the next set, each
 * a stream of the memory's; else, and for panels of no whole set, the panel that is multiplied some turns later. */
static void look_ahead(const call_t *y, size_t p, ahead_t *ahead)
{
    const size_t set = streams_want_prefetching() ? KERNEL_TILE_PANELS : 1;
    const size_t n = p / set * set + set <= y->n_panels ? set : 1;
    if (n > 1 && p % n > 0)
        return; /* goes on with its set's */
    const size_t most = y->n_panels / n * n;
    size_t next = n > 1 ? p + n : p + TURNS_AHEAD, k = y->k;
    for (; next >= most; next -= most)
        k += SPAN;
    *ahead = (ahead_t){.more = STEP_LINES / n * LINE_BYTES};
    size_t after = 0;
    if (k >= y->columns && n == 1) {
        ahead->more = 0;
        return;
    }
    if (k >= y->columns) {
        k = 0;
        after = y->after;
    }
    /* Groups from their heads on, or a part of one. */
    const place_t place = place_of(y->format, y->width, k);
    const size_t from = after + (place.skip == 0 ? place.group : place.words);
    for (size_t i = 0; i < STEP_LINES; i++)
        ahead->at[i] = (const char *)y->panels[next + i % n] + from + i / n * LINE_BYTES;
}

/* Of panels of several matrices, the same ones of each, the next call has those behind the first matrix's. */
static size_t bytes_after(const format_t *format, size_t n_panels, const void *const *panels,
    size_t width, size_t columns)
{
    const size_t bytes = format->offset(format, columns, width, 1, 0);
    size_t n = 1;
    while (n < n_panels && panels[n] == (const char *)panels[0] + n * bytes)
        n++;
    return n * bytes;
}

static void int4_row(const uint16_t *x, const uint32_t *order, const format_t *format,
    size_t n_panels, const void *const *panels, size_t width, size_t columns, float *c,
    size_t c_panel)
{
    inputs_t in;
    bool minus_zero[MATRIX_MAX_PANELS] = {false};
    ahead_t ahead = {.more = 0};
    const size_t after = bytes_after(format, n_panels, panels, width, columns);
    for (size_t p = 0; p < n_panels; p++)
        memset(c + p * c_panel, 0, width * sizeof *c);
    for (size_t k = 0; k < columns; k += in.n) {
        const call_t call = {format, n_panels, width, columns, k, panels, after};
        const place_t place = place_of(format, width, k);
        take_inputs(format->zeros, x, order, k, size_min(SPAN, columns - k), &in);
        for (size_t p = 0; p < n_panels; p++) {
            const piece_t piece = {
                format, (const char *)panels[p] + place.group, width, place.skip, &ahead};
            look_ahead(&call, p, &ahead);
            if (in.ordinary && !minus_zero[p] && is_ordinary(&piece, in.n))
                multiply(&piece, &in, c + p * c_panel);
            else
                minus_zero[p] = multiply_any(&piece, &in, c + p * c_panel) && !format->zeros;
        }
    }
}

void FILL(kernels_t *kernels)
{
    if (kernels->mode == DTYPE_BF16)
        kernels->int4_row = int4_row;
}
