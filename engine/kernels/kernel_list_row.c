/* The list's functions for one row with several panels: n outputs each, k inputs. */
#include "engine/kernels/kernel_list_internal.h"

typedef void row_panels_t(const void *a, size_t n_panels, const void *const *b, size_t width,
    size_t k, void *c, size_t c_panel, tile_mode_t mode);
typedef void tile_t(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode);

static size_t row_panels(const kernel_shape_t *s)
{
    return 1 + s->variant / 3;
}

LAYOUT(kernel_row_layout)
{
    dtype_t sums = kernels->accumulator_bytes == sizeof(double) ? DTYPE_F64 : DTYPE_F32;
    b[0] = (kernel_buffer_t){kernels->mode, s->k, false, false};
    b[1] = (kernel_buffer_t){kernels->mode, row_panels(s) * s->k * s->n, false, true};
    b[2] = (kernel_buffer_t){sums, row_panels(s) * (s->n + s->pad), true, true};
}

/* Tables without the kernel, scalar's among them, multiply panel after panel. */
static void call(const kernels_t *kernels, row_panels_t *together, tile_t *tile,
    const kernel_shape_t *s, tile_mode_t mode, void *const d[KERNEL_BUFFERS])
{
    size_t c_panel = s->n + s->pad, n = row_panels(s);
    const void *panels[KERNEL_TILE_PANELS];
    for (size_t p = 0; p < n; p++)
        panels[p] = (const char *)d[1] + p * s->k * s->n * kernels->element_bytes;
    if (together != NULL)
        together(d[0], n, panels, s->n, s->k, d[2], c_panel, mode);
    for (size_t p = 0; together == NULL && p < n; p++)
        tile(1, d[0], 0, panels[p], s->n, s->k,
            (char *)d[2] + p * c_panel * kernels->accumulator_bytes, c_panel, mode);
}

CALL(kernel_call_row_panels)
{
    call(kernels, kernels->row_panels, kernels->tile, s, (tile_mode_t)(s->variant % 3), d);
}

CALL(kernel_call_row_amx_panels)
{
    call(kernels, kernels->row_amx_panels, kernels->tile_amx, s, (tile_mode_t)(s->variant % 3), d);
}

CALL(kernel_call_row_groups_panels)
{
    tile_mode_t mode = s->variant % 3 == 0 ? TILE_SET : TILE_ADD;
    call(kernels, kernels->row_groups_panels, kernels->tile_groups, s, mode, d);
}

double kernel_row_flop(const kernel_shape_t *s)
{
    return 2.0 * (double)row_panels(s) * (double)s->n * (double)s->k;
}
