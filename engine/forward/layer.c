/* One layer of a step, phase by phase. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/forward/exchange.h"
#include "engine/forward/forward_internal.h"
#include "engine/forward/mixture.h"
#include "engine/forward/panels.h"
#include "engine/forward/show.h"
#include "engine/model/rope.h"

/* The rows of the step for a product. */
static matrix_rows_t rows_of(const forward_t *f, const void *x, bool k_blocked, size_t stride)
{
    return (matrix_rows_t){.x = x,
        .stride = k_blocked ? f->rows.n * KERNEL_K_BLOCK : stride,
        .k_blocked = k_blocked,
        .n = f->rows.n,
        .n_single_rows = f->rows.n_single_rows};
}

/* Adds a matrix's bias to products in accumulators, as store() does before it rounds. The first
 * column of c is row `first` of the bias; rows are row_bytes apart */
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

/* ---- Norm ------------------------------------------------------------------------------------ */

/* Norms of this thread's rows, some at a time, which are then written in the K-blocked layout. */
static void normalise_k_blocked(
    forward_t *f, size_t thread, team_part_t part, const activation_t *from, const void *weight)
{
    enum { TOGETHER = FORWARD_PACK_ROWS };
    const model_t *m = f->model;
    size_t hidden = m->config.hidden_size;
    uint16_t *rows = (uint16_t *)f->threads[thread].products;
    for (size_t row = part.begin, n; row < part.end; row += n) {
        n = size_min(TOGETHER, part.end - row);
        m->kernels.rms_norm(n, hidden, activation_at(from, row, 0), from->stride, weight,
            m->config.rms_norm_eps, rows, hidden);
        k_blocks_pack_rows(n, hidden, rows, hidden, (uint16_t *)f->places[PLACE_NORMED].data,
            f->rows.n * KERNEL_K_BLOCK, row);
    }
}

static void normalise(forward_t *f, size_t thread, component_t component, size_t layer,
    shared_t which, const void *weight)
{
    const kernels_t *k = &f->model->kernels;
    const activation_t *from = &f->shared[which];
    size_t hidden = f->model->config.hidden_size, stride = from->stride;
    team_part_t part = team_part(f->rows.n, thread, active_threads(f));
    char *normed = f->places[PLACE_NORMED].data + part.begin * stride * k->element_bytes;
    if (normed_is_k_blocked(f)) {
        normalise_k_blocked(f, thread, part, from, weight);
    } else {
        k->rms_norm(part.end - part.begin, hidden, activation_at(from, part.begin, 0), stride,
            weight, f->model->config.rms_norm_eps, normed, stride);
        show_replicated(
            f, component, layer, part.begin, part.end - part.begin, hidden, normed, stride);
    }
    forward_barrier(f, thread, &f->times.elementwise_ns);
}

/* ---- q, k, v --------------------------------------------------------------------------------- */

/* One of the three projections. */
typedef struct projection {
    weight_role_t role;
    component_t component;
    forward_place_t place;
    plan_dim_t dim;
} projection_t;

static const projection_t qkv[] = {{WEIGHT_Q, COMPONENT_Q_PROJ, PLACE_Q, PLAN_DIM_HEADS},
    {WEIGHT_K, COMPONENT_K_PROJ, PLACE_K, PLAN_DIM_KV_HEADS},
    {WEIGHT_V, COMPONENT_V_PROJ, PLACE_V, PLAN_DIM_KV_HEADS}};

static void store_qkv(forward_t *f, size_t thread, const panels_work_t *work, size_t m, size_t p,
    char *sums, size_t next)
{
    (void)thread, (void)next;
    const kernels_t *k = &f->model->kernels;
    const matrix_t *w = work->matrices[m];
    size_t first = plan_dim_share(&f->model->plan, f->model->rank, qkv[m].dim).begin;
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, w->rows - column);
    char *y = f->places[qkv[m].place].data + column * k->element_bytes;
    const void *bias = w->bias == NULL ? NULL : (char *)w->bias + column * k->element_bytes;
    k->store(f->rows.n, n, sums, KERNEL_PANEL, bias, y, w->rows);
    show(f, qkv[m].component, work->layer, 0, f->rows.n, first + column, n, y, w->rows);
}

