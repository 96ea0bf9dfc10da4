#include "engine/run/engine.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "comm/fault.h"
#include "comm/shared.h"
#include "comm/topology.h"
#include "comm/watch/heart.h"
#include "engine/base/clock.h"
#include "engine/base/digest.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/base/team.h"
#include "engine/forward/forward.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "engine/run/capacity.h"
#include "engine/run/engine_parts.h"
#include "engine/run/scheduler.h"
#include "engine/run/share_choice.h"
#include "engine/run/step.h"
#include "engine/run/store_loading.h"
#include "engine/run/stored_weights.h"

#define DEFAULT_PREFILL_CHUNK 512
#define DEFAULT_MAX_BATCH 64
#define DEFAULT_MAX_LOGITS_ROWS 16

struct engine {
    comm_t *comm;
    engine_options_t options;
    config_t config;
    isa_t isa;
    team_t *team;
    size_t *shares;         /* [ranks] how much each takes, for the plan */
    comm_shared_t *weights; /* NULL: the model's own */
    size_t weight_sharers;
    model_t model;
    kv_cache_t cache;
    forward_t *forward;
    step_t *step;
    scheduler_t *scheduler; /* on the coordinator */
    scheduler_options_t limits;
    engine_event_t *events; /* [max_batch] */
    step_result_t *results; /* [max_batch] */
    bool serving;           /* the others are in engine_serve, or will be */
    atomic_bool interrupted;
    size_t threads, kv_tokens;
    uint64_t load_ns, bytes_read;
    engine_totals_t totals;
};

/* ---- Opening --------------------------------------------------------------------------------- */

/* What decides which rows and collectives a step has. */
static uint64_t options_digest(const engine_options_t *options)
{
    const uint64_t values[] = {(uint64_t)options->mode, (uint64_t)options->order,
        (uint64_t)options->attention, (uint64_t)options->dot, (uint64_t)options->combine,
        options->kv_tokens, options->random_config != NULL, options->n_layers,
        options->prefill_chunk, options->max_batch, options->max_logits_rows};
    uint64_t digest = digest_bytes(DIGEST_START, values, sizeof values);
    return options->shares != NULL ? digest_string(digest, options->shares) : digest;
}

/* Collective. Everything that decides what the ranks do together must be alike on all of them. */
static int agree_on_inputs(engine_t *e, const checkpoint_t *checkpoint, fail_t *fail)
{
    if (comm_agree(e->comm, fail) != 0)
        return fail->status;
    if (comm_agree_same(e->comm, options_digest(&e->options), "options of the run", fail) != 0)
        return fail->status;
    if (comm_agree_same(e->comm, config_digest(&e->config), "config.json", fail) != 0)
        return fail->status;
    if (checkpoint == NULL)
        return 0;
    return comm_agree_same(e->comm, checkpoint_digest(checkpoint), "list of tensors", fail);
}

dot_t engine_choose_dot(comm_t *comm, dot_t wish, dtype_t mode)
{
    int64_t everywhere = comm_min(comm, isa_has(isa_detect(), ISA_AMX));
    if (mode != DTYPE_BF16)
        return DOT_CHAIN;
    if (wish != DOT_AUTO)
        return wish;
    return everywhere ? DOT_AMX : DOT_CHAIN;
}

isa_t engine_agree_isa(comm_t *comm, isa_t isa)
{
    size_t highest = (size_t)comm_max(comm, (int64_t)isa_level(isa));
    isa_t common = (isa_t)comm_bit_and(comm, (int64_t)isa);
    if (highest != isa_level(common))
        log_write(LOG_INFO, "the ranks' CPUs differ, up to %s: all use the kernels of %s",
            isa_name(isa_of_level(highest)), isa_name(common));
    return common;
}

/* Before anything is loaded, so that pages lie where the threads that touch them first run. */
static int bind_threads(engine_t *e, fail_t *fail)
{
    topology_binding_t *binding;
    if (topology_binding_open(&binding, e->options.bind, e->threads,
            (size_t)comm_binding_index(e->comm), (size_t)comm_binding_ranks(e->comm), fail) == 0)
        topology_binding_apply_team(binding, e->team);
    topology_binding_close(binding);
    return fail->status;
}

