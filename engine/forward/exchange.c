#include "engine/forward/exchange.h"

#include <string.h>

#include "engine/base/size.h"
#include "engine/forward/show.h"

/* ---- Tiles on their way ---------------------------------------------------------------------- */

/* missing[i]: items of this rank's tile i that are not written yet. The thread that completes a
 * tile publishes it; thread 0, the only one that communicates, sends it at its next poll. */

#define TILE_SENT SIZE_MAX

static size_t rows_of(const forward_t *f, const activation_t *a)
{
    return f->rows.n * a->each;
}

/* Of tile i: rows times heads or panels, or panels. */
static size_t tile_size(const forward_t *f, shared_t which, size_t i)
{
    const model_t *m = f->model;
    const activation_t *a = &f->shared[which];
    size_t columns = activation_slice(a, m->rank + 1) - activation_slice(a, m->rank);
    size_t panels = (columns + KERNEL_PANEL - 1) / KERNEL_PANEL;
    size_t rows = size_min(TILE_ROWS, rows_of(f, a) - i * TILE_ROWS);
    if (which == SHARED_ATTENTION)
        return rows * plan_count(model_share(m)->heads);
    if (which == SHARED_EXPERTS)
        return rows * panels;
    return size_min(TILE_PANELS, panels - i * TILE_PANELS);
}

static void begin_stream(forward_t *f, shared_t which)
{
    const activation_t *a = &f->shared[which];
    if (!comm_stream_pays(a->stream, rows_of(f, a)))
        return;
    f->streaming = (int)which;
    comm_stream_begin(a->stream, a->data, rows_of(f, a), a->k_blocked);
    f->n_tiles = comm_stream_tiles(a->stream);
    for (size_t i = 0; i < f->n_tiles; i++)
        atomic_store_explicit(&f->missing[i], tile_size(f, which, i), memory_order_relaxed);
}

/* Whether a burst is ready, or so little is left that this burst keeps the last one short. */
static bool is_burst(const forward_t *f)
{
    size_t ready = 0, unwritten = 0;
    for (size_t i = 0; i < f->n_tiles; i++) {
        size_t missing = atomic_load_explicit(&f->missing[i], memory_order_relaxed);
        ready += missing == 0;
        unwritten += missing != 0 && missing != TILE_SENT;
    }
    return ready > 0 && (ready * COMM_STREAM_BURSTS >= f->n_tiles || ready >= unwritten);
}

/* Sends complete tiles. */
static void send_tiles(forward_t *f, shared_t which)
{
    for (size_t i = 0; i < f->n_tiles; i++)
        if (atomic_load_explicit(&f->missing[i], memory_order_acquire) == 0) {
            atomic_store_explicit(&f->missing[i], TILE_SENT, memory_order_relaxed);
            comm_stream_send(f->shared[which].stream, i);
        }
}

/* Thread 0 makes progress on messages; this counts as exchange and not as the work around it. */
static void move(forward_t *f, size_t thread, shared_t which, uint64_t *kind)
{
    if (thread != 0 || !is_burst(f))
        return;
    forward_charge(f, thread, kind);
    send_tiles(f, which);
    comm_stream_poll(f->shared[which].stream);
    forward_charge(f, thread, &f->times.exchange_ns);
}

void exchange_panels_written(
    forward_t *f, size_t thread, shared_t which, size_t begin, size_t end, uint64_t *kind)
{
    if (f->streaming != (int)which)
        return;
    for (size_t p = begin; p < end; p++)
        atomic_fetch_sub_explicit(&f->missing[p / TILE_PANELS], 1, memory_order_release);
    move(f, thread, which, kind);
}

void exchange_rows_written(forward_t *f, size_t thread, shared_t which, size_t row, size_t n_rows,
    size_t n_items, uint64_t *kind)
{
    if (f->streaming != (int)which)
        return;
    for (size_t end = row + n_rows, next; row < end; row = next) {
        size_t tile = row / TILE_ROWS;
        next = size_min((tile + 1) * TILE_ROWS, end);
        atomic_fetch_sub_explicit(&f->missing[tile], (next - row) * n_items, memory_order_release);
    }
    move(f, thread, which, kind);
}

/* ---- Gathers --------------------------------------------------------------------------------- */

static void copy_columns(char *to, const char *from, size_t begin, size_t end)
{
    memcpy(to + begin, from + begin, end - begin);
}

