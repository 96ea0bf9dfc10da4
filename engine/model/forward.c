#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/size.h"
#include "engine/model/attention.h"
#include "engine/model/forward_internal.h"
#include "engine/model/forward_tap.h"

/* ---- Phases of a step: each runs on all threads
 * ----------------------------------------------------------------- */

/* Thread 0 books the time since the last mark to one kind of work. */
static void book(forward_t *f, size_t thread, uint64_t *kind)
{
    if (thread != 0)
        return;
    uint64_t now = clock_ns();
    *kind += now - f->mark_ns;
    f->mark_ns = now;
}

static void barrier(forward_t *f, size_t thread, uint64_t *kind)
{
    team_barrier(f->team, thread);
    book(f, thread, kind);
}

/* Ends a phase in which every rank wrote its slice of a component into a shared activation. */
static void gather(forward_t *f, size_t thread, shared_t which, component_t component, size_t layer,
    uint64_t *kind)
{
    team_arrive(f->team, thread);
    if (thread != 0) {
        team_await(f->team, thread);
        return;
    }
    book(f, thread, kind);
    comm_gather_columns(
        f->shared[which], f->batch->n_rows, f->strides[which] * element(f), f->begins[which]);
    show_gathered(f, component, layer, which);
    book(f, thread, &f->times.exchange_ns);
    team_release(f->team);
}

/* Rows of the embedding that this rank owns go to all, straight into the residual stream where that
 * is shared. */
static void embed(forward_t *f, size_t thread)
{
    const model_t *m = f->model;
    plan_range_t mine = model_share(m)->vocab;
    char *exchanged = comm_buffer_data(f->shared[SHARED_X]);
    size_t row_bytes = f->strides[SHARED_X] * element(f);
    team_part_t part = team_part(f->batch->n_rows, thread, f->n_threads);
    for (size_t row = part.begin; row < part.end; row++) {
        size_t id = (size_t)f->batch->token_ids[row];
        f->owners[row] = (int)plan_vocab_owner(&m->plan, id);
        if (id < mine.begin || id >= mine.end)
            continue;
        size_t output = id - mine.begin, p = output / KERNEL_PANEL;
        panel_unpack_row(m->mode, m->config.hidden_size, matrix_panel(&m->embedding, m->mode, p, 0),
            matrix_panel_width(&m->embedding, p), output % KERNEL_PANEL,
            exchanged + row * row_bytes);
    }
    team_arrive(f->team, thread);
    if (thread == 0) {
        book(f, thread, &f->times.elementwise_ns);
        comm_gather_rows(f->shared[SHARED_X], f->batch->n_rows, row_bytes, f->owners);
        if (f->data[SHARED_X] != exchanged)
            memcpy(f->data[SHARED_X], exchanged, f->batch->n_rows * row_bytes);
        show_embedding(f);
        book(f, thread, &f->times.exchange_ns);
        team_release(f->team);
    } else {
        team_await(f->team, thread);
    }
}

static void normalise(forward_t *f, size_t thread, component_t component, size_t layer,
    shared_t from, const void *weight)
{
    const kernels_t *k = &f->model->kernels;
    size_t hidden = f->model->config.hidden_size;
    team_part_t part = team_part(f->batch->n_rows, thread, f->n_threads);
    for (size_t row = part.begin; row < part.end; row++) {
        char *normed = f->normed + row * f->strides[SHARED_X] * k->element_bytes;
        k->rms_norm(
            hidden, shared_row(f, from, row), weight, f->model->config.rms_norm_eps, normed);
        show_replicated(f, component, layer, row, hidden, normed);
    }
    barrier(f, thread, &f->times.elementwise_ns);
}

/* c = products of the batch's rows with panel p. */
static void product(
    const forward_t *f, const matrix_t *matrix, size_t p, const void *x, size_t x_stride, void *c)
{
    dtype_t mode = f->model->mode;
    size_t columns = matrix->columns;
    matrix_panel_product(&f->model->kernels, matrix, p, f->batch->n_rows, f->n_lone,
        order_linear_leaf(f->options.order, mode, columns, true),
        order_linear_leaf(f->options.order, mode, columns, false), x, x_stride, c);
}

