#include "engine/forward/routing.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/forward/panels.h"
#include "engine/forward/show.h"
#include "engine/model/router.h"

/* Rows that one thread chooses for: fewer than a barrier costs. */
#define FEW_ROWS 8

/* ---- Memory ---------------------------------------------------------------------------------- */

bool forward_wants_whole_prompts(const config_t *config, order_t order, dot_t dot, dtype_t mode)
{
    const size_t inputs[] = {config->hidden_size, config->expert_intermediate_size};
    for (size_t i = 0; i < 2 && config->n_experts > 0; i++)
        if (order_linear_leaf(order, dot, mode, inputs[i], true) !=
            order_linear_leaf(order, dot, mode, inputs[i], false))
            return true;
    return false;
}

size_t routing_thread_bytes(const config_t *config)
{
    return config->n_experts * (sizeof(router_entry_t) + 3 * sizeof(double));
}

size_t routing_bytes(const model_t *m, const forward_options_t *o)
{
    const routing_t *r = NULL;
    const config_t *c = &m->config;
    size_t pairs = o->max_rows * c->n_experts_per_token;
    return c->n_experts == 0 ? 0
                             : pairs * (sizeof *r->experts + sizeof *r->weights + sizeof *r->pairs +
                                           sizeof *r->single) +
                                   c->n_experts * 5 * sizeof *r->first;
}

int routing_open(forward_t *f, fail_t *fail)
{
    routing_t *r = &f->routing;
    const config_t *c = &f->model->config;
    size_t pairs = f->options.max_rows * c->n_experts_per_token;
    if (c->n_experts == 0)
        return 0;
    r->by_call = forward_wants_whole_prompts(c, f->options.order, f->options.dot, f->model->mode);
    r->experts = calloc(pairs, sizeof *r->experts);
    r->weights = calloc(pairs, sizeof *r->weights);
    r->pairs = calloc(pairs, sizeof *r->pairs);
    r->single = calloc(pairs, sizeof *r->single);
    r->first = calloc(c->n_experts + 1, sizeof *r->first);
    r->n_single = calloc(c->n_experts, sizeof *r->n_single);
    r->counts[0] = calloc(c->n_experts, sizeof *r->counts[0]);
    r->counts[1] = calloc(c->n_experts, sizeof *r->counts[1]);
    r->active = calloc(c->n_experts, sizeof *r->active);
    if (r->experts == NULL || r->weights == NULL || r->pairs == NULL || r->single == NULL ||
        r->first == NULL || r->n_single == NULL || r->counts[0] == NULL || r->counts[1] == NULL ||
        r->active == NULL)
        fail_set(fail, FAIL_MEMORY, "forward: out of memory for the choices of %zu rows",
            f->options.max_rows);
    return fail->status;
}

void routing_close(forward_t *f)
{
    routing_t *r = &f->routing;
    free(r->experts);
    free(r->weights);
    free(r->pairs);
    free(r->single);
    free(r->first);
    free(r->n_single);
    free(r->counts[0]);
    free(r->counts[1]);
    free(r->active);
}

/* ---- The router ------------------------------------------------------------------------------ */

static void store_router(forward_t *f, size_t thread, const panels_work_t *work, size_t m, size_t p,
    char *sums, size_t next)
{
    (void)thread, (void)next;
    const kernels_t *k = &f->model->kernels;
    size_t n_experts = work->matrices[m]->rows, column = p * KERNEL_PANEL;
    size_t n = size_min(KERNEL_PANEL, n_experts - column);
    char *y = f->places[PLACE_ROUTER].data + column * k->element_bytes;
    k->store(f->rows.n, n, sums, KERNEL_PANEL, NULL, y, n_experts);
}

static void multiply_router(forward_t *f, size_t thread, size_t layer)
{
    const matrix_rows_t rows =
        panels_rows(f, thread, forward_normed_rows(f), f->model->config.hidden_size);
    if (thread == 0)
        f->routing.rows = rows;
    const panels_work_t work = {.rows = rows,
        .matrices = {&f->model->layers[layer].of[WEIGHT_ROUTER].matrix},
        .n_matrices = 1,
        .layer = layer,
        .store = store_router,
        .writes = NOT_SHARED};
    panels_run(f, thread, &work);
    forward_barrier(f, thread, &f->times.matrix_ns);
}

/* ---- The choice ------------------------------------------------------------------------------ */

