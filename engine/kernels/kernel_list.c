#include "engine/kernels/kernel_list.h"

#include <math.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/kernel_list_internal.h"

static dtype_t accumulator(const kernels_t *kernels)
{
    return kernels->accumulator_bytes == sizeof(double) ? DTYPE_F64 : DTYPE_F32;
}

/* ---- Products: rows x n outputs, k inputs ---------------------------------------------------- */

static size_t inputs_stride(const kernel_shape_t *s)
{
    return s->k + 2 * s->pad;
}

static LAYOUT(tile_layout)
{
    b[0] = (kernel_buffer_t){kernels->mode, s->rows * inputs_stride(s), false, false};
    b[1] = (kernel_buffer_t){kernels->mode, s->k * s->n, false, true};
    b[2] = (kernel_buffer_t){accumulator(kernels), s->rows * (s->n + s->pad), true, true};
}

static CALL(call_tile)
{
    kernels->tile(s->rows, d[0], inputs_stride(s), d[1], s->n, s->k, d[2], s->n + s->pad,
        (tile_mode_t)s->variant);
}

static CALL(call_tile_amx)
{
    kernels->tile_amx(s->rows, d[0], inputs_stride(s), d[1], s->n, s->k, d[2], s->n + s->pad,
        (tile_mode_t)s->variant);
}

static CALL(call_tile_groups)
{
    kernels->tile_groups(s->rows, d[0], inputs_stride(s), d[1], s->n, s->k, d[2], s->n + s->pad,
        s->variant == 0 ? TILE_SET : TILE_ADD);
}

static size_t k_block_stride(const kernel_shape_t *s)
{
    return (s->rows + s->pad) * KERNEL_K_BLOCK;
}

static LAYOUT(k_blocked_layout)
{
    tile_layout(kernels, s, b);
    b[0].count = s->k / KERNEL_K_BLOCK * k_block_stride(s);
}

/* Tables without the kernel, scalar's among them, multiply K-block after K-block. */
static CALL(call_tile_amx_k_blocked)
{
    if (kernels->tile_amx_k_blocked != NULL) {
        kernels->tile_amx_k_blocked(s->rows, d[0], k_block_stride(s), d[1], s->n, s->k, NULL, NULL,
            d[2], s->n + s->pad, (tile_mode_t)s->variant);
        return;
    }
    const uint16_t *a = d[0], *w = d[1];
    for (size_t k = 0; k < s->k; k += KERNEL_K_BLOCK)
        kernels->tile_amx(s->rows, a + k / KERNEL_K_BLOCK * k_block_stride(s), KERNEL_K_BLOCK,
            w + k * s->n, s->n, KERNEL_K_BLOCK, d[2], s->n + s->pad,
            k > 0 ? TILE_CHAIN : (tile_mode_t)s->variant);
}

static double product_flop(const kernel_shape_t *s)
{
    return 2.0 * (double)s->rows * (double)s->n * (double)s->k;
}

/* Variants: each tile mode with 1 panel, with 2, ... */
#define PANELS_VARIANTS (3 * KERNEL_MANY_PANELS)
static size_t n_panels(const kernel_shape_t *s)
{
    return 1 + s->variant / 3;
}

static LAYOUT(panels_layout)
{
    tile_layout(kernels, s, b);
    b[1].count *= n_panels(s);
    b[2].count *= n_panels(s);
}

typedef void tile_t(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode);
typedef void tile_panels_t(size_t rows, const void *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t k, void *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode);

/* Tables without the kernel, scalar's among them, multiply panel after panel. */
static void call_panels(const kernels_t *kernels, tile_panels_t *together, tile_t *tile,
    const kernel_shape_t *s, tile_mode_t mode, void *const d[KERNEL_BUFFERS])
{
    size_t c_stride = s->n + s->pad, c_panel = s->rows * c_stride;
    const void *panels[KERNEL_MANY_PANELS];
    for (size_t p = 0; p < n_panels(s); p++)
        panels[p] = (const char *)d[1] + p * s->k * s->n * kernels->element_bytes;
    if (together != NULL)
        together(s->rows, d[0], inputs_stride(s), n_panels(s), panels, s->n, s->k, d[2], c_panel,
            c_stride, mode);
    for (size_t p = 0; together == NULL && p < n_panels(s); p++)
        tile(s->rows, d[0], inputs_stride(s), panels[p], s->n, s->k,
            (char *)d[2] + p * c_panel * kernels->accumulator_bytes, c_stride, mode);
}

