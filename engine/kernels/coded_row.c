/* A single row with panels of packed codes, dequantised in registers. Compiled for AVX2, AVX-512, and AVX-512 with
 * instructions for bf16 and VBMI; see fma.h.
 *
 * Several panels take turns, TURN inputs of each at a time. Meanwhile the next turn's codes are prefetched, a line of each panel
 * in turn, so that memory is read as several streams. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/coded_vectors.h"
#include "engine/kernels/denormals.h"
#include "engine/kernels/f8_table.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"
#include "engine/kernels/widen.h"
#include "engine/kernels/words_in_place.h"

#if defined(__AVX512BF16__)
#define FILL coded_row_fill_avx512_bf16
#elif defined(__AVX512F__)
#define FILL coded_row_fill_avx512
#else
#define FILL coded_row_fill_avx2
#endif

/* Inputs: of the dot product amx's operation. Groups are whole turns, but for the last one. */
#define TURN 32
#define LONG_TURN 256 /* of one panel alone */
#define VECTORS 4     /* of outputs whose sums stay in registers */
#define LINE_BYTES 64

/* Lines that are prefetched at a time, of 1, 2 or 4 streams, while as many are multiplied. */
#define STEP_LINES KERNEL_TILE_PANELS
typedef struct ahead {
    const char *at[STEP_LINES]; /* the first time; then `more` bytes behind */
    size_t more;
} ahead_t;

/* What a panel is multiplied with in a turn, all of one group. */
typedef struct span {
    const uint8_t *codes; /* or, dense, weights */
    const uint16_t *x;
    const float *wide; /* x */
    size_t width, pairs;
    const coded_outputs_t *of;
    const f8_table_t *table;
    const place_scales_t *place;
    const ahead_t *ahead; /* NULL: the codes that follow these are prefetched */
} span_t;

/* How it is multiplied: constants after inlining. */
typedef struct product {
    enum {
        BY_SCALE, /* codes are dequantised by their outputs' scales */
        BY_TABLE, /* f8_table.h, a whole panel's */
        IN_PLACE, /* words_in_place.h, likewise */
        DENSE     /* weights, dequantised before */
    } weights;
    coded_kind_t kind;
    int vectors;
    size_t width;
    enum {
        CHAIN_BY_FMA,
        CHAIN_BY_PAIRS, /* the same by vdpbf16ps */
        AMX
    } dot;
} product_t;

INLINE size_t pair_bytes(const product_t how)
{
    if (how.weights == DENSE)
        return 4 * how.width;
    return how.width * (how.kind.codes == CODES_INT4 ? 1 : 2);
}

/* What whole panels' words are looked up in, in registers. */
typedef struct lookup {
    f8_lookup_t f8;
#ifdef __AVX512BF16__
    place_lookup_t place;
#endif
} lookup_t;

/* Adds the products of a pair of inputs and outputs from `first` on. odd and even may be the same sums: the odd input comes
 * first. */
INLINE void multiply_widened(const product_t how, const uint8_t *codes, size_t i, const span_t *s,
    size_t first, vec_f32_t *odd, vec_f32_t *even)
{
    const pair_t input = {.even = SET_F32(s->wide[2 * i]), .odd = SET_F32(s->wide[2 * i + 1])};
    for (int v = 0; v < how.vectors; v++) {
        const size_t n = first + (size_t)v * LANES_F32;
        coded_pair_t w;
        if (how.weights == DENSE) {
            pair_t wide = load_pair((const uint16_t *)(const void *)codes + 2 * n);
            w = (coded_pair_t){wide.even, wide.odd};
        } else {
            w = coded_weights_of_pair(how.kind, codes, how.width, n, s->of);
        }
        odd[v] = FMA_F32(input.odd, w.odd, odd[v]);
        even[v] = FMA_F32(input.even, w.even, even[v]);
    }
}

#ifdef __AVX512BF16__
/* The same for the chain; by a table or in place, sums in the order of the words. */
INLINE void multiply_words(const product_t how, const uint8_t *codes, size_t i, const span_t *s,
    const lookup_t *lookup, size_t first, vec_f32_t *sum)
{
    int32_t pair;
    __m512i words[VECTORS];
    memcpy(&pair, s->x + 2 * i, sizeof pair);
    if (how.weights == BY_TABLE)
        f8_words(&lookup->f8, codes, words);
    else if (how.weights == IN_PLACE)
        place_words(how.kind.codes, &lookup->place, codes, words);
    else
        coded_words_of_pair(how.kind, how.vectors, codes, how.width, first, s->of, words);
    for (int v = 0; v < how.vectors; v++)
        sum[v] = (vec_f32_t)_mm512_dpbf16_ps(
            (__m512)sum[v], (__m512bh)words[v], (__m512bh)_mm512_set1_epi32(pair));
}
#endif

