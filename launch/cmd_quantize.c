/* choir quantize: writes a quantised copy of a model directory. */
#include <stdio.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/progress.h"
#include "engine/quantise/quantise.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/signals.h"

#define MB 1e6

typedef struct quantize_flags {
    common_flags_t common;
    const char *out;
    size_t bits, group;
    int layout;
} quantize_flags_t;

static const choice_t layouts[] = {
    {"gptq", QUANTISE_GPTQ}, {"compressed-tensors", QUANTISE_COMPRESSED_TENSORS}, {NULL, 0}};

/* Rank 0 shows its own part for the whole: parts are about equal. */
static void show_progress(void *context, uint64_t done, uint64_t total)
{
    progress_bar(context, "quantising", done, total, "MB", MB);
}

static int check_flags(const quantize_flags_t *flags, fail_t *fail)
{
    if (flags->common.model == NULL || flags->out == NULL || flags->out[0] == 0)
        return fail_set(fail, FAIL_USAGE, "expected %s, found none",
            flags->common.model == NULL ? "--model DIR" : "--out DIR");
    if (flags->bits != 4 && flags->bits != 8)
        return fail_set(fail, FAIL_USAGE, "--bits: expected 4 or 8, found %zu", flags->bits);
    if (flags->group % 8 != 0)
        return fail_set(fail, FAIL_USAGE,
            "--group: expected a multiple of 8 inputs, or 0 for all, found %zu", flags->group);
    return 0;
}

static int cmd_quantize(invocation_t *invocation, fail_t *fail)
{
    const quantize_flags_t *flags = invocation->flags;
    comm_t *comm = invocation->comm;
    progress_t progress;
    quantise_result_t result;
    uint64_t begin_ns = clock_ns();
    if (check_flags(flags, fail) != 0)
        return fail->status;
    signals_install(NULL);
    progress_open(&progress, comm_rank(comm) == 0 && !flags->common.quiet);
    const quantise_options_t options = {.model_dir = flags->common.model,
        .out = flags->out,
        .bits = (unsigned)flags->bits,
        .group = flags->group,
        .layout = (quantise_layout_t)flags->layout,
        .interrupted = signals_ended,
        .progress = show_progress,
        .progress_context = &progress};
    quantise_model(comm, &options, &result, fail);
    progress_close(&progress);
    signals_remove();
    int64_t peak = comm_max(comm, (int64_t)memory_peak_bytes());
    if (fail->status == 0)
        log_write(LOG_INFO,
            "%s: %zu matrices, %.1f MB from %.1f MB (%.3f), %.1f s; memory per rank at most %.0f MB",
            flags->out, result.n_matrices, (double)result.written_bytes / MB,
            (double)result.read_bytes / MB,
            (double)result.written_bytes / (double)result.read_bytes,
            (double)(clock_ns() - begin_ns) * 1e-9, (double)peak / MB);
    return fail->status;
}

#define AT(member) offsetof(quantize_flags_t, member)

static const arg_t quantize_args[] = {
    FLAG_TEXT("--out", AT(out), "DIR",
        "The quantised model goes into this new folder, which all ranks must see. After an interruption the same command resumes. The bytes are the same at any number of ranks."),
    FLAG_SIZE("--bits", AT(bits), "4|8", 1, 64, "Bits of a weight. Default 4."),
    FLAG_SIZE("--group", AT(group), "N", 0, 1048576,
        "Inputs that have a scale in common; 0: all. Default 128."),
    FLAG_CHOICE("--layout", AT(layout), layouts,
        "gptq (default): as GPTQ's tools write it, scales in f16; Choir keeps its int4 packed in memory. compressed-tensors: pack-quantized, scales in bf16. Both symmetric, rounded to nearest."),
};
static const arg_group_t own = ARG_GROUP("Quantisation", quantize_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&own, 0},
    PARTS_END,
};

static const quantize_flags_t defaults = {.common = COMMON_DEFAULTS, .bits = 4, .group = 128};

const command_t command_quantize = {"quantize",
    "choir quantize --model DIR --out DIR [--bits 4|8] [--group N] [--layout gptq|compressed-tensors]",
    "write a quantised copy of a model", parts, &defaults, sizeof defaults, NULL, cmd_quantize};
