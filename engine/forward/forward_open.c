#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/forward/forward_internal.h"
#include "engine/model/attention.h"
#include "engine/model/rope.h"

/* Elements between rows: an odd number of cache lines, so that rows do not all meet in the same few
 * sets of a cache; an odd number of inputs has its zero there. */
static size_t shared_stride(const model_t *m, shared_t which)
{
    enum { LINE_BYTES = 64 };
    size_t bytes = shared_width(m, which) * m->kernels.element_bytes;
    size_t lines = size_round_up(bytes, LINE_BYTES) / LINE_BYTES;
    return (lines | 1) * LINE_BYTES / m->kernels.element_bytes;
}

static void size_scratch(forward_t *f)
{
    const model_t *m = f->model;
    const forward_options_t *o = &f->options;
    size_t stride = shared_stride(m, SHARED_X);
    f->normed_bytes = size_max(o->max_rows, o->max_logits) * stride * element(f);
    f->q_bytes = o->max_rows * local_q(m) * element(f);
    f->kv_bytes = o->max_rows * local_kv(m) * element(f);
    f->partial_bytes =
        m->plan.combine == PLAN_REDUCE ? o->max_rows * m->config.hidden_size * accumulator(f) : 0;
    if (rope_follows_length(&m->config, o->max_context))
        f->call_table_bytes = o->max_rows * (m->config.head_dim / 2) * accumulator(f);
    f->logits_bytes = o->max_logits * plan_count(model_share(m)->vocab) * accumulator(f);
}

static size_t product_bytes(const forward_options_t *o, const model_t *m)
{
    /* Panels of gate_proj and of up_proj go together. */
    size_t panels = size_max(matrix_panels_together(&m->kernels, o->dot), 2);
    size_t rows = size_max(o->max_rows, o->max_logits);
    return size_max(rows * KERNEL_PANEL * m->kernels.accumulator_bytes * panels,
        FORWARD_SLAB_ROWS * m->config.hidden_size * m->kernels.element_bytes);
}

static size_t attention_bytes(const forward_options_t *o, const model_t *m)
{
    if (o->attention == ATTENTION_SDPA && m->mode == DTYPE_BF16)
        return attention_sdpa_scratch_bytes(m->config.head_dim, most_kv_group(m));
    return attention_eager_scratch_bytes(
        &m->kernels, m->config.head_dim, most_kv_group(m), o->max_context);
}

size_t forward_bytes(
    const model_t *model, const forward_options_t *options, size_t n_threads, int comm_size)
{
    forward_t f = {.model = model, .options = *options};
    size_scratch(&f);
    size_t shared = 0;
    for (shared_t b = 0; b < SHARED_COUNT; b++)
        shared += options->max_rows * shared_stride(model, b) * element(&f);
    size_t per_thread = product_bytes(options, model) + attention_bytes(options, model);
    /* The window of a node is one memory for all its ranks, counted in equal parts; and each has a
     * copy of its own where windows get small pages, which is known only when they are open. */
    return shared / (size_t)comm_size + (comm_size > 1 ? shared : 0) + f.normed_bytes + f.q_bytes +
           2 * f.kv_bytes + f.partial_bytes + f.logits_bytes + 2 * f.call_table_bytes +
           n_threads * per_thread;
}

/* Each thread allocates its own scratch, on its own NUMA node. */
static void open_thread(void *context, size_t thread)
{
    forward_t *f = context;
    thread_scratch_t *s = &f->threads[thread];
    fail_t fail = {0};
    s->product_bytes = product_bytes(&f->options, f->model);
    s->attention_bytes = attention_bytes(&f->options, f->model);
    s->products = memory_alloc(s->product_bytes, "scratch", &fail);
    s->attention = memory_alloc(s->attention_bytes, "scratch", &fail);
}

static int open_private(forward_t *f, fail_t *fail)
{
    const model_t *m = f->model;
    size_t ranks = m->plan.n_ranks;
    f->threads = calloc(f->n_threads, sizeof *f->threads);
    f->owners = calloc(f->options.max_rows, sizeof *f->owners);
    f->missing = calloc(forward_max_tiles(f), sizeof *f->missing);
    f->kept = calloc(f->options.max_rows, sizeof *f->kept);
    f->kept_before = calloc(f->options.max_rows + 1, sizeof *f->kept_before);
    for (shared_t b = 0; b < SHARED_COUNT; b++)
        f->begins[b] = calloc(ranks + 1, sizeof **f->begins);
    for (shared_t b = 0; b < SHARED_COUNT; b++)
        if (f->begins[b] == NULL || f->threads == NULL || f->owners == NULL || f->missing == NULL ||
            f->kept == NULL || f->kept_before == NULL)
            return fail_set(fail, FAIL_MEMORY, "forward: out of memory");
    f->normed = memory_alloc(f->normed_bytes, "activations", fail);
    f->q = memory_alloc(f->q_bytes, "activations", fail);
    f->k = memory_alloc(f->kv_bytes, "activations", fail);
    f->v = memory_alloc(f->kv_bytes, "activations", fail);
    f->partial = memory_alloc(f->partial_bytes, "activations", fail);
    f->logits = memory_alloc(f->logits_bytes, "logits", fail);
    if (f->call_table_bytes > 0) {
        f->call_cos = memory_alloc(f->call_table_bytes, "RoPE tables", fail);
        f->call_sin = memory_alloc(f->call_table_bytes, "RoPE tables", fail);
    }
    if (fail->status != 0)
        return fail->status;
    team_run(f->team, open_thread, f);
    for (size_t t = 0; t < f->n_threads; t++)
        if (f->threads[t].products == NULL || f->threads[t].attention == NULL)
            return fail_set(fail, FAIL_MEMORY, "scratch of thread %zu: out of memory", t);
    return 0;
}