/* sum += x times the weights of one input, in the order of f8_words_of_input. */
INLINE void multiply_input(
    const lookup_t *lookup, const uint8_t *codes, vec_f32_t x, vec_f32_t sum[F8_VECTORS])
{
    vec_t words[F8_VECTORS / 2];
    f8_words_of_input(&lookup->f8, codes, words);
    for (int i = 0; i < F8_VECTORS / 2; i++) {
        const pair_t w = widen((vec_u32_t)words[i]);
        sum[2 * i] = FMA_F32(x, w.even, sum[2 * i]);
        sum[2 * i + 1] = FMA_F32(x, w.odd, sum[2 * i + 1]);
    }
}

INLINE void multiply_pair(const product_t how, const uint8_t *codes, size_t i, const span_t *s,
    const lookup_t *lookup, size_t first, vec_f32_t *odd, vec_f32_t *even)
{
#ifdef __AVX512BF16__
    if (how.dot == CHAIN_BY_PAIRS) {
        multiply_words(how, codes, i, s, lookup, first, odd);
        return;
    }
#endif
    if (how.weights == BY_TABLE) {
        multiply_input(lookup, codes + first + KERNEL_PANEL, SET_F32(s->wide[2 * i + 1]), odd);
        multiply_input(lookup, codes + first, SET_F32(s->wide[2 * i]), even);
        return;
    }
    multiply_widened(how, codes, i, s, first, odd, even);
}

/* What is read a little later, and later still into the second-level cache (bench/LOG.md). */
INLINE void prefetch_behind(const uint8_t *codes, size_t bytes)
{
    enum { AHEAD_BYTES = 1024, FAR_BYTES = 6144 };
    for (size_t byte = 0; byte < bytes; byte += LINE_BYTES) {
        _mm_prefetch((const char *)codes + byte + AHEAD_BYTES, _MM_HINT_T0);
        _mm_prefetch((const char *)codes + byte + FAR_BYTES, _MM_HINT_T1);
    }
}

INLINE void multiply_pairs(const product_t how, const span_t *s, const lookup_t *lookup,
    size_t first, vec_f32_t *odd, vec_f32_t *even)
{
    enum { STEP_BYTES = STEP_LINES * LINE_BYTES };
    const size_t bytes = pair_bytes(how), step = STEP_BYTES / bytes;
    const uint8_t *codes = s->codes;
    if (s->ahead != NULL && s->pairs == TURN / 2 && how.width == KERNEL_PANEL &&
        how.weights != DENSE) {
        const ahead_t ahead = *s->ahead;
        for (size_t i = 0; i < TURN / 2 / step; i++) {
#pragma GCC unroll 4
            for (size_t j = 0; j < step; j++, codes += bytes) {
                for (size_t z = j * STEP_LINES / step; z < (j + 1) * STEP_LINES / step; z++)
                    if (first == 0)
                        _mm_prefetch(ahead.at[z] + i * ahead.more, _MM_HINT_T0);
                multiply_pair(how, codes, i * step + j, s, lookup, first, odd, even);
            }
        }
        return;
    }
    const bool prefetches = how.weights != DENSE && first == 0 &&
                            (how.weights != BY_TABLE || streams_want_prefetching());
    for (size_t i = 0; i < s->pairs; i++, codes += bytes) {
        if (prefetches)
            prefetch_behind(codes, bytes);
        multiply_pair(how, codes, i, s, lookup, first, odd, even);
    }
}

/* By a table or in place: c in the order of the words. */
INLINE void multiply_span(const product_t how, const span_t *s, float *c)
{
    lookup_t lookup = {0};
    if (how.weights == BY_TABLE)
        lookup.f8 = f8_load_table(s->table);
#ifdef __AVX512BF16__
    if (how.weights == IN_PLACE)
        lookup.place = place_load_scales(s->place);
#endif
    for (size_t first = 0; first < how.width;
         first += (size_t)how.vectors * LANES_F32, c += how.vectors * LANES_F32) {
        vec_f32_t odd[VECTORS], even[VECTORS];
        for (int v = 0; v < how.vectors; v++) {
            odd[v] = *(const mem_f32_t *)(c + LANES_F32 * v);
            if (how.dot == AMX)
                odd[v] = (vec_f32_t){0};
            even[v] = (vec_f32_t){0};
        }
        multiply_pairs(how, s, &lookup, first, odd, how.dot == AMX ? even : odd);
        for (int v = 0; v < how.vectors; v++) {
            mem_f32_t *sum = (mem_f32_t *)(c + LANES_F32 * v);
            if (how.dot == AMX)
                *sum = *sum + (even[v] + odd[v]);
            else
                *sum = odd[v];
        }
    }
}