static void project_qkv(forward_t *f, size_t thread, size_t layer)
{
    panels_work_t work = {.rows = panels_layer_rows(f, thread, forward_normed_rows(f),
                              f->model->config.hidden_size, WEIGHT_Q, layer),
        .n_matrices = 3,
        .layer = layer,
        .store = store_qkv,
        .writes = NOT_SHARED};
    for (int i = 0; i < 3; i++)
        work.matrices[i] = &f->model->layers[layer].of[qkv[i].role].matrix;
    panels_run(f, thread, &work);
    forward_barrier(f, thread, &f->times.matrix_ns);
}

/* ---- RoPE and cache -------------------------------------------------------------------------- */

/* The position of a row. Sequences are few; rows of one follow each other. */
static const forward_sequence_t *sequence_of(const forward_batch_t *batch, size_t row, size_t *at)
{
    while (row >= batch->sequences[*at].first_row + batch->sequences[*at].n_rows)
        ++*at;
    return &batch->sequences[*at];
}

static bool has_call_tables(const forward_t *f, const forward_sequence_t *s)
{
    return !s->single_row && rope_follows_length(&f->model->config, s->ref_q_len);
}

/* Tables of the rows whose calls are so long that frequencies follow their length. */
void forward_call_tables(forward_t *f, size_t thread)
{
    const model_t *m = f->model;
    team_part_t part = team_part(f->rows.n, thread, active_threads(f));
    size_t row_bytes = m->config.head_dim / 2 * m->kernels.accumulator_bytes;
    for (size_t i = 0; i < f->batch->n_sequences && f->places[PLACE_COS].data != NULL; i++) {
        const forward_sequence_t *s = &f->batch->sequences[i];
        size_t begin = size_max(part.begin, s->first_row);
        size_t end = size_min(part.end, s->first_row + s->n_rows);
        if (begin < end && has_call_tables(f, s))
            rope_call_tables(&m->config, m->mode, s->ref_q_len,
                s->first_position + begin - s->first_row, end - begin,
                f->places[PLACE_COS].data + begin * row_bytes,
                f->places[PLACE_SIN].data + begin * row_bytes);
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

/* Rotates q and k, and writes k and v into the cache. Threads divide heads, so that no two write
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
    for (size_t row = 0; row < f->rows.n; row++) {
        const forward_sequence_t *s = sequence_of(f->batch, row, &sequence);
        size_t position = s->first_position + row - s->first_row;
        size_t block = (size_t)s->blocks[position / KV_BLOCK];
        bool own = has_call_tables(f, s);
        size_t at = (own ? row : position) * table_bytes;
        const char *cosines = (own ? f->places[PLACE_COS].data : (const char *)m->rope_cos) + at;
        const char *sines = (own ? f->places[PLACE_SIN].data : (const char *)m->rope_sin) + at;
        char *keys = f->places[PLACE_K].data + row * n_kv * head_bytes,
             *values = f->places[PLACE_V].data + row * n_kv * head_bytes;
        rotate(f, &q_steps, layer, row, cosines, sines, q, share->heads.begin,
            f->places[PLACE_Q].data + row * n_q * head_bytes);
        rotate(f, &k_steps, layer, row, cosines, sines, kv, share->kv_heads.begin, keys);
        for (size_t h = kv.begin; h < kv.end; h++)
            kv_cache_append(f->cache, layer, h, block, position % KV_BLOCK, f->sdpa,
                keys + h * head_bytes, values + h * head_bytes);
    }
    if (thread == 0)
        atomic_store(&f->next_unit, 0);
    forward_barrier(f, thread, &f->times.elementwise_ns);
}

/* ---- Back into the residual stream ----------------------------------------------------------- */

/* One of the two projections back. */
typedef struct residual {
    weight_role_t role;
    shared_t input, from, to; /* to = from + matrix input */
    component_t product, sum; /* what the product and the new residual stream are called */
} residual_t;

static const residual_t o_proj = {WEIGHT_O, SHARED_ATTENTION, SHARED_X, SHARED_X_MID,
    COMPONENT_O_PROJ, COMPONENT_HIDDEN_AFTER_ATTN};
static const residual_t down_proj = {
    WEIGHT_DOWN, SHARED_MLP, SHARED_X_MID, SHARED_X, COMPONENT_MLP_OUTPUT, COMPONENT_LAYER_OUTPUT};

/* Whether the residual stream has all rows, and the product only those whose logits are needed. */
static bool has_narrow_product(const forward_t *f, const residual_t *r)
{
    return forward_has_narrowed(f) && r->input == SHARED_ATTENTION;
}

/* Adds products [n_rows, n], sums_stride apart, to the residual stream from its column on. */
static void add_residual(const forward_t *f, const residual_t *r, size_t first_row, size_t n_rows,
    size_t column, size_t n, const char *sums, size_t sums_stride)
{
    const kernels_t *k = &f->model->kernels;
    const activation_t *from = &f->shared[r->from], *to = &f->shared[r->to];
    if (!has_narrow_product(f, r)) {
        k->store_residual(n_rows, n, sums, sums_stride, activation_at(from, first_row, column),
            activation_at(to, first_row, column), to->stride);
        return;
    }
    for (size_t row = first_row; row < first_row + n_rows; row++)
        k->store_residual(1, n, sums + (row - first_row) * sums_stride * k->accumulator_bytes,
            sums_stride, activation_at(from, f->logit_rows[row], column),
            activation_at(to, row, column), to->stride);
}

static void store_back(forward_t *f, size_t thread, const panels_work_t *work, size_t m, size_t p,
    char *sums, size_t next)
{
    (void)next;
    const residual_t *r = work->phase;
    const matrix_t *w = work->matrices[m];
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, w->rows - column);
    size_t first = model_share(f->model)->hidden.begin + column, n_rows = f->rows.n;
    add_bias(f, w, first, n_rows, n, sums, KERNEL_PANEL * accumulator(f));
    show_product(f, thread, r->product, work->layer, n_rows, first, n, sums);
    add_residual(f, r, 0, n_rows, first, n, sums, KERNEL_PANEL);
}

/* --combine reduce: sums of my inputs' part of all rows. */
static void keep_partial(forward_t *f, size_t thread, const panels_work_t *work, size_t m, size_t p,
    char *sums, size_t next)
{
    (void)thread, (void)next;
    size_t hidden = f->model->config.hidden_size, acc = accumulator(f);
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, work->matrices[m]->rows - column);
    char *partial = f->places[PLACE_PARTIAL].data + column * acc;
    for (size_t row = 0; row < f->rows.n; row++)
        memcpy(partial + row * hidden * acc, sums + row * KERNEL_PANEL * acc, n * acc);
}

