#include "engine/verify/verify.h"

#include <stdlib.h>
#include <string.h>

#include "comm/topology.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/capacity.h"
#include "engine/run/engine.h"
#include "engine/run/share_choice.h"
#include "engine/run/stored_weights.h"
#include "engine/verify/verify_checks.h"
#include "engine/verify/verify_forward.h"
#include "engine/verify/verify_weights.h"

typedef struct verifier {
    comm_t *comm;
    const verify_options_t *options;
    report_t *report;
    reference_t reference;
    config_t config;
    checkpoint_t *checkpoint;
    bool *layers; /* [num_hidden_layers]; NULL: all */
    dtype_t mode;
    isa_t isa;
    dot_t dot;
    size_t threads;
    size_t *shares; /* [ranks] how much each takes, for the plan */
    team_t *team;
    model_t model;
    kv_cache_t cache;
    const char *doing; /* what progress is of */
} verifier_t;

static bool coordinates(const verifier_t *v)
{
    return comm_rank(v->comm) == 0;
}

static void pass_on_progress(void *context, uint64_t done, uint64_t total)
{
    const verifier_t *v = context;
    v->options->progress(v->options->progress_context, v->doing, done, total);
}

/* NULL where nobody wants to know. */
static void (*progress_of(verifier_t *v, const char *doing))(void *, uint64_t, uint64_t)
{
    v->doing = doing;
    return coordinates(v) && v->options->progress != NULL ? pass_on_progress : NULL;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* Collective. */
static int open_files(verifier_t *v, fail_t *fail)
{
    const verify_options_t *o = v->options;
    if (reference_open(&v->reference, o->reference, fail) == 0 &&
        config_load(&v->config, o->model_dir, fail) == 0)
        checkpoint_open(&v->checkpoint, o->model_dir, fail);
    if (comm_agree(v->comm, fail) != 0)
        return fail->status;
    if (comm_agree_same(v->comm, config_digest(&v->config), "config.json", fail) != 0 ||
        comm_agree_same(v->comm, checkpoint_digest(v->checkpoint), "list of tensors", fail) != 0)
        return fail->status;
    return comm_agree_same(
        v->comm, checkpoint_digest(v->reference.file), "list of the reference's tensors", fail);
}

static int choose_layers(verifier_t *v, fail_t *fail)
{
    size_t n_layers = v->config.num_hidden_layers;
    if (v->options->layers == NULL)
        return 0;
    v->layers = calloc(n_layers, sizeof *v->layers);
    if (v->layers == NULL)
        return fail_set(fail, FAIL_MEMORY, "verify: out of memory for %zu layers", n_layers);
    return reference_parse_layers(v->options->layers, "--layers", n_layers, v->layers, fail);
}

/* The attentions that the reference has and the caller wants. */
static void choose_attentions(const verifier_t *v, bool *attentions)
{
    for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++)
        attentions[a] =
            v->options->attentions[a] && reference_has_attention(&v->reference, (attention_t)a);
}

static void describe(verifier_t *v)
{
    static const char *const names[REFERENCE_ATTENTIONS] = {"eager", "sdpa"};
    bool attentions[REFERENCE_ATTENTIONS];
    choose_attentions(v, attentions);
    for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++)
        if (v->options->attentions[a] && !attentions[a])
            report_note(v->report, "the reference has no %s attention", names[a]);
    if (v->mode != v->reference.dtype)
        report_note(v->report, "dtype: the reference is %s, this run %s",
            dtype_name(v->reference.dtype), dtype_name(v->mode));
}