/* Whole panels have their width and as many sums as fit as constants. */
#define SPAN_OF(DOT, WEIGHTS, KIND)                                                                \
    if (s->width == KERNEL_PANEL)                                                                  \
        multiply_span((product_t){WEIGHTS, KIND, VECTORS, KERNEL_PANEL, DOT}, s, c);               \
    else                                                                                           \
        multiply_span((product_t){WEIGHTS, KIND, 16 / LANES_F32, s->width, DOT}, s, c)
#define SPAN_BY_FMA(KIND) SPAN_OF(CHAIN_BY_FMA, BY_SCALE, KIND)
#define SPAN_BY_PAIRS(KIND) SPAN_OF(CHAIN_BY_PAIRS, BY_SCALE, KIND)
#define SPAN_AMX(KIND) SPAN_OF(AMX, BY_SCALE, KIND)
static const coded_kind_t no_codes = {CODES_INT8, true, false, false, false};

static void chain_span(const format_t *format, const span_t *s, float *c)
{
    CODED_DISPATCH(format, s->of->positive, SPAN_BY_FMA);
}

static void chain_dense(const span_t *s, float *c)
{
    SPAN_OF(CHAIN_BY_FMA, DENSE, no_codes);
}

static void amx_span(const format_t *format, const span_t *s, float *c)
{
    CODED_DISPATCH(format, s->of->positive, SPAN_AMX);
}

static void amx_dense(const span_t *s, float *c)
{
    SPAN_OF(AMX, DENSE, no_codes);
}

static const coded_kind_t f8_codes = {CODES_F8, true, false, false, false};

#define TABLE_OF(DOT) ((product_t){BY_TABLE, f8_codes, F8_VECTORS, KERNEL_PANEL, DOT})
static void chain_table(const span_t *s, float *c)
{
    multiply_span(TABLE_OF(CHAIN_BY_FMA), s, c);
}

static void amx_table(const span_t *s, float *c)
{
    multiply_span(TABLE_OF(AMX), s, c);
}

/* A panel's sums from natural order to that of words, and back. */
#define REORDERED(NAME, REORDER)                                                                   \
    static void NAME(float *c)                                                                     \
    {                                                                                              \
        for (size_t first = 0; first < KERNEL_PANEL; first += F8_OUTPUTS, c += F8_OUTPUTS) {       \
            vec_f32_t x[F8_VECTORS];                                                               \
            for (int v = 0; v < F8_VECTORS; v++)                                                   \
                x[v] = *(const mem_f32_t *)(c + LANES_F32 * v);                                    \
            REORDER(x);                                                                            \
            for (int v = 0; v < F8_VECTORS; v++)                                                   \
                *(mem_f32_t *)(c + LANES_F32 * v) = x[v];                                          \
        }                                                                                          \
    }
REORDERED(to_words, f8_to_words)
REORDERED(from_words, f8_from_words)

/* How a dot product is computed, of spans, of such that are dequantised before, and of whole panels whose sums have an order
 * of their own. */
typedef struct dot_kernels {
    void (*span)(const format_t *format, const span_t *s, float *c);
    void (*dense)(const span_t *s, float *c);
    void (*words)(const span_t *s, float *c);
    void (*to_words)(float *c), (*from_words)(float *c); /* a panel's sums */
    bool in_place; /* words are those of words_in_place.h, not of a table */
} dot_kernels_t;

static const dot_kernels_t chain_kernels = {
    chain_span, chain_dense, chain_table, to_words, from_words, false};
static const dot_kernels_t amx_kernels = {
    amx_span, amx_dense, amx_table, to_words, from_words, false};

#ifdef __AVX512BF16__
static void pairs_span(const format_t *format, const span_t *s, float *c)
{
    CODED_DISPATCH(format, s->of->positive, SPAN_BY_PAIRS);
}

static void pairs_table(const span_t *s, float *c)
{
    multiply_span(TABLE_OF(CHAIN_BY_PAIRS), s, c);
}

REORDERED(transpose, f8_transpose)

static const dot_kernels_t pairs_kernels = {
    pairs_span, chain_dense, pairs_table, transpose, transpose, false};

