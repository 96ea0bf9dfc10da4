#include "engine/run/load.h"

#include <stdlib.h>
#include <string.h>

#include "comm/fault.h"
#include "comm/rank_team.h"
#include "comm/watch/progress_record.h"
#include "engine/base/clock.h"
#include "engine/base/digest.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/share_choice.h"
#include "engine/run/store_loading.h"
#include "engine/run/stored_weights.h"
#include "engine/run/weights_choice.h"

/* ---- Files ----------------------------------------------------------------------------------- */

/* Those who have to agree that all goes well: with shared weights, all replicas. */
static comm_t *everyone(const loaded_t *l)
{
    return l->options.all_replicas != NULL ? l->options.all_replicas : l->comm;
}

/* What decides which rows and collectives a step has. */
static uint64_t options_digest(const engine_options_t *options)
{
    const uint64_t values[] = {(uint64_t)options->mode, (uint64_t)options->order,
        (uint64_t)options->attention, (uint64_t)options->dot, (uint64_t)options->combine,
        options->kv_tokens, options->random_config != NULL, options->n_layers,
        options->prefill_chunk, options->max_batch, options->max_logits_rows,
        options->speculation.on, options->speculation.draft_tokens, options->speculation.model,
        (uint64_t)options->weights};
    uint64_t digest = digest_bytes(DIGEST_START, values, sizeof values);
    return options->shares != NULL ? digest_string(digest, options->shares) : digest;
}

/* Collective. Everything that decides what the ranks do together must be alike on all of them. */
static int agree_on_inputs(const loaded_t *l, fail_t *fail)
{
    if (comm_agree(l->comm, fail) != 0)
        return fail->status;
    if (comm_agree_same(l->comm, options_digest(&l->options), "options of the run", fail) != 0)
        return fail->status;
    if (comm_agree_same(l->comm, config_digest(&l->config), "config.json", fail) != 0)
        return fail->status;
    if (l->checkpoint == NULL)
        return 0;
    return comm_agree_same(l->comm, checkpoint_digest(l->checkpoint), "list of tensors", fail);
}

static int load_config(loaded_t *l, fail_t *fail)
{
    config_t *c = &l->config;
    size_t n_layers = l->options.n_layers;
    if (l->options.random_config != NULL)
        config_load_file(c, l->options.random_config, fail);
    else
        config_load(c, l->options.model_dir, fail);
    if (fail->status == 0)
        config_quantise(c, l->options.random_kind);
    for (size_t i = 0; i < c->n_notes && fail->status == 0; i++)
        log_write(LOG_WARN, "%s", c->notes[i]);
    /* Sums that are split along the inputs have no use for groups. */
    c->quantization.order =
        l->options.combine == PLAN_REDUCE ? QUANTISED_ORDER_DEQUANTIZE : l->options.quantised_order;
    c->quantization.fold = l->options.order == ORDER_TORCH_AVX2;
    if (fail->status != 0 || n_layers == 0)
        return fail->status;
    if (n_layers > c->num_hidden_layers)
        return fail_set(fail, FAIL_USAGE, "layers: expected at most the model's %zu, found %zu",
            c->num_hidden_layers, n_layers);
    c->num_hidden_layers = n_layers;
    c->max_window_layers = size_min(c->max_window_layers, n_layers);
    return 0;
}

int load_files(loaded_t *l, comm_t *comm, const engine_options_t *options, fail_t *fail)
{
    l->comm = comm;
    l->options = *options;
    if (options->order == ORDER_TORCH_AVX2 && options->mode != DTYPE_BF16)
        fail_set(fail, FAIL_USAGE, "--order torch-avx2: expected --dtype bf16, found %s",
            dtype_name(options->mode));
    if (fail->status == 0 && load_config(l, fail) == 0 && options->random_config == NULL)
        checkpoint_open(&l->checkpoint, options->model_dir, fail);
    return agree_on_inputs(l, fail);
}

void load_close_files(loaded_t *l)
{
    checkpoint_close(l->checkpoint);
    l->checkpoint = NULL;
    l->options.model_dir = l->options.stage = l->options.shares = l->options.random_config = NULL;
    l->options.draft_dir = l->options.draft_config = NULL;
    l->options.all_replicas = l->options.weight_sharers = NULL;
}

