/* The list's functions for the dot product fold: rows x n outputs, k inputs. Mode bf16. */
#include <string.h>

#include "engine/kernels/fold.h"
#include "engine/kernels/kernel_list_internal.h"

static size_t fold_panels(const kernel_shape_t *s)
{
    return 1 + s->variant % FOLD_VARIANTS;
}

static size_t fold_row_stride(const kernel_shape_t *s)
{
    return fold_row_elements(s->k) + 2 * s->pad;
}

static size_t fold_panel_elements(const kernel_shape_t *s)
{
    return format_matrix_bytes(format_fold(), s->n, s->k) / sizeof(uint16_t);
}

LAYOUT(kernel_fold_layout)
{
    b[0] = (kernel_buffer_t){kernels->mode, s->rows * s->k, false, false};
    b[1] = (kernel_buffer_t){kernels->mode, fold_panels(s) * s->n * s->k, false, true};
    b[2] = (kernel_buffer_t){DTYPE_F32, fold_panels(s) * s->rows * (s->n + s->pad), true, true};
    b[3] = (kernel_buffer_t){kernels->mode,
        s->rows * fold_row_stride(s) + fold_panels(s) * fold_panel_elements(s), false, true};
}

CALL(kernel_call_tile_fold)
{
    const void *panels[KERNEL_TILE_PANELS];
    uint16_t *rows = d[3], *panel = rows + s->rows * fold_row_stride(s);
    size_t c_stride = s->n + s->pad, n_panels = fold_panels(s);
    bool permuted = s->variant >= FOLD_VARIANTS;
    for (size_t r = 0; r < s->rows; r++)
        if (permuted) /* nothing else is read there */
            memset(rows + r * fold_row_stride(s) + fold_inputs(s->k), 0, FOLD_DEPTH_BYTES);
        else
            fold_pack_row(s->k, (const uint16_t *)d[0] + r * s->k, rows + r * fold_row_stride(s));
    for (size_t p = 0; p < n_panels; p++, panel += fold_panel_elements(s)) {
        panels[p] = panel;
        if (permuted) {
            memset(panel + fold_inputs(s->k) * s->n, 0, FOLD_DEPTH_BYTES);
            continue;
        }
        memset(panel, 0, fold_panel_elements(s) * sizeof *panel);
        format_fold()->pack_rows(
            format_fold(), s->n, s->k, (const uint16_t *)d[1] + p * s->n * s->k, panel, s->n, 0);
    }
    kernels->tile_fold(s->rows, rows, fold_row_stride(s), n_panels, panels, s->n, s->k, d[2],
        s->rows * c_stride, c_stride);
}

double kernel_fold_flop(const kernel_shape_t *s)
{
    return (double)fold_panels(s) * 2.0 * (double)s->rows * (double)s->n * (double)s->k;
}

/* Rows and panels in the dense layout. */
static size_t inputs_stride(const kernel_shape_t *s)
{
    return s->k + 2 * s->pad;
}

static void dense_layout(
    const kernel_shape_t *s, size_t c_stride, kernel_buffer_t b[KERNEL_BUFFERS])
{
    b[0] = (kernel_buffer_t){DTYPE_BF16, s->rows * inputs_stride(s), false, false};
    b[1] = (kernel_buffer_t){DTYPE_BF16, s->k * s->n, false, true};
    b[2] = (kernel_buffer_t){DTYPE_F32, s->rows * c_stride, true, true};
}

LAYOUT(kernel_fold_scores_layout)
{
    (void)kernels;
    dense_layout(s, s->n + s->pad, b);
}

CALL(kernel_call_fold_scores)
{
    kernels->fold_scores(s->rows, d[0], inputs_stride(s), d[1], s->n, s->k, d[2], s->n + s->pad);
}

/* By variant: a tenth of the inputs, and what a multiple of 4 leaves, go to the first chain; or as many as there are to
 * all, as in blocks of keys that end within a four; or half of them. */
LAYOUT(kernel_interleaved_layout)
{
    (void)kernels;
    dense_layout(s, 4 * s->n + s->pad, b);
}

CALL(kernel_call_interleaved_outputs)
{
    const size_t interleaved[] = {s->k * 9 / 10 / 4 * 4, s->k, s->k / 2};
    kernels->interleaved_outputs(s->rows, d[0], inputs_stride(s), d[1], s->n, s->k,
        interleaved[s->variant], d[2], 4 * s->n + s->pad);
}
