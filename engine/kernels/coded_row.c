/* A single row with panels of packed codes, dequantised in registers. Compiled twice, see fma.h.
 *
 * Several panels take turns, SPAN inputs of each at a time, so that memory is read as several streams. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/coded_vectors.h"
#include "engine/kernels/denormals.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/widen.h"

#ifdef __AVX512F__
#define FILL coded_row_fill_avx512
#else
#define FILL coded_row_fill_avx2
#endif

#define SPAN                                                                                       \
    32 /* inputs: of the dot product amx's operation; groups are whole spans, but for the last one */
#define VECTORS 4 /* of outputs whose sums stay in registers */
#define AHEAD_BYTES 2048

/* Some pairs of a group of a panel. */
typedef struct span {
    const uint8_t *codes; /* or, dense, weights */
    size_t width, pairs;
    const coded_outputs_t *of;
} span_t;

/* Outputs from `first` on. odd and even may be the same sums: of each pair the odd input comes first. */
INLINE void multiply_outputs(const bool dense, const coded_kind_t kind, const int vectors,
    const size_t width, const span_t *s, size_t first, const uint16_t *x, vec_f32_t *odd,
    vec_f32_t *even)
{
    const size_t bytes = dense ? 4 * width : width * (kind.codes == CODES_INT4 ? 1 : 2);
    const uint8_t *codes = s->codes;
    for (size_t i = 0; i < s->pairs; i++, codes += bytes) {
        const pair_t input = broadcast_pair(x + 2 * i);
        for (size_t byte = 0; byte < bytes && first == 0 && !dense; byte += 64)
            __builtin_prefetch(codes + byte + AHEAD_BYTES);
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

static void chain_span(const format_t *format, const span_t *s, const uint16_t *x, float *c)
{
    CODED_DISPATCH(format, s->of->positive, CHAIN);
}

static void amx_span(const format_t *format, const span_t *s, const uint16_t *x, float *c)
{
    CODED_DISPATCH(format, s->of->positive, AMX);
}

static void dense_span(bool amx, const span_t *s, const uint16_t *x, float *c)
{
    const coded_kind_t none = {CODES_INT8, true, false, false, false};
    if (amx)
        SPAN_OF(true, true, none);
    else
        SPAN_OF(false, true, none);
}

/* A panel, and what its group in turn has. */
typedef struct stream {
    const void *panel;
    size_t group;
    bool normal;
    coded_outputs_t of;
} stream_t;

/* Inputs [k, k + n) of a panel, within a span and a group. */
static void multiply_panel(bool amx, const format_t *format, stream_t *stream, size_t width,
    size_t columns, size_t k, size_t n, const uint16_t *x, float *c)
{
    size_t g = format->group == 0 ? 0 : k / format->group;
    if (g != stream->group) {
        stream->normal = coded_lay_out_group(format, stream->panel, width, columns, g, &stream->of);
        stream->group = g;
    }
    span_t s = {coded_pairs(format, stream->panel, width, columns, k), width, n / 2, &stream->of};
    if (stream->normal) {
        (amx ? amx_span : chain_span)(format, &s, x, c);
        return;
    }
    uint16_t weights[SPAN * KERNEL_PANEL] __attribute__((aligned(64)));
    unsigned control = denormals_keep(weights);
    coded_unpack_scalar(format, stream->panel, width, columns, k, n, weights);
    denormals_restore(control, weights);
    s.codes = (const uint8_t *)weights;
    dense_span(amx, &s, x, c);
}

static void run(bool amx, const format_t *format, const uint16_t *x, size_t n_panels,
    const void *const *panels, size_t width, size_t columns, size_t first, size_t k, float *c,
    size_t c_panel, tile_mode_t mode)
{
    stream_t streams[KERNEL_TILE_PANELS];
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
            multiply_panel(
                amx, format, &streams[p], width, columns, first + i, n, x + i, sum + p * stride);
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
    run(false, format, x, n_panels, panels, width, columns, first, k, c, c_panel, mode);
}

static void coded_row_amx(const format_t *format, const uint16_t *x, size_t n_panels,
    const void *const *panels, size_t width, size_t columns, size_t first, size_t k, float *c,
    size_t c_panel, tile_mode_t mode)
{
    run(true, format, x, n_panels, panels, width, columns, first, k, c, c_panel, mode);
}

void FILL(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->coded_row = coded_row;
    kernels->coded_row_amx = coded_row_amx;
}
