/* A single row with panels of packed codes, dequantised in registers. Compiled for AVX2, AVX-512, and AVX-512 with
 * instructions for bf16 and VBMI; see fma.h.
 *
 * Several panels take turns, SPAN inputs of each at a time, so that memory is read as several streams. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/coded_vectors.h"
#include "engine/kernels/denormals.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"
#include "engine/kernels/widen.h"
#ifdef __AVX512BF16__
#include "engine/kernels/f8_table.h"
#endif

#if defined(__AVX512BF16__)
#define FILL coded_row_fill_avx512_bf16
#elif defined(__AVX512F__)
#define FILL coded_row_fill_avx512
#else
#define FILL coded_row_fill_avx2
#endif

#define SPAN                                                                                       \
    32 /* inputs: of the dot product amx's operation; groups are whole spans, but for the last one */
#define VECTORS 4 /* of outputs whose sums stay in registers */
#define AHEAD_BYTES 1024
#define FAR_BYTES 6144 /* into the second-level cache (bench/LOG.md) */

/* Some pairs of a group of a panel. */
typedef struct span {
    const uint8_t *codes; /* or, dense, weights */
    size_t width, pairs;
    const coded_outputs_t *of;
    /* The next codes of KERNEL_TILE_PANELS panels, and where in them begins what is prefetched meanwhile, a line of each in
     * turn, so that they are streams of the memory's; NULL: only this panel's are prefetched. */
    const uint8_t *const *next;
    size_t next_bytes;
} span_t;

/* Before pair i of a span. */
INLINE void prefetch_pair(const span_t *s, size_t i, const uint8_t *codes, size_t bytes)
{
    enum { LINE_BYTES = 64, STEP_BYTES = KERNEL_TILE_PANELS * LINE_BYTES };
    if (s->next != NULL) {
        for (size_t p = 0; p < KERNEL_TILE_PANELS && i % (STEP_BYTES / bytes) == 0; p++)
            _mm_prefetch((const char *)s->next[p] + s->next_bytes + i * bytes / KERNEL_TILE_PANELS,
                _MM_HINT_T0);
        return;
    }
    for (size_t byte = 0; byte < bytes; byte += LINE_BYTES) {
        _mm_prefetch((const char *)codes + byte + AHEAD_BYTES, _MM_HINT_T0);
        _mm_prefetch((const char *)codes + byte + FAR_BYTES, _MM_HINT_T1);
    }
}

/* Outputs from `first` on. odd and even may be the same sums: of each pair the odd input comes first. */
INLINE void multiply_outputs(const bool dense, const coded_kind_t kind, const int vectors,
    const size_t width, const span_t *s, size_t first, const uint16_t *x, vec_f32_t *odd,
    vec_f32_t *even)
{
    const size_t bytes = dense ? 4 * width : width * (kind.codes == CODES_INT4 ? 1 : 2);
    const uint8_t *codes = s->codes;
    for (size_t i = 0; i < s->pairs; i++, codes += bytes) {
        const pair_t input = broadcast_pair(x + 2 * i);
        if (!dense && first == 0)
            prefetch_pair(s, i, codes, bytes);
        for (int v = 0; v < vectors; v++) {
            const size_t n = first + (size_t)v * LANES_F32;
            coded_pair_t w;
            if (dense) {
                pair_t wide = load_pair((const uint16_t *)(const void *)codes + 2 * n);
                w = (coded_pair_t){wide.even, wide.odd};
            } else {
                w = coded_weights_of_pair(kind, codes, width, n, s->of);
            }
            odd[v] = FMA_F32(input.odd, w.odd, odd[v]);
            even[v] = FMA_F32(input.even, w.even, even[v]);
        }
    }
}

#ifdef __AVX512BF16__
/* The same for the dot product chain. */
INLINE void multiply_pairs(const bool dense, const coded_kind_t kind, const int vectors,
    const size_t width, const span_t *s, size_t first, const uint16_t *x, vec_f32_t *sum)
{
    const size_t bytes = dense ? 4 * width : width * (kind.codes == CODES_INT4 ? 1 : 2);
    const uint8_t *codes = s->codes;
    for (size_t i = 0; i < s->pairs; i++, codes += bytes) {
        int32_t pair;
        __m512i words[VECTORS];
        memcpy(&pair, x + 2 * i, sizeof pair);
        if (!dense && first == 0)
            prefetch_pair(s, i, codes, bytes);
        if (dense)
            for (int v = 0; v < vectors; v++)
                words[v] = _mm512_loadu_si512(codes + 4 * (first + (size_t)v * LANES_F32));
        else
            coded_words_of_pair(kind, vectors, codes, width, first, s->of, words);
        for (int v = 0; v < vectors; v++)
            sum[v] = (vec_f32_t)_mm512_dpbf16_ps(
                (__m512)sum[v], (__m512bh)words[v], (__m512bh)_mm512_set1_epi32(pair));
    }
}
#endif

