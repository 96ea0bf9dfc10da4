/* Products of a single row with panels whose weights are unpacked in registers. */
#include "engine/base/size.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

static bool has_kernel(const kernels_t *kernels, dot_t dot, const panel_t *panel)
{
    const matrix_t *matrix = panel->matrix;
    if (matrix->format->kind == FORMAT_CODED)
        return (dot == DOT_AMX ? kernels->coded_row_amx : kernels->coded_row) != NULL;
    return format_packs(matrix->format, matrix_panel_width(matrix, panel->p)) &&
           (dot == DOT_AMX ? kernels->packed_row_amx : kernels->packed_row) != NULL;
}

/* Panels at most that one kernel multiplies together. */
static size_t most_in_step(const kernels_t *kernels, dot_t dot, const panel_t *panel)
{
    if (panel->matrix->format->kind == FORMAT_CODED)
        return panels_in_step();
    return size_min(
        panels_in_step(), dot == DOT_AMX ? kernels->packed_row_amx_step : kernels->packed_row_step);
}

/* Panels from the first on that one kernel multiplies together. */
static size_t alike(const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n)
{
    size_t same = 1, width = matrix_panel_width(panels[0].matrix, panels[0].p);
    while (same < size_min(n, most_in_step(kernels, dot, &panels[0])) &&
           has_kernel(kernels, dot, &panels[same]) &&
           panels[same].matrix->format == panels[0].matrix->format &&
           matrix_panel_width(panels[same].matrix, panels[same].p) == width)
        same++;
    /* Packed codes take turns as 1, 2 or 4 panels (coded_row.c). */
    if (same == 3 && panels[0].matrix->format->kind == FORMAT_CODED)
        same = 2;
    return same;
}

static void multiply(const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n,
    const uint16_t *x, size_t leaf, float *c)
{
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
        else
            (dot == DOT_AMX ? kernels->packed_row_amx : kernels->packed_row)(
                x + k, n, packed, k, some, c, KERNEL_PANEL, mode);
    }
}

size_t row_product(const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n_panels,
    const uint16_t *x, size_t leaf, float *c)
{
    size_t done = 0;
    for (size_t n; done < n_panels && has_kernel(kernels, dot, &panels[done]); done += n) {
        n = alike(kernels, dot, panels + done, n_panels - done);
        multiply(kernels, dot, panels + done, n, x, leaf, c + done * KERNEL_PANEL);
    }
    return done;
}