/* Shows which experts a row chose, and takes over what the tap wrote. */
static void show_chosen(const forward_t *f, size_t layer, size_t row, int32_t *experts)
{
    const config_t *c = &f->model->config;
    double wide[ROUTER_MAX_CHOSEN];
    float narrow[ROUTER_MAX_CHOSEN];
    size_t n = c->n_experts_per_token;
    if (f->tap == NULL)
        return;
    for (size_t j = 0; j < n; j++) {
        wide[j] = experts[j];
        narrow[j] = (float)experts[j];
    }
    bool is_f64 = f->model->mode == DTYPE_F64;
    show_replicated(
        f, COMPONENT_CHOSEN_EXPERTS, layer, row, 1, n, is_f64 ? (void *)wide : (void *)narrow, n);
    for (size_t j = 0; j < n; j++) {
        double expert = is_f64 ? wide[j] : narrow[j];
        if (expert >= 0 && expert < (double)c->n_experts)
            experts[j] = (int32_t)expert;
    }
}

static void show_weights(const forward_t *f, size_t layer, size_t row, double *weights)
{
    double shown[ROUTER_MAX_CHOSEN];
    size_t n = f->model->config.n_experts_per_token;
    if (f->tap == NULL)
        return;
    dtype_convert(shown, f->model->mode, weights, DTYPE_F64, n);
    show_replicated(f, COMPONENT_ROUTING_WEIGHTS, layer, row, 1, n, shown, n);
    dtype_convert(weights, DTYPE_F64, shown, f->model->mode, n);
}

static void choose_row(forward_t *f, size_t thread, size_t layer, size_t row)
{
    const config_t *c = &f->model->config;
    const routing_t *r = &f->routing;
    const kernels_t *kernels = &f->model->router_kernels;
    size_t n = c->n_experts, k = c->n_experts_per_token;
    router_entry_t *entries = (router_entry_t *)(void *)f->threads[thread].products;
    double *probabilities = (double *)(void *)(entries + n), *own = probabilities + n;
    char *logits = f->places[PLACE_ROUTER].data + row * n * element(f);
    int32_t *experts = &r->experts[row * k];
    double *weights = &r->weights[row * k];
    show_replicated(f, COMPONENT_ROUTER_LOGITS, layer, row, 1, n, logits, n);
    dtype_convert(own, kernels->mode, logits, f->model->mode, n);
    kernels->softmax(n, order_softmax_lanes(f->options.order, n), own, own + n);
    dtype_convert(probabilities, DTYPE_F64, own, kernels->mode, n);
    for (size_t e = 0; e < n; e++)
        entries[e] = (router_entry_t){probabilities[e], (int32_t)e};
    router_top_k(k, n, entries);
    for (size_t j = 0; j < k; j++)
        experts[j] = entries[j].index;
    show_chosen(f, layer, row, experts);
    for (size_t j = 0; j < k; j++)
        weights[j] = probabilities[experts[j]];
    router_weights(f->model->mode, c->norm_topk_prob, k, weights);
    show_weights(f, layer, row, weights);
}

/* ---- Pairs by expert ------------------------------------------------------------------------- */

/* Of a prompt's rows those that chose an expert alone. The rows are all of the prompt. */
static void mark_only_ones(routing_t *r, size_t begin, size_t end, size_t n_experts)
{
    memset(r->counts[0], 0, n_experts * sizeof *r->counts[0]);
    for (size_t pair = begin; pair < end; pair++)
        r->counts[0][r->experts[pair]]++;
    for (size_t pair = begin; pair < end; pair++)
        r->single[pair] = r->counts[0][r->experts[pair]] == 1;
}

static void mark_single(forward_t *f)
{
    routing_t *r = &f->routing;
    size_t k = f->model->config.n_experts_per_token;
    for (size_t pair = 0; pair < f->rows.n * k; pair++)
        r->single[pair] = pair < f->rows.n_single_rows * k;
    for (size_t i = 0; i < f->batch->n_sequences && r->by_call; i++) {
        const forward_sequence_t *s = &f->batch->sequences[i];
        if (!s->single_row)
            mark_only_ones(
                r, s->first_row * k, (s->first_row + s->n_rows) * k, f->model->config.n_experts);
    }
}

static void sort_pairs(forward_t *f)
{
    routing_t *r = &f->routing;
    size_t n = f->model->config.n_experts;
    size_t n_pairs = f->rows.n * f->model->config.n_experts_per_token;
    mark_single(f);
    memset(r->counts[0], 0, n * sizeof *r->counts[0]);
    memset(r->n_single, 0, n * sizeof *r->n_single);
    for (size_t pair = 0; pair < n_pairs; pair++) {
        r->counts[0][r->experts[pair]]++;
        r->n_single[r->experts[pair]] += r->single[pair];
    }
    r->n_active = 0;
    for (size_t e = 0, at = 0; e < n; e++) {
        r->first[e] = at;
        r->first[e + 1] = at += r->counts[0][e];
        r->counts[1][e] = r->first[e];                  /* where the next single one goes */
        r->counts[0][e] = r->first[e] + r->n_single[e]; /* and the next other one */
        if (r->first[e + 1] > r->first[e])
            r->active[r->n_active++] = (uint32_t)e;
    }
    f->n_experts += r->n_active;
    for (size_t pair = 0; pair < n_pairs; pair++)
        r->pairs[r->counts[r->single[pair]][r->experts[pair]]++] = (uint32_t)pair;
}

