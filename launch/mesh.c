#include "launch/mesh.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "engine/base/size.h"
#include "launch/engine_flags.h"
#include "launch/model_dir.h"
#include "launch/output.h"
#include "launch/signals.h"

#define MIB 1048576.0

int mesh_parse(const char *text, size_t ranks, size_t *n_replicas, fail_t *fail)
{
    *n_replicas = 1;
    if (text == NULL)
        return 0;
    char *end, *last;
    unsigned long long replicas = strtoull(text, &end, 10);
    unsigned long long each = *end == 'x' ? strtoull(end + 1, &last, 10) : 0;
    if (end == text || *end != 'x' || last == end + 1 || *last != 0 || text[0] == '-' ||
        end[1] == '-' || replicas < 1 || each < 1 || replicas > 65536 || each > 65536)
        return fail_set(fail, FAIL_USAGE,
            "--mesh: expected replicas x ranks of each, as in 2x4, found \"%.40s\"", text);
    if (replicas * each != ranks)
        return fail_set(fail, FAIL_USAGE, "--mesh: %s takes %llu ranks, this run has %zu", text,
            replicas * each, ranks);
    *n_replicas = (size_t)replicas;
    return 0;
}

/* Local. */
static int open_tokenizer(mesh_t *mesh, const mesh_options_t *options, fail_t *fail)
{
    mesh->tokenizer = options->tokenizer;
    if (mesh->tokenizer != NULL || !fleet_leads(mesh->comm, mesh->n_replicas) ||
        (mesh->coordinates && !options->needs_tokenizer))
        return 0;
    tokenizer_open(&mesh->own, options->directory, fail);
    mesh->tokenizer = mesh->own;
    return fail->status;
}

/* Local. The drafts of a model mean the same to the other one: both have the same tokens. */
static int check_draft_tokens(const mesh_t *mesh, const char *directory, fail_t *fail)
{
    tokenizer_t *own = NULL, *drafts = NULL;
    if (!mesh->coordinates)
        return 0;
    if (mesh->tokenizer == NULL)
        tokenizer_open(&own, directory, fail);
    if (fail->status == 0 && tokenizer_open(&drafts, mesh->draft_dir, fail) == 0)
        tokenizer_check_same(
            mesh->tokenizer != NULL ? mesh->tokenizer : own, drafts, "--speculate", fail);
    tokenizer_close(own);
    tokenizer_close(drafts);
    return fail->status;
}

/* Collective. */
static int find_draft_model(mesh_t *mesh, const mesh_options_t *options, fail_t *fail)
{
    const char *directory = mesh->run->speculate;
    if (!flags_model_drafts(mesh->run))
        return 0;
    if (mesh->coordinates && strchr(directory, '/') == NULL && access(directory, F_OK) != 0)
        fail_set(fail, FAIL_USAGE,
            "--speculate: expected ngram, off or the directory of a model, found \"%.80s\"",
            directory);
    if (comm_agree(mesh->comm, fail) != 0)
        return fail->status;
    if (model_dir_resolve(mesh->comm, "--speculate", &directory, mesh->draft_dir,
            sizeof mesh->draft_dir, fail) != 0)
        return fail->status;
    check_draft_tokens(mesh, options->directory, fail);
    return comm_agree(mesh->comm, fail);
}

static void tell_loading(const mesh_t *mesh, const char *directory)
{
    engine_info_t info = mesh_info(mesh);
    log_write(LOG_DEBUG, "loaded %s in %.2f s, %.1f MiB read by rank 0; KV cache of %zu tokens",
        directory, (double)info.load_ns * 1e-9, (double)info.bytes_read / MIB, info.kv_tokens);
}

