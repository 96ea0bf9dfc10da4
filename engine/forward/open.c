#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/forward/forward_internal.h"
#include "engine/forward/groups.h"
#include "engine/forward/mixture.h"
#include "engine/forward/routing.h"
#include "engine/model/attention.h"
#include "engine/model/rope.h"

/* Columns of a matrix, at most. */
static size_t most_columns(const model_t *m)
{
    return size_max(size_max(m->config.hidden_size, plan_dim(&m->plan.model, PLAN_DIM_HEADS)),
        size_max(m->config.intermediate_size, m->config.expert_intermediate_size));
}

static void size_places(forward_t *f)
{
    const model_t *m = f->model;
    const forward_options_t *o = &f->options;
    size_t kv = o->max_rows * local_kv(m) * element(f), tables = 0;
    if (rope_follows_length(&m->config, o->max_context))
        tables = o->max_rows * (m->config.head_dim / 2) * accumulator(f);
    const size_t bytes[PLACE_COUNT] = {[PLACE_NORMED] = size_max(o->max_rows, o->max_logits) *
                                                        activation_stride(m, SHARED_X) * element(f),
        [PLACE_Q] = o->max_rows * local_q(m) * element(f),
        [PLACE_K] = kv,
        [PLACE_V] = kv,
        [PLACE_PARTIAL] = m->plan.combine == PLAN_REDUCE
                              ? o->max_rows * m->config.hidden_size * accumulator(f)
                              : 0,
        [PLACE_LOGITS] = o->max_logits * plan_count(model_share(m)->vocab) * accumulator(f),
        [PLACE_ROUTER] = o->max_rows * m->config.n_experts * element(f),
        [PLACE_ROUTED] = routing_input_bytes(m, o),
        [PLACE_COS] = tables,
        [PLACE_SIN] = tables,
        [PLACE_FOLDED] = o->dot == DOT_FOLD ? size_max(o->max_rows, o->max_logits) *
                                                  folded_stride(most_columns(m)) * element(f)
                                            : 0,
        [PLACE_QUANTISED] =
            quantization_has_activations(&m->config.quantization, m->mode)
                ? size_max(o->max_rows, o->max_logits) * folded_stride(most_columns(m)) * element(f)
                : 0};
    for (size_t i = 0; i < PLACE_COUNT; i++)
        f->places[i].bytes = bytes[i];
}

static size_t product_bytes(const forward_options_t *o, const model_t *m)
{
    /* Panels of gate_proj and of up_proj go together. */
    size_t panels = size_max(matrix_panels_together(&m->kernels, o->dot), 2);
    size_t rows = size_max(o->max_rows, o->max_logits);
    size_t packed = FORWARD_PACK_ROWS * m->config.hidden_size * m->kernels.element_bytes;
    return size_max(rows * KERNEL_PANEL * m->kernels.accumulator_bytes * panels,
        size_max(packed, routing_thread_bytes(&m->config)));
}

static size_t unpacked_bytes(const model_t *m)
{
    return matrix_scratch_bytes(m->format, most_columns(m));
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
    size_t shared = 0, private = 0;
    size_places(&f);
    for (size_t i = 0; i < PLACE_COUNT; i++)
    private += f.places[i].bytes;
    for (shared_t b = 0; b < SHARED_COUNT; b++)
        shared += options->max_rows * activation_each(model, b) * activation_stride(model, b) *
                  element(&f);
    private += routing_bytes(model, options);
    size_t per_thread = product_bytes(options, model) + attention_bytes(options, model) +
                        mixture_output_bytes(model, options) + unpacked_bytes(model);
    /* The window of a node is one memory for all its ranks, counted in equal parts. Each rank also
     * has its own copy where windows get small pages, which is known only when they are open. */
    return shared / (size_t)comm_size + (comm_size > 1 ? shared : 0) + private +
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
    s->output_bytes = mixture_output_bytes(f->model, &f->options);
    s->unpacked_bytes = unpacked_bytes(f->model);
    s->products = memory_alloc(s->product_bytes, "scratch", &fail);
    s->attention = memory_alloc(s->attention_bytes, "scratch", &fail);
    if (s->output_bytes > 0)
        s->outputs = memory_alloc(s->output_bytes, "scratch", &fail);
    if (s->unpacked_bytes > 0)
        s->unpacked = memory_alloc(s->unpacked_bytes, "scratch", &fail);
}