/* Collective. Everything that needs no forward; the coordinator's work. */
static int check_reference(verifier_t *v, fail_t *fail)
{
    const verify_options_t *o = v->options;
    bool attentions[REFERENCE_ATTENTIONS];
    uint64_t digest = 0;
    choose_attentions(v, attentions);
    choose_layers(v, fail);
    if (coordinates(v) && fail->status == 0) {
        check_origin(&v->reference, NULL, v->report);
        describe(v);
        check_configuration(&v->reference, &v->config, v->report, fail);
        if (fail->status == 0 && o->skip_digest)
            report_check(v->report, "model_digest", REPORT_SKIP, "not computed");
        else if (fail->status == 0 &&
                 verify_digest(v->checkpoint, progress_of(v, "digest"), v, &digest, fail) == 0)
            check_digest(&v->reference, digest, v->report);
        if (fail->status == 0)
            check_tokenization(&v->reference, o->model_dir, v->report, fail);
        if (fail->status == 0)
            check_completeness(&v->reference, &v->config, attentions, v->layers, v->report);
    }
    return comm_agree(v->comm, fail);
}

/* Collective. Instruction set and threads. */
static int open_compute(verifier_t *v, fail_t *fail)
{
    topology_t topology = {0};
    kernels_t kernels;
    v->isa = ISA_SCALAR;
    isa_choose(&v->isa, fail);
    topology_read(&topology, fail);
    if (comm_agree(v->comm, fail) != 0)
        return fail->status;
    v->isa = engine_agree_isa(v->comm, v->isa);
    v->dot = engine_choose_dot(v->comm, v->options->dot, v->mode);
    kernels_get(&kernels, v->isa, v->mode);
    kernels_self_test(&kernels, fail);
    v->threads =
        topology_threads(&topology, v->options->threads, (size_t)comm_binding_ranks(v->comm));
    comm_set_threads(v->comm, v->threads);
    team_open(&v->team, v->threads, comm_oversubscribed(v->comm), fail);
    return comm_agree(v->comm, fail);
}

/* Collective. */
static int choose_shares(verifier_t *v, fail_t *fail)
{
    const share_group_t group = {v->comm, v->comm, NULL};
    v->shares = calloc((size_t)comm_size(v->comm), sizeof *v->shares);
    if (v->shares == NULL)
        fail_set(fail, FAIL_MEMORY, "verify: out of memory");
    if (comm_agree(v->comm, fail) == 0)
        share_choice(&group, v->team, v->options->shares, v->shares, fail);
    return fail->status;
}

/* Collective. Refuses what does not fit, before anything large is allocated. */
static int check_memory(verifier_t *v, size_t tokens, fail_t *fail)
{
    plan_model_t sizes = config_plan_model(&v->config, v->mode);
    model_t shape = {.config = v->config, .rank = (size_t)comm_rank(v->comm), .mode = v->mode};
    size_t node_ranks = (size_t)comm_node_size(v->comm), scratch = 0;
    kernels_get(&shape.kernels, v->isa, v->mode);
    plan_open_weighted(
        &shape.plan, &sizes, PLAN_GATHER, (size_t)comm_size(v->comm), v->shares, fail);
    if (comm_agree(v->comm, fail) != 0)
        return fail->status;
    for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++)
        scratch = size_max(scratch, verify_forward_bytes(&shape, &v->reference, (attention_t)a,
                                        v->threads, comm_size(v->comm)));
    capacity_t capacity = {.max_positions = tokens,
        .max_batch = 1,
        .weight_bytes = model_bytes(&shape.plan, shape.rank, v->mode, tokens),
        .cache_bytes_per_token = plan_kv_bytes_per_token(&shape.plan, shape.rank),
        .available_bytes = memory_available_bytes() / node_ranks};
    capacity_check(&capacity, tokens, scratch, node_ranks, fail);
    plan_close(&shape.plan);
    return comm_agree(v->comm, fail);
}