static CALL(call_tile_panels)
{
    call_panels(kernels, kernels->tile_panels, kernels->tile, s, (tile_mode_t)(s->variant % 3), d);
}

static CALL(call_tile_amx_panels)
{
    call_panels(
        kernels, kernels->tile_amx_panels, kernels->tile_amx, s, (tile_mode_t)(s->variant % 3), d);
}

/* Up to KERNEL_TILE_PANELS of them. */
#define FEW_VARIANTS (3 * KERNEL_TILE_PANELS)
static CALL(call_few_amx_panels)
{
    tile_mode_t mode = s->variant % 3 == 0 ? TILE_SET : TILE_CHAIN;
    call_panels(kernels, kernels->few_amx_panels, kernels->tile_amx, s, mode, d);
}

static CALL(call_tile_groups_panels)
{
    tile_mode_t mode = s->variant % 3 == 0 ? TILE_SET : TILE_ADD;
    call_panels(kernels, kernels->tile_groups_panels, kernels->tile_groups, s, mode, d);
}

static double panels_flop(const kernel_shape_t *s)
{
    return (double)n_panels(s) * product_flop(s);
}

/* ---- What stores a panel's products: rows x n ------------------------------------------------ */

static LAYOUT(store_layout)
{
    b[0] = (kernel_buffer_t){accumulator(kernels), s->rows * (s->n + s->pad), false, false};
    b[1] = (kernel_buffer_t){kernels->mode, s->n, false, false};
    b[2] = (kernel_buffer_t){kernels->mode, s->rows * (s->n + s->pad), true, false};
}

static CALL(call_store)
{
    kernels->store(
        s->rows, s->n, d[0], s->n + s->pad, s->variant == 0 ? NULL : d[1], d[2], s->n + s->pad);
}

static LAYOUT(residual_layout)
{
    store_layout(kernels, s, b);
    b[1].count = b[2].count;
}

static CALL(call_store_residual)
{
    kernels->store_residual(s->rows, s->n, d[0], s->n + s->pad, d[1], d[2], s->n + s->pad);
}

static LAYOUT(swiglu_layout)
{
    store_layout(kernels, s, b);
    b[1] = b[0];
}

static CALL(call_store_swiglu)
{
    kernels->store_swiglu(s->rows, s->n, d[0], d[1], s->n + s->pad, d[2], s->n + s->pad);
}

static LAYOUT(logits_layout)
{
    b[0] = (kernel_buffer_t){accumulator(kernels), s->rows * (s->n + s->pad), false, false};
    b[1] = (kernel_buffer_t){accumulator(kernels), s->rows * (s->n + s->pad), true, false};
}

static CALL(call_store_logits)
{
    kernels->store_logits(s->rows, s->n, d[0], s->n + s->pad, d[1], s->n + s->pad);
}

static LAYOUT(add_layout)
{
    b[0] = (kernel_buffer_t){accumulator(kernels), s->n, false, false};
    b[1] = (kernel_buffer_t){accumulator(kernels), s->n, true, true};
}

static CALL(call_add)
{
    kernels->add(s->n, d[0], d[1]);
}

LAYOUT(add_elements_layout)
{
    add_layout(kernels, s, b);
    b[0].type = kernels->mode;
}

CALL(call_add_elements)
{
    kernels->add_elements(s->n, d[0], d[1]);
}

/* ---- Rows: rows x n; rope: heads x 2 n ------------------------------------------------------- */

static LAYOUT(norm_layout)
{
    b[0] = (kernel_buffer_t){kernels->mode, s->rows * (s->n + s->pad), false, false};
    b[1] = (kernel_buffer_t){kernels->mode, s->n, false, false};
    b[2] = (kernel_buffer_t){kernels->mode, s->rows * (s->n + s->pad), true, false};
}

static CALL(call_rms_norm)
{
    kernels->rms_norm(s->rows, s->n, d[0], s->n + s->pad, d[1], 1e-6, d[2], s->n + s->pad);
}

static LAYOUT(rope_layout)
{
    b[0] = (kernel_buffer_t){accumulator(kernels), s->n, false, false};
    b[1] = (kernel_buffer_t){accumulator(kernels), s->n, false, false};
    b[2] = (kernel_buffer_t){kernels->mode, s->rows * 2 * s->n, true, false};
}

static CALL(call_rope)
{
    kernels->rope(s->rows, s->n, d[0], d[1], d[2]);
}

/* ---- Eager attention: a row of n keys -------------------------------------------------------- */