INLINE void multiply_span(const bool amx, const bool dense, const coded_kind_t kind,
    const int vectors, const size_t width, const span_t *s, const uint16_t *x, float *c)
{
    for (size_t first = 0; first < width;
         first += (size_t)vectors * LANES_F32, c += vectors * LANES_F32) {
        vec_f32_t odd[VECTORS], even[VECTORS];
        for (int v = 0; v < vectors; v++) {
            odd[v] = *(const mem_f32_t *)(c + LANES_F32 * v);
            if (amx)
                odd[v] = (vec_f32_t){0};
            even[v] = (vec_f32_t){0};
        }
#ifdef __AVX512BF16__
        if (!amx)
            multiply_pairs(dense, kind, vectors, width, s, first, x, odd);
        else
#endif
            multiply_outputs(dense, kind, vectors, width, s, first, x, odd, amx ? even : odd);
        for (int v = 0; v < vectors; v++) {
            mem_f32_t *sum = (mem_f32_t *)(c + LANES_F32 * v);
            if (amx)
                *sum = *sum + (even[v] + odd[v]);
            else
                *sum = odd[v];
        }
    }
}

/* Whole panels have their width and as many sums as fit as constants. */
#define SPAN_OF(AMX, DENSE, KIND)                                                                  \
    if (s->width == KERNEL_PANEL)                                                                  \
        multiply_span(AMX, DENSE, KIND, VECTORS, KERNEL_PANEL, s, x, c);                           \
    else                                                                                           \
        multiply_span(AMX, DENSE, KIND, 16 / LANES_F32, s->width, s, x, c)
#define CHAIN(KIND) SPAN_OF(false, false, KIND)
#define AMX(KIND) SPAN_OF(true, false, KIND)
static const coded_kind_t no_codes = {CODES_INT8, true, false, false, false};

static void chain_span(const format_t *format, const span_t *s, const uint16_t *x, float *c)
{
    CODED_DISPATCH(format, s->of->positive, CHAIN);
}

static void chain_dense(const span_t *s, const uint16_t *x, float *c)
{
    SPAN_OF(false, true, no_codes);
}

#ifdef __AVX512BF16__
#define TABLES(FUNCTION) , FUNCTION

/* A whole panel's codes by f8_table.h. */
INLINE void table_span(
    const bool amx, const f8_table_t *table, const span_t *s, const uint16_t *x, float *c)
{
    const f8_lookup_t lookup = f8_load_table(table);
    const bool prefetches = streams_want_prefetching();
    const uint8_t *codes = s->codes;
    vec_f32_t before[F8_VECTORS], odd[F8_VECTORS], even[F8_VECTORS];
    for (int v = 0; v < F8_VECTORS; v++) {
        before[v] = *(const mem_f32_t *)(c + LANES_F32 * v);
        odd[v] = even[v] = (vec_f32_t){0};
    }
    f8_reorder(before);
    for (size_t i = 0; i < s->pairs; i++, codes += 2 * KERNEL_PANEL) {
        __m512i words[F8_VECTORS];
        const pair_t input = broadcast_pair(x + 2 * i);
        int32_t pair;
        memcpy(&pair, x + 2 * i, sizeof pair);
        if (prefetches)
            prefetch_pair(s, i, codes, 2 * KERNEL_PANEL);
        f8_words(&lookup, codes, words);
        for (int v = 0; v < F8_VECTORS; v++)
            if (amx) {
                const pair_t w = widen((vec_u32_t)words[v]);
                odd[v] = FMA_F32(input.odd, w.odd, odd[v]);
                even[v] = FMA_F32(input.even, w.even, even[v]);
            } else {
                before[v] = (vec_f32_t)_mm512_dpbf16_ps(
                    (__m512)before[v], (__m512bh)words[v], (__m512bh)_mm512_set1_epi32(pair));
            }
    }
    for (int v = 0; v < F8_VECTORS && amx; v++)
        before[v] = before[v] + (even[v] + odd[v]);
    f8_reorder(before);
    for (int v = 0; v < F8_VECTORS; v++)
        *(mem_f32_t *)(c + LANES_F32 * v) = before[v];
}

static void chain_table(const f8_table_t *table, const span_t *s, const uint16_t *x, float *c)
{
    table_span(false, table, s, x, c);
}

static void amx_table(const f8_table_t *table, const span_t *s, const uint16_t *x, float *c)
{
    table_span(true, table, s, x, c);
}
#else
#define TABLES(FUNCTION)
#endif

/* How a dot product is computed, of spans and of such that are dequantised before. */
typedef struct dot_kernels {
    void (*span)(const format_t *format, const span_t *s, const uint16_t *x, float *c);
    void (*dense)(const span_t *s, const uint16_t *x, float *c);
#ifdef __AVX512BF16__
    void (*table)(const f8_table_t *table, const span_t *s, const uint16_t *x, float *c);
#endif
} dot_kernels_t;

