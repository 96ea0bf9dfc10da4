#include "launch/session.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/progress.h"
#include "engine/base/size.h"
#include "launch/output.h"
#include "launch/signals.h"

#define MAX_BATCH 64
#define MIB 1048576.0

/* ---- Progress -------------------------------------------------------------------------------- */

static void draw_loading(void *context, uint64_t done, uint64_t total)
{
    progress_bar(context, "loading", done, total, "MiB", MIB);
}

void session_show_loading(
    progress_t *progress, const invocation_t *invocation, engine_options_t *options)
{
    progress_open(progress, comm_rank(invocation->comm) == 0 && !invocation->options.quiet);
    options->progress = draw_loading;
    options->progress_context = progress;
}

/* ---- Opening --------------------------------------------------------------------------------- */

engine_options_t session_engine_options(
    const options_t *options, const char *directory, size_t n_sequences, size_t logits_rows)
{
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    size_t max_batch = options->max_batch;
    if (max_batch == 0)
        max_batch = size_max(1, size_min(n_sequences, MAX_BATCH));
    return (engine_options_t){
        .model_dir = directory,
        .stage = options->stage,
        .random_config = options->config,
        .n_layers = options->n_layers,
        .mode = modes[options->dtype],
        .order = options->order == 0 ? ORDER_TORCH : ORDER_UNIFORM,
        .attention = (attention_t)options->attention,
        .dot = (dot_t)options->dot,
        .combine = options->combine == 0 ? PLAN_GATHER : PLAN_REDUCE,
        .shares = options->shares,
        .threads = options->threads,
        .bind = (topology_bind_t)options->bind,
        .kv_tokens = options->kv_tokens,
        .prefill_chunk = options->prefill_chunk,
        .max_batch = max_batch,
        .allow_nonfinite = options->allow_nonfinite,
        .no_prefix_reuse = options->no_prefix_reuse,
        .max_logits_rows = size_max(1, logits_rows),
    };
}

void session_warn_sampling(const session_t *session)
{
    const char *unread = engine_info(session->engine).config->generation.unread;
    if (session->invocation->options.sample && unread[0] != 0)
        log_write(LOG_WARN,
            "generation_config.json: %s: not implemented; answers are drawn without", unread);
}

int session_open(session_t *session, invocation_t *invocation, const char *directory,
    size_t n_sequences, size_t logits_rows, fail_t *fail)
{
    const options_t *flags = &invocation->options;
    *session =
        (session_t){.invocation = invocation, .coordinates = comm_rank(invocation->comm) == 0};
    engine_options_t options = session_engine_options(flags, directory, n_sequences, logits_rows);
    progress_t progress;
    session_show_loading(&progress, invocation, &options);
    engine_open(&session->engine, invocation->comm, &options, fail);
    progress_close(&progress);
    if (fail->status != 0)
        return fail->status;
    signals_install(session->engine);
    engine_info_t info = engine_info(session->engine);
    log_write(LOG_DEBUG, "loaded %s in %.2f s, %.1f MiB read by rank 0; KV cache of %zu tokens",
        directory, (double)info.load_ns * 1e-9, (double)info.bytes_read / MIB, info.kv_tokens);
    session_warn_sampling(session);
    return 0;
}

/* ---- Closing --------------------------------------------------------------------------------- */

/* ", decode 12.3/s", or nothing where no time was spent on it. */
static void describe_rate(char *text, size_t bytes, const char *what, size_t tokens, uint64_t ns)
{
    text[0] = 0;
    if (tokens > 0 && ns > 0)
        snprintf(text, bytes, ", %s %.1f/s", what, (double)tokens * 1e9 / (double)ns);
}

/* Rates are those of the tokens that a step is for: a prompt's in steps with prompt rows, drawn
 * ones in steps without. The first token of an answer is drawn in a step of the former kind. */
