#include <string.h>

#include "comm/watch/heart.h"
#include "comm/watch/trace.h"
#include "engine/base/clock.h"
#include "engine/base/size.h"
#include "engine/forward/forward_internal.h"
#include "engine/forward/forward_tap.h"
#include "engine/model/attention.h"
#include "engine/model/rope.h"

/* ---- Phases of a step: each runs on all threads ---------------------------------------------- */

/* Thread 0 books the time since the last mark to one kind of work. */
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

/* Rows of the embedding that this rank owns go to all, straight into the residual stream where that
 * is shared. */
static void embed(forward_t *f, size_t thread)
{
    const model_t *m = f->model;
    const matrix_t *embedding = &m->outside.of[WEIGHT_EMBEDDING].matrix;
    plan_range_t mine = model_share(m)->vocab;
    char *exchanged = comm_buffer_data(f->shared[SHARED_X]);
    size_t row_bytes = f->strides[SHARED_X] * element(f);
    team_part_t part = team_part(f->n_rows, thread, active_threads(f));
    for (size_t row = part.begin; row < part.end; row++) {
        size_t id = (size_t)f->batch->token_ids[row];
        f->owners[row] = (int)plan_vocab_owner(&m->plan, id);
        if (id < mine.begin || id >= mine.end)
            continue;
        size_t output = id - mine.begin, p = output / KERNEL_PANEL;
        panel_unpack_row(m->mode, m->config.hidden_size, matrix_panel(embedding, m->mode, p, 0),
            matrix_panel_width(embedding, p), output % KERNEL_PANEL, exchanged + row * row_bytes);
    }
    forward_book(f, thread, &f->times.elementwise_ns);
    team_arrive(f->team, thread);
    if (thread == 0) {
        forward_book(f, thread, &f->times.waiting_ns);
        comm_gather_rows(f->shared[SHARED_X], f->n_rows, row_bytes, f->owners);
        if (f->data[SHARED_X] != exchanged)
            memcpy(f->data[SHARED_X], exchanged, f->n_rows * row_bytes);
        show_embedding(f);
        forward_begin_attention(f, 0);
        forward_book(f, thread, &f->times.exchange_ns);
        team_release(f->team);
    } else {
        team_await(f->team, thread);
    }
}

/* Norms of this thread's rows, some at a time, which are then laid into slabs. */
static void normalise_into_slabs(
    forward_t *f, size_t thread, team_part_t part, shared_t from, const void *weight)
{
    enum { TOGETHER = FORWARD_SLAB_ROWS };
    const model_t *m = f->model;
    size_t hidden = m->config.hidden_size;
    uint16_t *rows = (uint16_t *)f->threads[thread].products;
    for (size_t row = part.begin, n; row < part.end; row += n) {
        n = size_min(TOGETHER, part.end - row);
        m->kernels.rms_norm(n, hidden, shared_row(f, from, row), f->strides[from], weight,
            m->config.rms_norm_eps, rows, hidden);
        slabs_pack_rows(
            n, hidden, rows, hidden, (uint16_t *)f->normed, f->n_rows * KERNEL_SLAB, row);
    }
}

static void normalise(forward_t *f, size_t thread, component_t component, size_t layer,
    shared_t from, const void *weight)
{
    const kernels_t *k = &f->model->kernels;
    size_t hidden = f->model->config.hidden_size;
    size_t stride = f->strides[SHARED_X], row_bytes = stride * k->element_bytes;
    team_part_t part = team_part(f->n_rows, thread, active_threads(f));
    if (normed_in_slabs(f)) {
        normalise_into_slabs(f, thread, part, from, weight);
    } else {
        k->rms_norm(part.end - part.begin, hidden, shared_row(f, from, part.begin),
            f->strides[from], weight, f->model->config.rms_norm_eps,
            f->normed + part.begin * row_bytes, stride);
        show_replicated(f, component, layer, part.begin, part.end - part.begin, hidden,
            f->normed + part.begin * row_bytes, stride);
    }
    forward_barrier(f, thread, &f->times.elementwise_ns);
}

/* Where a row stands. Sequences are few; rows of one follow each other. */
static const forward_sequence_t *sequence_of(const forward_batch_t *batch, size_t row, size_t *at)
{
    while (row >= batch->sequences[*at].first_row + batch->sequences[*at].n_rows)
        ++*at;
    return &batch->sequences[*at];
}

static bool has_call_tables(const forward_t *f, const forward_sequence_t *s)
{
    return !s->lone && rope_follows_length(&f->model->config, s->call_tokens);
}

/* Tables of the rows whose calls are so long that frequencies follow their length. */
static void fill_call_tables(forward_t *f, size_t thread)
{
    const model_t *m = f->model;
    team_part_t part = team_part(f->n_rows, thread, f->n_threads);
    size_t row_bytes = m->config.head_dim / 2 * m->kernels.accumulator_bytes;
    for (size_t i = 0; i < f->batch->n_sequences && f->call_cos != NULL; i++) {
        const forward_sequence_t *s = &f->batch->sequences[i];
        size_t begin = size_max(part.begin, s->first_row);
        size_t end = size_min(part.end, s->first_row + s->n_rows);
        if (begin < end && has_call_tables(f, s))
            rope_call_tables(&m->config, m->mode, s->call_tokens,
                s->first_position + begin - s->first_row, end - begin,
                f->call_cos + begin * row_bytes, f->call_sin + begin * row_bytes);
    }
}