/* The textbook way (--combine reduce): they are summed over ranks. */
static void sum_back(forward_t *f, size_t thread, const panels_work_t *work)
{
    const residual_t *r = work->phase;
    const matrix_t *w = work->matrices[0];
    size_t hidden = f->model->config.hidden_size, row_bytes = hidden * accumulator(f);
    char *partial = f->places[PLACE_PARTIAL].data;
    if (w->rows == 0 && thread == 0)
        memset(partial, 0, f->rows.n * row_bytes);
    panels_run(f, thread, work);
    forward_charge(f, thread, &f->times.matrix_ns);
    exchange_sum(f, thread, partial, hidden);
    team_part_t mine = team_part(f->rows.n, thread, active_threads(f));
    char *sums = partial + mine.begin * row_bytes;
    add_bias(f, w, 0, mine.end - mine.begin, hidden, sums, row_bytes);
    add_residual(f, r, mine.begin, mine.end - mine.begin, 0, hidden, sums, hidden);
    forward_barrier(f, thread, &f->times.elementwise_ns);
}

static void project_back(forward_t *f, size_t thread, const residual_t *r, size_t layer)
{
    const activation_t *input = &f->shared[r->input];
    bool reduce = f->model->plan.combine == PLAN_REDUCE;
    const void *x = input->k_blocked ? input->data
                                     : activation_at(input, 0,
                                           reduce ? activation_slice(input, f->model->rank) : 0);
    const matrix_t *w = &f->model->layers[layer].of[r->role].matrix;
    const matrix_rows_t rows = rows_of(f, x, input->k_blocked, input->stride);
    const panels_work_t work = {
        .rows = panels_layer_rows(f, thread, rows, w->columns, r->role, layer),
        .matrices = {w},
        .n_matrices = 1,
        .layer = layer,
        .phase = r,
        .store = reduce ? keep_partial : store_back,
        .writes = reduce ? NOT_SHARED : (int)r->to};
    if (reduce) {
        sum_back(f, thread, &work);
        return;
    }
    panels_run(f, thread, &work);
    exchange_gather(f, thread, r->to, r->sum, layer, &f->times.matrix_ns);
}

