/* A single row with panels of packed codes, dequantised in registers. Compiled for AVX2, AVX-512, and AVX-512 with
 * instructions for bf16 and VBMI; see fma.h.
 *
 * Several panels take turns, TURN inputs of each at a time. Meanwhile the next turn's codes are prefetched, a line of each panel
 * in turn, so that memory is read as several streams. */
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

/* Inputs: of the dot product amx's operation. Groups are whole turns, but for the last one. */
#define TURN 32
#define VECTORS 4 /* of outputs whose sums stay in registers */
#define AHEAD_BYTES 1024
#define FAR_BYTES 6144 /* into the second-level cache (bench/LOG.md) */

/* What a panel is multiplied with in a turn, all of one group. */
typedef struct span {
    const uint8_t *codes; /* or, dense, weights */
    const uint16_t *x;
    size_t width, pairs;
    const coded_outputs_t *of;
    /* The next codes of KERNEL_TILE_PANELS panels, and where in them begins what is prefetched meanwhile, a line of each in
     * turn, so that they are streams of the memory's; NULL: only this panel's are prefetched. */
    const uint8_t *const *next;
    size_t next_bytes;
} span_t;

INLINE size_t pair_bytes(const bool dense, const coded_kind_t kind, const size_t width)
{
    return dense ? 4 * width : width * (kind.codes == CODES_INT4 ? 1 : 2);
}

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
    const size_t width, const span_t *s, size_t first, vec_f32_t *odd, vec_f32_t *even)
{
    const size_t bytes = pair_bytes(dense, kind, width);
    const uint8_t *codes = s->codes;
    for (size_t i = 0; i < s->pairs; i++, codes += bytes) {
        const pair_t input = broadcast_pair(s->x + 2 * i);
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
    const size_t width, const span_t *s, size_t first, vec_f32_t *sum)
{
    const size_t bytes = pair_bytes(dense, kind, width);
    const uint8_t *codes = s->codes;
    for (size_t i = 0; i < s->pairs; i++, codes += bytes) {
        int32_t pair;
        __m512i words[VECTORS];
        memcpy(&pair, s->x + 2 * i, sizeof pair);
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
    const int vectors, const size_t width, const span_t *s, float *c)
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
            multiply_pairs(dense, kind, vectors, width, s, first, odd);
        else
#endif
            multiply_outputs(dense, kind, vectors, width, s, first, odd, amx ? even : odd);
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
        multiply_span(AMX, DENSE, KIND, VECTORS, KERNEL_PANEL, s, c);                              \
    else                                                                                           \
        multiply_span(AMX, DENSE, KIND, 16 / LANES_F32, s->width, s, c)
#define CHAIN(KIND) SPAN_OF(false, false, KIND)
#define AMX(KIND) SPAN_OF(true, false, KIND)
static const coded_kind_t no_codes = {CODES_INT8, true, false, false, false};

static void chain_span(const format_t *format, const span_t *s, float *c)
{
    CODED_DISPATCH(format, s->of->positive, CHAIN);
}

static void chain_dense(const span_t *s, float *c)
{
    SPAN_OF(false, true, no_codes);
}

#ifdef __AVX512BF16__
#define TABLES(FUNCTION) , FUNCTION

/* A whole panel's codes by f8_table.h. */
static void chain_table(const f8_table_t *table, const span_t *s, float *c)
{
    const f8_lookup_t lookup = f8_load_table(table);
    const bool prefetches = streams_want_prefetching();
    const uint8_t *codes = s->codes;
    vec_f32_t sum[F8_VECTORS];
    for (int v = 0; v < F8_VECTORS; v++)
        sum[v] = *(const mem_f32_t *)(c + LANES_F32 * v);
    f8_transpose(sum);
    for (size_t i = 0; i < s->pairs; i++, codes += 2 * KERNEL_PANEL) {
        __m512i words[F8_VECTORS];
        int32_t pair;
        memcpy(&pair, s->x + 2 * i, sizeof pair);
        if (prefetches)
            prefetch_pair(s, i, codes, 2 * KERNEL_PANEL);
        f8_words(&lookup, codes, words);
        for (int v = 0; v < F8_VECTORS; v++)
            sum[v] = (vec_f32_t)_mm512_dpbf16_ps(
                (__m512)sum[v], (__m512bh)words[v], (__m512bh)_mm512_set1_epi32(pair));
    }
    f8_transpose(sum);
    for (int v = 0; v < F8_VECTORS; v++)
        *(mem_f32_t *)(c + LANES_F32 * v) = sum[v];
}

/* sum += x times the weights of one input. */
INLINE void multiply_input(
    const f8_lookup_t *lookup, const uint8_t *codes, vec_f32_t x, vec_f32_t sum[F8_VECTORS])
{
    __m512i words[F8_VECTORS / 2];
    f8_words_of_input(lookup, codes, words);
    for (int i = 0; i < F8_VECTORS / 2; i++) {
        const pair_t w = widen((vec_u32_t)words[i]);
        sum[2 * i] = FMA_F32(x, w.even, sum[2 * i]);
        sum[2 * i + 1] = FMA_F32(x, w.odd, sum[2 * i + 1]);
    }
}

static void amx_table(const f8_table_t *table, const span_t *s, float *c)
{
    const f8_lookup_t lookup = f8_load_table(table);
    const bool prefetches = streams_want_prefetching();
    const uint8_t *codes = s->codes;
    vec_f32_t odd[F8_VECTORS], even[F8_VECTORS];
    for (int v = 0; v < F8_VECTORS; v++)
        odd[v] = even[v] = (vec_f32_t){0};
    for (size_t i = 0; i < s->pairs; i++, codes += 2 * KERNEL_PANEL) {
        const pair_t input = broadcast_pair(s->x + 2 * i);
        if (prefetches)
            prefetch_pair(s, i, codes, 2 * KERNEL_PANEL);
        multiply_input(&lookup, codes, input.even, even);
        multiply_input(&lookup, codes + KERNEL_PANEL, input.odd, odd);
    }
    for (int v = 0; v < F8_VECTORS; v++)
        odd[v] = even[v] + odd[v];
    f8_from_words(odd);
    for (int v = 0; v < F8_VECTORS; v++) {
        mem_f32_t *sum = (mem_f32_t *)(c + LANES_F32 * v);
        *sum = *sum + odd[v];
    }
}
#else
#define TABLES(FUNCTION)
#endif

/* How a dot product is computed, of spans and of such that are dequantised before. */
typedef struct dot_kernels {
    void (*span)(const format_t *format, const span_t *s, float *c);
    void (*dense)(const span_t *s, float *c);
#ifdef __AVX512BF16__
    void (*table)(const f8_table_t *table, const span_t *s, float *c);
#endif
} dot_kernels_t;

static const dot_kernels_t chain_kernels = {chain_span, chain_dense TABLES(chain_table)};

static void amx_span(const format_t *format, const span_t *s, float *c)
{
    CODED_DISPATCH(format, s->of->positive, AMX);
}

static void amx_dense(const span_t *s, float *c)
{
    SPAN_OF(true, true, no_codes);
}

static const dot_kernels_t amx_kernels = {amx_span, amx_dense TABLES(amx_table)};

/* A panel, and what its group in turn has. */
typedef struct stream {
    const char *panel;
    size_t group;
    bool normal;
    coded_outputs_t of;
#ifdef __AVX512BF16__
    const f8_table_t *table; /* NULL: none */
    f8_table_t own;
#endif
} stream_t;

/* Panels that take turns. */
typedef struct turns {
    const dot_kernels_t *dot;
    const format_t *format;
    size_t n_panels, width, columns;
    stream_t streams[KERNEL_TILE_PANELS];
    /* Whether the next turn's codes are prefetched; after the last inputs the first ones of the panels that follow in
     * memory. */
    bool together;
    const uint8_t *next[KERNEL_TILE_PANELS];
} turns_t;

/* The panel that is multiplied after this one where others follow in memory. */
static const char *panel_after(const turns_t *t, size_t p)
{
    return t->streams[p].panel + t->format->offset(t->format, t->columns, t->width, t->n_panels, 0);
}

/* next: from input k on */
static void find_next(turns_t *t, size_t k)
{
    for (size_t p = 0; p < t->n_panels && t->together; p++)
        t->next[p] =
            coded_pairs(t->format, k < t->columns ? t->streams[p].panel : panel_after(t, p),
                t->width, t->columns, k < t->columns ? k : 0);
}

/* Scales of the group after g. */
static void prefetch_scales(const turns_t *t, size_t p, size_t g)
{
    const bool ends = g + 1 >= coded_groups(t->format->group, t->columns);
    const char *scales = coded_scales(
        t->format, ends ? panel_after(t, p) : t->streams[p].panel, t->width, ends ? 0 : g + 1);
    for (size_t byte = 0; byte < t->width * coded_scale_bytes(t->format) && t->together; byte += 64)
        _mm_prefetch(scales + byte, _MM_HINT_T0);
}

/* What panel p's group g has in common. */
static void enter_group(turns_t *t, size_t p, size_t g)
{
    stream_t *stream = &t->streams[p];
    stream->group = g;
    prefetch_scales(t, p, g);
#ifdef __AVX512BF16__
    /* Two panels are of one block. */
    const f8_table_t *known = p > 0 ? stream[-1].table : NULL;
    stream->table = NULL;
    if (t->format->codes == CODES_F8 && t->width == KERNEL_PANEL)
        stream->table = f8_table_find(t->format, stream->panel, g, known, &stream->own);
    if (stream->table != NULL)
        return;
#endif
    stream->normal =
        coded_lay_out_group(t->format, stream->panel, t->width, t->columns, g, &stream->of);
}

/* Inputs [k, k + n) of panel p, within a turn and a group. */
static void multiply_panel(turns_t *t, size_t p, size_t k, size_t n, const uint16_t *x, float *c)
{
    stream_t *stream = &t->streams[p];
    const size_t g = t->format->group == 0 ? 0 : k / t->format->group,
                 bytes = n / 2 * t->width * (t->format->codes == CODES_INT4 ? 1 : 2);
    if (g != stream->group)
        enter_group(t, p, g);
    span_t s = {.codes = coded_pairs(t->format, stream->panel, t->width, t->columns, k),
        .x = x,
        .width = t->width,
        .pairs = n / 2,
        .of = &stream->of,
        .next = t->together ? t->next : NULL,
        .next_bytes = p * bytes / KERNEL_TILE_PANELS};
#ifdef __AVX512BF16__
    if (stream->table != NULL) {
        t->dot->table(stream->table, &s, c);
        return;
    }
#endif
    if (stream->normal) {
        t->dot->span(t->format, &s, c);
        return;
    }
    uint16_t weights[TURN * KERNEL_PANEL] __attribute__((aligned(64)));
    unsigned control = denormals_keep(weights);
    coded_unpack_scalar(t->format, stream->panel, t->width, t->columns, k, n, weights);
    denormals_restore(control, weights);
    s.codes = (const uint8_t *)weights;
    t->dot->dense(&s, c);
}

static void run(const dot_kernels_t *dot, const format_t *format, const uint16_t *x,
    size_t n_panels, const void *const *panels, size_t width, size_t columns, size_t first,
    size_t k, float *c, size_t c_panel, tile_mode_t mode)
{
    turns_t turns;
    turns.dot = dot;
    turns.format = format;
    turns.n_panels = n_panels;
    turns.width = width;
    turns.columns = columns;
    turns.together =
        streams_want_prefetching() && width == KERNEL_PANEL && n_panels == KERNEL_TILE_PANELS;
    float leaf[KERNEL_TILE_PANELS * KERNEL_PANEL] __attribute__((aligned(64)));
    float *sum = mode == TILE_ADD ? leaf : c;
    size_t stride = mode == TILE_ADD ? KERNEL_PANEL : c_panel;
    for (size_t p = 0; p < n_panels; p++) {
        turns.streams[p].panel = panels[p];
        turns.streams[p].group = SIZE_MAX;
        if (mode != TILE_CHAIN)
            memset(sum + p * stride, 0, width * sizeof *sum);
    }
    unsigned saved = denormals_flush(sum);
    for (size_t i = 0, n; i < k; i += n) {
        n = size_min(TURN - (first + i) % TURN, k - i);
        find_next(&turns, first + i + n);
        for (size_t p = 0; p < n_panels; p++)
            multiply_panel(&turns, p, first + i, n, x + i, sum + p * stride);
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