static const dot_kernels_t chain_kernels = {chain_span, chain_dense TABLES(chain_table)};

static void amx_span(const format_t *format, const span_t *s, const uint16_t *x, float *c)
{
    CODED_DISPATCH(format, s->of->positive, AMX);
}

static void amx_dense(const span_t *s, const uint16_t *x, float *c)
{
    SPAN_OF(true, true, no_codes);
}

static const dot_kernels_t amx_kernels = {amx_span, amx_dense TABLES(amx_table)};

/* A panel, and what its group in turn has. */
typedef struct stream {
    const void *panel;
    size_t group;
    bool normal;
    coded_outputs_t of;
#ifdef __AVX512BF16__
    bool has_table;
    f8_table_t table;
#endif
} stream_t;

/* Inputs [k, k + n) of a panel, within a span and a group. */
static void multiply_panel(const dot_kernels_t *dot, const format_t *format, stream_t *stream,
    size_t width, size_t columns, size_t k, size_t n, const uint16_t *x, const uint8_t *const *next,
    size_t p, float *c)
{
    size_t g = format->group == 0 ? 0 : k / format->group;
    if (g != stream->group) {
        stream->normal = coded_lay_out_group(format, stream->panel, width, columns, g, &stream->of);
        stream->group = g;
#ifdef __AVX512BF16__
        stream->has_table = stream->normal && format->codes == CODES_F8 && width == KERNEL_PANEL &&
                            f8_table_fill(&stream->of, &stream->table);
#endif
    }
    const size_t bytes = n / 2 * width * (format->codes == CODES_INT4 ? 1 : 2);
    span_t s = {coded_pairs(format, stream->panel, width, columns, k), width, n / 2, &stream->of,
        next, p * bytes / KERNEL_TILE_PANELS};
#ifdef __AVX512BF16__
    if (stream->has_table) {
        dot->table(&stream->table, &s, x, c);
        return;
    }
#endif
    if (stream->normal) {
        dot->span(format, &s, x, c);
        return;
    }
    uint16_t weights[SPAN * KERNEL_PANEL] __attribute__((aligned(64)));
    unsigned control = denormals_keep(weights);
    coded_unpack_scalar(format, stream->panel, width, columns, k, n, weights);
    denormals_restore(control, weights);
    s.codes = (const uint8_t *)weights;
    dot->dense(&s, x, c);
}

static void run(const dot_kernels_t *dot, const format_t *format, const uint16_t *x,
    size_t n_panels, const void *const *panels, size_t width, size_t columns, size_t first,
    size_t k, float *c, size_t c_panel, tile_mode_t mode)
{
    stream_t streams[KERNEL_TILE_PANELS];
    const uint8_t *next[KERNEL_TILE_PANELS];
    const bool together =
        streams_want_prefetching() && width == KERNEL_PANEL && n_panels == KERNEL_TILE_PANELS;
    float leaf[KERNEL_TILE_PANELS * KERNEL_PANEL] __attribute__((aligned(64)));
    float *sum = mode == TILE_ADD ? leaf : c;
    size_t stride = mode == TILE_ADD ? KERNEL_PANEL : c_panel;
    for (size_t p = 0; p < n_panels; p++) {
        streams[p].panel = panels[p];
        streams[p].group = SIZE_MAX;
        if (mode != TILE_CHAIN)
            memset(sum + p * stride, 0, width * sizeof *sum);
    }
    unsigned saved = denormals_flush(sum);
    for (size_t i = 0, n; i < k; i += n) {
        n = size_min(SPAN - (first + i) % SPAN, k - i);
        for (size_t p = 0; p < n_panels; p++)
            next[p] = coded_pairs(format, panels[p], width, columns, first + i + n);
        for (size_t p = 0; p < n_panels; p++)
            multiply_panel(dot, format, &streams[p], width, columns, first + i, n, x + i,
                together ? next : NULL, p, sum + p * stride);
    }
    denormals_restore(saved, sum);
    for (size_t p = 0; p < n_panels && mode == TILE_ADD; p++)
        for (size_t j = 0; j < width; j++)
            c[p * c_panel + j] += leaf[p * KERNEL_PANEL + j];
}

static void coded_row(const format_t *format, const uint16_t *x, size_t n_panels,
    const void *const *panels, size_t width, size_t columns, size_t first, size_t k, float *c,
    size_t c_panel, tile_mode_t mode)
{
    run(&chain_kernels, format, x, n_panels, panels, width, columns, first, k, c, c_panel, mode);
}

static void coded_row_amx(const format_t *format, const uint16_t *x, size_t n_panels,
    const void *const *panels, size_t width, size_t columns, size_t first, size_t k, float *c,
    size_t c_panel, tile_mode_t mode)
{
    run(&amx_kernels, format, x, n_panels, panels, width, columns, first, k, c, c_panel, mode);
}

void FILL(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->coded_row = coded_row;
    kernels->coded_row_amx = coded_row_amx;
}