/* ---- MLP ------------------------------------------------------------------------------------- */

static void store_mlp(forward_t *f, size_t thread, const panels_work_t *work, size_t m, size_t p,
    char *gate, size_t next)
{
    const kernels_t *k = &f->model->kernels;
    const activation_t *mlp = &f->shared[SHARED_MLP];
    size_t first = model_share(f->model)->columns.begin, n_rows = f->rows.n;
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, work->matrices[m]->rows - column);
    char *up = gate + next;
    add_bias(f, work->matrices[m], column, n_rows, n, gate, KERNEL_PANEL * accumulator(f));
    add_bias(f, work->matrices[m + 1], column, n_rows, n, up, KERNEL_PANEL * accumulator(f));
    show_product(f, thread, COMPONENT_GATE_PROJ, work->layer, n_rows, first + column, n, gate);
    show_product(f, thread, COMPONENT_UP_PROJ, work->layer, n_rows, first + column, n, up);
    if (!mlp->k_blocked) {
        k->store_swiglu(
            n_rows, n, gate, up, KERNEL_PANEL, activation_at(mlp, 0, first + column), mlp->stride);
        return;
    }
    for (size_t i = 0; i < n; i += KERNEL_K_BLOCK)
        k->store_swiglu(n_rows, KERNEL_K_BLOCK, gate + i * k->accumulator_bytes,
            up + i * k->accumulator_bytes, KERNEL_PANEL,
            activation_k_block(mlp, n_rows, first + column + i), KERNEL_K_BLOCK);
}

/* Panels of gate_proj are multiplied before the same ones of up_proj, in groups: alternating at
 * every panel costs a single row 6% of the memory's speed. */
static void project_mlp(forward_t *f, size_t thread, size_t layer)
{
    const model_weight_t *of = f->model->layers[layer].of;
    const panels_work_t work = {.rows = panels_layer_rows(f, thread, forward_normed_rows(f),
                                    f->model->config.hidden_size, WEIGHT_GATE, layer),
        .matrices = {&of[WEIGHT_GATE].matrix, &of[WEIGHT_UP].matrix},
        .n_matrices = 2,
        .side_by_side = true,
        .layer = layer,
        .store = store_mlp,
        .writes = SHARED_MLP};
    panels_run(f, thread, &work);
    exchange_gather(f, thread, SHARED_MLP, COMPONENT_MLP_ACTIVATION, layer, &f->times.matrix_ns);
}

/* ---- A layer --------------------------------------------------------------------------------- */

void forward_layer(forward_t *f, size_t thread, size_t layer)
{
    const model_weight_t *of = f->model->layers[layer].of;
    forward_mark(f, thread, PROGRESS_QKV, layer);
    normalise(f, thread, COMPONENT_NORMALIZED_INPUT, layer, SHARED_X, of[WEIGHT_INPUT_NORM].vector);
    project_qkv(f, thread, layer);
    rotate_and_cache(f, thread, layer);
    if (forward_narrows_at(f, layer) && f->logit_rows_before[f->rows.n] == 0)
        return;
    forward_mark(f, thread, PROGRESS_ATTENTION, layer);
    forward_attend(f, thread, layer);
    if (forward_narrows_at(f, layer))
        forward_narrow(f, thread);
    exchange_gather(
        f, thread, SHARED_ATTENTION, COMPONENT_ATTN_OUTPUT, layer, &f->times.attention_ns);
    forward_mark(f, thread, PROGRESS_O_PROJ, layer);
    project_back(f, thread, &o_proj, layer);
    forward_mark(f, thread, PROGRESS_MLP, layer);
    normalise(f, thread, COMPONENT_NORMALIZED_AFTER_ATTN, layer, SHARED_X_MID,
        of[WEIGHT_POST_NORM].vector);
    if (config_layer_is_sparse(&f->model->config, layer)) {
        forward_mixture(f, thread, layer);
        return;
    }
    project_mlp(f, thread, layer);
    forward_mark(f, thread, PROGRESS_DOWN_PROJ, layer);
    project_back(f, thread, &down_proj, layer);
}
