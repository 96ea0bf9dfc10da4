/* Products of few rows with panels whose weights are unpacked in registers. */
#include "engine/base/size.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

static bool has_kernel(const kernels_t *kernels, dot_t dot, const panel_t *panel, size_t n_rows)
{
    const matrix_t *matrix = panel->matrix;
    if (matrix->format->kind == FORMAT_CODED)
        return n_rows == 1 &&
               (dot == DOT_AMX ? kernels->coded_row_amx : kernels->coded_row) != NULL;
    if (!format_packs(matrix->format, matrix_panel_width(matrix, panel->p)))
        return false;
    return dot == DOT_AMX ? n_rows == 1 && kernels->packed_row_amx != NULL
                          : n_rows <= kernels->packed_rows_most;
}

/* Panels at most that one kernel multiplies together. */
static size_t most_in_step(const kernels_t *kernels, dot_t dot, const panel_t *panel, size_t n_rows)
{
    if (panel->matrix->format->kind == FORMAT_CODED)
        return panels_in_step();
    if (n_rows > 1)
        return 1;
    return size_min(
        panels_in_step(), dot == DOT_AMX ? kernels->packed_row_amx_step : kernels->packed_row_step);
}

/* Panels from the first on that one kernel multiplies together. */
static size_t alike(
    const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n, size_t n_rows)
{
    size_t same = 1, width = matrix_panel_width(panels[0].matrix, panels[0].p);
    while (same < size_min(n, most_in_step(kernels, dot, &panels[0], n_rows)) &&
           has_kernel(kernels, dot, &panels[same], n_rows) &&
           panels[same].matrix->format == panels[0].matrix->format &&
           matrix_panel_width(panels[same].matrix, panels[same].p) == width)
        same++;
    /* Packed codes take turns as 1, 2 or 4 panels (coded_row.c). */
    if (same == 3 && panels[0].matrix->format->kind == FORMAT_CODED)
        same = 2;
    return same;
}

static void multiply(const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n,
    const matrix_rows_t *rows, size_t leaf, float *c)
{
    const uint16_t *x = rows->x;
    const matrix_t *matrix = panels[0].matrix;
    const size_t width = matrix_panel_width(matrix, panels[0].p),
                 inputs = kernel_padded_inputs(DTYPE_BF16, matrix->columns);
    const void *packed[KERNEL_TILE_PANELS];
    for (size_t i = 0; i < n; i++)
        packed[i] = matrix_panel(panels[i].matrix, panels[i].p, 0);
    for (size_t k = 0; k < inputs; k += size_min(leaf, inputs)) {
        const size_t some = size_min(leaf, inputs - k);
        const tile_mode_t mode = k == 0 ? TILE_SET : TILE_ADD;
        if (matrix->format->kind == FORMAT_CODED)
            (dot == DOT_AMX ? kernels->coded_row_amx : kernels->coded_row)(matrix->format, x + k, n,
                packed, width, matrix->columns, k, some, c, KERNEL_PANEL, mode);
        else if (dot == DOT_AMX)
            kernels->packed_row_amx(x + k, n, packed, k, some, c, KERNEL_PANEL, mode);
        else
            kernels->packed_rows(rows->n, x + k, rows->stride, n, packed, k, some, c,
                rows->n * KERNEL_PANEL, KERNEL_PANEL, mode);
    }
}

size_t rows_product(const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n_panels,
    const matrix_rows_t *rows, size_t leaf, float *c)
{
    size_t done = 0;
    for (size_t n; done < n_panels && has_kernel(kernels, dot, &panels[done], rows->n); done += n) {
        n = alike(kernels, dot, panels + done, n_panels - done, rows->n);
        multiply(kernels, dot, panels + done, n, rows, leaf, c + done * rows->n * KERNEL_PANEL);
    }
    return done;
}