/* Collective. Instruction set and threads. */
static int open_compute(engine_t *e, fail_t *fail)
{
    topology_t topology = {0};
    kernels_t kernels;
    e->isa = ISA_SCALAR;
    isa_choose(&e->isa, fail);
    topology_read(&topology, fail);
    if (comm_agree(e->comm, fail) != 0)
        return fail->status;
    e->isa = engine_agree_isa(e->comm, e->isa);
    e->options.dot = engine_choose_dot(e->comm, e->options.dot, e->options.mode);
    kernels_get(&kernels, e->isa, e->options.mode);
    kernels_self_test(&kernels, fail);
    e->threads =
        topology_threads(&topology, e->options.threads, (size_t)comm_binding_ranks(e->comm));
    comm_set_threads(e->comm, e->threads);
    if (team_open(&e->team, e->threads, comm_oversubscribed(e->comm), fail) == 0)
        comm_share_waits(e->comm, e->team, e->options.bind == TOPOLOGY_BIND_NONE);
    if (e->options.bind != TOPOLOGY_BIND_NONE && fail->status == 0)
        bind_threads(e, fail);
    char advice[512];
    topology_advice(&topology, e->threads, (size_t)comm_host_ranks(e->comm), advice, sizeof advice);
    if (advice[0] != 0)
        log_write(LOG_WARN, "%s", advice);
    return comm_agree(e->comm, fail);
}

/* Positions a sequence may have: what RoPE is stretched to, where it is. */
static size_t max_positions(const config_t *config)
{
    size_t positions = config->max_position_embeddings, original = positions;
    if (config->rope.type == ROPE_DEFAULT)
        return positions;
    if (config->rope.type == ROPE_YARN)
        original = config->rope.original_max_position_embeddings;
    return size_max(positions, (size_t)(config->rope.factor * (double)original));
}

static forward_options_t forward_options(const engine_t *e)
{
    return (forward_options_t){.order = e->options.order,
        .attention = forward_attention(&e->config, e->options.order, e->options.attention),
        .dot = e->options.dot,
        .max_rows = scheduler_max_rows(&e->limits),
        .max_logits = scheduler_max_logits(&e->limits),
        .max_context = e->limits.max_context};
}

/* Those who have to agree that all goes well: with shared weights, all replicas. */
static comm_t *everyone(const engine_t *e)
{
    return e->options.beside != NULL ? e->options.beside : e->comm;
}

/* Collective over all replicas. */
static int choose_shares(engine_t *e, fail_t *fail)
{
    const share_group_t group = {e->comm, everyone(e), e->options.sharers};
    e->shares = calloc((size_t)comm_size(e->comm), sizeof *e->shares);
    if (e->shares == NULL)
        fail_set(fail, FAIL_MEMORY, "engine: out of memory");
    if (comm_agree(everyone(e), fail) == 0)
        share_choice(&group, e->team, e->options.shares, e->shares, fail);
    return fail->status;
}

/* Collective over all replicas. Where nothing can be shared, each has weights of its own. */
static void share_weights(engine_t *e, const model_t *shape)
{
    comm_t *sharers = e->options.sharers;
    fail_t refused = {0};
    size_t bytes = model_shared_bytes(&shape->plan, shape->rank);
    e->weight_sharers = 1;
    if (sharers == NULL || comm_max(sharers, comm_node_size(sharers)) == 1)
        return;
    if (comm_shared_open(&e->weights, sharers, bytes, &refused) == 0)
        e->weight_sharers = (size_t)comm_node_size(sharers);
    else
        log_write(LOG_WARN, "each replica keeps weights of its own: %s", refused.message);
}