static LAYOUT(scores_layout)
{
    b[0] = (kernel_buffer_t){accumulator(kernels), s->n, false, false};
    b[1] = (kernel_buffer_t){kernels->mode, s->n, true, false};
}

static CALL(call_scale_scores)
{
    kernels->scale_scores(s->n, d[0], 0.125, d[1]);
}

/* Its scratch is not part of the result. */
static CALL(call_softmax)
{
    static const size_t n_lanes[] = {1, 16, 8};
    kernels->softmax(s->n, n_lanes[s->variant], d[1], d[0]);
}

static LAYOUT(exp_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_F64, s->n, true, false};
}

static CALL(call_exp_f64)
{
    kernels->exp_f64(s->n, d[0]);
}

static LAYOUT(granules_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_F32, s->n, false, false};
    b[1] = (kernel_buffer_t){
        DTYPE_F64, 2 * ((s->n + KERNEL_GRANULE - 1) / KERNEL_GRANULE), true, false};
}

static CALL(call_sum_granules)
{
    kernels->sum_granules(s->n, d[0], d[1]);
}

/* ---- The sdpa order -------------------------------------------------------------------------- */

/* Fills [from, to) of every row with zeros: elements that the contract leaves undefined. */
static void clear_columns(size_t rows, size_t from, size_t to, size_t stride, size_t bytes, void *x)
{
    for (size_t r = 0; r < rows; r++)
        memset((char *)x + (r * stride + from) * bytes, 0, (to - from) * bytes);
}

/* rows queries, n of KERNEL_PANEL keys, k inputs */
static LAYOUT(sdpa_scores_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_BF16, KERNEL_PANEL * s->k, false, true};
    b[1] = (kernel_buffer_t){DTYPE_F32, s->rows * (KERNEL_PANEL + s->pad), true, false};
    b[2] = (kernel_buffer_t){DTYPE_BF16, s->rows * s->k, false, false};
    b[3] = (kernel_buffer_t){DTYPE_F32, s->rows * s->k, false, false};
}

/* Queries are f32 of bf16 values. */
static CALL(call_sdpa_scores)
{
    dtype_convert(d[3], DTYPE_F32, d[2], DTYPE_BF16, s->rows * s->k);
    kernels->sdpa_scores(
        s->rows, s->n, s->k, d[3], d[0], s->variant == 0 ? 4 : 8, d[1], KERNEL_PANEL + s->pad);
    clear_columns(s->rows, s->n, KERNEL_PANEL, KERNEL_PANEL + s->pad, sizeof(float), d[1]);
}

/* rows queries, a block of n keys, of which the first k (at most n) are kept */
static size_t weights_stride(const kernel_shape_t *s)
{
    return (s->n + s->pad + 15) / 16 * 16;
}

static LAYOUT(sdpa_weights_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_F32, s->rows * weights_stride(s), true, false};
    b[1] = (kernel_buffer_t){DTYPE_BF16, s->rows * weights_stride(s), true, false};
    b[2] = (kernel_buffer_t){DTYPE_F32, s->rows, true, false};
    b[3] = (kernel_buffer_t){DTYPE_F32, s->rows, true, false};
}

static CALL(call_sdpa_weights)
{
    size_t kept = size_min(s->k, s->n), written = (kept + 3) / 4 * 4, stride = weights_stride(s);
    float *max = d[2];
    for (size_t r = 0; r < s->rows; r++)
        max[r] = r % 3 == 1 ? 0.25f : -INFINITY;
    kernels->sdpa_weights(s->variant < 2 ? 16 : 8, s->rows, kept, s->n, written, 0.125f, max, d[3],
        d[0], s->variant % 2 == 0 ? d[1] : NULL, stride);
    clear_columns(s->rows, kept, stride, stride, sizeof(float), d[0]);
    clear_columns(s->rows, written, stride, stride, sizeof(uint16_t), d[1]);
}

/* rows queries, n outputs, k keys */
static LAYOUT(sdpa_outputs_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_F32, s->rows * (KERNEL_PANEL + s->pad), false, false};
    b[1] = (kernel_buffer_t){DTYPE_BF16, KERNEL_PANEL * s->n, false, true};
    b[2] = (kernel_buffer_t){DTYPE_F32, s->rows * (s->n + s->pad), true, true};
}

static CALL(call_sdpa_outputs)
{
    kernels->sdpa_outputs(
        s->rows, s->k, d[0], KERNEL_PANEL + s->pad, d[1], s->n, d[2], s->n + s->pad);
}

