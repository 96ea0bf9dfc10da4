#include "engine/verify/verify.h"

#include <stdlib.h>

#include "engine/base/size.h"
#include "engine/run/engine_choices.h"
#include "engine/run/load.h"
#include "engine/verify/verify_checks.h"
#include "engine/verify/verify_forward.h"
#include "engine/verify/verify_origin.h"
#include "engine/verify/verify_weights.h"
#include "sharding/checkpoint/content_digest.h"

typedef struct verifier {
    comm_t *comm;
    const verify_options_t *options;
    report_t *report;
    reference_t reference;
    loaded_t loaded;
    bool *layers;      /* [num_hidden_layers]; NULL: all */
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

/* NULL: no progress is shown. */
static progress_fn progress_of(verifier_t *v, const char *doing)
{
    v->doing = doing;
    return coordinates(v) && v->options->progress != NULL ? pass_on_progress : NULL;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* Collective. */
static int open_files(verifier_t *v, fail_t *fail)
{
    const verify_options_t *o = v->options;
    reference_open(&v->reference, o->reference, fail);
    engine_options_t options = {.model_dir = o->model_dir,
        .mode = o->has_mode ? o->mode : v->reference.dtype,
        .order = o->has_order ? o->order : ORDER_TORCH,
        .dot = o->dot,
        .quantised_order = o->quantised_order,
        .combine = PLAN_GATHER,
        .shares = o->shares,
        .threads = o->threads,
        .max_batch = 1,
        .progress = progress_of(v, "loading"),
        .progress_context = v};
    if (!o->has_order && fail->status == 0 && options.mode == DTYPE_BF16)
        options.order = origin_order(&v->reference);
    if (options.order == ORDER_TORCH_AVX2 && o->dot != DOT_CHAIN)
        fail_set(fail, FAIL_USAGE,
            "--dot: the reference's order is torch-avx2, which has a dot product of its own; without "
            "--dot, or with --order torch");
    if (load_files(&v->loaded, v->comm, &options, fail) != 0)
        return fail->status;
    return comm_agree_same(
        v->comm, checkpoint_digest(v->reference.file), "list of the reference's tensors", fail);
}

static int choose_layers(verifier_t *v, fail_t *fail)
{
    size_t n_layers = v->loaded.config.num_hidden_layers;
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
    bool attentions[REFERENCE_ATTENTIONS];
    choose_attentions(v, attentions);
    for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++)
        if (v->options->attentions[a] && !attentions[a])
            report_note(v->report, "the reference has no %s attention",
                choice_name(engine_attentions, (int)a));
    if (v->loaded.options.mode != v->reference.dtype)
        report_note(v->report, "dtype: the reference is %s, this run %s",
            dtype_name(v->reference.dtype), dtype_name(v->loaded.options.mode));
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
        check_origin(&v->reference, v->loaded.options.order, o->has_order, v->report);
        describe(v);
        check_configuration(&v->reference, &v->loaded.config, v->report, fail);
        if (fail->status == 0 && o->skip_digest)
            report_check(v->report, "model_digest", REPORT_SKIP, "not computed");
        else if (fail->status == 0 && checkpoint_content_digest(v->loaded.checkpoint,
                                          progress_of(v, "digest"), v, &digest, fail) == 0)
            check_digest(&v->reference, digest, v->report);
        if (fail->status == 0)
            check_tokenization(&v->reference, o->model_dir, v->report, fail);
        if (fail->status == 0)
            check_completeness(&v->reference, &v->loaded.config, attentions, v->layers, v->report);
    }
    return comm_agree(v->comm, fail);
}

/* Collective. */
static int open_model(verifier_t *v, fail_t *fail)
{
    size_t tokens = size_round_up(verify_forward_positions(&v->reference), KV_BLOCK), scratch = 0;
    model_t shape;
    v->doing = "loading";
    if (load_compute(&v->loaded, fail) != 0 || load_plan(&v->loaded, &shape, fail) != 0)
        return fail->status;
    for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++)
        scratch = size_max(scratch,
            verify_forward_bytes(&shape, &v->reference, v->loaded.options.order,
                v->loaded.options.dot, (attention_t)a, v->loaded.threads, comm_size(v->comm)));
    capacity_t capacity = load_capacity(&v->loaded, &shape, tokens, 1);
    if (load_check(&v->loaded, &shape, capacity, tokens, tokens, scratch, fail) != 0)
        return fail->status;
    return load_weights(&v->loaded, tokens, tokens, fail);
}

/* ---- Running --------------------------------------------------------------------------------- */

/* Collective. */
static int run_weights(verifier_t *v, fail_t *fail)
{
    if (v->loaded.model.n_converted > 0)
        report_note(v->report,
            "%zu tensors of rank 0 are stored in another type; their weights are compared after "
            "rounding to %s",
            v->loaded.model.n_converted, dtype_name(v->loaded.options.mode));
    verify_weights(&v->loaded.model, v->loaded.checkpoint, v->loaded.team, v->report, fail);
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
            .team = v->loaded.team,
            .model = &v->loaded.model,
            .cache = &v->loaded.cache,
            .reference = &v->reference,
            .attention = (attention_t)a,
            .order = v->loaded.options.order,
            .dot = v->loaded.options.dot,
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
    json_t *header = json_pack("{s:s, s:s, s:i, s:I, s:s, s:s, s:s}", "model",
        v->options->model_dir, "reference", v->options->reference, "ranks", comm_size(v->comm),
        "threads", (json_int_t)v->loaded.threads, "isa", isa_name(v->loaded.isa), "dtype",
        dtype_name(v->loaded.options.mode), "order",
        choice_name(engine_orders, (int)v->loaded.options.order));
    if (header != NULL)
        json_object_update(v->report->header, header);
    json_decref(header);
}

/* Collective. */
static int run(verifier_t *v, fail_t *fail)
{
    if (open_files(v, fail) != 0)
        return fail->status;
    v->report->relative = v->loaded.options.mode != DTYPE_BF16;
    if (check_reference(v, fail) != 0 || open_model(v, fail) != 0 || run_weights(v, fail) != 0 ||
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
    load_close(&v.loaded);
    free(v.layers);
    reference_close(&v.reference);
    if (fail->status != 0) {
        report_close(v.report);
        v.report = NULL;
    }
    *report = v.report;
    return fail->status;
}