static void report(const options_t *options, const engine_info_t *info,
    const engine_totals_t *totals, double peak_mib, double weights_mib)
{
    static const char *const modes[] = {"bf16", "f32", "f64"};
    char prefill[64], decode[64], work[256] = "no prompt was computed";
    describe_rate(prefill, sizeof prefill, "prefill", totals->prompt_tokens, totals->prefill_ns);
    describe_rate(decode, sizeof decode, "decode", totals->decode_tokens, totals->decode_ns);
    if (totals->prompt_tokens > 0)
        snprintf(work, sizeof work, "%zu prompt tokens%s; %zu generated%s", totals->prompt_tokens,
            prefill, totals->generated_tokens, decode);
    log_write(LOG_INFO,
        "%s; %zu rank%s x %zu thread%s, %s %s; memory per rank at most %.0f MiB (weights %.0f)",
        work, info->ranks, plural(info->ranks), info->threads, plural(info->threads),
        modes[options->dtype], info->isa, peak_mib, weights_mib);
}

int session_close(session_t *session, fail_t *fail)
{
    comm_t *comm = session->invocation->comm;
    if (session->engine == NULL)
        return comm_agree(comm, fail);
    engine_info_t info = engine_info(session->engine);
    engine_totals_t totals = engine_totals(session->engine);
    signals_remove();
    if (session->coordinates)
        engine_end(session->engine, fail);
    engine_close(session->engine);
    session->engine = NULL;
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    int64_t peak = comm_max(comm, (int64_t)info.peak_bytes);
    int64_t weights = comm_max(comm, (int64_t)info.weight_bytes);
    if (session->coordinates && info.ranks > 1 && !session->invocation->options.quiet)
        output_let_through();
    report(
        &session->invocation->options, &info, &totals, (double)peak / MIB, (double)weights / MIB);
    return 0;
}

/* ---- Requests -------------------------------------------------------------------------------- */

/* --sample: what no flag gives, the checkpoint does. */
static void use_recommended(const args_given_t *given, const config_generation_t *generation,
    sampler_params_t *params, fail_t *fail)
{
    size_t top_k = params->top_k;
    if (!args_was_given(given, "--temperature"))
        config_use_temperature(generation, &params->temperature, fail);
    if (!args_was_given(given, "--top-p"))
        config_use_top_p(generation, &params->top_p, fail);
    if (!args_was_given(given, "--min-p"))
        config_use_min_p(generation, &params->min_p, fail);
    if (!args_was_given(given, "--top-k"))
        config_use_top_k(generation, &top_k, fail);
    if (!args_was_given(given, "--repetition-penalty"))
        config_use_penalty(generation, &params->repetition_penalty, fail);
    params->top_k = (uint32_t)top_k;
}

sampler_params_t session_sampling(const session_t *session, uint64_t request, fail_t *fail)
{
    const invocation_t *invocation = session->invocation;
    const options_t *options = &invocation->options;
    const args_given_t *given = &invocation->given;
    sampler_params_t params = {
        .temperature = options->temperature,
        .top_p = options->top_p,
        .min_p = options->min_p,
        .repetition_penalty = options->repetition_penalty,
        .top_k = (uint32_t)options->top_k,
        .n_logprobs = (uint32_t)options->logprobs,
        .want_logprob = args_was_given(given, "--logprobs"),
        .seed = options->seed,
        .request = request,
    };
    if (options->sample)
        use_recommended(given, &engine_info(session->engine).config->generation, &params, fail);
    return params;
}

int session_answer(const session_t *session, uint64_t request, json_t *line,
    request_fields_t *fields, fail_t *fail)
{
    const options_t *options = &session->invocation->options;
    char name[64];
    *fields = (request_fields_t){.sampling = session_sampling(session, request, fail),
        .max_tokens = options->max_tokens,
        .ignore_eos = options->ignore_eos,
        .stops = options->stop};
    snprintf(name, sizeof name, "prompt %zu", (size_t)request + 1);
    if (fail->status == 0 && line != NULL)
        request_fields_read(line, name, fields, fail);
    return fail->status;
}

size_t session_stop_ids(const session_t *session, bool ignore_eos, int32_t chat_end, int32_t *ids)
{
    if (ignore_eos)
        return 0;
    const config_generation_t *generation = &engine_info(session->engine).config->generation;
    size_t n = generation->n_stop_ids;
    memcpy(ids, generation->stop_ids, n * sizeof *ids);
    if (chat_end >= 0)
        ids[n++] = chat_end;
    return n;
}
