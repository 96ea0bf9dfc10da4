/* The experts of a layer: their products, and the sum over each row's. routing.c says which rows. */
#include "engine/forward/mixture.h"

#include <string.h>

#include "engine/base/size.h"
#include "engine/forward/exchange.h"
#include "engine/forward/panels.h"
#include "engine/forward/routing.h"
#include "engine/forward/show.h"
#include "engine/model/router.h"

/* Panels that a thread takes of an expert; of gate_proj as many as of up_proj. */
#define MOST_PANELS (MATRIX_MAX_PANELS / 2)

size_t mixture_output_bytes(const model_t *m, const forward_options_t *o)
{
    return o->max_rows * m->config.n_experts_per_token * KERNEL_PANEL * m->kernels.element_bytes *
           (m->config.n_experts == 0 ? 0 : matrix_panels_together(&m->kernels, o->dot));
}

/* ---- Products of an expert ------------------------------------------------------------------- */

/* Panels [begin, end) of some of an expert's matrices, which have the same columns. */
typedef struct expert_work {
    size_t layer, expert;
    matrix_rows_t rows;
    const uint32_t *pairs; /* [rows.n] */
    team_part_t part;
} expert_work_t;

/* Into the thread's products: panels of roles[0], then of roles[1], ... */
static void multiply(const forward_t *f, const expert_work_t *work, const weight_role_t *roles,
    size_t n_roles, size_t thread)
{
    const forward_options_t *o = &f->options;
    const model_t *m = f->model;
    panel_t panels[MATRIX_MAX_PANELS];
    size_t n = 0;
    for (size_t i = 0; i < n_roles; i++)
        for (size_t p = work->part.begin; p < work->part.end; p++)
            panels[n++] = (panel_t){&m->layers[work->layer].of[roles[i]].experts[work->expert], p};
    size_t columns = panels[0].matrix->columns;
    matrix_product(&m->kernels, o->dot, panels, n, &work->rows,
        order_linear_leaf(o->order, o->dot, m->mode, columns, true),
        order_linear_leaf(o->order, o->dot, m->mode, columns, false), f->threads[thread].unpacked,
        f->threads[thread].products);
}

/* ---- gate and up ----------------------------------------------------------------------------- */

static const weight_role_t gate_and_up[] = {WEIGHT_EXPERT_GATE, WEIGHT_EXPERT_UP};

static void activate(forward_t *f, size_t thread, const expert_work_t *work, char *sums)
{
    const model_t *m = f->model;
    const kernels_t *k = &m->kernels;
    const activation_t *to = &f->shared[SHARED_EXPERTS];
    size_t first = model_share(m)->expert_columns.begin, n_rows = work->rows.n;
    size_t width = plan_count(model_share(m)->expert_columns);
    size_t bytes = n_rows * KERNEL_PANEL * k->accumulator_bytes;
    size_t n_panels = work->part.end - work->part.begin;
    for (size_t i = 0; i < n_panels; i++) {
        size_t column = (work->part.begin + i) * KERNEL_PANEL;
        size_t n = size_min(KERNEL_PANEL, width - column);
        char *gate = sums + i * bytes, *up = gate + n_panels * bytes;
        show_pairs(f, thread, COMPONENT_EXPERT_GATE_PROJ, work->layer, work->pairs, n_rows,
            first + column, n, gate);
        show_pairs(f, thread, COMPONENT_EXPERT_UP_PROJ, work->layer, work->pairs, n_rows,
            first + column, n, up);
        k->store_swiglu(n_rows, n, gate, up, KERNEL_PANEL,
            activation_at(to, f->routing.first[work->expert], first + column), to->stride);
    }
}

/* Panels [begin, end) of the list that has those of expert after expert. */
static void run_gate_and_up(forward_t *f, size_t thread, size_t layer, team_part_t part)
{
    const routing_t *r = &f->routing;
    const model_t *m = f->model;
    char *sums = f->threads[thread].products;
    size_t each = matrix_n_panels(&m->layers[layer].of[WEIGHT_EXPERT_GATE].experts[0]);
    for (size_t at = part.begin, n; at < part.end; at += n) {
        size_t e = r->active[at / each], p = at % each;
        expert_work_t work = {layer, e, routing_inputs(f, e), &r->pairs[r->first[e]], {p, p}};
        size_t most = panels_most(f, work.rows.n, m->config.hidden_size, 2);
        n = size_min(size_min(part.end - at, each - p), most);
        work.part.end += n;
        multiply(f, &work, gate_and_up, 2, thread);
        activate(f, thread, &work, sums);
        exchange_rows_written(
            f, thread, SHARED_EXPERTS, r->first[e], work.rows.n, n, &f->times.matrix_ns);
    }
}