/* The same for the K-blocked layout, of which each thread has a share of every part's bytes. */
static void copy_k_blocks(forward_t *f, size_t thread, const activation_t *a, bool out)
{
    const size_t *begins = a->begins;
    size_t n_rows = rows_of(f, a);
    char *window = comm_buffer_data(a->window);
    for (size_t r = 0; r < f->model->plan.n_ranks; r++) {
        team_part_t part =
            team_part((begins[r + 1] - begins[r]) * n_rows, thread, active_threads(f));
        size_t begin = begins[r] * n_rows + part.begin, end = begins[r] * n_rows + part.end;
        if (out && r == f->model->rank)
            copy_columns(window, a->own, begin, end);
        else if (!out && r != f->model->rank)
            copy_columns(a->own, window, begin, end);
    }
}

/* Copies this thread's rows of an activation between this rank's own memory and the window: the
 * rank's own columns out, or the others' in. */
static void copy_rows(forward_t *f, size_t thread, const activation_t *a, bool out)
{
    if (a->k_blocked) {
        copy_k_blocks(f, thread, a, out);
        return;
    }
    size_t row_bytes = a->stride * a->element_bytes;
    const size_t *begins = a->begins;
    size_t begin = begins[f->model->rank], end = begins[f->model->rank + 1];
    team_part_t rows = team_part(rows_of(f, a), thread, active_threads(f));
    for (size_t row = rows.begin; row < rows.end; row++) {
        char *window = (char *)comm_buffer_data(a->window) + row * row_bytes;
        char *own = a->own + row * row_bytes;
        if (out) {
            copy_columns(window, own, begin, end);
        } else {
            copy_columns(own, window, 0, begin);
            copy_columns(own, window, end, begins[f->model->plan.n_ranks]);
        }
    }
}

/* Thread 0, when all have written. */
static void exchange(forward_t *f, shared_t which)
{
    const activation_t *a = &f->shared[which];
    if (f->streaming == (int)which) {
        send_tiles(f, which);
        comm_stream_end(f->shared[which].stream);
        f->streaming = NOT_STREAMING;
    } else {
        comm_gather_columns(a->window, rows_of(f, a), a->stride * a->element_bytes, a->begins);
    }
}

/* Thread 0, between phases: all ranks write the attention of that layer next, if there is one. */
static void begin_attention(forward_t *f, size_t layer)
{
    if (layer < f->model->config.num_hidden_layers && !forward_narrows_at(f, layer))
        begin_stream(f, SHARED_ATTENTION);
}

/* The next activation may be received from now on: its last readers have entered this gather
 * (comm.h). */
static void begin_next(forward_t *f, shared_t which, size_t layer)
{
    bool sparse = config_layer_is_sparse(&f->model->config, layer);
    const shared_t nexts[] = {[SHARED_ATTENTION] = SHARED_X_MID,
        [SHARED_X_MID] = sparse ? SHARED_EXPERTS : SHARED_MLP,
        [SHARED_MLP] = SHARED_X,
        [SHARED_EXPERTS] = SHARED_X};
    if (which == SHARED_X)
        begin_attention(f, layer + 1);
    else
        begin_stream(f, nexts[which]);
}

void exchange_gather(forward_t *f, size_t thread, shared_t which, component_t component,
    size_t layer, uint64_t *kind)
{
    const activation_t *a = &f->shared[which];
    if (f->model->plan.combine == PLAN_REDUCE) {
        forward_barrier(f, thread, kind);
        return;
    }
    forward_charge(f, thread, kind);
    bool copied = activation_is_copied(a);
    if (copied) {
        /* A thread's rows hold columns of all threads. */
        team_barrier(f->team, thread);
        copy_rows(f, thread, a, true);
    }
    if (forward_alone(f, thread)) {
        exchange(f, which);
        show_gathered(f, component, layer, which);
        begin_next(f, which, layer);
        forward_go_on(f, &f->times.exchange_ns);
    }
    if (copied) {
        copy_rows(f, thread, a, false);
        forward_barrier(f, thread, &f->times.exchange_ns);
    }
}

void exchange_sum(forward_t *f, size_t thread, char *sums, size_t width)
{
    if (!forward_alone(f, thread))
        return;
    if (f->model->mode == DTYPE_F64)
        comm_allreduce_f64(f->comm, (double *)sums, f->rows.n * width);
    else
        comm_allreduce_f32(f->comm, (float *)sums, f->rows.n * width);
    forward_go_on(f, &f->times.exchange_ns);
}

void exchange_embedding(forward_t *f, size_t thread)
{
    const activation_t *x = &f->shared[SHARED_X];
    size_t row_bytes = x->stride * x->element_bytes;
    if (!forward_alone(f, thread))
        return;
    comm_gather_rows(x->window, f->rows.n, row_bytes, f->owners);
    if (activation_is_copied(x))
        memcpy(x->data, comm_buffer_data(x->window), f->rows.n * row_bytes);
    show_embedding(f);
    begin_attention(f, 0);
    forward_go_on(f, &f->times.exchange_ns);
}