/* Collective. */
static int open_model(verifier_t *v, fail_t *fail)
{
    size_t tokens = size_round_up(verify_forward_positions(&v->reference), KV_BLOCK);
    if (stored_weights_resolve(v->comm, &v->config, v->checkpoint, v->mode, fail) != 0 ||
        check_memory(v, tokens, fail) != 0)
        return fail->status;
    model_options_t options = {.combine = PLAN_GATHER,
        .n_ranks = (size_t)comm_size(v->comm),
        .rank = (size_t)comm_rank(v->comm),
        .weights = v->shares,
        .mode = v->mode,
        .isa = v->isa,
        .max_positions = tokens,
        .progress = progress_of(v, "loading"),
        .progress_context = v};
    model_source_t source = model_source_checkpoint(v->checkpoint);
    if (model_load(&v->model, &v->config, &source, &options, v->team, fail) == 0)
        kv_cache_open(&v->cache, v->mode, v->config.num_hidden_layers,
            plan_count(model_share(&v->model)->kv_heads), v->config.head_dim, tokens / KV_BLOCK,
            fail);
    return comm_agree(v->comm, fail);
}

/* ---- Running --------------------------------------------------------------------------------- */

/* Collective. */
static int run_weights(verifier_t *v, fail_t *fail)
{
    if (v->model.n_converted > 0)
        report_note(v->report,
            "%zu tensors of rank 0 are stored in another type; their weights are compared after "
            "rounding to %s",
            v->model.n_converted, dtype_name(v->mode));
    verify_weights(&v->model, v->checkpoint, v->team, v->report, fail);
    return comm_agree(v->comm, fail);
}

/* Collective. */
static int run_forwards(verifier_t *v, fail_t *fail)
{
    static const char *const doing[] = {"eager attention", "sdpa attention"};
    bool attentions[REFERENCE_ATTENTIONS];
    choose_attentions(v, attentions);
    for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++) {
        verify_forward_t forward = {.comm = v->comm,
            .team = v->team,
            .model = &v->model,
            .cache = &v->cache,
            .reference = &v->reference,
            .attention = (attention_t)a,
            .dot = v->dot,
            .isolated = v->options->isolated,
            .chained = v->options->chained,
            .layers = v->layers,
            .progress = progress_of(v, doing[a]),
            .progress_context = v};
        if (attentions[a] && verify_forward(&forward, v->report, fail) != 0)
            return fail->status;
    }
    return 0;
}

static void fill_header(verifier_t *v)
{
    json_t *header = json_pack("{s:s, s:s, s:i, s:I, s:s, s:s}", "model", v->options->model_dir,
        "reference", v->options->reference, "ranks", comm_size(v->comm), "threads",
        (json_int_t)v->threads, "isa", isa_name(v->isa), "dtype", dtype_name(v->mode));
    if (header != NULL)
        json_object_update(v->report->header, header);
    json_decref(header);
}

/* Collective. */
static int run(verifier_t *v, fail_t *fail)
{
    if (open_files(v, fail) != 0)
        return fail->status;
    v->mode = v->options->has_mode ? v->options->mode : v->reference.dtype;
    v->report->relative = v->mode != DTYPE_BF16;
    if (check_reference(v, fail) != 0 || open_compute(v, fail) != 0 ||
        choose_shares(v, fail) != 0 || open_model(v, fail) != 0 || run_weights(v, fail) != 0 ||
        run_forwards(v, fail) != 0)
        return fail->status;
    fill_header(v);
    report_gather(v->report, v->comm, fail);
    return fail->status;
}

int verify_run(report_t **report, comm_t *comm, const verify_options_t *options, fail_t *fail)
{
    verifier_t v = {.comm = comm, .options = options};
    report_open(&v.report, options->tolerance, fail);
    if (comm_agree(comm, fail) == 0) {
        v.report->partial = options->partial;
        v.report->isolated = !options->chained;
        run(&v, fail);
    }
    kv_cache_close(&v.cache);
    if (v.model.layers != NULL)
        model_close(&v.model);
    team_close(v.team);
    checkpoint_close(v.checkpoint);
    free(v.layers);
    free(v.shares);
    reference_close(&v.reference);
    if (fail->status != 0) {
        report_close(v.report);
        v.report = NULL;
    }
    *report = v.report;
    return fail->status;
}