/* q, k and v: one list of panels, shared out evenly. */
static void project_qkv(forward_t *f, size_t thread, size_t index)
{
    const kernels_t *k = &f->model->kernels;
    const model_layer_t *layer = &f->model->layers[index];
    const plan_share_t *share = model_share(f->model);
    size_t d = f->model->config.head_dim;
    const size_t firsts[] = {
        share->heads.begin * d, share->kv_heads.begin * d, share->kv_heads.begin * d};
    const matrix_t *matrices[] = {&layer->q, &layer->k, &layer->v};
    char *outputs[] = {f->q, f->k, f->v};
    size_t total = 0, first = 0;
    for (int i = 0; i < 3; i++)
        total += matrix_n_panels(matrices[i]);
    team_part_t part = team_part(total, thread, f->n_threads);
    void *c = f->threads[thread].products[0];
    for (int i = 0; i < 3; i++) {
        const matrix_t *w = matrices[i];
        size_t panels = matrix_n_panels(w);
        for (size_t p = 0; p < panels; p++) {
            if (first + p < part.begin || first + p >= part.end)
                continue;
            product(f, w, p, f->normed, f->strides[SHARED_X], c);
            size_t column = p * KERNEL_PANEL;
            size_t n = size_min(KERNEL_PANEL, w->rows - column);
            char *y = outputs[i] + column * k->element_bytes;
            k->store(f->batch->n_rows, n, c, KERNEL_PANEL,
                (char *)w->bias + column * k->element_bytes, y, w->rows);
            show(f, (component_t)(COMPONENT_Q_PROJ + i), index, 0, f->batch->n_rows,
                firsts[i] + column, n, y, w->rows);
        }
        first += panels;
    }
    barrier(f, thread, &f->times.matrix_ns);
}

/* Where a row stands. Sequences are few; rows of one follow each other. */
static const forward_sequence_t *sequence_of(const forward_batch_t *batch, size_t row, size_t *at)
{
    while (row >= batch->sequences[*at].first_row + batch->sequences[*at].n_rows)
        ++*at;
    return &batch->sequences[*at];
}

/* Rotates q and k, and writes k and v into the cache. Threads share out heads, so that no two write
 * the same pair of keys. */
static void rotate_and_cache(forward_t *f, size_t thread, size_t layer)
{
    const model_t *m = f->model;
    const kernels_t *k = &m->kernels;
    size_t d = m->config.head_dim, half = d / 2, e = k->element_bytes;
    const plan_share_t *share = model_share(m);
    size_t n_q = plan_count(share->heads), n_kv = plan_count(share->kv_heads);
    team_part_t heads = team_part(n_q + n_kv, thread, f->n_threads);
    size_t at = 0;
    for (size_t row = 0; row < f->batch->n_rows; row++) {
        const forward_sequence_t *s = sequence_of(f->batch, row, &at);
        size_t position = s->first_position + row - s->first_row;
        const char *cosines = (const char *)m->rope_cos + position * half * k->accumulator_bytes;
        const char *sines = (const char *)m->rope_sin + position * half * k->accumulator_bytes;
        size_t block = (size_t)s->blocks[position / KV_BLOCK], slot = position % KV_BLOCK;
        for (size_t h = heads.begin; h < heads.end; h++) {
            if (h < n_q) {
                char *query = f->q + (row * n_q + h) * d * e;
                k->rope(half, cosines, sines, query);
                show(f, COMPONENT_Q_ROPE, layer, row, 1, (share->heads.begin + h) * d, d, query, d);
                continue;
            }
            size_t kv = h - n_q;
            char *key = f->k + (row * n_kv + kv) * d * e, *value = f->v + (row * n_kv + kv) * d * e;
            k->rope(half, cosines, sines, key);
            show(f, COMPONENT_K_ROPE, layer, row, 1, (share->kv_heads.begin + kv) * d, d, key, d);
            if (f->sdpa)
                row_swap_pairs(d, (uint16_t *)key);
            panel_pack_rows(
                m->mode, 1, d, key, kv_cache_k(f->cache, layer, kv, block), KV_BLOCK, slot);
            char *v_block = kv_cache_v(f->cache, layer, kv, block);
            for (size_t first = 0; first < d; first += KERNEL_PANEL)
                panel_pack_input(m->mode, f->sdpa, size_min(KERNEL_PANEL, d - first),
                    value + first * e, v_block + first * KV_BLOCK * e,
                    size_min(KERNEL_PANEL, kernel_padded_outputs(d) - first), slot);
        }
    }
    if (thread == 0)
        atomic_store(&f->next_unit, 0);
    barrier(f, thread, &f->times.elementwise_ns);
}