static int open_private(forward_t *f, fail_t *fail)
{
    static const char *const names[PLACE_COUNT] = {"activations", "activations", "activations",
        "activations", "activations", "logits", "router", "activations", "RoPE tables",
        "RoPE tables", "activations"};
    f->threads = calloc(f->n_threads, sizeof *f->threads);
    f->owners = calloc(f->options.max_rows, sizeof *f->owners);
    f->missing = calloc(activation_max_tiles(f->model, f->options.max_rows), sizeof *f->missing);
    f->logit_rows = calloc(f->options.max_rows, sizeof *f->logit_rows);
    f->logit_rows_before = calloc(f->options.max_rows + 1, sizeof *f->logit_rows_before);
    if (f->threads == NULL || f->owners == NULL || f->missing == NULL || f->logit_rows == NULL ||
        f->logit_rows_before == NULL)
        return fail_set(fail, FAIL_MEMORY, "forward: out of memory");
    for (size_t i = 0; i < PLACE_COUNT; i++)
        if (f->places[i].bytes > 0)
            f->places[i].data = memory_alloc(f->places[i].bytes, names[i], fail);
    if (fail->status != 0 || routing_open(f, fail) != 0 || groups_open(f, fail) != 0)
        return fail->status;
    team_run(f->team, open_thread, f);
    for (size_t t = 0; t < f->n_threads; t++)
        if (f->threads[t].products == NULL || f->threads[t].attention == NULL ||
            (f->threads[t].output_bytes > 0 && f->threads[t].outputs == NULL) ||
            (f->threads[t].unpacked_bytes > 0 && f->threads[t].unpacked == NULL))
            return fail_set(fail, FAIL_MEMORY, "scratch of thread %zu: out of memory", t);
    return 0;
}

attention_t forward_attention(const config_t *config, order_t order, attention_t attention)
{
    if (attention != ATTENTION_AUTO)
        return attention;
    bool defined = order_has_sdpa(order) && config->head_dim % 8 == 0;
    return defined ? ATTENTION_SDPA : ATTENTION_EAGER;
}

static int check_options(const model_t *m, const forward_options_t *o, fail_t *fail)
{
    if (m->config.n_experts > 0 && m->plan.combine == PLAN_REDUCE)
        return fail_set(fail, FAIL_USAGE,
            "--combine reduce: expected a model without experts, found %zu; use --combine gather",
            m->config.n_experts);
    if (o->attention != ATTENTION_SDPA || m->mode != DTYPE_BF16)
        return fail->status;
    if (!order_has_sdpa(o->order))
        return fail_set(fail, FAIL_USAGE,
            "--attention sdpa: its order exists with --order torch and torch-avx2 only; use --attention eager with --order uniform");
    if (m->config.head_dim % 8 != 0)
        return fail_set(fail, FAIL_USAGE,
            "--attention sdpa: expected a head_dim that is a multiple of 8, found %zu; use --attention eager",
            m->config.head_dim);
    return fail->status;
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
        size_places(f);
        open_private(f, fail);
    }
    if (comm_agree(comm, fail) != 0) {
        forward_close(f);
        return fail->status;
    }
    for (shared_t b = 0; b < SHARED_COUNT; b++)
        if (activation_open(&f->shared[b], model, comm, b, options->max_rows, options->dot, fail) !=
            0) {
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
    for (shared_t b = 0; b < SHARED_COUNT; b++)
        activation_close(&f->shared[b]);
    for (size_t t = 0; f->threads != NULL && t < f->n_threads; t++) {
        memory_free(f->threads[t].products, f->threads[t].product_bytes);
        memory_free(f->threads[t].shown, f->threads[t].product_bytes);
        memory_free(f->threads[t].attention, f->threads[t].attention_bytes);
        memory_free(f->threads[t].outputs, f->threads[t].output_bytes);
        memory_free(f->threads[t].unpacked, f->threads[t].unpacked_bytes);
    }
    routing_close(f);
    free(f->threads);
    free(f->owners);
    free(f->missing);
    free(f->logit_rows);
    free(f->logit_rows_before);
    groups_close(f);
    for (size_t i = 0; i < PLACE_COUNT; i++)
        memory_free(f->places[i].data, f->places[i].bytes);
    free(f);
}
