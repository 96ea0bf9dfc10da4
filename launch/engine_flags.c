#include "launch/engine_flags.h"

#include "engine/base/size.h"

#define MAX_BATCH 64
#define MIB 1048576.0

static void draw_loading(void *context, uint64_t done, uint64_t total)
{
    progress_bar(context, "loading", done, total, "MiB", MIB);
}

void engine_flags_show_loading(progress_t *progress, const comm_t *comm,
    const common_flags_t *common, engine_options_t *options)
{
    progress_open(progress, comm_rank(comm) == 0 && !common->quiet);
    options->progress = draw_loading;
    options->progress_context = progress;
}

engine_options_t engine_flags_options(
    const run_flags_t *run, const char *directory, size_t n_sequences, size_t logits_rows)
{
    size_t max_batch = run->max_batch;
    if (max_batch == 0)
        max_batch = size_max(1, size_min(n_sequences, MAX_BATCH));
    return (engine_options_t){
        .model_dir = directory,
        .stage = run->stage,
        .mode = run->mode,
        .order = run->order,
        .attention = run->attention,
        .dot = run->dot,
        .quantised_order = run->quantised_order,
        .weights = run->weights,
        .combine = run->combine,
        .shares = run->shares,
        .threads = run->threads,
        .bind = run->bind,
        .kv_tokens = run->kv_tokens,
        .prefill_chunk = run->prefill_chunk,
        .max_batch = max_batch,
        .max_step_ratio = run->max_step_ratio,
        .allow_nonfinite = run->allow_nonfinite,
        .no_prefix_reuse = run->no_prefix_reuse,
        .speculation = {.on = !flags_no_drafts(run),
            .model = flags_model_drafts(run),
            .draft_tokens = run->draft_tokens},
        .max_logits_rows = size_max(1, logits_rows),
    };
}