#define IN_PLACE_OF(CODES)                                                                         \
    ((product_t){                                                                                  \
        IN_PLACE, {CODES, true, false, false, true}, PLACE_VECTORS, KERNEL_PANEL, CHAIN_BY_PAIRS})
static void int8_in_place(const span_t *s, float *c)
{
    multiply_span(IN_PLACE_OF(CODES_INT8), s, c);
}

static void int4_in_place(const span_t *s, float *c)
{
    multiply_span(IN_PLACE_OF(CODES_INT4), s, c);
}

REORDERED(to_place, place_to_words)
REORDERED(from_place, place_from_words)

static const dot_kernels_t int8_kernels = {
    pairs_span, chain_dense, int8_in_place, to_place, from_place, true};
static const dot_kernels_t int4_kernels = {
    pairs_span, chain_dense, int4_in_place, to_place, from_place, true};

static const dot_kernels_t *pairs_of(const format_t *format, size_t width)
{
    const bool scales = format->scale_type == DTYPE_BF16 && width == KERNEL_PANEL;
    if (scales && format->codes == CODES_INT4)
        return &int4_kernels;
    return scales && format->codes == CODES_INT8 && !format->zeros ? &int8_kernels : &pairs_kernels;
}
#endif

/* A panel, and what its group in turn has. */
typedef struct stream {
    const char *panel;
    size_t group;
    bool normal;
    coded_outputs_t of;
    const f8_table_t *table; /* NULL: none */
    f8_table_t own;
    place_scales_t place;
    bool by_words;
    bool in_words; /* sums are in the order of words */
} stream_t;

/* Panels that take turns. */
typedef struct turns {
    const dot_kernels_t *dot;
    const format_t *format;
    size_t n_panels, width, columns;
    stream_t streams[KERNEL_TILE_PANELS];
} turns_t;

/* Bytes of a panel before the codes of input k. */
static size_t bytes_before(const turns_t *t, size_t k)
{
    const char *panel = t->streams[0].panel;
    return (size_t)((const char *)coded_pairs(t->format, panel, t->width, k) - panel);
}

/* While a turn is multiplied, that of input k, or after the last inputs the first of the panels that are multiplied then where
 * others follow in memory. ahead: of the turn's first panel; false: none */
static bool look_ahead(const turns_t *t, size_t k, ahead_t *ahead)
{
    const format_t *format = t->format;
    if (!streams_want_prefetching() || t->width != KERNEL_PANEL || STEP_LINES % t->n_panels != 0)
        return false;
    const bool ends = k >= t->columns;
    const size_t head = bytes_before(t, 0);
    const size_t at = ends ? format->offset(format, t->columns, t->width, t->n_panels, 0) + head
                           : bytes_before(t, k);
    const char *from[STEP_LINES];
    for (size_t p = 0; p < t->n_panels; p++) {
        from[p] = t->streams[p].panel + at;
        if (ends || (format->group > 0 && k % format->group == 0))
            for (size_t byte = 0; byte < head; byte += LINE_BYTES)
                _mm_prefetch(from[p] - head + byte, _MM_HINT_T0);
    }
    for (size_t z = 0; z < STEP_LINES; z++)
        ahead->at[z] = from[z % t->n_panels] + z / t->n_panels * LINE_BYTES;
    ahead->more = STEP_LINES / t->n_panels * LINE_BYTES;
    return true;
}

/* What panel p's group g has in common. */
static void enter_group(turns_t *t, size_t p, size_t g)
{
    stream_t *stream = &t->streams[p];
    stream->group = g;
    /* Two panels are of one block. */
    const f8_table_t *known = p > 0 ? stream[-1].table : NULL;
    stream->table = NULL;
    if (t->format->codes == CODES_F8 && t->width == KERNEL_PANEL)
        stream->table = f8_table_find(t->format, stream->panel, g, known, &stream->own);
    stream->by_words = stream->table != NULL;
    if (stream->by_words)
        return;
    stream->normal = coded_lay_out_group(t->format, stream->panel, t->width, g, &stream->of);
#ifdef __AVX512BF16__
    stream->by_words = t->dot->in_place && stream->normal && stream->of.positive;
    if (stream->by_words)
        place_lay_out(t->format->codes, &stream->of, &stream->place);
#endif
}

/* in_words: the order that is wanted */
static void order_sums(const turns_t *t, stream_t *stream, bool in_words, float *c)
{
    if (in_words != stream->in_words)
        (in_words ? t->dot->to_words : t->dot->from_words)(c);
    stream->in_words = in_words;
}

