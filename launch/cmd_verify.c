#include <stdio.h>
#include <string.h>

#include "engine/base/progress.h"
#include "engine/run/engine_choices.h"
#include "engine/verify/verify.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/output.h"

typedef enum compared { COMPARE_EAGER, COMPARE_SDPA, COMPARE_BOTH } compared_t;

typedef struct verify_flags {
    common_flags_t common;
    const char *reference, *candidate, *layers, *shares;
    bool isolated, chained, partial, skip_digest, json;
    compared_t attention;
    dtype_t mode;
    order_t order;
    dot_t dot;
    quantised_order_t quantised_order;
    double tolerance;
    size_t threads;
} verify_flags_t;

static void show_progress(void *context, const char *what, uint64_t done, uint64_t total)
{
    progress_bar(context, what, done, total, NULL, 0);
}

/* The coordinator's. */
static int print_report(const report_t *report, bool json, fail_t *fail)
{
    if (!json) {
        report_print(report, stdout);
        return 0;
    }
    output_t output = {0};
    json_t *object = report_json(report);
    output_json(&output, object, fail);
    json_decref(object);
    return fail->status;
}

/* Collective. All ranks take the coordinator's result, so that they end with the same status. */
static int conclude(comm_t *comm, const report_t *report, fail_t *fail)
{
    char summary[FAIL_MESSAGE_BYTES - 64] = "";
    if (comm_rank(comm) == 0 && !report_passes(report))
        report_summary(report, summary, sizeof summary);
    comm_bcast(comm, summary, sizeof summary);
    if (summary[0] != 0)
        fail_set(fail, FAIL_MODEL, "verification failed: %s", summary);
    return fail->status;
}

/* Collective. */
static int verify_model(const invocation_t *invocation, report_t **report, fail_t *fail)
{
    const verify_flags_t *flags = invocation->flags;
    char directory[4096];
    progress_t progress;
    verify_options_t options = {.model_dir = directory,
        .reference = flags->reference,
        .has_mode = args_was_given(&invocation->given, "--dtype"),
        .mode = flags->mode,
        .attentions = {flags->attention != COMPARE_SDPA, flags->attention != COMPARE_EAGER},
        .has_order = args_was_given(&invocation->given, "--order"),
        .order = flags->order,
        .dot = flags->dot,
        .quantised_order = flags->quantised_order,
        .isolated = flags->isolated || !flags->chained,
        .chained = flags->chained || !flags->isolated,
        .skip_digest = flags->skip_digest,
        .partial = flags->partial,
        .layers = flags->layers,
        .tolerance = flags->tolerance,
        .shares = flags->shares,
        .threads = flags->threads};
    options.progress = show_progress;
    options.progress_context = &progress;
    progress_open(&progress, comm_rank(invocation->comm) == 0 && !flags->common.quiet);
    model_dir_find(flags->common.model, directory, sizeof directory, fail);
    if (comm_agree(invocation->comm, fail) == 0)
        verify_run(report, invocation->comm, &options, fail);
    progress_close(&progress);
    return fail->status;
}

static int cmd_verify(invocation_t *invocation, fail_t *fail)
{
    const verify_flags_t *flags = invocation->flags;
    bool coordinates = comm_rank(invocation->comm) == 0;
    report_t *report = NULL;
    if (flags->reference == NULL)
        return fail_set(fail, FAIL_USAGE, "expected --reference REF.safetensors, found none");
    if (flags->candidate == NULL)
        verify_model(invocation, &report, fail);
    else if (coordinates)
        verify_dumps(&report, flags->candidate, flags->reference, flags->layers, flags->tolerance,
            flags->partial, fail);
    if (coordinates && fail->status == 0)
        print_report(report, flags->json, fail);
    if (comm_agree(invocation->comm, fail) == 0)
        conclude(invocation->comm, report, fail);
    report_close(report);
    return fail->status;
}

static const choice_t attention_choices[] = {
    {"eager", COMPARE_EAGER}, {"sdpa", COMPARE_SDPA}, {"both", COMPARE_BOTH}, {NULL, 0}};

#define AT(member) offsetof(verify_flags_t, member)

static const arg_t verify_args[] = {
    FLAG_TEXT("--reference", AT(reference), "REF.safetensors",
        "Hugging Face's results, as tests/oracle/reference.py writes them."),
    FLAG_TEXT("--candidate", AT(candidate), "OTHER.safetensors",
        "Compare this dump with the reference, and run no model."),
    FLAG_SWITCH("--isolated", AT(isolated),
        "Only each component by itself, with the reference's own inputs."),
    FLAG_SWITCH("--chained", AT(chained),
        "Only the whole forward, and the logits of prefill, decode and generate()."),
    FLAG_TEXT("--layers", AT(layers), "0,5-7",
        "Layers whose components are compared. Default: all that the reference has."),
    FLAG_CHOICE("--attention", AT(attention), attention_choices,
        "Which attention to compare. Default both, where the reference has both."),
    FLAG_CHOICE("--dtype", AT(mode), engine_modes, "Numeric mode. Default: the reference's."),
    FLAG_CHOICE("--order", AT(order), engine_orders,
        "Order of additions to compare: torch, torch-avx2 or uniform. Default: PyTorch's on the host that wrote the reference, where it is known."),
    FLAG_CHOICE("--dot", AT(dot), engine_dots,
        "How bf16 linear layers add products. Default chain, whose bits are PyTorch's."),
    FLAG_CHOICE("--quantised-order", AT(quantised_order), engine_quantised_orders,
        "Of quantised models; dequantize: against a reference that dequantised int4. Default: torch."),
    FLAG_REAL("--tolerance", AT(tolerance), "X", 0, 1e30,
        "Largest absolute difference that passes. Default 0: every bit equal."),
    FLAG_SWITCH("--partial", AT(partial),
        "Accept a dump or reference that lacks tensors, and print how many. Without it that is a failure."),
    FLAG_SWITCH(
        "--skip-digest", AT(skip_digest), "Do not read the whole checkpoint for its digest."),
    FLAG_TEXT("--shares", AT(shares), "auto|even|2,1,1",
        "How much of the model each rank takes. Default even. Never changes a bit."),
    FLAG_SWITCH("--json", AT(json), "One JSON object in place of the tables."),
    FLAG_THREADS(AT(threads)),
};
static const arg_group_t own = ARG_GROUP("Verification", verify_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&own, 0},
    {&flags_path, 0},
    PARTS_END,
};

static bool has_no_amx(const void *values)
{
    const verify_flags_t *flags = values;
    return flags->mode != DTYPE_BF16 && flags->dot == DOT_AMX;
}

static bool has_own_dot(const void *values)
{
    return ((const verify_flags_t *)values)->order == ORDER_TORCH_AVX2;
}

static const arg_rule_t rules[] = {
    {.why = "with --candidate",
        .with = " --candidate ",
        .reads = true,
        .flags = " --candidate --reference --layers --tolerance --partial --json "},
    {.why = NO_AMX_WHY, .flags = " --dot ", .holds = has_no_amx},
    {.why = OWN_DOT_WHY, .flags = " --dot ", .holds = has_own_dot},
    RULES_END,
};

static const verify_flags_t defaults = {
    .common = COMMON_DEFAULTS, .attention = COMPARE_BOTH, .dot = DOT_CHAIN};

const command_t command_verify = {"verify",
    "choir verify [--model DIR] --reference REF.safetensors [flags]",
    "compare a model with Hugging Face's, component by component", parts, &defaults,
    sizeof defaults, rules, cmd_verify};
