/* Opening and closing an engine, and what it says of itself. */
#include <stdlib.h>
#include <string.h>

#include "comm/fault.h"
#include "comm/watch/progress_record.h"
#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/forward/forward.h"
#include "engine/run/draft_model.h"
#include "engine/run/engine_internal.h"
#include "engine/run/engine_parts.h"
#include "engine/run/load.h"
#include "engine/run/scheduler.h"
#include "engine/run/step.h"

#define DEFAULT_PREFILL_CHUNK 512
#define DEFAULT_MAX_BATCH 64
#define DEFAULT_MAX_LOGITS_ROWS 16

static forward_options_t forward_options(const engine_t *e)
{
    return (forward_options_t){.order = e->loaded.options.order,
        .attention = forward_attention(
            &e->loaded.config, e->loaded.options.order, e->loaded.options.attention),
        .dot = e->loaded.options.dot,
        .max_rows = scheduler_max_rows(&e->limits),
        .max_logits = scheduler_max_logits(&e->limits),
        .max_context = e->limits.max_context};
}

/* Rows of a step of whole prompts, where the user says nothing: as many as a quarter of the memory
 * beside weights and cache holds. */
#define MEMORY_PART 4

/* About what a row of a step takes. */
static size_t row_bytes(const engine_t *e, const model_t *shape)
{
    forward_options_t few = forward_options(e), more = few;
    more.max_rows += DEFAULT_PREFILL_CHUNK;
    size_t ranks = (size_t)comm_size(e->loaded.comm), threads = e->loaded.threads;
    return (forward_bytes(shape, &more, threads, (int)ranks) -
               forward_bytes(shape, &few, threads, (int)ranks)) /
           DEFAULT_PREFILL_CHUNK;
}

/* Collective. Where an expert's rows depend on their whole prompt, a step holds whole prompts, and
 * no prefix has the bits of another prompt's. */
static void plan_whole_prompts(engine_t *e, const model_t *shape, const capacity_t *capacity)
{
    const engine_options_t *o = &e->loaded.options;
    scheduler_options_t *limits = &e->limits;
    if (!forward_wants_whole_prompts(&e->loaded.config, o->order, o->dot, o->mode))
        return;
    limits->whole_prompts = true;
    limits->reuse_prefixes = false;
    limits->row_bytes = row_bytes(e, shape);
    size_t taken = capacity->weight_bytes + e->kv_tokens * capacity->cache_bytes_per_token;
    size_t free_bytes = capacity->available_bytes - size_min(capacity->available_bytes, taken);
    size_t rows = size_max(free_bytes / MEMORY_PART / limits->row_bytes, DEFAULT_PREFILL_CHUNK);
    rows = (size_t)comm_min(e->loaded.comm, (int64_t)size_min(rows, limits->max_context));
    if (!e->chunk_given)
        limits->prefill_chunk = size_max(rows, 1);
}

/* Collective. Sizes the cache and refuses what does not fit, before anything large is allocated. */
static int plan_memory(engine_t *e, fail_t *fail)
{
    const engine_options_t *o = &e->loaded.options;
    model_t shape;
    if (load_plan(&e->loaded, &shape, fail) != 0)
        return fail->status;
    size_t positions = load_max_positions(&e->loaded.config);
    capacity_t capacity = load_capacity(&e->loaded, &shape, positions, o->max_batch);
    if (e->draft != NULL && draft_model_plan(e->draft, &capacity, fail) != 0) {
        plan_close(&shape.plan);
        return fail->status;
    }
    size_t tokens = o->kv_tokens;
    if (tokens == 0)
        tokens = capacity_choose_tokens(&capacity, KV_BLOCK);
    tokens = size_round_up((size_t)comm_min(e->loaded.comm, (int64_t)tokens), KV_BLOCK);
    e->kv_tokens = tokens;
    e->limits = (scheduler_options_t){.block_tokens = KV_BLOCK,
        .n_blocks = tokens / KV_BLOCK,
        .max_batch = o->max_batch,
        .prefill_chunk = o->prefill_chunk,
        .max_prompt_logits = o->max_logits_rows,
        .max_context = size_min(tokens, positions),
        .reuse_prefixes = !o->no_prefix_reuse,
        /* Keys of a longer prompt follow its length. */
        .reuse_limit = e->loaded.config.rope.type == ROPE_DYNAMIC
                           ? e->loaded.config.max_position_embeddings
                           : 0,
        .mode = o->mode,
        .order = o->order,
        .attention = forward_attention(&e->loaded.config, o->order, o->attention),
        .speculation = o->speculation};
    plan_whole_prompts(e, &shape, &capacity);
    if (e->draft != NULL)
        draft_model_limit(e->draft, &e->limits, &capacity);
    forward_options_t forward = forward_options(e);
    size_t scratch = forward_bytes(&shape, &forward, e->loaded.threads, comm_size(e->loaded.comm)) +
                     step_bytes(&shape, &e->limits);
    return load_check(&e->loaded, &shape, capacity, tokens, e->limits.max_context, scratch, fail);
}