/* Query heads of this rank that read its local KV head. */
static plan_range_t group_heads(const model_t *m, size_t kv)
{
    const plan_share_t *share = model_share(m);
    size_t group = most_kv_group(m), first = (share->kv_heads.begin + kv) * group;
    return (plan_range_t){
        size_max(first, share->heads.begin), size_min(first + group, share->heads.end)};
}

/* Query tokens [begin, end) of a sequence for one KV head; positions are those in the sequence. */
static void attend_unit(forward_t *f, size_t thread, size_t layer, const forward_sequence_t *s,
    size_t kv, size_t begin, size_t end)
{
    const model_t *m = f->model;
    const config_t *c = &m->config;
    plan_range_t heads = group_heads(m, kv);
    size_t e = element(f), row = s->first_row + begin - s->first_position;
    size_t first_local = heads.begin - model_share(m)->heads.begin;
    bool windowed = c->use_sliding_window && layer >= c->max_window_layers;
    attention_unit_t unit = {.kernels = &m->kernels,
        .order = f->options.order,
        .total_heads = c->num_attention_heads,
        .head_dim = c->head_dim,
        .scale = f->scale,
        .cache = f->cache,
        .layer = layer,
        .kv_head = kv,
        .blocks = s->blocks,
        .first_position = begin,
        .n_tokens = end - begin,
        .n_heads = plan_count(heads),
        .call_tokens = s->call_tokens,
        .window = windowed ? c->sliding_window : 0,
        .tap = f->tap,
        .tap_row = row,
        .tap_rows = f->batch->n_rows,
        .tap_head = heads.begin,
        .q = f->q + (row * local_q(m) + first_local * c->head_dim) * e,
        .q_stride = local_q(m),
        .out = shared_row(f, SHARED_ATTENTION, row) + heads.begin * c->head_dim * e,
        .out_stride = f->strides[SHARED_ATTENTION]};
    if (f->sdpa)
        attention_sdpa(&unit, f->threads[thread].attention);
    else
        attention_eager(&unit, f->threads[thread].attention);
}

/* Units are dealt out as threads become free, the last tokens first within a sequence, since they
 * see most keys. Units begin at multiples of their size in the sequence, wherever a chunk begins.
 */
static void attend(forward_t *f, size_t thread, size_t layer)
{
    size_t n_kv = plan_count(model_share(f->model)->kv_heads);
    size_t next = atomic_fetch_add(&f->next_unit, 1), unit = 0;
    for (size_t i = 0; i < f->batch->n_sequences; i++) {
        const forward_sequence_t *s = &f->batch->sequences[i];
        size_t first = s->first_position, end = first + s->n_rows;
        for (size_t kv = 0; kv < n_kv; kv++) {
            size_t tokens = attention_unit_tokens(plan_count(group_heads(f->model, kv)));
            size_t low = first / tokens, high = (end + tokens - 1) / tokens;
            for (; next < unit + high - low; next = atomic_fetch_add(&f->next_unit, 1)) {
                size_t at = high - 1 - (next - unit);
                attend_unit(f, thread, layer, s, kv, size_max(at * tokens, first),
                    size_min((at + 1) * tokens, end));
            }
            unit += high - low;
        }
    }
}

/* One of the two projections back into the residual stream. */
typedef struct residual {
    const matrix_t *matrix;
    shared_t input, from, to; /* to = from + matrix input */
    component_t product, sum; /* what the product and the new residual stream are called */
    size_t layer;
} residual_t;

/* My rows, then everybody's. */
static void project_gather(forward_t *f, size_t thread, const residual_t *r)
{
    const kernels_t *k = &f->model->kernels;
    const matrix_t *w = r->matrix;
    size_t begin = model_share(f->model)->hidden.begin, n_rows = f->batch->n_rows;
    team_part_t part = team_part(matrix_n_panels(w), thread, f->n_threads);
    void *c = f->threads[thread].products[0];
    for (size_t p = part.begin; p < part.end; p++) {
        product(f, w, p, shared_row(f, r->input, 0), f->strides[r->input], c);
        size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, w->rows - column);
        size_t offset = (begin + column) * k->element_bytes;
        show_product(f, thread, r->product, r->layer, n_rows, begin + column, n, c);
        k->store_residual(n_rows, n, c, KERNEL_PANEL, shared_row(f, r->from, 0) + offset,
            shared_row(f, r->to, 0) + offset, f->strides[r->to]);
    }
    gather(f, thread, r->to, r->sum, r->layer, &f->times.matrix_ns);
}