attention_t forward_attention(const config_t *config, order_t order, attention_t attention)
{
    if (attention != ATTENTION_AUTO)
        return attention;
    bool defined = order == ORDER_TORCH && config->head_dim % 8 == 0 && !config->use_sliding_window;
    return defined ? ATTENTION_SDPA : ATTENTION_EAGER;
}

static int check_options(const model_t *m, const forward_options_t *o, fail_t *fail)
{
    if (o->attention != ATTENTION_SDPA || m->mode != DTYPE_BF16)
        return fail->status;
    if (o->order != ORDER_TORCH)
        return fail_set(fail, FAIL_USAGE,
            "--attention sdpa: its order exists with --order torch only; use --attention eager with --order uniform");
    if (m->config.head_dim % 8 != 0)
        return fail_set(fail, FAIL_USAGE,
            "--attention sdpa: expected a head_dim that is a multiple of 8, found %zu; use --attention eager",
            m->config.head_dim);
    if (m->config.use_sliding_window)
        return fail_set(fail, FAIL_USAGE,
            "--attention sdpa: the order with a sliding window is not known; use --attention eager");
    return fail->status;
}

/* Local. Whether parts of MLP's activation are whole slabs, and multiplied as such. */
static bool can_lie_in_slabs(const forward_t *f)
{
    const model_t *m = f->model;
    for (size_t r = 0; r <= m->plan.n_ranks; r++)
        if (slice_begin(m, SHARED_MLP, r) % KERNEL_SLAB != 0)
            return false;
    return m->plan.combine == PLAN_GATHER && matrix_wants_slabs(&m->kernels, f->options.dot,
                                                 KERNEL_MANY_ROWS, m->config.intermediate_size);
}

/* Collective. */
static int open_shared(forward_t *f, fail_t *fail)
{
    const model_t *m = f->model;
    bool reduce = m->plan.combine == PLAN_REDUCE;
    for (shared_t b = 0; b < SHARED_COUNT; b++) {
        f->strides[b] = shared_stride(m, b);
        for (size_t r = 0; r <= m->plan.n_ranks; r++)
            f->begins[b][r] = slice_begin(m, b, r) * element(f);
        size_t bytes = f->options.max_rows * f->strides[b] * element(f);
        if (!reduce || b == SHARED_X) {
            if (comm_buffer_open(f->comm, bytes, "activations", &f->shared[b], fail) != 0)
                return fail->status;
        }
        if (!reduce &&
            comm_stream_open(&f->streams[b], f->shared[b], f->options.max_rows,
                f->strides[b] * element(f), f->begins[b], forward_tiling(f, b), fail) != 0) {
            return fail->status;
        }
        if (reduce || comm_buffer_has_small_pages(f->shared[b])) {
            f->own_bytes[b] = bytes;
            f->own[b] = memory_alloc(bytes, "activations", fail);
        }
    }
    if (comm_agree(f->comm, fail) != 0)
        return fail->status;
    f->mlp_slabs = comm_min(f->comm, can_lie_in_slabs(f)) != 0;
    return 0;
}

int forward_open(forward_t **out, const model_t *model, kv_cache_t *cache, team_t *team,
    comm_t *comm, const forward_options_t *options, fail_t *fail)
{
    *out = NULL;
    forward_t *f = calloc(1, sizeof *f);
    if (f == NULL)
        fail_set(fail, FAIL_MEMORY, "forward: out of memory");
    if (check_options(model, options, fail) == 0 && f != NULL) {
        f->model = model;
        f->cache = cache;
        f->team = team;
        f->comm = comm;
        f->options = *options;
        f->n_threads = team_size(team);
        f->sdpa = options->attention == ATTENTION_SDPA && model->mode == DTYPE_BF16;
        f->scale = 1.0 / __builtin_sqrt((double)model->config.head_dim);
        size_scratch(f);
        open_private(f, fail);
    }
    if (comm_agree(comm, fail) != 0) {
        forward_close(f);
        return fail->status;
    }
    if (open_shared(f, fail) != 0) {
        forward_close(f);
        return fail->status;
    }
    *out = f;
    return 0;
}

void forward_close(forward_t *f)
{
    if (f == NULL)
        return;
    for (shared_t b = 0; b < SHARED_COUNT; b++) {
        comm_stream_close(f->streams[b]);
        comm_buffer_close(f->shared[b]);
        if (f->own_bytes[b] != 0)
            memory_free(f->own[b], f->own_bytes[b]);
        free(f->begins[b]);
    }
    for (size_t t = 0; f->threads != NULL && t < f->n_threads; t++) {
        memory_free(f->threads[t].products, f->threads[t].product_bytes);
        memory_free(f->threads[t].shown, f->threads[t].product_bytes);
        memory_free(f->threads[t].attention, f->threads[t].attention_bytes);
    }
    free(f->threads);
    free(f->owners);
    free(f->missing);
    free(f->kept);
    free(f->kept_before);
    memory_free(f->normed, f->normed_bytes);
    memory_free(f->q, f->q_bytes);
    memory_free(f->k, f->kv_bytes);
    memory_free(f->v, f->kv_bytes);
    memory_free(f->partial, f->partial_bytes);
    memory_free(f->logits, f->logits_bytes);
    memory_free(f->call_cos, f->call_table_bytes);
    memory_free(f->call_sin, f->call_table_bytes);
    free(f);
}