/* What is done to the heads of q, or of k, before attention. */
typedef struct head_steps {
    weight_role_t norm;
    component_t normed, rotated;
} head_steps_t;

static const head_steps_t q_steps = {WEIGHT_Q_NORM, COMPONENT_Q_NORM, COMPONENT_Q_ROPE};
static const head_steps_t k_steps = {WEIGHT_K_NORM, COMPONENT_K_NORM, COMPONENT_K_ROPE};

/* Normalises, if the model does that, and rotates some heads of a row. cosines, sines: of its
 * position; x: the row's heads of this rank, the first of them number first_head of all. */
static void rotate(const forward_t *f, const head_steps_t *steps, size_t layer, size_t row,
    const char *cosines, const char *sines, team_part_t heads, size_t first_head, char *x)
{
    const model_t *m = f->model;
    const kernels_t *k = &m->kernels;
    const void *norm = m->layers[layer].of[steps->norm].vector;
    size_t d = m->config.head_dim, half = d / 2, n = heads.end - heads.begin;
    size_t column = (first_head + heads.begin) * d;
    char *from = x + heads.begin * d * k->element_bytes;
    if (norm != NULL) {
        k->rms_norm(n, d, from, d, norm, m->config.rms_norm_eps, from, d);
        show(f, steps->normed, layer, row, 1, column, n * d, from, n * d);
    }
    k->rope(n, half, cosines, sines, from);
    show(f, steps->rotated, layer, row, 1, column, n * d, from, n * d);
}

/* A position's key and value of a head; the key's pairs are swapped where the order wants them so.
 */
static void cache_head(
    const forward_t *f, size_t layer, size_t kv, size_t block, size_t slot, char *key, char *value)
{
    const model_t *m = f->model;
    size_t d = m->config.head_dim, e = m->kernels.element_bytes;
    if (f->sdpa)
        row_swap_pairs(d, (uint16_t *)key);
    panel_pack_rows(m->mode, 1, d, key, kv_cache_k(f->cache, layer, kv, block), KV_BLOCK, slot);
    char *v_block = kv_cache_v(f->cache, layer, kv, block);
    for (size_t first = 0; first < d; first += KERNEL_PANEL)
        panel_pack_input(m->mode, f->sdpa, size_min(KERNEL_PANEL, d - first), value + first * e,
            v_block + first * KV_BLOCK * e,
            size_min(KERNEL_PANEL, kernel_padded_outputs(d) - first), slot);
}

/* Rotates q and k, and writes k and v into the cache. Threads share out heads, so that no two write
 * the same pair of keys. */
static void rotate_and_cache(forward_t *f, size_t thread, size_t layer)
{
    const model_t *m = f->model;
    const plan_share_t *share = model_share(m);
    size_t n_q = plan_count(share->heads), n_kv = plan_count(share->kv_heads);
    size_t head_bytes = m->config.head_dim * m->kernels.element_bytes;
    team_part_t all = team_part(n_q + n_kv, thread, active_threads(f));
    team_part_t q = {size_min(all.begin, n_q), size_min(all.end, n_q)};
    team_part_t kv = {size_max(all.begin, n_q) - n_q, size_max(all.end, n_q) - n_q};
    size_t table_bytes = m->config.head_dim / 2 * m->kernels.accumulator_bytes, sequence = 0;
    for (size_t row = 0; row < f->n_rows; row++) {
        const forward_sequence_t *s = sequence_of(f->batch, row, &sequence);
        size_t position = s->first_position + row - s->first_row;
        size_t block = (size_t)s->blocks[position / KV_BLOCK];
        bool own = has_call_tables(f, s);
        size_t at = (own ? row : position) * table_bytes;
        const char *cosines = (own ? f->call_cos : (const char *)m->rope_cos) + at;
        const char *sines = (own ? f->call_sin : (const char *)m->rope_sin) + at;
        char *keys = f->k + row * n_kv * head_bytes, *values = f->v + row * n_kv * head_bytes;
        rotate(f, &q_steps, layer, row, cosines, sines, q, share->heads.begin,
            f->q + row * n_q * head_bytes);
        rotate(f, &k_steps, layer, row, cosines, sines, kv, share->kv_heads.begin, keys);
        for (size_t h = kv.begin; h < kv.end; h++)
            cache_head(f, layer, h, block, position % KV_BLOCK, keys + h * head_bytes,
                values + h * head_bytes);
    }
    if (thread == 0)
        atomic_store(&f->next_unit, 0);
    forward_barrier(f, thread, &f->times.elementwise_ns);
}