/* ---- Instruction set, threads and shares ----------------------------------------------------- */

dot_t load_choose_dot(comm_t *comm, dot_t wish, dtype_t mode, order_t order)
{
    int64_t everywhere = comm_min(comm, isa_has(isa_detect(), ISA_AMX));
    if (order == ORDER_TORCH_AVX2)
        return DOT_FOLD;
    if (mode != DTYPE_BF16)
        return DOT_CHAIN;
    if (wish != DOT_AUTO)
        return wish;
    return everywhere ? DOT_AMX : DOT_CHAIN;
}

/* Collective over comm. The narrowest of the ranks' instruction sets; told where they differ. */
static isa_t agree_isa(comm_t *comm, isa_t isa)
{
    size_t highest = (size_t)comm_max(comm, (int64_t)isa_level(isa));
    isa_t common = (isa_t)comm_bit_and(comm, (int64_t)isa);
    if (highest != isa_level(common))
        log_write(LOG_INFO, "the ranks' CPUs differ, up to %s: all use the kernels of %s",
            isa_name(isa_of_level(highest)), isa_name(common));
    return common;
}

/* What of the kernels the run may call, as KERNELS_...; where packed weights were not asked for, `auto` may take them. */
static unsigned kernel_uses(const loaded_t *l)
{
    unsigned uses = 0;
    if (l->options.dot == DOT_AMX)
        uses |= KERNELS_AMX;
    if (l->options.dot == DOT_FOLD)
        uses |= KERNELS_FOLD;
    if (l->config.quantization.n_schemes > 0)
        uses |= KERNELS_QUANTISED;
    if (l->options.weights != WEIGHTS_DENSE && l->options.mode == DTYPE_BF16)
        uses |= KERNELS_PACKED;
    return uses;
}

static int test_kernels(const loaded_t *l, fail_t *fail)
{
    kernels_t kernels;
    kernels_get(&kernels, l->isa, l->options.mode);
    return kernels_self_test(&kernels, kernel_uses(l), fail);
}

/* Collective. Instruction set and threads. */
static int open_compute(loaded_t *l, fail_t *fail)
{
    topology_t topology = {0};
    l->isa = ISA_SCALAR;
    isa_choose(&l->isa, fail);
    topology_read(&topology, fail);
    if (comm_agree(l->comm, fail) != 0)
        return fail->status;
    l->isa = agree_isa(l->comm, l->isa);
    l->options.dot = load_choose_dot(l->comm, l->options.dot, l->options.mode, l->options.order);
    test_kernels(l, fail);
    l->threads = rank_team_threads(l->comm, &topology, l->options.threads);
    /* Bound before anything is loaded, so that pages lie where the threads that touch them first
     * run. */
    rank_team_open(&l->team, l->comm, l->threads, l->options.bind, fail);
    char advice[512];
    topology_advice(&topology, l->threads, (size_t)comm_host_ranks(l->comm), advice, sizeof advice);
    if (advice[0] != 0)
        log_write(LOG_WARN, "%s", advice);
    return comm_agree(l->comm, fail);
}

/* Collective over all replicas. */
static int choose_shares(loaded_t *l, fail_t *fail)
{
    const share_group_t group = {l->comm, everyone(l), l->options.weight_sharers};
    l->shares = calloc((size_t)comm_size(l->comm), sizeof *l->shares);
    if (l->shares == NULL)
        fail_set(fail, FAIL_MEMORY, "shares: out of memory");
    if (comm_agree(everyone(l), fail) == 0)
        share_choice(&group, l->team, l->options.shares, l->shares, fail);
    return fail->status;
}

/* Collective. What the checkpoint decides beside its config. */
static void resolve_weights(loaded_t *l, fail_t *fail)
{
    if (fail->status != 0 || l->checkpoint == NULL)
        return;
    stored_weights_resolve(l->comm, &l->config, l->checkpoint, l->options.mode, fail);
    if (l->options.n_layers == 0)
        stored_weights_warn(&l->config, l->checkpoint);
}

int load_compute(loaded_t *l, fail_t *fail)
{
    resolve_weights(l, fail);
    if (fail->status == 0)
        open_compute(l, fail);
    uint64_t digest = l->checkpoint != NULL ? checkpoint_digest(l->checkpoint) : 0;
    if (comm_agree_same(everyone(l), digest, "list of tensors", fail) != 0)
        return fail->status;
    return choose_shares(l, fail);
}

