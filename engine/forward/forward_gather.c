/* Gathers of a step: activations that every rank wrote in part, seen whole by all. Where there are
 * several nodes and many rows, they travel tile by tile while the rest is computed (stream.h). */
#include <string.h>

#include "comm/stream.h"
#include "engine/base/size.h"
#include "engine/forward/forward_internal.h"
#include "engine/forward/forward_tap.h"

/* ---- Tiles on their way ---------------------------------------------------------------------- */

/* missing[i] is what is not written yet of this rank's tile i. Whoever writes the last of it says
 * so, and thread 0, which alone talks to other ranks, sends it when it next comes by. */

/* Tiles of some panels are a cache line's multiple wide enough for the hardware to fetch ahead, and
 * still many to a part. */
#define TILE_PANELS ((size_t)4)
#define TILE_ROWS ((size_t)32)
#define TILE_SENT SIZE_MAX

static bool may_stream(const forward_t *f, shared_t which)
{
    return comm_stream_pays(f->streams[which], f->n_rows);
}

bool forward_in_slabs(const forward_t *f, shared_t which)
{
    /* Columns of rows are gathered otherwise. */
    return which == SHARED_MLP && f->mlp_slabs && f->tap == NULL && f->n_rows >= KERNEL_MANY_ROWS &&
           (may_stream(f, which) || comm_buffer_is_shared(f->shared[which]));
}

comm_tiling_t forward_tiling(const forward_t *f, shared_t which)
{
    if (which == SHARED_ATTENTION)
        return (comm_tiling_t){SIZE_MAX, TILE_ROWS};
    return (comm_tiling_t){TILE_PANELS * KERNEL_PANEL * element(f), SIZE_MAX};
}

size_t forward_max_tiles(const forward_t *f)
{
    const config_t *c = &f->model->config;
    size_t columns = size_max(c->intermediate_size, c->hidden_size);
    return size_max(columns / (TILE_PANELS * KERNEL_PANEL), f->options.max_rows / TILE_ROWS) + 1;
}

/* Of tile i: rows times heads, or panels. */
static size_t tile_size(const forward_t *f, shared_t which, size_t i)
{
    const plan_share_t *share = model_share(f->model);
    if (which == SHARED_ATTENTION)
        return size_min(TILE_ROWS, f->n_rows - i * TILE_ROWS) * plan_count(share->heads);
    size_t columns = plan_count(which == SHARED_MLP ? share->columns : share->hidden);
    size_t panels = (columns + KERNEL_PANEL - 1) / KERNEL_PANEL;
    return size_min(TILE_PANELS, panels - i * TILE_PANELS);
}

static void begin_stream(forward_t *f, shared_t which)
{
    if (!may_stream(f, which))
        return;
    f->streaming = (int)which;
    comm_stream_begin(f->streams[which], f->data[which], f->n_rows, forward_in_slabs(f, which));
    f->n_tiles = comm_stream_tiles(f->streams[which]);
    for (size_t i = 0; i < f->n_tiles; i++)
        atomic_store_explicit(&f->missing[i], tile_size(f, which, i), memory_order_relaxed);
}

/* Whether a burst is ready, or so little is left that the last one had better be short. */
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

/* Sends what is written. */
static void send_tiles(forward_t *f, shared_t which)
{
    for (size_t i = 0; i < f->n_tiles; i++)
        if (atomic_load_explicit(&f->missing[i], memory_order_acquire) == 0) {
            atomic_store_explicit(&f->missing[i], TILE_SENT, memory_order_relaxed);
            comm_stream_send(f->streams[which], i);
        }
}

/* Thread 0 lets data move, which is exchange and not the work in between. */
static void move(forward_t *f, size_t thread, shared_t which, uint64_t *kind)
{
    if (thread != 0 || !is_burst(f))
        return;
    forward_book(f, thread, kind);
    send_tiles(f, which);
    comm_stream_poll(f->streams[which]);
    forward_book(f, thread, &f->times.exchange_ns);
}

void forward_panels_written(
    forward_t *f, size_t thread, shared_t which, size_t begin, size_t end, uint64_t *kind)
{
    if (f->streaming != (int)which)
        return;
    for (size_t p = begin; p < end; p++)
        atomic_fetch_sub_explicit(&f->missing[p / TILE_PANELS], 1, memory_order_release);
    move(f, thread, which, kind);
}

