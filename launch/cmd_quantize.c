/* choir quantize: writes a quantised copy of a model directory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/progress.h"
#include "engine/quantise/quantise.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/prompts.h"
#include "launch/signals.h"

#define MB 1e6

typedef struct quantize_flags {
    common_flags_t common;
    const char *out, *calibrate;
    size_t bits, group, threads;
    double damping;
    bool desc_act;
    int layout;
} quantize_flags_t;

static const choice_t layouts[] = {
    {"gptq", QUANTISE_GPTQ}, {"compressed-tensors", QUANTISE_COMPRESSED_TENSORS}, {NULL, 0}};

/* Rank 0 shows its own part for the whole: parts are about equal. */
static void show_progress(void *context, uint64_t done, uint64_t total)
{
    progress_bar(context, "quantising", done, total, "MB", MB);
}

/* Calibrating is counted in time. */
static void show_calibration(void *context, uint64_t done, uint64_t total)
{
    progress_bar(context, "calibrating", done, total, NULL, 1);
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
    if (flags->desc_act && flags->layout != QUANTISE_GPTQ)
        return fail_set(
            fail, FAIL_USAGE, "--desc-act: expected --layout gptq, found compressed-tensors");
    return 0;
}

/* ---- Texts ----------------------------------------------------------------------------------- */

/* What rank 0 read, for all. */
typedef struct calibration_texts {
    fail_t fail;
    size_t n, n_ids;
    size_t *counts;
    int32_t *ids;
} calibration_texts_t;

static int check_texts(
    const char *file, const char *directory, const prompts_t *prompts, fail_t *fail)
{
    config_t config;
    if (config_load(&config, directory, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < prompts->count; i++)
        if (!config_has_positions(&config, prompts->items[i].count))
            return fail_set(fail, FAIL_USAGE,
                "%s: text %zu: expected at most %zu tokens, the model's positions, found %zu", file,
                i + 1, config.max_position_embeddings, prompts->items[i].count);
    return 0;
}

static int allocate_texts(calibration_texts_t *t, fail_t *fail)
{
    t->counts = calloc(t->n + 1, sizeof *t->counts);
    t->ids = calloc(t->n_ids + 1, sizeof *t->ids);
    if (t->counts == NULL || t->ids == NULL)
        fail_set(fail, FAIL_MEMORY, "--calibrate: out of memory for %zu tokens", t->n_ids);
    return fail->status;
}

/* Those of one token first. */
static void take_texts(calibration_texts_t *t, const prompts_t *prompts)
{
    size_t n = 0, at = 0;
    for (int single = 1; single >= 0; single--)
        for (size_t i = 0; i < prompts->count; i++) {
            const tokenizer_ids_t *item = &prompts->items[i];
            if ((item->count == 1) != single)
                continue;
            t->counts[n++] = item->count;
            memcpy(t->ids + at, item->ids, item->count * sizeof *t->ids);
            at += item->count;
        }
}

/* Rank 0's. */
static void read_texts(
    calibration_texts_t *t, const invocation_t *invocation, const char *directory)
{
    const quantize_flags_t *flags = invocation->flags;
    const prompt_flags_t source = {.prompts = flags->calibrate};
    prompts_t prompts;
    if (prompts_open(&prompts, &source, &invocation->given, directory, &t->fail) != 0)
        return;
    t->n = prompts.count;
    for (size_t i = 0; i < prompts.count; i++)
        t->n_ids += prompts.items[i].count;
    if (check_texts(flags->calibrate, directory, &prompts, &t->fail) == 0 &&
        allocate_texts(t, &t->fail) == 0)
        take_texts(t, &prompts);
    prompts_close(&prompts);
}

/* Collective. */
static int open_texts(
    calibration_texts_t *t, const invocation_t *invocation, const char *directory, fail_t *fail)
{
    comm_t *comm = invocation->comm;
    bool root = comm_rank(comm) == 0;
    calibration_texts_t head;
    if (root)
        read_texts(t, invocation, directory);
    head = *t;
    comm_bcast_idle(comm, &head, sizeof head);
    if (head.fail.status != 0)
        *fail = head.fail;
    else if (!root) {
        *t = (calibration_texts_t){.n = head.n, .n_ids = head.n_ids};
        allocate_texts(t, fail);
    }
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    comm_bcast(comm, t->counts, t->n * sizeof *t->counts);
    comm_bcast(comm, t->ids, t->n_ids * sizeof *t->ids);
    return 0;
}

static void close_texts(calibration_texts_t *t)
{
    free(t->counts);
    free(t->ids);
}

static int cmd_quantize(invocation_t *invocation, fail_t *fail)
{
    const quantize_flags_t *flags = invocation->flags;
    comm_t *comm = invocation->comm;
    progress_t progress;
    quantise_result_t result;
    uint64_t begin_ns = clock_ns();
    calibration_texts_t texts = {0};
    if (check_flags(flags, fail) != 0)
        return fail->status;
    if (flags->calibrate != NULL &&
        open_texts(&texts, invocation, flags->common.model, fail) != 0) {
        close_texts(&texts);
        return fail->status;
    }
    signals_install(NULL);
    progress_open(&progress, comm_rank(comm) == 0 && !flags->common.quiet);
    const quantise_options_t options = {.model_dir = flags->common.model,
        .out = flags->out,
        .bits = (unsigned)flags->bits,
        .group = flags->group,
        .layout = (quantise_layout_t)flags->layout,
        .texts = {texts.n, texts.counts, texts.ids},
        .desc_act = flags->desc_act,
        .damping = flags->damping,
        .threads = flags->threads,
        .interrupted = signals_ended,
        .progress = texts.n > 0 ? show_calibration : show_progress,
        .progress_context = &progress};
    quantise_model(comm, &options, &result, fail);
    progress_close(&progress);
    signals_remove();
    close_texts(&texts);
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
        "gptq (default): as GPTQ's tools write it, scales in f16; Choir keeps its int4 packed in memory. compressed-tensors: pack-quantized, scales in bf16. Both symmetric."),
    FLAG_TEXT("--calibrate", AT(calibrate), "FILE.jsonl",
        "Quantise with GPTQ, which keeps errors small on these texts, a JSON object a line as for generate --prompts: {\"prompt\": TEXT}, {\"messages\": [...]} or {\"prompt_ids\": [...]}. 128 texts of 512 tokens are usual. Default: weights are rounded to nearest."),
    FLAG_SWITCH("--desc-act", AT(desc_act),
        "With --calibrate: inputs are quantised in order of their activations, largest first (desc_act)."),
    FLAG_REAL("--damping", AT(damping), "X", 0, 1000,
        "With --calibrate: share of the inputs' mean square that is added to each. Raised where sums over the texts are singular. Default 0.01."),
    FLAG_THREADS(AT(threads)),
};
static const arg_group_t own = ARG_GROUP("Quantisation", quantize_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&own, 0},
    PARTS_END,
};

static const arg_rule_t rules[] = {
    {.why = "without --calibrate",
        .without = " --calibrate ",
        .flags = " --desc-act --damping --threads "},
    RULES_END,
};

static const quantize_flags_t defaults = {
    .common = COMMON_DEFAULTS, .bits = 4, .group = 128, .damping = 0.01};

const command_t command_quantize = {"quantize",
    "choir quantize --model DIR --out DIR [--bits 4|8] [--group N] [--layout gptq|compressed-tensors] [--calibrate FILE.jsonl]",
    "write a quantised copy of a model", parts, &defaults, sizeof defaults, rules, cmd_quantize};
