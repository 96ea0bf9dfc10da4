/* The matrix phases of a step: which panels a thread multiplies, and where the results go. */
#include <string.h>

#include "comm/watch/heart.h"
#include "engine/base/size.h"
#include "engine/forward/forward_internal.h"
#include "engine/forward/forward_tap.h"

/* The rows of the step as they are multiplied. x: in slabs, or with the stride of `like`. */
static matrix_rows_t rows_of(const forward_t *f, const void *x, bool slabs, shared_t like)
{
    return (matrix_rows_t){.x = x,
        .stride = slabs ? f->n_rows * KERNEL_SLAB : f->strides[like],
        .slabs = slabs,
        .n = f->n_rows,
        .n_lone = f->n_lone};
}

static matrix_rows_t normed_rows(const forward_t *f)
{
    return rows_of(f, f->normed, normed_in_slabs(f), SHARED_X);
}

/* Bytes of a panel's results. */
static size_t panel_bytes(const forward_t *f, const matrix_rows_t *y)
{
    return y->n * KERNEL_PANEL * accumulator(f);
}

#define NEAR_ROWS_BYTES ((size_t)256 << 10)
#define NEAR_SUMS_BYTES ((size_t)32 << 10)

/* Panels of each of n_matrices that a thread multiplies with at once: as many as its scratch holds;
 * sums of few rows are rounded and written while they are in the first-level cache. */
static size_t most_panels(
    const forward_t *f, const matrix_rows_t *y, const matrix_t *matrix, size_t n_matrices)
{
    size_t most = size_min(f->threads[0].product_bytes / panel_bytes(f, y), MATRIX_MAX_PANELS);
    if (y->n * matrix->columns * element(f) <= NEAR_ROWS_BYTES)
        most = size_min(most, size_max(NEAR_SUMS_BYTES / panel_bytes(f, y), n_matrices));
    return most / n_matrices;
}

/* Multiplies with these panels, at most most_panels(), of each of some matrices with the same
 * columns. The results follow each other in c, matrix after matrix. */
static void multiply(const forward_t *f, const matrix_rows_t *y, const matrix_t *const *matrices,
    size_t n_matrices, team_part_t part, char *c)
{
    const forward_options_t *o = &f->options;
    dtype_t mode = f->model->mode;
    size_t columns = matrices[0]->columns, n = 0;
    panel_t panels[MATRIX_MAX_PANELS];
    if (c == f->threads[0].products)
        comm_beat(f->comm);
    for (size_t m = 0; m < n_matrices; m++)
        for (size_t p = part.begin; p < part.end; p++)
            panels[n++] = (panel_t){matrices[m], p};
    matrix_product(&f->model->kernels, o->dot, panels, n, y,
        order_linear_leaf(o->order, o->dot, mode, columns, true),
        order_linear_leaf(o->order, o->dot, mode, columns, false), c);
}

/* first: the matrix's first output among those of all ranks. */
static void store_qkv_panel(const forward_t *f, size_t index, component_t component,
    const matrix_t *w, size_t p, const char *c, char *outputs, size_t first)
{
    const kernels_t *k = &f->model->kernels;
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, w->rows - column);
    char *y = outputs + column * k->element_bytes;
    const void *bias = w->bias == NULL ? NULL : (char *)w->bias + column * k->element_bytes;
    k->store(f->n_rows, n, c, KERNEL_PANEL, bias, y, w->rows);
    show(f, component, index, 0, f->n_rows, first + column, n, y, w->rows);
}

static const weight_role_t qkv[] = {WEIGHT_Q, WEIGHT_K, WEIGHT_V};

