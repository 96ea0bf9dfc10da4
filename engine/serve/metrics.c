#include "engine/serve/metrics.h"

#include <stdio.h>
#include <string.h>

static const double bounds[METRICS_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000};

void histogram_add(histogram_t *h, double seconds)
{
    size_t i = 0;
    while (i < METRICS_BUCKETS && seconds > bounds[i])
        i++;
    h->counts[i]++;
    h->sum += seconds;
}

static void append(text_buffer_t *out, const char *text)
{
    fail_t fail = {0};
    text_buffer_append(out, text, strlen(text), &fail);
}

void metrics_family(text_buffer_t *out, const char *name, const char *type, const char *help)
{
    char text[512];
    snprintf(text, sizeof text, "# HELP choir:%s %s\n# TYPE choir:%s %s\n", name, help, name, type);
    append(out, text);
}

void metrics_line(text_buffer_t *out, const char *name, const char *labels, double value)
{
    char text[1024];
    snprintf(text, sizeof text, "choir:%s{%s} %.17g\n", name, labels, value);
    append(out, text);
}

static void write_histogram(text_buffer_t *out, const histogram_t *h, const char *name,
    const char *help, const char *labels)
{
    char line[128], all[512];
    uint64_t total = 0;
    metrics_family(out, name, "histogram", help);
    snprintf(line, sizeof line, "%s_bucket", name);
    for (size_t i = 0; i <= METRICS_BUCKETS; i++) {
        total += h->counts[i];
        if (i < METRICS_BUCKETS)
            snprintf(all, sizeof all, "%s,le=\"%g\"", labels, bounds[i]);
        else
            snprintf(all, sizeof all, "%s,le=\"+Inf\"", labels);
        metrics_line(out, line, all, (double)total);
    }
    snprintf(line, sizeof line, "%s_sum", name);
    metrics_line(out, line, labels, h->sum);
    snprintf(line, sizeof line, "%s_count", name);
    metrics_line(out, line, labels, (double)total);
}

void metrics_write(text_buffer_t *out, const metrics_t *m, const char *labels)
{
    static const char *const ends[METRICS_ENDS] = {"stop", "length", "abort", "error"};
    char all[512];
    metrics_family(out, "prompt_tokens_total", "counter", "Tokens of prompts.");
    metrics_line(out, "prompt_tokens_total", labels, (double)m->prompt_tokens);
    metrics_family(out, "generation_tokens_total", "counter", "Tokens of answers.");
    metrics_line(out, "generation_tokens_total", labels, (double)m->generation_tokens);
    metrics_family(out, "request_success_total", "counter", "Answers, by why they ended.");
    for (size_t i = 0; i < METRICS_ENDS; i++) {
        snprintf(all, sizeof all, "%s,finished_reason=\"%s\"", labels, ends[i]);
        metrics_line(out, "request_success_total", all, (double)m->ended[i]);
    }
    write_histogram(out, &m->first_token, "time_to_first_token_seconds",
        "From a request's arrival to its first token.", labels);
    write_histogram(out, &m->inter_token, "inter_token_latency_seconds",
        "Between two tokens of a streamed answer.", labels);
    write_histogram(out, &m->whole, "e2e_request_latency_seconds",
        "From a request's arrival to the end of its answer.", labels);
    write_histogram(out, &m->queue, "request_queue_time_seconds",
        "From a request's arrival until it went to the engine.", labels);
    write_histogram(
        out, &m->prefill, "request_prefill_time_seconds", "From there to its first token.", labels);
    write_histogram(
        out, &m->decode, "request_decode_time_seconds", "From its first token to the end.", labels);
}