/* The textbook way (--combine reduce): my inputs' part of all rows, summed over ranks. */
static void project_reduce(forward_t *f, size_t thread, const residual_t *r)
{
    const matrix_t *w = r->matrix;
    size_t first_input = slice_begin(f->model, r->input, f->model->rank);
    const kernels_t *k = &f->model->kernels;
    size_t hidden = f->model->config.hidden_size, acc = k->accumulator_bytes;
    size_t n_rows = f->batch->n_rows, e = k->element_bytes;
    team_part_t part = team_part(matrix_n_panels(w), thread, f->n_threads);
    char *c = f->threads[thread].products[0];
    if (w->rows == 0 && thread == 0)
        memset(f->partial, 0, n_rows * hidden * acc);
    for (size_t p = part.begin; p < part.end; p++) {
        product(f, w, p, shared_row(f, r->input, 0) + first_input * e, f->strides[r->input], c);
        size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, w->rows - column);
        for (size_t row = 0; row < n_rows; row++)
            memcpy(
                f->partial + (row * hidden + column) * acc, c + row * KERNEL_PANEL * acc, n * acc);
    }
    team_arrive(f->team, thread);
    if (thread == 0) {
        book(f, thread, &f->times.matrix_ns);
        if (f->model->mode == DTYPE_F64)
            comm_allreduce_f64(f->comm, (double *)f->partial, n_rows * hidden);
        else
            comm_allreduce_f32(f->comm, (float *)f->partial, n_rows * hidden);
        book(f, thread, &f->times.exchange_ns);
        team_release(f->team);
    } else {
        team_await(f->team, thread);
    }
    team_part_t rows = team_part(n_rows, thread, f->n_threads);
    for (size_t row = rows.begin; row < rows.end; row++)
        k->store_residual(1, hidden, f->partial + row * hidden * acc, 0,
            shared_row(f, r->from, row), shared_row(f, r->to, row), 0);
    barrier(f, thread, &f->times.elementwise_ns);
}

static void project_back(forward_t *f, size_t thread, const residual_t *r)
{
    if (f->model->plan.combine == PLAN_GATHER)
        project_gather(f, thread, r);
    else
        project_reduce(f, thread, r);
}

static void mlp(forward_t *f, size_t thread, size_t index)
{
    const kernels_t *k = &f->model->kernels;
    const model_layer_t *layer = &f->model->layers[index];
    size_t begin = model_share(f->model)->columns.begin, n_rows = f->batch->n_rows;
    team_part_t part = team_part(matrix_n_panels(&layer->gate), thread, f->n_threads);
    char **c = f->threads[thread].products;
    for (size_t p = part.begin; p < part.end; p++) {
        product(f, &layer->gate, p, f->normed, f->strides[SHARED_X], c[0]);
        product(f, &layer->up, p, f->normed, f->strides[SHARED_X], c[1]);
        size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, layer->gate.rows - column);
        show_product(f, thread, COMPONENT_GATE_PROJ, index, n_rows, begin + column, n, c[0]);
        show_product(f, thread, COMPONENT_UP_PROJ, index, n_rows, begin + column, n, c[1]);
        k->store_swiglu(n_rows, n, c[0], c[1], KERNEL_PANEL,
            shared_row(f, SHARED_MLP, 0) + (begin + column) * k->element_bytes,
            f->strides[SHARED_MLP]);
    }
}

/* Ends a phase whose result ranks exchange, or keep to themselves (--combine reduce). */
static void finish(forward_t *f, size_t thread, shared_t which, component_t component, size_t layer,
    uint64_t *kind)
{
    if (f->model->plan.combine == PLAN_GATHER)
        gather(f, thread, which, component, layer, kind);
    else
        barrier(f, thread, kind);
}