/* The panel up to the one key that is read. */
static LAYOUT(sdpa_key_layout)
{
    sdpa_outputs_layout(kernels, s, b);
    b[1].count = (s->k + 1) / 2 * 2 * s->n;
}

static CALL(call_sdpa_output_key)
{
    kernels->sdpa_output_key(
        s->rows, s->k - 1, d[0], KERNEL_PANEL + s->pad, d[1], s->n, d[2], s->n + s->pad);
}

static LAYOUT(sdpa_scale_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_F32, s->n, true, false};
}

static CALL(call_sdpa_scale)
{
    kernels->sdpa_scale(s->n, 0.7f, d[0]);
}

static LAYOUT(sdpa_store_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_F32, s->n, false, false};
    b[1] = (kernel_buffer_t){DTYPE_BF16, s->n, true, false};
}

static CALL(call_sdpa_store)
{
    kernels->sdpa_store(s->n, d[0], 0.7f, d[1]);
}

static double key_flop(const kernel_shape_t *s)
{
    return 2.0 * (double)s->rows * (double)s->n;
}

/* ---- The list -------------------------------------------------------------------------------- */

#define SLOT_FOR(USES, NAME) #NAME, offsetof(kernels_t, NAME), USES
#define SLOT(NAME) SLOT_FOR(0, NAME)
#define AMX_SLOT(NAME) SLOT_FOR(KERNELS_AMX, NAME)
#define FOLD_SLOT(NAME) SLOT_FOR(KERNELS_FOLD, NAME)
#define QUANTISED_SLOT(NAME) SLOT_FOR(KERNELS_QUANTISED, NAME)
#define PACKED_SLOT(NAME) SLOT_FOR(KERNELS_PACKED, NAME)