/* Bytes of weights that count as this rank's: its part of what is shared. */
static size_t own_weight_bytes(const engine_t *e, const model_t *shape, size_t positions)
{
    size_t all = model_bytes(&shape->plan, shape->rank, e->options.mode, positions);
    size_t shared = model_shared_bytes(&shape->plan, shape->rank);
    return all - shared + (shared + e->weight_sharers - 1) / e->weight_sharers;
}

/* Collective. Sizes the cache and refuses what does not fit, before anything large is allocated. */
static int plan_memory(engine_t *e, fail_t *fail)
{
    plan_model_t sizes = config_plan_model(&e->config, e->options.mode);
    /* Replicas of one machine share its memory. */
    size_t rank = (size_t)comm_rank(e->comm), node_ranks = (size_t)comm_host_ranks(e->comm);
    /* As much of a model as the size functions need. */
    model_t shape = {.config = e->config, .rank = rank, .mode = e->options.mode};
    kernels_get(&shape.kernels, e->isa, e->options.mode);
    plan_open_weighted(
        &shape.plan, &sizes, e->options.combine, (size_t)comm_size(e->comm), e->shares, fail);
    if (comm_agree(everyone(e), fail) != 0)
        return fail->status;
    share_weights(e, &shape);
    size_t positions = max_positions(&e->config);
    capacity_t capacity = {
        .max_positions = positions,
        .max_batch = e->options.max_batch,
        .weight_bytes = own_weight_bytes(e, &shape, 0),
        .cache_bytes_per_token = plan_kv_bytes_per_token(&shape.plan, rank),
        .available_bytes = memory_available_bytes() / node_ranks,
        .advice = e->options.random_config != NULL ? "fewer --layers or more machines" : NULL,
    };
    size_t tokens = e->options.kv_tokens;
    if (tokens == 0)
        tokens = capacity_choose_tokens(&capacity, KV_BLOCK);
    tokens = size_round_up((size_t)comm_min(e->comm, (int64_t)tokens), KV_BLOCK);
    e->kv_tokens = tokens;
    e->limits = (scheduler_options_t){.block_tokens = KV_BLOCK,
        .n_blocks = tokens / KV_BLOCK,
        .max_batch = e->options.max_batch,
        .prefill_chunk = e->options.prefill_chunk,
        .max_prompt_logits = e->options.max_logits_rows,
        .max_context = size_min(tokens, positions),
        .reuse_prefixes = !e->options.no_prefix_reuse,
        /* Keys of a longer prompt follow its length. */
        .reuse_limit = e->config.rope.type == ROPE_DYNAMIC ? e->config.max_position_embeddings : 0,
        .mode = e->options.mode,
        .order = e->options.order,
        .attention = forward_attention(&e->config, e->options.order, e->options.attention)};
    capacity.weight_bytes = own_weight_bytes(e, &shape, e->limits.max_context);
    forward_options_t forward = forward_options(e);
    size_t scratch = forward_bytes(&shape, &forward, e->threads, comm_size(e->comm)) +
                     step_bytes(&shape, &e->limits);
    capacity_check(&capacity, tokens, scratch, node_ranks, fail);
    plan_close(&shape.plan);
    return comm_agree(everyone(e), fail);
}

/* However slow a disk is, a rank that reads gets on. */
static void tell_loading(void *context, uint64_t done, uint64_t total)
{
    engine_t *e = context;
    comm_mark(e->comm, HEART_LOAD, 0);
    if (comm_rank(e->comm) == 0 && e->options.progress != NULL)
        e->options.progress(e->options.progress_context, done, total);
}

