/* /metrics, and what requests add to it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/serve/server_internal.h"

#define NS 1e-9
#define LABELS_BYTES 384

static double since(uint64_t begin, uint64_t end)
{
    return end > begin ? (double)(end - begin) * NS : 0;
}

void server_count_token(server_t *server, part_t *part, uint64_t now)
{
    if (part->last_ns != 0)
        histogram_add(&server->metrics.inter_token, since(part->last_ns, now));
    part->last_ns = now;
}

void server_count_answer(server_t *server, const part_t *part, uint64_t now)
{
    const ask_t *ask = part->ask;
    const fleet_result_t *result = &part->result;
    metrics_t *m = &server->metrics;
    uint64_t first = ask->begun_ns + result->first_ns;
    bool cancelled = ask->cancelled || result->finish == ENGINE_CANCELLED;
    metrics_end_t end = ask->error.status != 0          ? METRICS_ERROR
                        : cancelled                     ? METRICS_ABORT
                        : result->finish == ENGINE_STOP ? METRICS_STOP
                                                        : METRICS_LENGTH;
    m->ended[end]++;
    m->generation_tokens += result->n_tokens;
    m->prompt_tokens += ask->prompts[part->prompt].count;
    if (cancelled || result->n_tokens == 0)
        return;
    histogram_add(&m->queue, since(ask->arrived_ns, ask->begun_ns));
    histogram_add(&m->first_token, since(ask->arrived_ns, first));
    histogram_add(&m->prefill, since(ask->begun_ns, first));
    histogram_add(&m->decode, since(first, now));
    histogram_add(&m->whole, since(ask->arrived_ns, now));
}

/* ---- What the engine says of itself ---------------------------------------------------------- */

void server_take_figures(server_t *server)
{
    fleet_t *fleet = server->model.fleet;
    pthread_mutex_lock(&server->lock);
    for (size_t r = 0; r < server->n_replicas; r++)
        server->figures[r] = fleet_figures(fleet, r);
    for (size_t r = 0; r < server->n_ranks; r++)
        server->rank_times[r] = fleet_rank_times(fleet, r);
    pthread_mutex_unlock(&server->lock);
}

static scheduler_figures_t sum_figures(const server_t *server)
{
    scheduler_figures_t sum = {0};
    for (size_t r = 0; r < server->n_replicas; r++) {
        const scheduler_figures_t *f = &server->figures[r];
        sum.n_waiting += f->n_waiting;
        sum.n_running += f->n_running;
        sum.n_blocks += f->n_blocks;
        sum.n_used_blocks += f->n_used_blocks;
        sum.queried_tokens += f->queried_tokens;
        sum.reused_tokens += f->reused_tokens;
    }
    return sum;
}

static double usage(const scheduler_figures_t *f)
{
    return f->n_blocks > 0 ? (double)f->n_used_blocks / (double)f->n_blocks : 0;
}

static void write_figures(const server_t *server, text_buffer_t *out, const char *labels)
{
    static const struct {
        const char *name, *type, *help;
    } families[] = {
        {"num_requests_running", "gauge", "Answers that are being made."},
        {"num_requests_waiting", "gauge", "Answers that wait for a place."},
        {"kv_cache_usage_perc", "gauge", "Share of the cache's blocks that answers hold, 0 to 1."},
        {"prefix_cache_queries_total", "counter", "Tokens of prompts looked up in the cache."},
        {"prefix_cache_hits_total", "counter", "Tokens of prompts found in it."},
    };
    const scheduler_figures_t f = sum_figures(server);
    const double values[] = {(double)f.n_running, (double)(f.n_waiting + server->n_queued),
        usage(&f), (double)f.queried_tokens, (double)f.reused_tokens};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        metrics_family(out, families[i].name, families[i].type, families[i].help);
        metrics_line(out, families[i].name, labels, values[i]);
    }
}

static void write_ranks(const server_t *server, text_buffer_t *out, const char *labels)
{
    static const char *const kinds[] = {"compute", "exchange", "waiting"};
    metrics_family(out, "rank_seconds_total", "counter",
        "Time of a rank's steps, its own work, messages, and waiting for the next step.");
    for (size_t r = 0; r < server->n_ranks; r++) {
        const rank_times_t *t = &server->rank_times[r];
        const uint64_t ns[] = {t->compute_ns, t->exchange_ns, t->waiting_ns};
        for (size_t k = 0; k < 3; k++) {
            char all[LABELS_BYTES + 64];
            snprintf(all, sizeof all, "%s,rank=\"%zu\",kind=\"%s\"", labels, r, kinds[k]);
            metrics_line(out, "rank_seconds_total", all, (double)ns[k] * NS);
        }
    }
}

void server_write_metrics(server_t *server, text_buffer_t *out)
{
    char labels[LABELS_BYTES], name[256];
    size_t n = 0;
    /* A label's value may hold neither quotes nor backslashes as they are. */
    for (const char *c = server->options.model; *c != 0 && n + 1 < sizeof name; c++)
        name[n++] = *c == '"' || *c == '\\' || *c == '\n' ? '_' : *c;
    name[n] = 0;
    snprintf(labels, sizeof labels, "model_name=\"%s\"", name);
    pthread_mutex_lock(&server->lock);
    write_figures(server, out, labels);
    metrics_write(out, &server->metrics, labels);
    write_ranks(server, out, labels);
    pthread_mutex_unlock(&server->lock);
}

/* ---- For the page ---------------------------------------------------------------------------- */

json_t *server_stats_json(server_t *server)
{
    json_t *ranks = json_array();
    pthread_mutex_lock(&server->lock);
    const scheduler_figures_t f = sum_figures(server);
    for (size_t r = 0; r < server->n_ranks; r++) {
        const rank_times_t *t = &server->rank_times[r];
        json_array_append_new(ranks, json_pack("[f, f, f]", (double)t->compute_ns * NS,
                                         (double)t->exchange_ns * NS, (double)t->waiting_ns * NS));
    }
    json_t *value = json_pack("{s:f, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:o}", "time",
        (double)clock_ns() * NS, "running", (json_int_t)f.n_running, "waiting",
        (json_int_t)(f.n_waiting + server->n_queued), "kv_usage", usage(&f), "prefix_queries",
        (json_int_t)f.queried_tokens, "prefix_hits", (json_int_t)f.reused_tokens, "prompt_tokens",
        (json_int_t)server->metrics.prompt_tokens, "generation_tokens",
        (json_int_t)(server->metrics.generation_tokens + server->n_streaming_tokens), "ranks",
        ranks);
    pthread_mutex_unlock(&server->lock);
    return value;
}