static void project_up(forward_t *f, size_t thread, size_t layer)
{
    size_t each = matrix_n_panels(&f->model->layers[layer].of[WEIGHT_EXPERT_GATE].experts[0]);
    team_part_t part;
    team_deal(f->team, thread, f->routing.n_active * each);
    while (team_take(f->team, thread, matrix_panels_in_step(f->rows.n), MOST_PANELS, &part)) {
        if (thread == 0)
            comm_report_progress(f->comm);
        run_gate_and_up(f, thread, layer, part);
    }
    exchange_gather(
        f, thread, SHARED_EXPERTS, COMPONENT_EXPERT_ACTIVATION, layer, &f->times.matrix_ns);
}

/* ---- down, and the sum over experts ---------------------------------------------------------- */

/* Where a thread keeps a pair's outputs of the i-th of its panels, until its row's are added. */
static char *output_of(const forward_t *f, size_t thread, size_t i, size_t pair)
{
    size_t n_pairs = f->rows.n * f->model->config.n_experts_per_token;
    return f->threads[thread].outputs + (i * n_pairs + pair) * KERNEL_PANEL * element(f);
}

/* Rounds, weighs and keeps the outputs of an expert's rows, the first of work's panels being the
 * i-th. */
static void weigh(forward_t *f, size_t thread, const expert_work_t *work, size_t i, char *sums)
{
    const kernels_t *k = &f->model->kernels;
    plan_range_t mine = model_share(f->model)->hidden;
    size_t row_bytes = KERNEL_PANEL * k->accumulator_bytes;
    for (size_t p = work->part.begin; p < work->part.end; p++, i++) {
        size_t column = mine.begin + p * KERNEL_PANEL;
        size_t n = size_min(KERNEL_PANEL, mine.end - column);
        show_pairs(f, thread, COMPONENT_EXPERT_DOWN_PROJ, work->layer, work->pairs, work->rows.n,
            column, n, sums);
        for (size_t r = 0; r < work->rows.n; r++, sums += row_bytes) {
            size_t pair = work->pairs[r];
            char *output = output_of(f, thread, i, pair);
            k->scale_scores(n, sums, f->routing.weights[pair], output);
            show(f, COMPONENT_EXPERT_OUTPUT, work->layer, pair, 1, column, n, output, KERNEL_PANEL);
        }
    }
}

/* sum = outputs of a row's experts, n columns, in the order of its list: PyTorch adds sixteen and
 * then the next sixteen. outputs: KERNEL_PANEL elements apart */
static void add_plain(const kernels_t *k, size_t chosen, size_t n, const char *outputs, char *sum)
{
    enum { TOGETHER = 16 };
    double before[KERNEL_PANEL] = {0};
    size_t bytes = n * k->accumulator_bytes, j = 0;
    while (j < chosen) {
        size_t end = size_min(j + TOGETHER, chosen);
        bool whole = end - j == TOGETHER;
        memset(sum, 0, bytes);
        for (; j < end; j++)
            k->add_elements(n, outputs + j * KERNEL_PANEL * k->element_bytes, sum);
        if (whole) {
            k->add(n, sum, before);
            memset(sum, 0, bytes);
        }
    }
    k->add(n, before, sum);
}

/* The same in four accumulators. */
static void add_in_ways(const kernels_t *k, size_t chosen, size_t n, const char *outputs, char *sum)
{
    enum { WAYS = 4 };
    double ways[WAYS][KERNEL_PANEL] = {{0}};
    size_t whole = chosen / WAYS * WAYS;
    for (size_t j = 0; j < chosen; j++)
        k->add_elements(
            n, outputs + j * KERNEL_PANEL * k->element_bytes, ways[j < whole ? j % WAYS : 0]);
    memset(sum, 0, n * k->accumulator_bytes);
    for (size_t way = 0; way < WAYS; way++)
        k->add(n, ways[way], sum);
}