/* Collective. */
static int load_weights(engine_t *e, checkpoint_t *checkpoint, fail_t *fail)
{
    model_options_t options = {.combine = e->options.combine,
        .n_ranks = (size_t)comm_size(e->comm),
        .rank = (size_t)comm_rank(e->comm),
        .weights = e->shares,
        .mode = e->options.mode,
        .isa = e->isa,
        .max_positions = e->limits.max_context,
        .shared = e->weights != NULL ? comm_shared_data(e->weights) : NULL,
        .sharer = e->weights != NULL ? (size_t)comm_node_rank(e->options.sharers) : 0,
        .n_sharers = e->weight_sharers,
        .progress = tell_loading,
        .progress_context = e};
    static const uint64_t seed = 1;
    model_source_t source =
        checkpoint != NULL ? model_source_checkpoint(checkpoint) : model_source_random(&seed);
    if (checkpoint == NULL)
        log_write(LOG_INFO, "filling %zu layers with random weights", e->config.num_hidden_layers);
    comm_mark(e->comm, HEART_LOAD, 0);
    fault_at("load");
    store_loading_t loading;
    uint64_t begin = clock_ns();
    if (store_loading_open(&loading, e->comm, checkpoint, e->options.stage, fail) == 0) {
        model_load(&e->model, &e->config, &source, &options, e->team, fail);
        store_loading_leave(&loading);
    }
    e->load_ns = clock_ns() - begin;
    e->bytes_read = checkpoint != NULL ? checkpoint_bytes_read(checkpoint) : 0;
    if (fail->status == 0 && e->model.n_converted > 0)
        log_write(LOG_INFO, "%zu tensors are stored in another type and were converted to %s",
            e->model.n_converted, dtype_name(e->options.mode));
    comm_agree(everyone(e), fail); /* shared weights are whole when all have loaded */
    store_loading_close(&loading);
    return fail->status;
}

/* Collective. */
static int open_run(engine_t *e, fail_t *fail)
{
    const plan_share_t *share = model_share(&e->model);
    kv_cache_open(&e->cache, e->options.mode, e->config.num_hidden_layers,
        plan_count(share->kv_heads), e->config.head_dim, e->limits.n_blocks, fail);
    if (comm_rank(e->comm) == 0) {
        e->events = calloc(e->limits.max_batch, sizeof *e->events);
        e->results = calloc(e->limits.max_batch, sizeof *e->results);
        if (e->events == NULL || e->results == NULL)
            fail_set(
                fail, FAIL_MEMORY, "engine: out of memory for %zu sequences", e->limits.max_batch);
        scheduler_open(&e->scheduler, &e->limits, fail);
    }
    if (comm_agree(e->comm, fail) != 0)
        return fail->status;
    forward_options_t forward = forward_options(e);
    if (forward_open(&e->forward, &e->model, &e->cache, e->team, e->comm, &forward, fail) != 0)
        return fail->status;
    if (step_open(&e->step, e->comm, e->team, e->forward, &e->model, &e->limits, &e->interrupted,
            fail) == 0 &&
        e->options.allow_nonfinite)
        step_allow_nonfinite(e->step);
    return fail->status;
}

static int load_config(engine_t *e, fail_t *fail)
{
    config_t *c = &e->config;
    size_t n_layers = e->options.n_layers;
    if (e->options.random_config != NULL)
        config_load_file(c, e->options.random_config, fail);
    else
        config_load(c, e->options.model_dir, fail);
    for (size_t i = 0; i < c->n_notes && fail->status == 0; i++)
        log_write(LOG_WARN, "%s", c->notes[i]);
    if (fail->status != 0 || n_layers == 0)
        return fail->status;
    if (n_layers > c->num_hidden_layers)
        return fail_set(fail, FAIL_USAGE, "layers: expected at most the model's %zu, found %zu",
            c->num_hidden_layers, n_layers);
    c->num_hidden_layers = n_layers;
    c->max_window_layers = size_min(c->max_window_layers, n_layers);
    return 0;
}

