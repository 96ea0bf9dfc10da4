#include "engine/forward/panels.h"

#include <string.h>

#include "comm/watch/progress_record.h"
#include "engine/base/size.h"
#include "engine/forward/exchange.h"
#include "engine/forward/fake_quantise.h"

#define NEAR_ROWS_BYTES ((size_t)256 << 10)
#define NEAR_SUMS_BYTES ((size_t)32 << 10)

/* Bytes of a panel's results. */
static size_t panel_bytes(const forward_t *f, const panels_work_t *work)
{
    return work->rows.n * KERNEL_PANEL * accumulator(f);
}

matrix_rows_t panels_rows(forward_t *f, size_t thread, matrix_rows_t rows, size_t columns)
{
    if (f->options.dot != DOT_FOLD)
        return rows;
    uint16_t *folded = (uint16_t *)f->places[PLACE_FOLDED].data;
    size_t stride = folded_stride(columns);
    team_part_t mine = team_part(rows.n, thread, active_threads(f));
    for (size_t r = mine.begin; r < mine.end; r++)
        fold_pack_row(columns, (const uint16_t *)rows.x + r * rows.stride, folded + r * stride);
    forward_barrier(f, thread, &f->times.elementwise_ns);
    rows.x = folded;
    rows.stride = stride;
    return rows;
}

matrix_rows_t panels_layer_rows(forward_t *f, size_t thread, matrix_rows_t rows, size_t columns,
    weight_role_t role, size_t layer)
{
    quantised_activation_t kind =
        quantization_activation(&f->model->config.quantization, f->model->mode, role, layer);
    if (kind == QUANTISED_AS_THEY_ARE)
        return panels_rows(f, thread, rows, columns);
    uint16_t *quantised = (uint16_t *)f->places[PLACE_QUANTISED].data;
    size_t stride = folded_stride(columns);
    team_part_t mine = team_part(rows.n, thread, active_threads(f));
    for (size_t r = mine.begin; r < mine.end; r++) {
        fake_quantise_row(
            kind, columns, (const uint16_t *)rows.x + r * rows.stride, quantised + r * stride);
        memset(quantised + r * stride + columns, 0, (stride - columns) * sizeof *quantised);
    }
    forward_barrier(f, thread, &f->times.elementwise_ns);
    rows.x = quantised;
    rows.stride = stride;
    return panels_rows(f, thread, rows, columns);
}

size_t panels_most(const forward_t *f, size_t n_rows, size_t columns, size_t n)
{
    size_t bytes = n_rows * KERNEL_PANEL * accumulator(f);
    size_t most = size_min(f->threads[0].product_bytes / bytes, MATRIX_MAX_PANELS);
    if (n_rows * columns * element(f) <= NEAR_ROWS_BYTES)
        most = size_min(most, size_max(NEAR_SUMS_BYTES / bytes, n));
    return most / n;
}

/* Panels [begin, end) of n matrices from number m on into the thread's products, matrix after matrix. */
static void multiply(const forward_t *f, size_t thread, const panels_work_t *work, size_t m,
    size_t n, team_part_t part)
{
    const forward_options_t *o = &f->options;
    dtype_t mode = f->model->mode;
    size_t columns = work->matrices[0]->columns, n_panels = 0;
    panel_t panels[MATRIX_MAX_PANELS];
    for (size_t i = m; i < m + n; i++)
        for (size_t p = part.begin; p < part.end; p++)
            panels[n_panels++] = (panel_t){work->matrices[i], p};
    matrix_product(&f->model->kernels, o->dot, panels, n_panels, &work->rows,
        order_linear_leaf(o->order, o->dot, mode, columns, true),
        order_linear_leaf(o->order, o->dot, mode, columns, false), f->threads[thread].unpacked,
        f->threads[thread].products);
}

static void run_part(
    forward_t *f, size_t thread, const panels_work_t *work, size_t m, size_t n, team_part_t part)
{
    char *sums = f->threads[thread].products;
    size_t bytes = panel_bytes(f, work), n_panels = part.end - part.begin;
    if (thread == 0)
        comm_report_progress(f->comm);
    multiply(f, thread, work, m, n, part);
    for (size_t i = 0; i < n_panels; i++)
        work->store(f, thread, work, m, part.begin + i, sums + i * bytes, n_panels * bytes);
    if (work->writes != NOT_SHARED)
        exchange_panels_written(
            f, thread, (shared_t)work->writes, part.begin, part.end, &f->times.matrix_ns);
}

/* The panels of a list that holds those of matrix after matrix. */
static void run_listed(forward_t *f, size_t thread, const panels_work_t *work, team_part_t part)
{
    size_t first = 0;
    for (size_t m = 0; m < work->n_matrices; m++) {
        size_t panels = matrix_n_panels(work->matrices[m]);
        size_t begin = size_max(part.begin, first) - first;
        size_t end = part.end <= first ? 0 : size_min(part.end - first, panels);
        first += panels;
        if (begin < end)
            run_part(f, thread, work, m, 1, (team_part_t){begin, end});
    }
}

void panels_run(forward_t *f, size_t thread, const panels_work_t *work)
{
    size_t together = work->side_by_side ? work->n_matrices : 1, total = 0;
    size_t most = panels_most(f, work->rows.n, work->matrices[0]->columns, together);
    const size_t in_step = matrix_panels_in_step(work->rows.n);
    team_part_t part;
    for (size_t m = 0; m < work->n_matrices; m += together)
        total += matrix_n_panels(work->matrices[m]);
    team_deal(f->team, thread, total);
    while (team_take(f->team, thread, in_step, most, &part)) {
        if (work->side_by_side)
            run_part(f, thread, work, 0, together, part);
        else
            run_listed(f, thread, work, part);
    }
}