/* The i-th of a thread's panels, number p: adds the experts of each row, and the residual stream. */
static void combine(forward_t *f, size_t thread, size_t layer, size_t i, size_t p)
{
    const model_t *m = f->model;
    const kernels_t *k = &m->kernels;
    const activation_t *from = &f->shared[SHARED_X_MID], *to = &f->shared[SHARED_X];
    plan_range_t mine = model_share(m)->hidden;
    size_t chosen = m->config.n_experts_per_token;
    size_t column = mine.begin + p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, mine.end - column);
    size_t all = router_plain_columns(m->config.hidden_size);
    size_t plain = column < all ? size_min(n, all - column) : 0;
    char *sums = f->threads[thread].products;
    for (size_t row = 0; row < f->rows.n; row++) {
        const char *outputs = output_of(f, thread, i, row * chosen);
        char *sum = sums + row * KERNEL_PANEL * k->accumulator_bytes;
        add_plain(k, chosen, plain, outputs, sum);
        if (plain < n)
            add_in_ways(k, chosen, n - plain, outputs + plain * k->element_bytes,
                sum + plain * k->accumulator_bytes);
    }
    show_product(f, thread, COMPONENT_MLP_OUTPUT, layer, f->rows.n, column, n, sums);
    k->store_residual(f->rows.n, n, sums, KERNEL_PANEL, activation_at(from, 0, column),
        activation_at(to, 0, column), to->stride);
}

/* What down multiplies: all pairs by expert. Where rows are permuted before their products, this lies
 * where the inputs of gate and up were. */
static matrix_rows_t down_inputs(forward_t *f, size_t thread)
{
    const activation_t *from = &f->shared[SHARED_EXPERTS];
    size_t n = f->rows.n * from->each, stride = folded_stride(from->width);
    matrix_rows_t rows = {.x = activation_at(from, 0, 0), .stride = from->stride, .n = n};
    if (f->options.dot != DOT_FOLD)
        return rows;
    uint16_t *folded = (uint16_t *)f->places[PLACE_ROUTED].data;
    team_part_t mine = team_part(n, thread, active_threads(f));
    for (size_t i = mine.begin; i < mine.end; i++)
        fold_pack_row(from->width, (const uint16_t *)rows.x + i * rows.stride, folded + i * stride);
    forward_barrier(f, thread, &f->times.elementwise_ns);
    rows.x = folded;
    rows.stride = stride;
    return rows;
}

static void run_down(
    forward_t *f, size_t thread, size_t layer, const matrix_rows_t *inputs, team_part_t part)
{
    static const weight_role_t down = WEIGHT_EXPERT_DOWN;
    const routing_t *r = &f->routing;
    char *sums = f->threads[thread].products;
    for (size_t a = 0; a < r->n_active; a++) {
        size_t e = r->active[a], n;
        matrix_rows_t rows = *inputs;
        rows.x = (const char *)rows.x + r->first[e] * rows.stride * element(f);
        rows.n = r->first[e + 1] - r->first[e];
        rows.n_single_rows = r->n_single[e];
        size_t most = panels_most(f, rows.n, f->model->config.expert_intermediate_size, 1);
        for (size_t p = part.begin; p < part.end; p += n) {
            n = size_min(part.end - p, most);
            const expert_work_t work = {layer, e, rows, &r->pairs[r->first[e]], {p, p + n}};
            multiply(f, &work, &down, 1, thread);
            weigh(f, thread, &work, p - part.begin, sums);
        }
    }
    for (size_t p = part.begin; p < part.end; p++)
        combine(f, thread, layer, p - part.begin, p);
    exchange_panels_written(f, thread, SHARED_X, part.begin, part.end, &f->times.matrix_ns);
}

static void project_down(forward_t *f, size_t thread, size_t layer)
{
    const matrix_t *down = &f->model->layers[layer].of[WEIGHT_EXPERT_DOWN].experts[0];
    size_t pairs = f->rows.n * f->model->config.n_experts_per_token;
    const matrix_rows_t inputs = down_inputs(f, thread);
    size_t fit = f->threads[thread].output_bytes / (pairs * KERNEL_PANEL * element(f));
    team_part_t part;
    team_deal(f->team, thread, matrix_n_panels(down));
    while (team_take(
        f->team, thread, matrix_panels_in_step(f->rows.n), size_min(fit, MOST_PANELS), &part)) {
        if (thread == 0)
            comm_report_progress(f->comm);
        run_down(f, thread, layer, &inputs, part);
    }
    exchange_gather(f, thread, SHARED_X, COMPONENT_LAYER_OUTPUT, layer, &f->times.matrix_ns);
}

/* ---- A layer's --------------------------------------------------------------------------------- */

void forward_mixture(forward_t *f, size_t thread, size_t layer)
{
    routing_choose(f, thread, layer);
    project_up(f, thread, layer);
    forward_mark(f, thread, PROGRESS_DOWN_PROJ, layer);
    project_down(f, thread, layer);
}