static void run_layer(forward_t *f, size_t thread, size_t index)
{
    const model_layer_t *layer = &f->model->layers[index];
    const residual_t o = {&layer->o, SHARED_ATTENTION, SHARED_X, SHARED_X_MID, COMPONENT_O_PROJ,
        COMPONENT_HIDDEN_AFTER_ATTN, index};
    const residual_t down = {&layer->down, SHARED_MLP, SHARED_X_MID, SHARED_X, COMPONENT_MLP_OUTPUT,
        COMPONENT_LAYER_OUTPUT, index};
    normalise(f, thread, COMPONENT_NORMALIZED_INPUT, index, SHARED_X, layer->input_norm);
    project_qkv(f, thread, index);
    rotate_and_cache(f, thread, index);
    attend(f, thread, index);
    finish(f, thread, SHARED_ATTENTION, COMPONENT_ATTN_OUTPUT, index, &f->times.attention_ns);
    project_back(f, thread, &o);
    normalise(f, thread, COMPONENT_NORMALIZED_AFTER_ATTN, index, SHARED_X_MID, layer->post_norm);
    mlp(f, thread, index);
    finish(f, thread, SHARED_MLP, COMPONENT_MLP_ACTIVATION, index, &f->times.matrix_ns);
    project_back(f, thread, &down);
}

/* Final norm and lm_head of the rows that logits are wanted of. */
static void compute_logits(forward_t *f, size_t thread)
{
    const model_t *m = f->model;
    const kernels_t *k = &m->kernels;
    const matrix_t *w = model_lm_head(m);
    size_t n = f->batch->n_logits, n_lone = 0, hidden = m->config.hidden_size;
    size_t stride = f->strides[SHARED_X], vocab = w->rows;
    while (n_lone < n && f->batch->logits_rows[n_lone].lone)
        n_lone++;
    team_part_t rows = team_part(n, thread, f->n_threads);
    for (size_t i = rows.begin; i < rows.end; i++) {
        char *normed = f->normed + i * stride * k->element_bytes;
        k->rms_norm(hidden, shared_row(f, SHARED_X, f->batch->logits_rows[i].row), m->final_norm,
            m->config.rms_norm_eps, normed);
        show_replicated(f, COMPONENT_FINAL_NORM, 0, i, hidden, normed);
    }
    barrier(f, thread, &f->times.elementwise_ns);
    team_part_t part = team_part(matrix_n_panels(w), thread, f->n_threads);
    char *c = f->threads[thread].products[0];
    for (size_t p = part.begin; p < part.end; p++) {
        matrix_panel_product(k, w, p, n, n_lone,
            order_linear_leaf(f->options.order, m->mode, hidden, true),
            order_linear_leaf(f->options.order, m->mode, hidden, false), f->normed, stride, c);
        size_t column = p * KERNEL_PANEL;
        size_t outputs = size_min(KERNEL_PANEL, vocab - column);
        char *y = f->logits + column * k->accumulator_bytes;
        k->store_logits(n, outputs, c, KERNEL_PANEL, y, vocab);
        show(f, COMPONENT_LOGITS, 0, 0, n, model_share(m)->vocab.begin + column, outputs, y, vocab);
    }
    barrier(f, thread, &f->times.matrix_ns);
}

static void step_thread(void *context, size_t thread)
{
    forward_t *f = context;
    if (thread == 0)
        f->mark_ns = clock_ns();
    embed(f, thread);
    for (size_t l = 0; l < f->model->config.num_hidden_layers; l++)
        run_layer(f, thread, l);
    if (f->batch->n_logits > 0)
        compute_logits(f, thread);
}

static void swap_residuals(forward_t *f)
{
    comm_buffer_t *buffer = f->shared[SHARED_X];
    char *data = f->data[SHARED_X];
    f->shared[SHARED_X] = f->shared[SHARED_X_MID];
    f->data[SHARED_X] = f->data[SHARED_X_MID];
    f->shared[SHARED_X_MID] = buffer;
    f->data[SHARED_X_MID] = data;
}

void forward_step(forward_t *f, const forward_batch_t *batch)
{
    /* A slow rank may still read the last step's residual stream for its logits; this step begins
     * in the other buffer. */
    if (f->model->plan.combine == PLAN_GATHER)
        swap_residuals(f);
    f->batch = batch;
    f->n_lone = 0;
    for (size_t i = 0; i < batch->n_sequences && batch->sequences[i].lone; i++)
        f->n_lone += batch->sequences[i].n_rows;
    team_run(f->team, step_thread, f);
    f->batch = NULL;
}

const void *forward_logits(const forward_t *f, size_t i)
{
    return f->logits + i * model_lm_head(f->model)->rows * accumulator(f);
}

forward_times_t forward_times(const forward_t *f)
{
    return f->times;
}