/* Panels [begin, end) of a list that holds those of q, then k, then v. */
static void project_qkv_panels(forward_t *f, size_t index, team_part_t part, char *c)
{
    const model_weights_t *layer = &f->model->layers[index];
    const plan_share_t *share = model_share(f->model);
    size_t d = f->model->config.head_dim, first = 0;
    const size_t firsts[] = {
        share->heads.begin * d, share->kv_heads.begin * d, share->kv_heads.begin * d};
    char *outputs[] = {f->q, f->k, f->v};
    const matrix_rows_t rows = normed_rows(f);
    for (int i = 0; i < 3; i++) {
        const matrix_t *w = &layer->of[qkv[i]].matrix;
        size_t panels = matrix_n_panels(w), begin = size_max(part.begin, first) - first;
        size_t end = part.end <= first ? 0 : size_min(part.end - first, panels);
        first += panels;
        if (begin >= end)
            continue;
        multiply(f, &rows, &w, 1, (team_part_t){begin, end}, c);
        for (size_t p = begin; p < end; p++)
            store_qkv_panel(f, index, (component_t)(COMPONENT_Q_PROJ + i), w, p,
                c + (p - begin) * panel_bytes(f, &rows), outputs[i], firsts[i]);
    }
}

void forward_project_qkv(forward_t *f, size_t thread, size_t index)
{
    const model_weights_t *layer = &f->model->layers[index];
    const matrix_rows_t rows = normed_rows(f);
    size_t total = 0, most = most_panels(f, &rows, &layer->of[WEIGHT_Q].matrix, 1);
    team_part_t part;
    for (int i = 0; i < 3; i++)
        total += matrix_n_panels(&layer->of[qkv[i]].matrix);
    team_deal(f->team, thread, total);
    while (team_take(f->team, thread, most, &part))
        project_qkv_panels(f, index, part, f->threads[thread].products);
    forward_barrier(f, thread, &f->times.matrix_ns);
}

/* Whether the residual stream still holds all rows, and the product only those that the last layer
 * goes on with. */
static bool gathers_kept(const forward_t *f, const residual_t *r)
{
    return forward_has_narrowed(f) && r->input == SHARED_ATTENTION;
}

/* Adds a matrix's bias to products in accumulators, as store() does before it rounds. The first
 * column of c is output `first` of all ranks'; row_bytes apart */
static void add_bias(const forward_t *f, const matrix_t *w, size_t first, size_t n_rows, size_t n,
    char *c, size_t row_bytes)
{
    const kernels_t *k = &f->model->kernels;
    double bias[KERNEL_PANEL];
    if (w->bias == NULL)
        return;
    for (size_t at = 0, some; at < n; at += some) {
        some = size_min(n - at, KERNEL_PANEL);
        dtype_convert(
            bias, DTYPE_F64, (char *)w->bias + (first + at) * k->element_bytes, k->mode, some);
        for (size_t row = 0; row < n_rows; row++) {
            char *sums = c + row * row_bytes + at * k->accumulator_bytes;
            for (size_t i = 0; i < some; i++)
                if (k->accumulator_bytes == sizeof(double))
                    ((double *)sums)[i] += bias[i];
                else
                    ((float *)sums)[i] += (float)bias[i];
        }
    }
}

static void store_residual_panel(
    const forward_t *f, size_t thread, const residual_t *r, size_t p, char *c)
{
    const kernels_t *k = &f->model->kernels;
    size_t begin = model_share(f->model)->hidden.begin, n_rows = f->n_rows;
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, r->matrix->rows - column);
    size_t offset = (begin + column) * k->element_bytes;
    add_bias(f, r->matrix, begin + column, n_rows, n, c, KERNEL_PANEL * k->accumulator_bytes);
    show_product(f, thread, r->product, r->layer, n_rows, begin + column, n, c);
    if (!gathers_kept(f, r)) {
        k->store_residual(n_rows, n, c, KERNEL_PANEL, shared_row(f, r->from, 0) + offset,
            shared_row(f, r->to, 0) + offset, f->strides[r->to]);
        return;
    }
    for (size_t row = 0; row < n_rows; row++)
        k->store_residual(1, n, c + row * KERNEL_PANEL * k->accumulator_bytes, KERNEL_PANEL,
            shared_row(f, r->from, f->kept[row]) + offset, shared_row(f, r->to, row) + offset,
            f->strides[r->to]);
}

