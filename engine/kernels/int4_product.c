/* Products with packed int4: few rows unpack weights in registers; for many a block of each panel is
 * unpacked once. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/int4.h"
#include "engine/kernels/kernels_internal.h"

#define MANY_ROWS 12
/* Inputs that are worked on together: whole groups of every format; a panel's b then stays in a
 * second-level cache. */
#define BLOCK_INPUTS 256
#define CHUNK_ROWS 24 /* that are widened together: whole register tiles */
/* Not a power of two, so that rows fall into different sets of a cache. */
#define ROW_FLOATS (BLOCK_INPUTS + 16)

typedef struct wide_block {
    float weights[KERNEL_TILE_PANELS][BLOCK_INPUTS * KERNEL_PANEL] __attribute__((aligned(64)));
    float rows[CHUNK_ROWS][ROW_FLOATS] __attribute__((aligned(64)));
} wide_block_t;

/* Inputs [k0, k0 + k) of the order, of rows [first, first + n). */
static void widen_rows(const matrix_rows_t *rows, const uint32_t *order, size_t first, size_t n,
    size_t k0, size_t k, wide_block_t *to)
{
    for (size_t r = 0; r < n; r++) {
        const uint16_t *x = (const uint16_t *)rows->x + (first + r) * rows->stride;
        if (order == NULL)
            for (size_t i = 0; i < k; i++)
                to->rows[r][i] = f32_from_bf16(x[k0 + i]);
        else
            for (size_t i = 0; i < k; i++)
                to->rows[r][i] = f32_from_bf16(x[order[k0 + i]]);
    }
}

/* A block of inputs of n panels, which have inputs in the same order. */
static void multiply_block(const kernels_t *kernels, const panel_t *panels, size_t n,
    const matrix_rows_t *rows, size_t k0, size_t k, float *c)
{
    wide_block_t wide;
    const size_t panel = rows->n * KERNEL_PANEL;
    for (size_t p = 0; p < n; p++) {
        const matrix_t *matrix = panels[p].matrix;
        kernels->int4_unpack(matrix->format, matrix_panel(matrix, panels[p].p, k0),
            matrix_panel_width(matrix, panels[p].p), k, wide.weights[p]);
    }
    for (size_t r = 0; r < rows->n; r += CHUNK_ROWS) {
        size_t some = size_min(CHUNK_ROWS, rows->n - r);
        widen_rows(rows, panels[0].matrix->order, r, some, k0, k, &wide);
        for (size_t p = 0; p < n; p++)
            kernels->tile_wide(some, wide.rows, ROW_FLOATS, wide.weights[p],
                matrix_panel_width(panels[p].matrix, panels[p].p), k,
                c + p * panel + r * KERNEL_PANEL, KERNEL_PANEL, k0 == 0 ? TILE_SET : TILE_CHAIN);
    }
}

/* Panels from the first on with inputs in the same order. */
static size_t same_order(const panel_t *panels, size_t n)
{
    size_t same = 1;
    while (same < size_min(n, KERNEL_TILE_PANELS) &&
           panels[same].matrix->order == panels[0].matrix->order)
        same++;
    return same;
}

/* The first panels, as many as kernels->int4_row multiplies a row with at once; 0: none. */
static size_t multiply_row(
    const kernels_t *kernels, const panel_t *panels, size_t n_panels, const uint16_t *x, float *c)
{
    const matrix_t *matrix = panels[0].matrix;
    const size_t width = matrix_panel_width(matrix, panels[0].p);
    const void *packed[MATRIX_MAX_PANELS];
    size_t n = 0;
    if (kernels->int4_row == NULL)
        return 0;
    for (; n < size_min(n_panels, MATRIX_MAX_PANELS); n++) {
        const matrix_t *other = panels[n].matrix;
        if (other->format != matrix->format || other->order != matrix->order ||
            matrix_panel_width(other, panels[n].p) != width)
            break;
        packed[n] = matrix_panel(other, panels[n].p, 0);
    }
    kernels->int4_row(
        x, matrix->order, matrix->format, n, packed, width, matrix->columns, c, KERNEL_PANEL);
    return n;
}

/* c = R(c), and the bias, which counts as it is given. */
static void round_and_add(const panel_t *panel, size_t rows, float *c)
{
    size_t width = matrix_panel_width(panel->matrix, panel->p);
    const float *bias = panel->matrix->late_bias;
    for (size_t r = 0; r < rows; r++, c += KERNEL_PANEL) {
        for (size_t i = 0; i < width; i++)
            c[i] = f32_round_bf16(c[i]);
        for (size_t i = 0; i < width && bias != NULL; i++)
            c[i] += bias[panel->p * KERNEL_PANEL + i];
    }
}

void int4_product(const kernels_t *kernels, const panel_t *panels, size_t n_panels,
    const matrix_rows_t *rows, float *c)
{
    const size_t columns = panels[0].matrix->columns, panel = rows->n * KERNEL_PANEL;
    for (size_t p = 0, n; p < n_panels; p += n) {
        n = rows->n == 1 ? multiply_row(kernels, panels + p, n_panels - p, rows->x, c + p * panel)
                         : 0;
        if (n > 0)
            continue;
        n = rows->n < MANY_ROWS ? 1 : same_order(panels + p, n_panels - p);
        const matrix_t *matrix = panels[p].matrix;
        if (rows->n < MANY_ROWS)
            kernels->int4_tile(rows->n, rows->x, rows->stride, matrix->order, matrix->format,
                matrix_panel(matrix, panels[p].p, 0), matrix_panel_width(matrix, panels[p].p),
                columns, c + p * panel, KERNEL_PANEL);
        else
            for (size_t k = 0; k < columns; k += BLOCK_INPUTS)
                multiply_block(kernels, panels + p, n, rows, k, size_min(BLOCK_INPUTS, columns - k),
                    c + p * panel);
    }
    for (size_t p = 0; p < n_panels; p++)
        round_and_add(&panels[p], rows->n, c + p * panel);
}
