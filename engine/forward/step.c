/* One step: embedding, layers, logits. */
#include "comm/watch/trace.h"
#include "engine/base/clock.h"
#include "engine/base/size.h"
#include "engine/forward/exchange.h"
#include "engine/forward/forward_internal.h"
#include "engine/forward/groups.h"
#include "engine/forward/panels.h"
#include "engine/forward/show.h"
#include "engine/model/attention.h"

/* ---- Time, and threads of a step ------------------------------------------------------------- */

void forward_charge(forward_t *f, size_t thread, uint64_t *kind)
{
    if (thread != 0)
        return;
    uint64_t now = clock_ns();
    *kind += now - f->mark_ns;
    f->mark_ns = now;
}

void forward_barrier(forward_t *f, size_t thread, uint64_t *kind)
{
    forward_charge(f, thread, kind);
    team_barrier(f->team, thread);
    forward_charge(f, thread, &f->times.waiting_ns);
}

bool forward_alone(forward_t *f, size_t thread)
{
    team_arrive(f->team, thread);
    if (thread == 0)
        forward_charge(f, thread, &f->times.waiting_ns);
    else
        team_await(f->team, thread);
    return thread == 0;
}

void forward_go_on(forward_t *f, uint64_t *kind)
{
    forward_charge(f, 0, kind);
    team_release(f->team);
}

void forward_mark(const forward_t *f, size_t thread, progress_phase_t phase, size_t layer)
{
    if (thread == 0)
        comm_set_phase(f->comm, phase, layer);
}

/* ---- Embedding ------------------------------------------------------------------------------- */

/* Sends the embedding's rows that this rank owns to all, directly into the residual stream where
 * that is shared. */
static void embed(forward_t *f, size_t thread)
{
    const model_t *m = f->model;
    const matrix_t *embedding = &m->outside.of[WEIGHT_EMBEDDING].matrix;
    const activation_t *x = &f->shared[SHARED_X];
    plan_range_t mine = model_share(m)->vocab;
    char *window = comm_buffer_data(x->window);
    team_part_t part = team_part(f->rows.n, thread, active_threads(f));
    for (size_t row = part.begin; row < part.end; row++) {
        size_t id = (size_t)f->batch->token_ids[row];
        f->owners[row] = (int)plan_vocab_owner(&m->plan, id);
        if (id < mine.begin || id >= mine.end)
            continue;
        size_t output = id - mine.begin, p = output / KERNEL_PANEL;
        embedding->format->unpack_row(embedding->format, m->config.hidden_size,
            matrix_panel(embedding, p, 0), matrix_panel_width(embedding, p), output % KERNEL_PANEL,
            window + row * x->stride * x->element_bytes);
    }
    forward_charge(f, thread, &f->times.elementwise_ns);
    exchange_embedding(f, thread);
}

/* ---- Logits ---------------------------------------------------------------------------------- */

static void normalise_rows(forward_t *f, size_t thread, size_t n)
{
    const model_t *m = f->model;
    const kernels_t *k = &m->kernels;
    const activation_t *x = &f->shared[SHARED_X];
    size_t hidden = m->config.hidden_size;
    team_part_t rows = team_part(n, thread, active_threads(f));
    for (size_t i = rows.begin; i < rows.end; i++) {
        char *normed = f->places[PLACE_NORMED].data + i * x->stride * k->element_bytes;
        size_t row = f->batch->logits_rows[i].row;
        if (forward_has_narrowed(f))
            row = f->logit_rows_before[row];
        k->rms_norm(1, hidden, activation_at(x, row, 0), x->stride,
            m->outside.of[WEIGHT_FINAL_NORM].vector, m->config.rms_norm_eps, normed, x->stride);
        show_replicated(f, COMPONENT_FINAL_NORM, 0, i, 1, hidden, normed, x->stride);
    }
    forward_barrier(f, thread, &f->times.elementwise_ns);
}

static void store_logits(forward_t *f, size_t thread, const panels_work_t *work, size_t m, size_t p,
    char *sums, size_t next)
{
    (void)thread, (void)m, (void)next;
    const kernels_t *k = &f->model->kernels;
    size_t vocab = work->matrices[0]->rows, n_rows = work->rows.n;
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, vocab - column);
    char *y = f->places[PLACE_LOGITS].data + column * k->accumulator_bytes;
    k->store_logits(n_rows, n, sums, KERNEL_PANEL, y, vocab);
    show(f, COMPONENT_LOGITS, 0, 0, n_rows, model_share(f->model)->vocab.begin + column, n, y,
        vocab);
}