/* Collective. */
static int open_model(engine_t *e, fail_t *fail)
{
    checkpoint_t *checkpoint = NULL;
    if (load_config(e, fail) == 0 && e->options.random_config == NULL)
        checkpoint_open(&checkpoint, e->options.model_dir, fail);
    if (agree_on_inputs(e, checkpoint, fail) == 0 && checkpoint != NULL) {
        stored_weights_resolve(e->comm, &e->config, checkpoint, e->options.mode, fail);
        if (e->options.n_layers == 0)
            stored_weights_warn(&e->config, checkpoint);
    }
    if (fail->status == 0)
        open_compute(e, fail);
    uint64_t digest = checkpoint != NULL ? checkpoint_digest(checkpoint) : 0;
    if (comm_agree_same(everyone(e), digest, "list of tensors", fail) == 0 &&
        choose_shares(e, fail) == 0 && plan_memory(e, fail) == 0)
        load_weights(e, checkpoint, fail);
    checkpoint_close(checkpoint);
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
    e->comm = comm;
    e->options = *options;
    if (e->options.prefill_chunk == 0)
        e->options.prefill_chunk = DEFAULT_PREFILL_CHUNK;
    if (e->options.max_batch == 0)
        e->options.max_batch = DEFAULT_MAX_BATCH;
    if (e->options.max_logits_rows == 0)
        e->options.max_logits_rows = DEFAULT_MAX_LOGITS_ROWS;
    comm_mark(comm, HEART_OPEN, 0);
    fault_at("open");
    if (open_model(e, fail) == 0)
        open_run(e, fail);
    comm_mark(comm, HEART_IDLE, 0);
    fault_at("opened");
    if (fail->status != 0) {
        engine_close(e);
        return fail->status;
    }
    /* Borrowed until here only. */
    e->options.model_dir = NULL;
    e->options.stage = NULL;
    e->options.shares = NULL;
    e->options.random_config = NULL;
    e->options.beside = e->options.sharers = NULL;
    e->serving = true;
    *out = e;
    return 0;
}

void engine_end(engine_t *e, const fail_t *fail)
{
    /* Once: afterwards nobody listens. */
    if (e->serving)
        step_end(e->step, fail);
    e->serving = false;
}

void engine_close(engine_t *e)
{
    if (e == NULL)
        return;
    const fail_t success = {0};
    if (comm_rank(e->comm) == 0)
        engine_end(e, &success);
    /* It waits for no user any more, and may take its time. */
    comm_mark(e->comm, HEART_WORK, 0);
    fault_at("close");
    scheduler_close(e->scheduler);
    step_close(e->step);
    forward_close(e->forward);
    kv_cache_close(&e->cache);
    model_close(&e->model);
    comm_shared_close(e->weights);
    comm_leave_waits(e->comm);
    team_close(e->team);
    free(e->shares);
    free(e->events);
    free(e->results);
    free(e);
}

engine_info_t engine_info(const engine_t *e)
{
    return (engine_info_t){
        .config = &e->config,
        .plan = &e->model.plan,
        .isa = isa_name(e->isa),
        .kernels = &e->model.kernels,
        .mode = e->options.mode,
        .attention = forward_attention(&e->config, e->options.order, e->options.attention),
        .max_batch = e->options.max_batch,
        .dot = e->options.dot,
        .ranks = (size_t)comm_size(e->comm),
        .threads = e->threads,
        .kv_tokens = e->kv_tokens,
        .max_context = e->limits.max_context,
        .weight_bytes =
            model_bytes(&e->model.plan, e->model.rank, e->options.mode, e->limits.max_context),
        .weight_sharers = e->weight_sharers,
        .peak_bytes = memory_peak_bytes(),
        .load_ns = e->load_ns,
        .bytes_read = e->bytes_read,
    };
}

void engine_parallel(engine_t *e, void (*work)(void *context, size_t thread), void *context)
{
    team_run(e->team, work, context);
}

/* ---- Requests -------------------------------------------------------------------------------- */