/* My rows, then everybody's. */
static void project_gather(forward_t *f, size_t thread, const residual_t *r)
{
    const matrix_t *w = r->matrix;
    char *c = f->threads[thread].products;
    const matrix_rows_t rows =
        rows_of(f, f->data[r->input], forward_in_slabs(f, r->input), r->input);
    size_t most = most_panels(f, &rows, w, 1);
    team_part_t part;
    team_deal(f->team, thread, matrix_n_panels(w));
    while (team_take(f->team, thread, most, &part)) {
        multiply(f, &rows, &w, 1, part, c);
        for (size_t p = part.begin; p < part.end; p++)
            store_residual_panel(f, thread, r, p, c + (p - part.begin) * panel_bytes(f, &rows));
        forward_panels_written(f, thread, r->to, part.begin, part.end, &f->times.matrix_ns);
    }
    forward_gather(f, thread, r->to, r->sum, r->layer, &f->times.matrix_ns);
}

static void keep_partial_panel(const forward_t *f, const matrix_t *w, size_t p, const char *c)
{
    size_t hidden = f->model->config.hidden_size, acc = accumulator(f);
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, w->rows - column);
    for (size_t row = 0; row < f->n_rows; row++)
        memcpy(f->partial + (row * hidden + column) * acc, c + row * KERNEL_PANEL * acc, n * acc);
}

/* The textbook way (--combine reduce): my inputs' part of all rows, summed over ranks. */
static void project_reduce(forward_t *f, size_t thread, const residual_t *r)
{
    const matrix_t *w = r->matrix;
    size_t first_input = slice_begin(f->model, r->input, f->model->rank);
    const kernels_t *k = &f->model->kernels;
    size_t hidden = f->model->config.hidden_size, acc = k->accumulator_bytes;
    size_t n_rows = f->n_rows, e = k->element_bytes;
    char *c = f->threads[thread].products;
    if (w->rows == 0 && thread == 0)
        memset(f->partial, 0, n_rows * hidden * acc);
    const matrix_rows_t rows = rows_of(f, f->data[r->input] + first_input * e, false, r->input);
    size_t most = most_panels(f, &rows, w, 1);
    team_part_t part;
    team_deal(f->team, thread, matrix_n_panels(w));
    while (team_take(f->team, thread, most, &part)) {
        multiply(f, &rows, &w, 1, part, c);
        for (size_t p = part.begin; p < part.end; p++)
            keep_partial_panel(f, w, p, c + (p - part.begin) * panel_bytes(f, &rows));
    }
    forward_book(f, thread, &f->times.matrix_ns);
    team_arrive(f->team, thread);
    if (thread == 0) {
        forward_book(f, thread, &f->times.waiting_ns);
        if (f->model->mode == DTYPE_F64)
            comm_allreduce_f64(f->comm, (double *)f->partial, n_rows * hidden);
        else
            comm_allreduce_f32(f->comm, (float *)f->partial, n_rows * hidden);
        forward_book(f, thread, &f->times.exchange_ns);
        team_release(f->team);
    } else {
        team_await(f->team, thread);
    }
    team_part_t mine = team_part(n_rows, thread, active_threads(f));
    add_bias(f, w, 0, mine.end - mine.begin, hidden, f->partial + mine.begin * hidden * acc,
        hidden * acc);
    for (size_t row = mine.begin; row < mine.end; row++)
        k->store_residual(1, hidden, f->partial + row * hidden * acc, 0,
            shared_row(f, r->from, gathers_kept(f, r) ? f->kept[row] : row),
            shared_row(f, r->to, row), 0);
    forward_barrier(f, thread, &f->times.elementwise_ns);
}

void forward_project_back(forward_t *f, size_t thread, const residual_t *r)
{
    if (f->model->plan.combine == PLAN_GATHER)
        project_gather(f, thread, r);
    else
        project_reduce(f, thread, r);
}

static void store_mlp_panel(
    const forward_t *f, size_t thread, size_t index, size_t p, char *gate, char *up)
{
    const kernels_t *k = &f->model->kernels;
    const matrix_t *w = &f->model->layers[index].of[WEIGHT_GATE].matrix;
    size_t begin = model_share(f->model)->columns.begin, n_rows = f->n_rows;
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, w->rows - column);
    show_product(f, thread, COMPONENT_GATE_PROJ, index, n_rows, begin + column, n, gate);
    show_product(f, thread, COMPONENT_UP_PROJ, index, n_rows, begin + column, n, up);
    char *y = f->data[SHARED_MLP];
    if (!forward_in_slabs(f, SHARED_MLP)) {
        k->store_swiglu(n_rows, n, gate, up, KERNEL_PANEL, y + (begin + column) * k->element_bytes,
            f->strides[SHARED_MLP]);
        return;
    }
    for (size_t i = 0; i < n; i += KERNEL_SLAB)
        k->store_swiglu(n_rows, KERNEL_SLAB, gate + i * k->accumulator_bytes,
            up + i * k->accumulator_bytes, KERNEL_PANEL,
            y + (begin + column + i) * n_rows * k->element_bytes, KERNEL_SLAB);
}

