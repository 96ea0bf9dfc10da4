#include "launch/mesh.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/size.h"
#include "launch/output.h"
#include "launch/prompts.h"
#include "launch/session.h"
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

int mesh_open(mesh_t *mesh, invocation_t *invocation, const char *directory, size_t n_sequences,
    size_t logits_rows, fail_t *fail)
{
    comm_t *comm = invocation->comm;
    const options_t *flags = &invocation->options;
    *mesh = (mesh_t){.invocation = invocation, .coordinates = comm_rank(comm) == 0};
    mesh_parse(flags->mesh, (size_t)comm_size(comm), &mesh->n_replicas, fail);
    if (fail->status == 0 && fleet_leads(comm, mesh->n_replicas))
        prompts_open_tokenizer(&mesh->tokenizer, directory, fail);
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    mesh->ranks_each = (size_t)comm_size(comm) / mesh->n_replicas;
    fleet_options_t options = {
        .engine = session_engine_options(flags, directory, n_sequences, logits_rows),
        .n_replicas = mesh->n_replicas,
        .own_weights = flags->own_weights,
        .path = flags->comm == 0 ? COMM_AUTO : COMM_MPI,
        .tokenizer = mesh->tokenizer};
    progress_t progress;
    session_show_loading(&progress, invocation, &options.engine);
    fleet_open(&mesh->fleet, comm, &options, fail);
    progress_close(&progress);
    if (fail->status != 0)
        return fail->status;
    signals_install(fleet_engine(mesh->fleet));
    return 0;
}

const fleet_stats_t *mesh_end(mesh_t *mesh, const fail_t *fail)
{
    fleet_end(mesh->fleet, fail);
    return fleet_stats(mesh->fleet);
}

int mesh_close(mesh_t *mesh, fail_t *fail)
{
    if (mesh->fleet != NULL) {
        signals_remove();
        if (mesh->coordinates)
            fleet_end(mesh->fleet, fail);
        fleet_close(mesh->fleet);
    }
    tokenizer_close(mesh->tokenizer);
    mesh->fleet = NULL;
    mesh->tokenizer = NULL;
    return comm_agree(mesh->invocation->comm, fail);
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
    /* A replica without a job has been waiting since before the work began. */
    for (size_t r = 0; r < n_replicas; r++)
        tail += fmin((double)stats[r].tail_ns * 1e-9, seconds);
    return seconds > 0 ? tail / seconds / (double)n_replicas : 0;
}

void mesh_report(const mesh_t *mesh, const fleet_stats_t *stats, double seconds, bool waits_for_end)
{
    size_t prompt = 0, generated = 0, reused = 0, peak = 0, weights = 0, sharers = 1;
    double idle = 0, tail = 0;
    char computed_rate[32], generated_rate[32], lost[64] = "";
    for (size_t r = 0; r < mesh->n_replicas; r++) {
        prompt += stats[r].totals.prompt_tokens;
        generated += stats[r].totals.generated_tokens;
        reused += stats[r].totals.reused_tokens;
        peak = size_max(peak, stats[r].peak_bytes);
        weights = size_max(weights, stats[r].weight_bytes);
        sharers = size_max(sharers, stats[r].weight_sharers);
        idle += (double)stats[r].idle_ns * 1e-9;
        tail += (double)stats[r].tail_ns * 1e-9;
    }
    describe_rate(computed_rate, sizeof computed_rate, prompt, seconds);
    describe_rate(generated_rate, sizeof generated_rate, generated, seconds);
    if (mesh->n_replicas * mesh->ranks_each > 1 && !mesh->invocation->options.quiet)
        output_let_through();
    if (waits_for_end && mesh->n_replicas > 1 && seconds > 0)
        snprintf(lost, sizeof lost, ", %.1f%% of their time lost waiting at the end",
            100 * mesh_lost(stats, mesh->n_replicas, seconds));
    log_write(LOG_INFO,
        "%zu prompt tokens computed%s and %zu reused, %zu generated%s in %.2f s; %zu replica%s x %zu rank%s%s; memory per rank at most %.0f MiB (weights %.0f)",
        prompt, computed_rate, reused, generated, generated_rate, seconds, mesh->n_replicas,
        plural(mesh->n_replicas), mesh->ranks_each, plural(mesh->ranks_each), lost,
        (double)peak / MIB, (double)weights / MIB);
    if (sharers > 1)
        log_write(LOG_INFO,
            "one copy of the weights for up to %zu replicas of a node, counted in the memory of each (--own-weights: a copy each)",
            sharers);
    log_write(
        LOG_DEBUG, "replicas were idle for %.3f s in all, %.3f s of it at the end", idle, tail);
}

size_t mesh_stop_ids(const mesh_t *mesh, int32_t chat_end, int32_t *ids)
{
    const config_generation_t *generation =
        &engine_info(fleet_engine(mesh->fleet)).config->generation;
    size_t n = generation->n_stop_ids;
    memcpy(ids, generation->stop_ids, n * sizeof *ids);
    if (chat_end >= 0)
        ids[n++] = chat_end;
    return n;
}