int engine_submit(engine_t *e, const engine_request_t *request, uint64_t *handle, fail_t *fail)
{
    size_t vocab_size = e->config.vocab_size;
    for (size_t i = 0; i < request->n_prompt; i++)
        if (request->prompt_ids[i] < 0 || (size_t)request->prompt_ids[i] >= vocab_size)
            return fail_set(fail, FAIL_USAGE,
                "prompt: token %zu: expected an id from 0 to %zu, found %d", i, vocab_size - 1,
                request->prompt_ids[i]);
    if (sampler_check(&request->sampling, fail) != 0)
        return fail->status;
    scheduler_request_t planned = {.prompt_ids = request->prompt_ids,
        .n_prompt = request->n_prompt,
        .max_tokens = request->max_tokens,
        .stop_ids = request->stop_ids,
        .n_stop_ids = request->n_stop_ids,
        .want_prompt_logits = request->want_prompt_logits,
        .first_prompt_logits = request->first_prompt_logits,
        .sampling = request->sampling};
    return scheduler_submit(e->scheduler, &planned, handle, fail);
}

void engine_cancel(engine_t *e, uint64_t request)
{
    scheduler_cancel(e->scheduler, request);
}

void engine_interrupt(engine_t *e, int signal)
{
    atomic_store(&e->interrupted, true);
    comm_mark_signal(e->comm, signal);
}

bool engine_was_interrupted(const engine_t *e)
{
    return atomic_load(&e->interrupted);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static engine_finish_t finish_of(scheduler_end_t end)
{
    switch (end) {
    case SCHEDULER_STOPPED:
        return ENGINE_STOP;
    case SCHEDULER_FULL:
        return ENGINE_LENGTH;
    default:
        return ENGINE_RUNNING;
    }
}

static void count_step(engine_t *e, const scheduler_step_t *step, uint64_t ns)
{
    engine_totals_t *totals = &e->totals;
    bool prefill = step->n_prompt_rows > 0;
    *(prefill ? &totals->prefill_ns : &totals->decode_ns) += ns;
    totals->decode_tokens += prefill ? 0 : step->n_rows;
    totals->prompt_tokens += step->n_prompt_rows;
    totals->reused_tokens = scheduler_reused_tokens(e->scheduler);
}

/* Turns results into events and moves the requests on. */
static size_t finish_step(engine_t *e, const scheduler_step_t *step)
{
    size_t n_events = 0;
    for (size_t i = 0; i < step->n_entries; i++) {
        const scheduler_entry_t *entry = &step->entries[i];
        engine_event_t event = {.request = entry->handle, .has_token = entry->samples};
        if (entry->samples) {
            event.choice = e->results[i].choice;
            e->totals.generated_tokens++;
        }
        if (entry->prompt_logits) {
            event.logits = e->results[i].logits;
            event.n_logits = entry->n_rows - entry->first_logits_row;
            event.first_logits_position = entry->first_position + entry->first_logits_row;
        }
        scheduler_end_t end = scheduler_advance(e->scheduler, entry, event.choice.token);
        event.finish = finish_of(end);
        if (event.has_token || event.n_logits > 0 || event.finish != ENGINE_RUNNING)
            e->events[n_events++] = event;
    }
    return n_events;
}

int engine_step(engine_t *e, const engine_event_t **events, size_t *n_events, fail_t *fail)
{
    *events = e->events;
    *n_events = 0;
    scheduler_step_t step = scheduler_plan(e->scheduler);
    if (step.n_entries == 0)
        return 0;
    assert(e->serving);
    uint64_t begin = clock_ns();
    if (step_run(e->step, &step, e->results, fail) != 0) {
        engine_end(e, fail);
        return fail->status;
    }
    count_step(e, &step, clock_ns() - begin);
    *n_events = finish_step(e, &step);
    return scheduler_pending(e->scheduler) > 0 ? 1 : 0;
}

int engine_serve(engine_t *e, fail_t *fail)
{
    e->serving = false;
    fault_at("serve");
    return step_follow(e->step, fail);
}

engine_totals_t engine_totals(const engine_t *e)
{
    return e->totals;
}

engine_parts_t engine_parts(engine_t *e)
{
    e->serving = false;
    return (engine_parts_t){.comm = e->comm,
        .team = e->team,
        .model = &e->model,
        .cache = &e->cache,
        .forward = e->forward,
        .step = e->step,
        .isa = e->isa,
        .limits = e->limits};
}