/* Ends a phase whose result ranks exchange, or keep to themselves (--combine reduce). */
static void finish(forward_t *f, size_t thread, shared_t which, component_t component, size_t layer,
    uint64_t *kind)
{
    if (f->model->plan.combine == PLAN_GATHER)
        forward_gather(f, thread, which, component, layer, kind);
    else
        forward_barrier(f, thread, kind);
}

/* Thread 0 says where this rank stands, for those who watch it. */
static void mark(const forward_t *f, size_t thread, heart_phase_t phase, size_t layer)
{
    if (thread == 0)
        comm_mark(f->comm, phase, layer);
}

static void run_layer(forward_t *f, size_t thread, size_t index)
{
    const model_weight_t *of = f->model->layers[index].of;
    const residual_t o = {&of[WEIGHT_O].matrix, SHARED_ATTENTION, SHARED_X, SHARED_X_MID,
        COMPONENT_O_PROJ, COMPONENT_HIDDEN_AFTER_ATTN, index};
    const residual_t down = {&of[WEIGHT_DOWN].matrix, SHARED_MLP, SHARED_X_MID, SHARED_X,
        COMPONENT_MLP_OUTPUT, COMPONENT_LAYER_OUTPUT, index};
    mark(f, thread, HEART_QKV, index);
    normalise(f, thread, COMPONENT_NORMALIZED_INPUT, index, SHARED_X, of[WEIGHT_INPUT_NORM].vector);
    forward_project_qkv(f, thread, index);
    rotate_and_cache(f, thread, index);
    if (forward_narrows_at(f, index) && f->kept_before[f->n_rows] == 0)
        return;
    mark(f, thread, HEART_ATTENTION, index);
    forward_attend(f, thread, index);
    if (forward_narrows_at(f, index))
        forward_narrow(f, thread);
    finish(f, thread, SHARED_ATTENTION, COMPONENT_ATTN_OUTPUT, index, &f->times.attention_ns);
    mark(f, thread, HEART_O_PROJ, index);
    forward_project_back(f, thread, &o);
    mark(f, thread, HEART_MLP, index);
    normalise(f, thread, COMPONENT_NORMALIZED_AFTER_ATTN, index, SHARED_X_MID,
        of[WEIGHT_POST_NORM].vector);
    forward_mlp(f, thread, index);
    finish(f, thread, SHARED_MLP, COMPONENT_MLP_ACTIVATION, index, &f->times.matrix_ns);
    mark(f, thread, HEART_DOWN_PROJ, index);
    forward_project_back(f, thread, &down);
}

static void step_thread(void *context, size_t thread)
{
    forward_t *f = context;
    if (thread == 0)
        f->mark_ns = clock_ns();
    f->model->kernels.amx_begin();
    mark(f, thread, HEART_EMBED, 0);
    fill_call_tables(f, thread);
    embed(f, thread);
    for (size_t l = 0; l < f->model->config.num_hidden_layers; l++)
        run_layer(f, thread, l);
    mark(f, thread, HEART_LOGITS, 0);
    if (f->batch->n_logits > 0)
        forward_compute_logits(f, thread);
    f->model->kernels.amx_end();
    mark(f, thread, HEART_IDLE, 0);
}

static void swap_residuals(forward_t *f)
{
    comm_buffer_t *buffer = f->shared[SHARED_X];
    comm_stream_t *stream = f->streams[SHARED_X];
    f->shared[SHARED_X] = f->shared[SHARED_X_MID];
    f->streams[SHARED_X] = f->streams[SHARED_X_MID];
    f->shared[SHARED_X_MID] = buffer;
    f->streams[SHARED_X_MID] = stream;
}

/* Where windows have small pages only, many rows are worked on in this rank's own memory and copied
 * through the windows: translating the addresses costs more than the copies (bench/LOG.md). A tap
 * looks at the windows. */
static void place_activations(forward_t *f, size_t n_rows)
{
    bool reduce = f->model->plan.combine == PLAN_REDUCE;
    bool copy = n_rows >= KERNEL_MANY_ROWS && f->tap == NULL;
    for (shared_t b = 0; b < SHARED_COUNT; b++)
        f->data[b] =
            reduce || (copy && f->own[b] != NULL) ? f->own[b] : comm_buffer_data(f->shared[b]);
}

void forward_step(forward_t *f, const forward_batch_t *batch)
{
    /* A slow rank may still read the last step's residual stream for its logits; this step begins
     * in the other buffer. */
    if (f->model->plan.combine == PLAN_GATHER)
        swap_residuals(f);
    place_activations(f, batch->n_rows);
    comm_trace_rows(f->comm, batch->n_rows);
    f->batch = batch;
    f->n_rows = batch->n_rows;
    f->streaming = NOT_STREAMING;
    forward_choose_kept(f);
    f->n_lone = 0;
    for (size_t i = 0; i < batch->n_sequences && batch->sequences[i].lone; i++)
        f->n_lone += batch->sequences[i].n_rows;
    team_run_active(f->team, step_thread, f);
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