int mesh_open(mesh_t *mesh, const invocation_t *invocation, const run_flags_t *run,
    const mesh_options_t *options, fail_t *fail)
{
    comm_t *comm = invocation->comm;
    *mesh = (mesh_t){.comm = comm,
        .common = invocation->common,
        .run = run,
        .coordinates = comm_rank(comm) == 0};
    if (mesh_parse(run->mesh, (size_t)comm_size(comm), &mesh->n_replicas, fail) == 0)
        open_tokenizer(mesh, options, fail);
    if (comm_agree(comm, fail) != 0 || find_draft_model(mesh, options, fail) != 0)
        return fail->status;
    mesh->ranks_each = (size_t)comm_size(comm) / mesh->n_replicas;
    fleet_options_t fleet = {.replica = {.engine = engine_flags_options(run, options->directory,
                                             options->n_sequences, options->logits_rows),
                                 .n_replicas = mesh->n_replicas,
                                 .own_weights = run->own_weights,
                                 .path = mesh->common->path},
        .tokenizer = mesh->tokenizer,
        .follows_prefixes = options->follows_prefixes};
    fleet.replica.engine.draft_dir = mesh->draft_dir;
    progress_t progress;
    fleet.replica.engine.digests_weights = options->digests_weights;
    engine_flags_show_loading(&progress, comm, mesh->common, &fleet.replica.engine);
    fleet_open(&mesh->fleet, comm, &fleet, fail);
    progress_close(&progress);
    if (fail->status != 0)
        return fail->status;
    signals_install(mesh_engine(mesh));
    tell_loading(mesh, options->directory);
    return 0;
}

engine_t *mesh_engine(const mesh_t *mesh)
{
    return fleet_engine(mesh->fleet);
}

engine_info_t mesh_info(const mesh_t *mesh)
{
    return engine_info(fleet_engine(mesh->fleet));
}

void mesh_warn_sampling(const mesh_t *mesh, bool sample)
{
    const char *unread = mesh_info(mesh).config->generation.unread;
    if (sample && unread[0] != 0)
        log_write(LOG_WARN,
            "generation_config.json: %s: not implemented; answers are drawn without", unread);
}

/* ---- Closing --------------------------------------------------------------------------------- */

int mesh_close(mesh_t *mesh, fail_t *fail)
{
    if (mesh->fleet != NULL) {
        signals_remove();
        if (mesh->coordinates)
            fleet_end(mesh->fleet, fail);
        fleet_close(mesh->fleet);
    }
    tokenizer_close(mesh->own);
    mesh->fleet = NULL;
    mesh->own = NULL;
    mesh->tokenizer = NULL;
    return comm_agree(mesh->comm, fail);
}

/* Before the closing line. */
static void let_through(const mesh_t *mesh)
{
    if (mesh->n_replicas * mesh->ranks_each > 1 && !mesh->common->quiet)
        output_let_through();
}

/* ", decode 12.3/s", or nothing where no time was spent on it. */
static void describe_step_rate(
    char *text, size_t bytes, const char *what, size_t tokens, uint64_t ns)
{
    text[0] = 0;
    if (tokens > 0 && ns > 0)
        snprintf(text, bytes, ", %s %.1f/s", what, (double)tokens * 1e9 / (double)ns);
}

/* "; 1.40 tokens a pass, 60% of 120 drafted tokens accepted, 0.5 s saved", or nothing where nothing
 * was drafted. */
static void describe_drafts(char *text, size_t bytes, const engine_totals_t *totals)
{
    text[0] = 0;
    if (totals->drafted_tokens > 0)
        snprintf(text, bytes,
            "; %.2f tokens a pass, %.0f%% of %zu drafted token%s accepted, about %.2f s saved",
            (double)totals->pass_tokens / (double)totals->passes,
            100 * (double)totals->accepted_tokens / (double)totals->drafted_tokens,
            totals->drafted_tokens, plural(totals->drafted_tokens),
            (double)totals->saved_ns * 1e-9);
}

/* Rates are those of the tokens that a step is for: a prompt's in steps with prompt rows, drawn
 * ones in steps without. The first token of an answer is drawn in a step of the former kind. */
static void report_steps(
    const engine_info_t *info, const engine_totals_t *totals, double peak_mib, double weights_mib)
{
    char prefill[64], decode[64], drafts[160], work[384] = "no prompt was computed";
    describe_drafts(drafts, sizeof drafts, totals);
    describe_step_rate(
        prefill, sizeof prefill, "prefill", totals->prompt_tokens, totals->prefill_ns);
    describe_step_rate(decode, sizeof decode, "decode", totals->decode_tokens, totals->decode_ns);
    if (totals->prompt_tokens > 0)
        snprintf(work, sizeof work, "%zu prompt tokens%s; %zu generated%s%s", totals->prompt_tokens,
            prefill, totals->generated_tokens, decode, drafts);
    log_write(LOG_INFO,
        "%s; %zu rank%s x %zu thread%s, %s %s; memory per rank at most %.0f MiB (weights %.0f)",
        work, info->ranks, plural(info->ranks), info->threads, plural(info->threads),
        dtype_name(info->mode), info->isa, peak_mib, weights_mib);
}