/* ---- Rows by expert -------------------------------------------------------------------------- */

size_t routing_input_bytes(const model_t *m, const forward_options_t *o)
{
    size_t hidden = size_max(activation_stride(m, SHARED_X), folded_stride(m->config.hidden_size));
    size_t expert = folded_stride(m->config.expert_intermediate_size);
    return o->max_rows * activation_each(m, SHARED_EXPERTS) *
           (o->dot == DOT_FOLD ? size_max(hidden, expert) : hidden) * m->kernels.element_bytes;
}

/* Whether an expert's row is read where the step's rows lie. */
static bool is_in_place(const forward_t *f, size_t n)
{
    return n == 1 && !f->routing.rows.k_blocked;
}

matrix_rows_t routing_inputs(const forward_t *f, size_t e)
{
    const routing_t *r = &f->routing;
    bool step_is_k_blocked = r->rows.k_blocked;
    size_t n = r->first[e + 1] - r->first[e], at = r->first[e];
    size_t stride = step_is_k_blocked ? f->shared[SHARED_X].stride : r->rows.stride;
    const char *x = f->places[PLACE_ROUTED].data;
    if (is_in_place(f, n)) {
        at = r->pairs[at] / f->model->config.n_experts_per_token;
        x = r->rows.x;
    }
    bool k_blocked =
        matrix_wants_k_blocked(&f->model->kernels, f->options.dot, n, f->model->config.hidden_size);
    return (matrix_rows_t){.x = x + at * stride * element(f),
        .stride = k_blocked ? n * KERNEL_K_BLOCK : stride,
        .k_blocked = k_blocked,
        .n = n,
        .n_single_rows = r->n_single[e]};
}

static char *input_at(const forward_t *f, const matrix_rows_t *rows, size_t row, size_t k)
{
    size_t at = rows->k_blocked ? k / KERNEL_K_BLOCK * rows->stride + row * KERNEL_K_BLOCK
                                : row * rows->stride + k;
    return (char *)(uintptr_t)rows->x + at * element(f);
}

static void copy_row(const forward_t *f, const matrix_rows_t *from, size_t from_row,
    const matrix_rows_t *to, size_t to_row)
{
    size_t hidden = f->model->config.hidden_size;
    size_t some = from->k_blocked || to->k_blocked ? KERNEL_K_BLOCK : from->stride;
    for (size_t k = 0; k < hidden; k += some)
        memcpy(input_at(f, to, to_row, k), input_at(f, from, from_row, k), some * element(f));
}

/* Each expert's rows, one after another. */
static void copy_rows(forward_t *f, size_t thread)
{
    const routing_t *r = &f->routing;
    size_t chosen = f->model->config.n_experts_per_token;
    team_part_t part = team_part(f->rows.n * chosen, thread, active_threads(f));
    for (size_t a = 0; a < r->n_active; a++) {
        size_t e = r->active[a];
        size_t begin = size_max(part.begin, r->first[e]), end = size_min(part.end, r->first[e + 1]);
        const matrix_rows_t to = routing_inputs(f, e);
        for (size_t i = begin; i < end && !is_in_place(f, to.n); i++)
            copy_row(f, &r->rows, r->pairs[i] / chosen, &to, i - r->first[e]);
    }
    forward_barrier(f, thread, &f->times.elementwise_ns);
}

/* ---- Together -------------------------------------------------------------------------------- */

void routing_choose(forward_t *f, size_t thread, size_t layer)
{
    size_t n = f->rows.n;
    multiply_router(f, thread, layer);
    if (n >= FEW_ROWS) {
        team_part_t part = team_part(n, thread, active_threads(f));
        for (size_t row = part.begin; row < part.end; row++)
            choose_row(f, thread, layer, row);
        forward_barrier(f, thread, &f->times.elementwise_ns);
    }
    if (forward_alone(f, thread)) {
        for (size_t row = 0; row < n && n < FEW_ROWS; row++)
            choose_row(f, thread, layer, row);
        sort_pairs(f);
        forward_go_on(f, &f->times.elementwise_ns);
    }
    if (n > 1)
        copy_rows(f, thread);
}
