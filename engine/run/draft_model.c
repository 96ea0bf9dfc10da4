#include "engine/run/draft_model.h"

#include <stdlib.h>

#include "engine/base/size.h"
#include "engine/run/step_internal.h"

/* Collective. What asks for more than rows, such as whole prompts, is not worth it for a draft. */
static void choose_order(loaded_t *l, comm_t *comm)
{
    engine_options_t *o = &l->options;
    if (!forward_wants_whole_prompts(&l->config, o->order, o->dot, o->mode))
        return;
    o->order = ORDER_UNIFORM;
    o->attention = ATTENTION_AUTO;
    o->dot = load_choose_dot(comm, DOT_AUTO, o->mode, o->order);
}

int draft_model_open(draft_model_t **out, const loaded_t *other, fail_t *fail)
{
    draft_model_t *d = *out = calloc(1, sizeof *d);
    engine_options_t options = other->options;
    if (d == NULL)
        fail_set(fail, FAIL_MEMORY, "draft model: out of memory");
    if (comm_agree(other->comm, fail) != 0)
        return fail->status;
    options.model_dir = options.draft_dir;
    options.random_config = options.draft_config;
    options.n_layers = options.draft_layers;
    load_files(&d->loaded, other->comm, &options, fail);
    choose_order(&d->loaded, other->comm);
    return load_compute_beside(&d->loaded, other, fail);
}

int draft_model_plan(draft_model_t *d, capacity_t *capacity, fail_t *fail)
{
    if (load_plan(&d->loaded, &d->shape, fail) != 0)
        return fail->status;
    capacity_t own = load_capacity(&d->loaded, &d->shape, 0, 0);
    capacity->draft_bytes = own.weight_bytes;
    capacity->cache_bytes_per_token += own.cache_bytes_per_token;
    return 0;
}

static forward_options_t forward_options(const draft_model_t *d)
{
    const engine_options_t *o = &d->loaded.options;
    return (forward_options_t){.order = o->order,
        .attention = forward_attention(&d->loaded.config, o->order, o->attention),
        .dot = o->dot,
        .max_rows = scheduler_max_rows(&d->limits),
        .max_logits = scheduler_max_logits(&d->limits),
        .max_context = d->limits.max_context};
}

void draft_model_limit(draft_model_t *d, scheduler_options_t *limits, capacity_t *capacity)
{
    size_t context = size_min(limits->max_context, load_max_positions(&d->loaded.config));
    limits->draft_context = context;
    d->limits = *limits;
    d->limits.max_context = context;
    d->limits.max_prompt_logits = 1;
    d->limits.speculation = (speculation_options_t){0};
    forward_options_t forward = forward_options(d);
    capacity->draft_bytes =
        load_weight_bytes(&d->loaded, &d->shape, context) + step_bytes(&d->shape, &d->limits) +
        forward_bytes(&d->shape, &forward, d->loaded.threads, comm_size(d->loaded.comm));
}

static void open_coordinator(draft_model_t *d, fail_t *fail)
{
    size_t batch = d->limits.max_batch;
    d->slots = calloc(batch, sizeof *d->slots);
    d->progress = calloc(batch, sizeof *d->progress);
    d->entries = calloc(batch, sizeof *d->entries);
    d->of = calloc(batch, sizeof *d->of);
    d->results = calloc(batch, sizeof *d->results);
    d->ids = calloc(scheduler_max_rows(&d->limits), sizeof *d->ids);
    if (d->slots == NULL || d->progress == NULL || d->entries == NULL || d->of == NULL ||
        d->results == NULL || d->ids == NULL)
        fail_set(fail, FAIL_MEMORY, "draft model: out of memory for %zu sequences", batch);
}

int draft_model_load(draft_model_t *d, fail_t *fail)
{
    loaded_t *l = &d->loaded;
    size_t tokens = d->limits.n_blocks * d->limits.block_tokens;
    plan_close(&d->shape.plan);
    if (load_weights(l, tokens, d->limits.max_context, fail) != 0)
        return fail->status;
    if (comm_rank(l->comm) == 0)
        open_coordinator(d, fail);
    if (comm_agree(l->comm, fail) != 0)
        return fail->status;
    forward_options_t forward = forward_options(d);
    if (forward_open(&d->forward, &l->model, &l->cache, l->team, l->comm, &forward, fail) == 0 &&
        step_open(&d->step, l->comm, l->team, d->forward, &l->model, &d->limits, fail) == 0)
        d->step->drafts = true;
    load_close_files(l);
    return fail->status;
}

void draft_model_close(draft_model_t *d)
{
    if (d == NULL)
        return;
    plan_close(&d->shape.plan);
    step_close(d->step);
    forward_close(d->forward);
    load_close(&d->loaded);
    free(d->slots);
    free(d->progress);
    free(d->entries);
    free(d->of);
    free(d->results);
    free(d->ids);
    free(d);
}