/* Final norm and lm_head of the rows whose logits are needed. */
static void compute_logits(forward_t *f, size_t thread)
{
    size_t n = f->batch->n_logits, n_single_rows = 0;
    while (n_single_rows < n && f->batch->logits_rows[n_single_rows].single_row)
        n_single_rows++;
    const matrix_rows_t rows = {.x = f->places[PLACE_NORMED].data,
        .stride = f->shared[SHARED_X].stride,
        .n = n,
        .n_single_rows = n_single_rows};
    normalise_rows(f, thread, n);
    const panels_work_t work = {.rows = panels_rows(f, thread, rows, f->model->config.hidden_size),
        .matrices = {model_lm_head(f->model)},
        .n_matrices = 1,
        .store = store_logits,
        .writes = NOT_SHARED};
    panels_run(f, thread, &work);
    forward_barrier(f, thread, &f->times.matrix_ns);
}

/* ---- A step ---------------------------------------------------------------------------------- */

static void step_thread(void *context, size_t thread)
{
    forward_t *f = context;
    if (thread == 0)
        f->mark_ns = clock_ns();
    f->model->kernels.amx_begin();
    forward_mark(f, thread, PROGRESS_EMBED, 0);
    forward_call_tables(f, thread);
    embed(f, thread);
    for (size_t l = 0; l < f->model->config.num_hidden_layers; l++)
        forward_layer(f, thread, l);
    forward_mark(f, thread, PROGRESS_LOGITS, 0);
    if (f->batch->n_logits > 0)
        compute_logits(f, thread);
    f->model->kernels.amx_end();
    forward_mark(f, thread, PROGRESS_IDLE, 0);
}

/* Where windows have small pages only, many rows are computed in this rank's own memory and copied
 * through the windows: translating the addresses costs more than the copies (bench/LOG.md). A tap
 * needs the windows. */
static void place_activations(forward_t *f, size_t n_rows)
{
    bool tapped = f->tap != NULL, reduce = f->model->plan.combine == PLAN_REDUCE;
    for (shared_t b = 0; b < SHARED_COUNT; b++) {
        activation_place(&f->shared[b], reduce || (n_rows >= KERNEL_MANY_ROWS && !tapped));
        activation_lay(&f->shared[b], n_rows, tapped);
    }
}

void forward_step(forward_t *f, const forward_batch_t *batch)
{
    /* A slow rank may still read the last step's residual stream for its logits; this step begins
     * in the other one. */
    if (f->model->plan.combine == PLAN_GATHER) {
        activation_t last = f->shared[SHARED_X];
        f->shared[SHARED_X] = f->shared[SHARED_X_MID];
        f->shared[SHARED_X_MID] = last;
    }
    place_activations(f, batch->n_rows);
    comm_trace_rows(f->comm, batch->n_rows);
    f->batch = batch;
    f->rows.n = batch->n_rows;
    f->streaming = NOT_STREAMING;
    forward_choose_logit_rows(f);
    groups_find(f, attention_unit_tokens(most_kv_group(f->model)));
    f->rows.n_single_rows = 0;
    for (size_t i = 0; i < batch->n_sequences && batch->sequences[i].single_row; i++)
        f->rows.n_single_rows += batch->sequences[i].n_rows;
    team_run_active(f->team, step_thread, f);
    f->batch = NULL;
}

const void *forward_logits(const forward_t *f, size_t i)
{
    return f->places[PLACE_LOGITS].data + i * model_lm_head(f->model)->rows * accumulator(f);
}

uint64_t forward_kv_bytes(const forward_t *f)
{
    uint64_t bytes = 0;
    for (size_t t = 0; t < f->n_threads; t++)
        bytes += f->threads[t].kv_bytes;
    return bytes;
}

uint64_t forward_experts(const forward_t *f)
{
    return f->n_experts;
}

forward_times_t forward_times(const forward_t *f)
{
    return f->times;
}