/* Collective. */
static int open_run(engine_t *e, fail_t *fail)
{
    if (comm_rank(e->loaded.comm) == 0) {
        e->events = calloc(scheduler_max_draws(&e->limits), sizeof *e->events);
        e->results = calloc(e->limits.max_batch, sizeof *e->results);
        if (e->events == NULL || e->results == NULL)
            fail_set(
                fail, FAIL_MEMORY, "engine: out of memory for %zu sequences", e->limits.max_batch);
        scheduler_open(&e->scheduler, &e->limits, fail);
    }
    if (comm_agree(e->loaded.comm, fail) != 0)
        return fail->status;
    forward_options_t forward = forward_options(e);
    if (forward_open(&e->forward, &e->loaded.model, &e->loaded.cache, e->loaded.team,
            e->loaded.comm, &forward, fail) != 0)
        return fail->status;
    return step_open(
        &e->step, e->loaded.comm, e->loaded.team, e->forward, &e->loaded.model, &e->limits, fail);
}

/* Collective. */
static int open_model(engine_t *e, comm_t *comm, const engine_options_t *options, fail_t *fail)
{
    engine_options_t chosen = *options;
    e->chunk_given = chosen.prefill_chunk != 0;
    if (chosen.prefill_chunk == 0)
        chosen.prefill_chunk = DEFAULT_PREFILL_CHUNK;
    if (chosen.max_batch == 0)
        chosen.max_batch = DEFAULT_MAX_BATCH;
    if (chosen.max_logits_rows == 0)
        chosen.max_logits_rows = DEFAULT_MAX_LOGITS_ROWS;
    load_files(&e->loaded, comm, &chosen, fail);
    if (load_compute(&e->loaded, fail) == 0 && chosen.speculation.model)
        draft_model_open(&e->draft, &e->loaded, fail);
    if (fail->status == 0 && plan_memory(e, fail) == 0 &&
        load_weights(&e->loaded, e->kv_tokens, e->limits.max_context, fail) == 0 &&
        e->draft != NULL)
        draft_model_load(e->draft, fail);
    load_close_files(&e->loaded);
    return fail->status;
}

int engine_open(engine_t **out, comm_t *comm, const engine_options_t *options, fail_t *fail)
{
    *out = NULL;
    engine_t *e = calloc(1, sizeof *e);
    if (e == NULL)
        fail_set(fail, FAIL_MEMORY, "engine: out of memory");
    if (comm_agree(comm, fail) != 0) {
        free(e);
        return fail->status;
    }
    comm_set_phase(comm, PROGRESS_OPEN, 0);
    fault_at("open");
    if (open_model(e, comm, options, fail) == 0)
        open_run(e, fail);
    comm_set_phase(comm, PROGRESS_IDLE, 0);
    fault_at("opened");
    if (fail->status != 0) {
        engine_close(e);
        return fail->status;
    }
    e->serving = true;
    *out = e;
    return 0;
}

void engine_close(engine_t *e)
{
    if (e == NULL)
        return;
    const fail_t success = {0};
    if (comm_rank(e->loaded.comm) == 0)
        engine_end(e, &success);
    /* It waits for no user any more, and may take its time. */
    comm_set_phase(e->loaded.comm, PROGRESS_WORK, 0);
    fault_at("close");
    scheduler_close(e->scheduler);
    step_close(e->step);
    forward_close(e->forward);
    draft_model_close(e->draft);
    load_close(&e->loaded);
    free(e->events);
    free(e->results);
    free(e);
}

engine_info_t engine_info(const engine_t *e)
{
    size_t draft_bytes = 0;
    if (e->draft != NULL)
        draft_bytes = model_bytes(&e->draft->loaded.model.plan, e->draft->loaded.model.rank,
            e->loaded.options.mode, e->limits.draft_context);
    return (engine_info_t){
        .config = &e->loaded.config,
        .plan = &e->loaded.model.plan,
        .isa = isa_name(e->loaded.isa),
        .kernels = &e->loaded.model.kernels,
        .mode = e->loaded.options.mode,
        .order = e->loaded.options.order,
        .attention = forward_attention(
            &e->loaded.config, e->loaded.options.order, e->loaded.options.attention),
        .max_batch = e->loaded.options.max_batch,
        .dot = e->loaded.options.dot,
        .ranks = (size_t)comm_size(e->loaded.comm),
        .threads = e->loaded.threads,
        .kv_tokens = e->kv_tokens,
        .max_context = e->limits.max_context,
        .weight_bytes = model_bytes(&e->loaded.model.plan, e->loaded.model.rank,
                            e->loaded.options.mode, e->limits.max_context) +
                        draft_bytes,
        .n_weight_sharers = e->loaded.n_weight_sharers,
        .peak_bytes = memory_peak_bytes(),
        .load_ns = e->loaded.load_ns,
        .bytes_read = e->loaded.bytes_read,
        .has_weights_digest = e->loaded.has_digest,
        .weights_digest = e->loaded.weights_digest,
    };
}

size_t engine_stop_ids(const engine_t *e, int32_t chat_end, int32_t *ids)
{
    size_t n = e->loaded.config.generation.n_stop_ids;
    memcpy(ids, e->loaded.config.generation.stop_ids, n * sizeof *ids);
    if (chat_end >= 0)
        ids[n++] = chat_end;
    return n;
}

void engine_parallel(engine_t *e, void (*work)(void *context, size_t thread), void *context)
{
    team_run(e->loaded.team, work, context);
}

engine_parts_t engine_parts(engine_t *e)
{
    e->serving = false;
    return (engine_parts_t){.comm = e->loaded.comm,
        .team = e->loaded.team,
        .model = &e->loaded.model,
        .cache = &e->loaded.cache,
        .forward = e->forward,
        .step = e->step,
        .isa = e->loaded.isa,
        .limits = e->limits};
}
