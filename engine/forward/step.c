/* One step: embedding, layers, logits. */
#include "comm/watch/trace.h"
#include "engine/base/clock.h"
#include "engine/forward/exchange.h"
#include "engine/forward/forward_internal.h"

/* ---- Time, and threads of a step ------------------------------------------------------------- */

void forward_book(forward_t *f, size_t thread, uint64_t *kind)
{
    if (thread != 0)
        return;
    uint64_t now = clock_ns();
    *kind += now - f->mark_ns;
    f->mark_ns = now;
}

void forward_barrier(forward_t *f, size_t thread, uint64_t *kind)
{
    forward_book(f, thread, kind);
    team_barrier(f->team, thread);
    forward_book(f, thread, &f->times.waiting_ns);
}

bool forward_alone(forward_t *f, size_t thread)
{
    team_arrive(f->team, thread);
    if (thread == 0)
        forward_book(f, thread, &f->times.waiting_ns);
    else
        team_await(f->team, thread);
    return thread == 0;
}

void forward_go_on(forward_t *f, uint64_t *kind)
{
    forward_book(f, 0, kind);
    team_release(f->team);
}

void forward_mark(const forward_t *f, size_t thread, progress_phase_t phase, size_t layer)
{
    if (thread == 0)
        comm_set_phase(f->comm, phase, layer);
}

/* ---- A step ---------------------------------------------------------------------------------- */

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
        embedding->format->unpack_row(m->config.hidden_size, matrix_panel(embedding, p, 0),
            matrix_panel_width(embedding, p), output % KERNEL_PANEL,
            window + row * x->stride * x->element_bytes);
    }
    forward_book(f, thread, &f->times.elementwise_ns);
    exchange_embedding(f, thread);
}

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
        forward_compute_logits(f, thread);
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
    forward_choose_kept(f);
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

forward_times_t forward_times(const forward_t *f)
{
    return f->times;
}