/* Inputs from k on of panel p, within a turn and a group. */
static void multiply_panel(turns_t *t, size_t p, size_t k, span_t *s, float *c)
{
    stream_t *stream = &t->streams[p];
    s->of = &stream->of;
    s->table = stream->table;
    s->place = &stream->place;
    order_sums(t, stream, stream->by_words, c);
    if (stream->by_words) {
        t->dot->words(s, c);
        return;
    }
    if (stream->normal) {
        t->dot->span(t->format, s, c);
        return;
    }
    uint16_t weights[TURN * KERNEL_PANEL] __attribute__((aligned(64)));
    const size_t end = k + 2 * s->pairs;
    span_t part = *s;
    part.codes = (const uint8_t *)weights;
    for (size_t n; k < end; k += n, part.x += n, part.wide += n) {
        n = size_min(TURN, end - k);
        part.pairs = n / 2;
        unsigned control = denormals_keep(weights);
        coded_unpack_scalar(t->format, stream->panel, t->width, k, n, weights);
        denormals_restore(control, weights);
        t->dot->dense(&part, c);
    }
}

/* Inputs [k, k + n) of all panels, c: stride apart */
static void multiply_turn(
    turns_t *t, size_t k, size_t n, const uint16_t *x, float *c, size_t stride)
{
    const size_t g = t->format->group == 0 ? 0 : k / t->format->group, at = bytes_before(t, k),
                 lines = coded_code_bytes(t->format, t->width, TURN) / LINE_BYTES;
    ahead_t ahead;
    float wide[LONG_TURN] __attribute__((aligned(64)));
    for (size_t i = 0; i < n; i++)
        wide[i] = f32_from_bf16(x[i]);
    span_t span = {.x = x,
        .wide = wide,
        .width = t->width,
        .pairs = n / 2,
        .ahead = look_ahead(t, k + n, &ahead) ? &ahead : NULL};
    for (size_t p = 0; p < t->n_panels; p++) {
        if (g != t->streams[p].group)
            enter_group(t, p, g);
        span.codes = (const uint8_t *)t->streams[p].panel + at;
        multiply_panel(t, p, k, &span, c + p * stride);
        for (size_t z = 0; z < STEP_LINES && span.ahead != NULL; z++)
            ahead.at[z] += lines / STEP_LINES * ahead.more;
    }
}

/* Inputs of the turn that begins at input k, of one group. A chain of one panel takes long ones, except by tables, whose codes
 * are not prefetched where panels come alone (bench/LOG.md). */
static size_t turn_at(const turns_t *t, size_t k)
{
    const size_t group = t->format->group;
    if (t->n_panels > 1 || t->dot == &amx_kernels || t->format->codes == CODES_F8)
        return TURN - k % TURN;
    return group == 0 ? LONG_TURN : size_min(LONG_TURN, group - k % group);
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
    float leaf[KERNEL_TILE_PANELS * KERNEL_PANEL] __attribute__((aligned(64)));
    float *sum = mode == TILE_ADD ? leaf : c;
    size_t stride = mode == TILE_ADD ? KERNEL_PANEL : c_panel;
    for (size_t p = 0; p < n_panels; p++) {
        turns.streams[p].panel = panels[p];
        turns.streams[p].group = SIZE_MAX;
        turns.streams[p].in_words = false;
        if (mode != TILE_CHAIN)
            memset(sum + p * stride, 0, width * sizeof *sum);
    }
    unsigned saved = denormals_flush(sum);
    for (size_t i = 0, n; i < k; i += n) {
        n = size_min(turn_at(&turns, first + i), k - i);
        multiply_turn(&turns, first + i, n, x + i, sum, stride);
    }
    denormals_restore(saved, sum);
    for (size_t p = 0; p < n_panels; p++)
        order_sums(&turns, &turns.streams[p], false, sum + p * stride);
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

#ifdef __AVX512BF16__
static void coded_row_by_pairs(const format_t *format, const uint16_t *x, size_t n_panels,
    const void *const *panels, size_t width, size_t columns, size_t first, size_t k, float *c,
    size_t c_panel, tile_mode_t mode)
{
    run(pairs_of(format, width), format, x, n_panels, panels, width, columns, first, k, c, c_panel,
        mode);
}

void coded_by_dot_product(kernels_t *kernels)
{
    kernels->coded_row = coded_row_by_pairs;
}
#endif

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
#ifdef __AVX512BF16__
    if (dot_product_is_faster())
        coded_by_dot_product(kernels);
#endif
}
