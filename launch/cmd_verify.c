#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/run/verify.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/output.h"

#define BAR_WIDTH 30
#define REDRAW_NS 100000000u

typedef struct progress {
    uint64_t last_ns;
    bool drawn;
} progress_t;

static void draw_progress(void *context, const char *what, uint64_t done, uint64_t total)
{
    progress_t *progress = context;
    uint64_t now = clock_ns();
    if (total == 0 || now - progress->last_ns < REDRAW_NS)
        return;
    progress->last_ns = now;
    progress->drawn = true;
    int filled = (int)((double)done / (double)total * BAR_WIDTH);
    fprintf(stderr, "\rchoir: %s [%.*s%*s] %3.0f%%\x1b[K", what, filled,
        "##############################", BAR_WIDTH - filled, "",
        100.0 * (double)done / (double)total);
}

static void erase_progress(const progress_t *progress)
{
    if (progress->drawn)
        fprintf(stderr, "\r\x1b[K");
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
    progress_t progress = {.last_ns = clock_ns()};
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
    if (!flags->quiet && isatty(STDERR_FILENO)) {
        options.progress = draw_progress;
        options.progress_context = &progress;
    }
    model_dir_find(flags->model, directory, sizeof directory, fail);
    if (comm_agree(invocation->comm, fail) == 0)
        verify_run(report, invocation->comm, &options, fail);
    erase_progress(&progress);
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
