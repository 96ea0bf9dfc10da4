#include <stdio.h>
#include <string.h>

#include "engine/base/progress.h"
#include "engine/verify/verify.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/output.h"

/* What is done and how much of it: each kind of work counts from its own beginning. */
typedef struct verify_progress {
    progress_t progress;
    const char *what;
    bool shown;
} verify_progress_t;

static void show_progress(void *context, const char *what, uint64_t done, uint64_t total)
{
    verify_progress_t *p = context;
    if (p->what != what) {
        progress_close(&p->progress);
        progress_open(&p->progress, p->shown);
        p->what = what;
    }
    progress_bar(&p->progress, what, done, total, NULL, 0);
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

/* Collective. The coordinator's verdict becomes everybody's, so that all ranks end alike. */
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
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    const options_t *flags = &invocation->options;
    char directory[4096];
    verify_progress_t progress = {.shown = !flags->quiet};
    verify_options_t options = {.model_dir = directory,
        .reference = flags->reference,
        .has_mode = args_was_given(&invocation->given, "--dtype"),
        .mode = modes[flags->dtype],
        .attentions = {flags->attentions != 1, flags->attentions != 0},
        .dot = (dot_t)flags->verify_dot,
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
    model_dir_find(flags->model, directory, sizeof directory, fail);
    if (comm_agree(invocation->comm, fail) == 0)
        verify_run(report, invocation->comm, &options, fail);
    progress_close(&progress.progress);
    return fail->status;
}

int cmd_verify(invocation_t *invocation, fail_t *fail)
{
    const options_t *flags = &invocation->options;
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