int mesh_close_and_tell(mesh_t *mesh, fail_t *fail)
{
    if (mesh->fleet == NULL)
        return mesh_close(mesh, fail);
    engine_info_t info = mesh_info(mesh);
    engine_totals_t totals = engine_totals(mesh_engine(mesh));
    if (mesh_close(mesh, fail) != 0)
        return fail->status;
    int64_t peak = comm_max(mesh->comm, (int64_t)info.peak_bytes);
    int64_t weights = comm_max(mesh->comm, (int64_t)info.weight_bytes);
    if (mesh->coordinates)
        let_through(mesh);
    report_steps(&info, &totals, (double)peak / MIB, (double)weights / MIB);
    return 0;
}

/* " (12.3/s)", or nothing where there is nothing to divide. */
static void describe_rate(char *text, size_t bytes, size_t tokens, double seconds)
{
    text[0] = 0;
    if (tokens > 0 && seconds > 0)
        snprintf(text, bytes, " (%.1f/s)", (double)tokens / seconds);
}

double mesh_lost(const fleet_stats_t *stats, size_t n_replicas, double seconds)
{
    double tail = 0;
    /* A replica without a job has waited since before the work began. */
    for (size_t r = 0; r < n_replicas; r++)
        tail += fmin((double)stats[r].tail_ns * 1e-9, seconds);
    return seconds > 0 ? tail / seconds / (double)n_replicas : 0;
}

static void add_totals(engine_totals_t *sum, const engine_totals_t *totals)
{
    sum->prompt_tokens += totals->prompt_tokens;
    sum->generated_tokens += totals->generated_tokens;
    sum->reused_tokens += totals->reused_tokens;
    sum->passes += totals->passes;
    sum->pass_tokens += totals->pass_tokens;
    sum->drafted_tokens += totals->drafted_tokens;
    sum->accepted_tokens += totals->accepted_tokens;
    sum->saved_ns += totals->saved_ns;
}

void mesh_report(const mesh_t *mesh, double seconds, bool waits_for_end)
{
    const fleet_stats_t *stats = fleet_stats(mesh->fleet);
    engine_totals_t sums = {0};
    size_t peak = 0, weights = 0, sharers = 1;
    double idle = 0, tail = 0;
    char computed_rate[32], generated_rate[32], drafts[160], lost[64] = "";
    for (size_t r = 0; r < mesh->n_replicas; r++) {
        add_totals(&sums, &stats[r].totals);
        peak = size_max(peak, stats[r].peak_bytes);
        weights = size_max(weights, stats[r].weight_bytes);
        sharers = size_max(sharers, stats[r].n_weight_sharers);
        idle += (double)stats[r].idle_ns * 1e-9;
        tail += (double)stats[r].tail_ns * 1e-9;
    }
    describe_rate(computed_rate, sizeof computed_rate, sums.prompt_tokens, seconds);
    describe_rate(generated_rate, sizeof generated_rate, sums.generated_tokens, seconds);
    describe_drafts(drafts, sizeof drafts, &sums);
    let_through(mesh);
    if (waits_for_end && mesh->n_replicas > 1 && seconds > 0)
        snprintf(lost, sizeof lost, ", %.1f%% of their time lost waiting at the end",
            100 * mesh_lost(stats, mesh->n_replicas, seconds));
    log_write(LOG_INFO,
        "%zu prompt tokens computed%s and %zu reused, %zu generated%s in %.2f s%s; %zu replica%s x %zu rank%s%s; memory per rank at most %.0f MiB (weights %.0f)",
        sums.prompt_tokens, computed_rate, sums.reused_tokens, sums.generated_tokens,
        generated_rate, seconds, drafts, mesh->n_replicas, plural(mesh->n_replicas),
        mesh->ranks_each, plural(mesh->ranks_each), lost, (double)peak / MIB,
        (double)weights / MIB);
    if (sharers > 1)
        log_write(LOG_INFO,
            "one copy of the weights for up to %zu replicas of a node, counted in the memory of each (--own-weights: separate copies)",
            sharers);
    log_write(
        LOG_DEBUG, "replicas were idle for %.3f s in all, %.3f s of it at the end", idle, tail);
}
