/* Products of a single row with panels whose weights are unpacked in registers. */
#include "engine/base/size.h"
#include "engine/kernels/kernels_internal.h"

static bool has_kernel(const kernels_t *kernels, dot_t dot, const panel_t *panel)
{
    const matrix_t *matrix = panel->matrix;
    return format_packs(matrix->format, matrix_panel_width(matrix, panel->p)) &&
           (dot == DOT_AMX ? kernels->packed_row_amx : kernels->packed_row) != NULL;
}

/* Panels from the first on that one kernel multiplies together. */
static size_t alike(const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n)
{
    size_t same = 1;
    while (same < size_min(n, KERNEL_TILE_PANELS) && has_kernel(kernels, dot, &panels[same]) &&
           panels[same].matrix->format == panels[0].matrix->format)
        same++;
    return same;
}

static void multiply(const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n,
    const uint16_t *x, size_t leaf, float *c)
{
    const size_t inputs = kernel_padded_inputs(DTYPE_BF16, panels[0].matrix->columns);
    const void *packed[KERNEL_TILE_PANELS];
    for (size_t i = 0; i < n; i++)
        packed[i] = matrix_panel(panels[i].matrix, panels[i].p, 0);
    for (size_t k = 0; k < inputs; k += size_min(leaf, inputs))
        (dot == DOT_AMX ? kernels->packed_row_amx : kernels->packed_row)(x + k, n, packed, k,
            size_min(leaf, inputs - k), c, KERNEL_PANEL, k == 0 ? TILE_SET : TILE_ADD);
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