int load_compute_beside(loaded_t *l, const loaded_t *other, fail_t *fail)
{
    size_t n = (size_t)comm_size(l->comm);
    resolve_weights(l, fail);
    l->isa = other->isa;
    if ((kernel_uses(l) & ~kernel_uses(other)) != 0)
        test_kernels(l, fail);
    l->threads = other->threads;
    l->team = other->team;
    l->borrows_team = true;
    l->shares = calloc(n, sizeof *l->shares);
    if (l->shares == NULL)
        fail_set(fail, FAIL_MEMORY, "shares: out of memory");
    else
        memcpy(l->shares, other->shares, n * sizeof *l->shares);
    uint64_t digest = l->checkpoint != NULL ? checkpoint_digest(l->checkpoint) : 0;
    return comm_agree_same(everyone(l), digest, "list of tensors", fail);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Collective over all replicas. Where nothing can be shared, each has weights of its own. */
static void share_weights(loaded_t *l, const model_t *shape)
{
    comm_t *sharers = l->options.weight_sharers;
    fail_t refused = {0};
    size_t bytes = model_shared_bytes(&shape->plan, shape->rank);
    l->n_weight_sharers = 1;
    if (sharers == NULL || comm_max(sharers, comm_node_size(sharers)) == 1)
        return;
    if (comm_shared_open(&l->weights, sharers, bytes, &refused) == 0)
        l->n_weight_sharers = (size_t)comm_node_size(sharers);
    else
        log_write(LOG_WARN, "each replica keeps weights of its own: %s", refused.message);
}

size_t load_weight_bytes(const loaded_t *l, const model_t *shape, size_t positions)
{
    size_t all = model_bytes(&shape->plan, shape->rank, l->options.mode, positions);
    size_t shared = model_shared_bytes(&shape->plan, shape->rank);
    if (l->n_weight_sharers == 1)
        return all;
    return all + model_shared_spill_bytes(&shape->plan, shape->rank) - shared +
           (shared + l->n_weight_sharers - 1) / l->n_weight_sharers;
}

size_t load_max_positions(const config_t *config)
{
    size_t positions = config->max_position_embeddings, original = positions;
    if (!config_scales(config))
        return positions;
    if (config->rope.type == ROPE_YARN)
        original = config->rope.original_max_position_embeddings;
    return size_max(positions, (size_t)(config->rope.factor * (double)original));
}

/* Replicas of one machine share its memory. */
static size_t node_ranks(const loaded_t *l)
{
    return (size_t)comm_host_ranks(l->comm);
}

#define LEAST_LEFT 10 /* of the memory such a part is left for the cache and buffers */

/* Whether this rank's dense weights leave too little memory. A plan that fails does so again, with a message. */
static bool dense_is_too_large(const loaded_t *l)
{
    fail_t ignored = {0};
    plan_t plan;
    size_t rank = (size_t)comm_rank(l->comm), bytes = 0;
    size_t available = memory_available_bytes() / node_ranks(l);
    plan_model_t sizes = model_sizes(&l->config, l->options.mode, l->options.dot, false);
    if (plan_open_shares(&plan, &sizes, l->options.combine, (size_t)comm_size(l->comm), l->shares,
            &ignored) == 0) {
        bytes = model_bytes(&plan, rank, l->options.mode, 0);
        plan_close(&plan);
    }
    return available != 0 && bytes > available - available / LEAST_LEFT;
}

/* Collective over all replicas. Times of the slowest rank decide, as every step waits for it. */
static int compare_weights(loaded_t *l, bool *packed, fail_t *fail)
{
    const double attoseconds = 1e18;
    weights_rates_t rates;
    kernels_t kernels;
    kernels_get(&kernels, l->isa, l->options.mode);
    weights_rates_find(l->team, &kernels, l->options.dot, &rates, fail);
    if (comm_agree(everyone(l), fail) != 0)
        return fail->status;
    double dense_s = (double)comm_max(everyone(l), (int64_t)(attoseconds / rates.dense));
    double packed_s = (double)comm_max(everyone(l), (int64_t)(attoseconds / rates.packed));
    *packed = weights_packed_is_faster(dense_s, packed_s);
    log_write(LOG_INFO,
        "--weights auto: %s; packed weights are expected to decode at %.2f of the speed of dense ones, by rates of a thread %s: %.2f dense and %.2f packed billion weights/s from memory",
        *packed ? "packed" : "dense", dense_s / packed_s, rates.given ? "as given" : "as measured",
        rates.dense * 1e-9, rates.packed * 1e-9);
    return 0;
}

/* Collective over all replicas. What --weights auto stands for. */
static int choose_weights(loaded_t *l, fail_t *fail)
{
    bool packed = false;
    if (l->options.weights != WEIGHTS_AUTO)
        return 0;
    if (comm_max(everyone(l), dense_is_too_large(l)) != 0) {
        packed = true;
        log_write(LOG_INFO, "--weights auto: packed, as dense weights do not fit");
    } else if (l->options.mode != DTYPE_BF16 || l->options.dot == DOT_FOLD) {
        log_write(LOG_INFO, "--weights auto: dense, as %s",
            l->options.dot == DOT_FOLD ? "--order torch-avx2 unpacks weights before it multiplies"
                                       : "only bf16 is packed");
    } else if (compare_weights(l, &packed, fail) != 0) {
        return fail->status;
    }
    l->options.weights = packed ? WEIGHTS_PACKED : WEIGHTS_DENSE;
    return 0;
}

int load_plan(loaded_t *l, model_t *shape, fail_t *fail)
{
    if (choose_weights(l, fail) != 0)
        return fail->status;
    plan_model_t sizes = model_sizes(
        &l->config, l->options.mode, l->options.dot, l->options.weights == WEIGHTS_PACKED);
    *shape = (model_t){.config = l->config,
        .rank = (size_t)comm_rank(l->comm),
        .mode = l->options.mode,
        .format =
            matrix_format(l->options.mode, l->options.dot, l->options.weights == WEIGHTS_PACKED)};
    model_kernels(shape, l->isa);
    plan_open_shares(
        &shape->plan, &sizes, l->options.combine, (size_t)comm_size(l->comm), l->shares, fail);
    if (comm_agree(everyone(l), fail) != 0)
        return fail->status;
    share_weights(l, shape);
    return 0;
}

capacity_t load_capacity(
    const loaded_t *l, const model_t *shape, size_t max_positions, size_t max_batch)
{
    return (capacity_t){.max_positions = max_positions,
        .max_batch = max_batch,
        .weight_bytes = load_weight_bytes(l, shape, 0),
        .cache_bytes_per_token = plan_kv_bytes_per_token(&shape->plan, shape->rank),
        .available_bytes = memory_available_bytes() / node_ranks(l),
        .advice = l->options.random_config != NULL ? "fewer --layers or more machines" : NULL};
}

int load_check(loaded_t *l, model_t *shape, capacity_t capacity, size_t cache_tokens,
    size_t max_positions, size_t scratch_bytes, fail_t *fail)
{
    capacity.weight_bytes = load_weight_bytes(l, shape, max_positions);
    capacity_check(&capacity, cache_tokens, scratch_bytes, node_ranks(l), fail);
    plan_close(&shape->plan);
    return comm_agree(everyone(l), fail);
}

/* ---- Weights and cache ----------------------------------------------------------------------- */

/* Reading counts as progress, however slow the disk is. */
static void tell_loading(void *context, uint64_t done, uint64_t total)
{
    const loaded_t *l = context;
    comm_set_phase(l->comm, PROGRESS_LOAD, 0);
    if (comm_rank(l->comm) == 0 && l->options.progress != NULL)
        l->options.progress(l->options.progress_context, done, total);
}

/* Collective. The matrices of this rank's share: where several ranks have packed them, the sum of what those of one
 * node have. */
static uint64_t sum_of_sharers(const loaded_t *l, fail_t *fail)
{
    comm_t *sharers = l->options.weight_sharers;
    const uint64_t mine[3] = {
        l->n_weight_sharers, (uint64_t)comm_node_rank(sharers), l->model.matrices_digest};
    size_t n = (size_t)comm_size(sharers);
    uint64_t(*all)[3] = calloc(n, sizeof *all), sum = 0;
    if (all == NULL)
        fail_set(fail, FAIL_MEMORY, "digest: out of memory for %zu ranks", n);
    if (comm_agree(everyone(l), fail) != 0) {
        free(all);
        return 0;
    }
    comm_allgather(sharers, mine, sizeof mine, all);
    for (uint64_t s = 0; s < all[0][0]; s++)
        for (size_t i = 0; i < n; i++)
            if (all[i][0] == all[0][0] && all[i][1] == s) {
                sum += all[i][2];
                break;
            }
    free(all);
    return sum;
}

/* Collective over all replicas. */
static void sum_digests(loaded_t *l, fail_t *fail)
{
    uint64_t matrices = l->model.matrices_digest;
    if (l->weights != NULL)
        matrices = sum_of_sharers(l, fail);
    if (fail->status != 0)
        return;
    l->has_digest =
        l->options.digests_weights && l->model.n_packed == 0 && l->options.combine != PLAN_REDUCE;
    l->weights_digest = (uint64_t)comm_sum(l->comm, (int64_t)(l->model.vectors_digest + matrices));
}

int load_weights(loaded_t *l, size_t cache_tokens, size_t max_positions, fail_t *fail)
{
    model_options_t options = {.combine = l->options.combine,
        .n_ranks = (size_t)comm_size(l->comm),
        .rank = (size_t)comm_rank(l->comm),
        .rank_shares = l->shares,
        .mode = l->options.mode,
        .dot = l->options.dot,
        .packed = l->options.weights == WEIGHTS_PACKED,
        .isa = l->isa,
        .max_positions = max_positions,
        .shared = l->weights != NULL ? comm_shared_data(l->weights) : NULL,
        .sharer = l->weights != NULL ? (size_t)comm_node_rank(l->options.weight_sharers) : 0,
        .n_sharers = l->n_weight_sharers,
        .digests = l->options.digests_weights,
        .progress = tell_loading,
        .progress_context = l};
    static const uint64_t seed = 1;
    checkpoint_t *checkpoint = l->checkpoint;
    model_source_t source =
        checkpoint != NULL ? model_source_checkpoint(checkpoint) : model_source_random(&seed);
    if (checkpoint == NULL)
        log_write(LOG_INFO, "filling %zu layers with random weights", l->config.num_hidden_layers);
    comm_set_phase(l->comm, PROGRESS_LOAD, 0);
    fault_at("load");
    store_loading_t loading;
    uint64_t begin = clock_ns();
    if (store_loading_open(&loading, l->comm, checkpoint, l->options.stage, fail) == 0) {
        model_load(&l->model, &l->config, &source, &options, l->team, fail);
        store_loading_leave(&loading);
    }
    l->load_ns = clock_ns() - begin;
    l->bytes_read = checkpoint != NULL ? checkpoint_bytes_read(checkpoint) : 0;
    if (fail->status == 0 && l->model.n_quantised > 0) {
        char scheme[QUANTISED_SCHEME_BYTES];
        quantised_scheme_text(&l->config.quantization.schemes[0], scheme);
        if (l->model.n_packed == l->model.n_quantised)
            log_write(LOG_INFO, "%zu matrices are quantised (%s) and kept so", l->model.n_quantised,
                scheme);
        else
            log_write(LOG_INFO,
                "%zu matrices are quantised (%s): %zu are kept so, the others were dequantised to %s",
                l->model.n_quantised, scheme, l->model.n_packed, dtype_name(l->options.mode));
    }
    if (fail->status == 0 && l->model.n_converted > 0)
        log_write(LOG_INFO, "%zu tensors are stored in another type and were converted to %s",
            l->model.n_converted, dtype_name(l->options.mode));
    if (fail->status == 0)
        kv_cache_open(&l->cache, l->options.mode, l->config.num_hidden_layers,
            plan_count(model_share(&l->model)->kv_heads), l->config.head_dim,
            cache_tokens / KV_BLOCK, fail);
    /* Shared weights are whole when all have loaded. */
    if (comm_agree(everyone(l), fail) == 0 && l->options.digests_weights)
        sum_digests(l, fail);
    store_loading_close(&loading);
    return fail->status;
}

void load_close(loaded_t *l)
{
    load_close_files(l);
    kv_cache_close(&l->cache);
    model_close(&l->model);
    comm_shared_close(l->weights);
    if (!l->borrows_team)
        rank_team_close(l->team, l->comm);
    free(l->shares);
}