const kernel_entry_t kernel_list[] = {
    /* name, slot, uses; variants, narrow; most rows; n: step, most; k: step, most; timed; ... */
    {SLOT(tile), 3, false, 70, 16, 64, 2, 130, {{1, 64, 1536, 0, 0}, {96, 64, 1024, 0, 0}},
        tile_layout, call_tile, product_flop},
    {AMX_SLOT(tile_amx), 3, false, 70, 16, 64, 2, 130, {{1, 64, 1536, 0, 0}, {96, 64, 256, 0, 0}},
        tile_layout, call_tile_amx, product_flop},
    {AMX_SLOT(tile_amx_k_blocked), 2, false, 70, 16, 64, 32, 320,
        {{2, 64, 256, 0, 0}, {96, 64, 256, 0, 0}}, k_blocked_layout, call_tile_amx_k_blocked,
        product_flop},
    {SLOT(tile_panels), PANELS_VARIANTS, false, 70, 16, 64, 2, 600,
        {{32, 64, 512, 0, 9}, {192, 64, 1024, 0, 9}}, panels_layout, call_tile_panels, panels_flop},
    {AMX_SLOT(tile_amx_panels), PANELS_VARIANTS, false, 70, 16, 64, 2, 600,
        {{32, 64, 512, 0, 9}, {192, 64, 256, 0, 9}}, panels_layout, call_tile_amx_panels,
        panels_flop},
    {AMX_SLOT(few_amx_panels), FEW_VARIANTS, false, KERNEL_MANY_ROWS - 1, 16, 64, 2, 400,
        {{4, 64, 1536, 0, 9}, {24, 64, 1536, 0, 9}}, panels_layout, call_few_amx_panels,
        panels_flop},
    {SLOT(tile_groups), 2, false, 70, 16, 64, 1, 400, {{1, 64, 1536, 0, 0}, {96, 64, 128, 0, 0}},
        tile_layout, call_tile_groups, product_flop},
    {SLOT(tile_groups_panels), PANELS_VARIANTS, false, 70, 16, 64, 1, 400,
        {{32, 64, 512, 0, 9}, {192, 64, 1024, 0, 9}}, panels_layout, call_tile_groups_panels,
        panels_flop},
    {SLOT(row_panels), KERNEL_ROW_VARIANTS, false, 1, 16, 64, 2, 400,
        {{1, 64, 1536, 0, 9}, {1, 64, 1536, 0, 0}}, kernel_row_layout, kernel_call_row_panels,
        kernel_row_flop},
    {AMX_SLOT(row_amx_panels), KERNEL_ROW_VARIANTS, false, 1, 16, 64, 2, 400,
        {{1, 64, 1536, 0, 9}, {1, 64, 1536, 0, 0}}, kernel_row_layout, kernel_call_row_amx_panels,
        kernel_row_flop},
    {SLOT(row_groups_panels), KERNEL_ROW_VARIANTS, false, 1, 16, 64, 1, 400,
        {{1, 64, 1536, 0, 9}, {1, 64, 1536, 0, 0}}, kernel_row_layout,
        kernel_call_row_groups_panels, kernel_row_flop},
    {FOLD_SLOT(tile_fold), FOLD_VARIANTS, false, 70, 16, 64, 1, 700,
        {{1, 64, 1536, 0, 4}, {192, 64, 1536, 0, 7}}, kernel_fold_layout, kernel_call_tile_fold,
        kernel_fold_flop},
    {FOLD_SLOT(fold_scores), 1, false, 13, 16, 64, 2, 150,
        {{1, 64, 128, 0, 0}, {12, 64, 128, 0, 0}}, kernel_fold_scores_layout,
        kernel_call_fold_scores, product_flop},
    {FOLD_SLOT(interleaved_outputs), 3, false, 13, 16, 64, 2, 64,
        {{1, 64, 64, 0, 0}, {12, 64, 64, 0, 0}}, kernel_interleaved_layout,
        kernel_call_interleaved_outputs, product_flop},
    {QUANTISED_SLOT(int4_tile), 4, false, 11, 16, 64, 32, 320,
        {{1, 64, 1536, 0, 0}, {8, 64, 1536, 0, 0}}, kernel_int4_layout, kernel_call_int4_tile,
        product_flop},
    {QUANTISED_SLOT(int4_row), 8, false, MATRIX_MAX_PANELS, 16, 64, 32, 512,
        {{4, 64, 1536, 0, 0}, {4, 64, 1536, 0, 2}}, kernel_int4_row_layout, kernel_call_int4_row,
        product_flop},
    {QUANTISED_SLOT(int4_unpack), 2, false, 1, 16, 64, 32, 256,
        {{1, 64, 256, 0, 0}, {1, 64, 256, 0, 1}}, kernel_int4_layout, kernel_call_int4_unpack,
        NULL},
    {QUANTISED_SLOT(coded_unpack), KERNEL_CODED_VARIANTS, false, 1, 16, 64, 2, 400,
        {{1, 64, 1536, 0, 0}, {1, 64, 1536, 0, 1}}, kernel_coded_layout, kernel_call_coded_unpack,
        NULL},
    {QUANTISED_SLOT(coded_row), KERNEL_CODED_VARIANTS, true, 4, 16, 64, 2, 400,
        {{4, 64, 1536, 0, 0}, {4, 64, 1536, 0, KERNEL_CODED_VARIANTS - 1}}, kernel_coded_row_layout,
        kernel_call_coded_row, NULL},
    {SLOT_FOR(KERNELS_AMX | KERNELS_QUANTISED, coded_row_amx), KERNEL_CODED_VARIANTS, true, 4, 16,
        64, 2, 200, {{4, 64, 1536, 0, 0}, {4, 64, 1536, 0, KERNEL_CODED_VARIANTS - 1}},
        kernel_coded_row_layout, kernel_call_coded_row_amx, NULL},
    {PACKED_SLOT(unpack_packed), 2, false, 1, 64, 64, 2, 700,
        {{1, 64, 256, 0, 1}, {1, 64, 1024, 0, 1}}, kernel_packed_layout, kernel_call_unpack_packed,
        NULL},
    {PACKED_SLOT(packed_rows), KERNEL_PACKED_ROWS_VARIANTS, false, KERNEL_MANY_ROWS - 1, 64, 64, 2,
        400,
        {{1, 64, 1536, 0, KERNEL_PACKED_ROWS_VARIANTS},
            {8, 64, 1536, 0, KERNEL_PACKED_ROWS_VARIANTS}},
        kernel_packed_rows_layout, kernel_call_packed_rows, NULL},
    {SLOT_FOR(KERNELS_AMX | KERNELS_PACKED, packed_row_amx), KERNEL_PACKED_ROWS_VARIANTS, false, 1,
        64, 64, 2, 400,
        {{1, 64, 1536, 0, KERNEL_PACKED_ROWS_VARIANTS},
            {1, 64, 512, 0, KERNEL_PACKED_ROWS_VARIANTS}},
        kernel_packed_rows_layout, kernel_call_packed_row_amx, NULL},
    {SLOT(tile_wide), 3, false, 70, 16, 64, 1, 300, {{12, 64, 256, 0, 1}, {96, 64, 256, 0, 1}},
        kernel_wide_layout, kernel_call_tile_wide, product_flop},
    {SLOT(store), 2, false, 11, 1, 1100, 0, 0, {{1, 64, 0, 0, 1}, {96, 64, 0, 0, 1}}, store_layout,
        call_store, NULL},
    {SLOT(store_residual), 1, false, 11, 1, 1100, 0, 0, {{1, 64, 0, 0, 0}, {96, 64, 0, 0, 0}},
        residual_layout, call_store_residual, NULL},
    {SLOT(store_swiglu), 1, false, 11, 1, 1100, 0, 0, {{1, 64, 0, 0, 0}, {96, 64, 0, 0, 0}},
        swiglu_layout, call_store_swiglu, NULL},
    {SLOT(store_logits), 1, false, 11, 1, 1100, 0, 0, {{1, 64, 0, 0, 0}, {8, 64, 0, 0, 0}},
        logits_layout, call_store_logits, NULL},
    {SLOT(add), 1, false, 1, 1, 9000, 0, 0, {{1, 1536, 0, 0, 0}, {1, 6144, 0, 0, 0}}, add_layout,
        call_add, NULL},
    {SLOT(add_elements), 1, false, 1, 1, 9000, 0, 0, {{1, 64, 0, 0, 0}, {1, 2048, 0, 0, 0}},
        add_elements_layout, call_add_elements, NULL},
    {SLOT(rms_norm), 1, false, 11, 1, 2100, 0, 0, {{1, 1536, 0, 0, 0}, {32, 1536, 0, 0, 0}},
        norm_layout, call_rms_norm, NULL},
    {SLOT(rope), 1, false, 14, 1, 130, 0, 0, {{12, 64, 0, 0, 0}, {28, 64, 0, 0, 0}}, rope_layout,
        call_rope, NULL},
    {SLOT(scale_scores), 1, false, 1, 1, 9000, 0, 0, {{1, 512, 0, 0, 0}, {1, 4096, 0, 0, 0}},
        scores_layout, call_scale_scores, NULL},
    {SLOT(softmax), 3, false, 1, 1, 9000, 0, 0, {{1, 512, 0, 0, 1}, {1, 4096, 0, 0, 1}},
        scores_layout, call_softmax, NULL},
    {SLOT(exp_f64), 1, false, 1, 1, 9000, 0, 0, {{1, 512, 0, 0, 0}, {1, 4096, 0, 0, 0}}, exp_layout,
        call_exp_f64, NULL},
    {SLOT(sum_granules), 1, false, 1, 1, 9000, 0, 0, {{1, 4096, 0, 0, 0}, {1, 32768, 0, 0, 0}},
        granules_layout, call_sum_granules, NULL},
    {SLOT(sdpa_scores), 2, true, 13, 1, 64, 8, 136, {{1, 64, 128, 0, 1}, {12, 64, 128, 0, 0}},
        sdpa_scores_layout, call_sdpa_scores, product_flop},
    {SLOT(sdpa_weights), 4, true, 13, 1, 400, 1, 400, {{1, 512, 512, 0, 0}, {12, 512, 512, 0, 0}},
        sdpa_weights_layout, call_sdpa_weights, NULL},
    {SLOT(sdpa_outputs), 1, true, 13, 16, 128, 4, 64, {{1, 128, 64, 0, 0}, {12, 128, 64, 0, 0}},
        sdpa_outputs_layout, call_sdpa_outputs, product_flop},
    {SLOT(sdpa_output_key), 1, true, 13, 16, 128, 1, 64, {{1, 128, 1, 0, 0}, {12, 128, 1, 0, 0}},
        sdpa_key_layout, call_sdpa_output_key, key_flop},
    {SLOT(sdpa_scale), 1, true, 1, 1, 2000, 0, 0, {{1, 128, 0, 0, 0}, {1, 1536, 0, 0, 0}},
        sdpa_scale_layout, call_sdpa_scale, NULL},
    {SLOT(sdpa_store), 1, true, 1, 1, 2000, 0, 0, {{1, 128, 0, 0, 0}, {1, 1536, 0, 0, 0}},
        sdpa_store_layout, call_sdpa_store, NULL},
};

const size_t kernel_list_count = sizeof kernel_list / sizeof *kernel_list;

bool kernel_exists(const kernel_entry_t *entry, const kernels_t *kernels)
{
    void (*function)(void);
    memcpy(&function, (const char *)kernels + entry->slot, sizeof function);
    return function != NULL;
}
