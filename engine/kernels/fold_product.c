/* Products by the dot product fold, which has one order for all rows; packed panels are unpacked whole. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/fold.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/packed.h"
#include "engine/kernels/tiles.h"

/* A panel of the dot product fold; unpacked, with its depth, into the i-th place of the scratch. */
static const void *fold_panel(
    const kernels_t *kernels, const panel_t *panel, char *scratch, size_t i)
{
    size_t columns = panel->matrix->columns, inputs = fold_inputs(columns);
    const char *from = matrix_panel(panel->matrix, panel->p, 0);
    if (!panel_is_packed(panel))
        return from;
    char *to = scratch + i * format_matrix_bytes(format_fold(), KERNEL_PANEL, columns);
    kernels->unpack_packed(from, 0, inputs, (uint16_t *)(void *)to);
    memcpy(to + inputs * KERNEL_PANEL * sizeof(uint16_t), from + packed_blocks_bytes(inputs),
        FOLD_DEPTH_BYTES);
    return to;
}

/* Kernels of several rows ask for a panel's depth, which lies behind its weights, before they multiply with it. So it
 * is prefetched with the panel before. A single row needs no depths. */
static void prefetch_depth(const panel_t *panel)
{
    enum { SECOND_LEVEL = 2 };
    const matrix_t *matrix = panel->matrix;
    size_t weights = fold_inputs(matrix->columns) * matrix_panel_width(matrix, panel->p);
    if (!panel_is_packed(panel))
        __builtin_prefetch(
            (const uint16_t *)matrix_panel(matrix, panel->p, 0) + weights, 0, SECOND_LEVEL);
}

void fold_product(const kernels_t *kernels, const panel_t *panels, size_t n_panels,
    const matrix_rows_t *rows, char *scratch, float *c)
{
    size_t c_panel = rows->n * KERNEL_PANEL, columns = panels[0].matrix->columns;
    /* For few rows an unpacked panel stays in the second-level cache. */
    bool alone = rows->n < KERNEL_MANY_ROWS && panels[0].matrix->format->kind == FORMAT_PACKED;
    const size_t most = rows->n == 1 ? panels_in_step() : KERNEL_TILE_PANELS;
    for (size_t i = 0, n; i < n_panels; i += n) {
        const void *weights[KERNEL_TILE_PANELS];
        n = alone ? 1 : panels_of_a_width(panels + i, size_min(n_panels - i, most));
        for (size_t j = 0; j < n; j++)
            weights[j] = fold_panel(kernels, &panels[i + j], scratch, j);
        for (size_t j = i + n; rows->n > 1 && j < size_min(i + 2 * n, n_panels); j++)
            prefetch_depth(&panels[j]);
        kernels->tile_fold(rows->n, rows->x, rows->stride, n, weights,
            matrix_panel_width(panels[i].matrix, panels[i].p), columns, c + i * c_panel, c_panel,
            KERNEL_PANEL);
    }
}

size_t matrix_scratch_bytes(const format_t *format, size_t columns)
{
    if (format->kind != FORMAT_PACKED || format_of_packed(format) != format_fold())
        return 0;
    return KERNEL_TILE_PANELS * format_matrix_bytes(format_fold(), KERNEL_PANEL, columns);
}