/* Panels of gate_proj go before the same ones of up_proj in groups: changing between the two at
 * every panel costs a lone row 6% of the memory's speed. */
void forward_mlp(forward_t *f, size_t thread, size_t index)
{
    const model_weight_t *of = f->model->layers[index].of;
    const matrix_t *const matrices[] = {&of[WEIGHT_GATE].matrix, &of[WEIGHT_UP].matrix};
    const matrix_rows_t rows = normed_rows(f);
    size_t bytes = panel_bytes(f, &rows), most = most_panels(f, &rows, matrices[0], 2);
    char *c = f->threads[thread].products;
    team_part_t part;
    team_deal(f->team, thread, matrix_n_panels(matrices[0]));
    while (team_take(f->team, thread, most, &part)) {
        size_t n = part.end - part.begin;
        multiply(f, &rows, matrices, 2, part, c);
        for (size_t i = 0; i < n; i++)
            store_mlp_panel(f, thread, index, part.begin + i, c + i * bytes, c + (n + i) * bytes);
        forward_panels_written(f, thread, SHARED_MLP, part.begin, part.end, &f->times.matrix_ns);
    }
}

static void store_logits_panel(const forward_t *f, size_t n_rows, size_t p, const char *c)
{
    const kernels_t *k = &f->model->kernels;
    size_t vocab = model_lm_head(f->model)->rows;
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, vocab - column);
    char *y = f->logits + column * k->accumulator_bytes;
    k->store_logits(n_rows, n, c, KERNEL_PANEL, y, vocab);
    show(f, COMPONENT_LOGITS, 0, 0, n_rows, model_share(f->model)->vocab.begin + column, n, y,
        vocab);
}

/* Final norm and lm_head of the rows that logits are wanted of. */
void forward_compute_logits(forward_t *f, size_t thread)
{
    const model_t *m = f->model;
    const kernels_t *k = &m->kernels;
    const matrix_t *w = model_lm_head(m);
    size_t n = f->batch->n_logits, n_lone = 0, hidden = m->config.hidden_size;
    size_t stride = f->strides[SHARED_X];
    while (n_lone < n && f->batch->logits_rows[n_lone].lone)
        n_lone++;
    team_part_t rows = team_part(n, thread, active_threads(f));
    for (size_t i = rows.begin; i < rows.end; i++) {
        char *normed = f->normed + i * stride * k->element_bytes;
        size_t row = f->batch->logits_rows[i].row;
        if (forward_has_narrowed(f))
            row = f->kept_before[row];
        k->rms_norm(1, hidden, shared_row(f, SHARED_X, row), stride,
            m->outside.of[WEIGHT_FINAL_NORM].vector, m->config.rms_norm_eps, normed, stride);
        show_replicated(f, COMPONENT_FINAL_NORM, 0, i, 1, hidden, normed, stride);
    }
    forward_barrier(f, thread, &f->times.elementwise_ns);
    char *c = f->threads[thread].products;
    const matrix_rows_t normed = {.x = f->normed, .stride = stride, .n = n, .n_lone = n_lone};
    size_t most = most_panels(f, &normed, w, 1);
    team_part_t part;
    team_deal(f->team, thread, matrix_n_panels(w));
    while (team_take(f->team, thread, most, &part)) {
        multiply(f, &normed, &w, 1, part, c);
        for (size_t p = part.begin; p < part.end; p++)
            store_logits_panel(f, n, p, c + (p - part.begin) * panel_bytes(f, &normed));
    }
    forward_barrier(f, thread, &f->times.matrix_ns);
}