void forward_heads_written(
    forward_t *f, size_t thread, size_t row, size_t n_rows, size_t n_heads, uint64_t *kind)
{
    if (f->streaming != SHARED_ATTENTION)
        return;
    for (size_t end = row + n_rows, next; row < end; row = next) {
        size_t tile = row / TILE_ROWS;
        next = size_min((tile + 1) * TILE_ROWS, end);
        atomic_fetch_sub_explicit(&f->missing[tile], (next - row) * n_heads, memory_order_release);
    }
    move(f, thread, SHARED_ATTENTION, kind);
}

/* ---- Gathers --------------------------------------------------------------------------------- */

static void copy_columns(char *to, const char *from, size_t begin, size_t end)
{
    memcpy(to + begin, from + begin, end - begin);
}

/* The same of slabs, of which each thread has a share of every part's bytes. */
static void copy_slabs(forward_t *f, size_t thread, shared_t which, bool out)
{
    const size_t *begins = f->begins[which];
    size_t n_rows = f->n_rows;
    char *window = comm_buffer_data(f->shared[which]), *own = f->own[which];
    for (size_t r = 0; r < f->model->plan.n_ranks; r++) {
        team_part_t part =
            team_part((begins[r + 1] - begins[r]) * n_rows, thread, active_threads(f));
        size_t begin = begins[r] * n_rows + part.begin, end = begins[r] * n_rows + part.end;
        if (out && r == f->model->rank)
            copy_columns(window, own, begin, end);
        else if (!out && r != f->model->rank)
            copy_columns(own, window, begin, end);
    }
}

/* Copies this thread's rows of an activation between this rank's own memory and the window: the
 * rank's own columns out, or the others' in. */
static void copy_rows(forward_t *f, size_t thread, shared_t which, bool out)
{
    if (forward_in_slabs(f, which)) {
        copy_slabs(f, thread, which, out);
        return;
    }
    size_t row_bytes = f->strides[which] * element(f);
    const size_t *begins = f->begins[which];
    size_t begin = begins[f->model->rank], end = begins[f->model->rank + 1];
    team_part_t rows = team_part(f->n_rows, thread, active_threads(f));
    for (size_t row = rows.begin; row < rows.end; row++) {
        char *window = (char *)comm_buffer_data(f->shared[which]) + row * row_bytes;
        char *own = f->own[which] + row * row_bytes;
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
    if (f->streaming == (int)which) {
        send_tiles(f, which);
        comm_stream_end(f->streams[which]);
        f->streaming = NOT_STREAMING;
    } else {
        comm_gather_columns(
            f->shared[which], f->n_rows, f->strides[which] * element(f), f->begins[which]);
    }
}

void forward_begin_attention(forward_t *f, size_t layer)
{
    if (layer < f->model->config.num_hidden_layers && !forward_narrows_at(f, layer))
        begin_stream(f, SHARED_ATTENTION);
}

/* The next activation may be received from now on: its last readers have entered this gather
 * (comm.h). */
static void begin_next(forward_t *f, shared_t which, size_t layer)
{
    static const shared_t nexts[] = {
        [SHARED_ATTENTION] = SHARED_X_MID, [SHARED_X_MID] = SHARED_MLP, [SHARED_MLP] = SHARED_X};
    if (which == SHARED_X)
        forward_begin_attention(f, layer + 1);
    else
        begin_stream(f, nexts[which]);
}

/* Ends a phase in which every rank wrote its slice of a component into a shared activation. */
void forward_gather(forward_t *f, size_t thread, shared_t which, component_t component,
    size_t layer, uint64_t *kind)
{
    forward_book(f, thread, kind);
    bool copied = f->data[which] != comm_buffer_data(f->shared[which]);
    if (copied) {
        /* A thread's rows hold columns of all threads. */
        team_barrier(f->team, thread);
        copy_rows(f, thread, which, true);
    }
    team_arrive(f->team, thread);
    if (thread == 0) {
        forward_book(f, thread, &f->times.waiting_ns);
        exchange(f, which);
        show_gathered(f, component, layer, which);
        begin_next(f, which, layer);
        forward_book(f, thread, &f->times.exchange_ns);
        team_release(f->team);
    } else {
        team_await(f->team, thread);
    }
    if (copied) {
        copy_rows(f, thread, which, false);
        forward_barrier(f, thread, &f->times.exchange_ns);
    }
}
