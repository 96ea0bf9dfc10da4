/* Counters and histograms of a server, in Prometheus's text form; names as vLLM's with the prefix choir.
 * Plain data under its owner's lock. */
#ifndef CHOIR_SERVE_METRICS_H
#define CHOIR_SERVE_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/text/text_buffer.h"

#define METRICS_BUCKETS 19

typedef struct histogram {
    uint64_t counts[METRICS_BUCKETS + 1]; /* the last one: above all bounds */
    double sum;
} histogram_t;

typedef enum metrics_end {
    METRICS_STOP,
    METRICS_LENGTH,
    METRICS_ABORT,
    METRICS_ERROR
} metrics_end_t;
#define METRICS_ENDS 4

typedef struct metrics {
    uint64_t prompt_tokens, generation_tokens;
    uint64_t ended[METRICS_ENDS];                                        /* answers, by why */
    histogram_t first_token, inter_token, whole, queue, prefill, decode; /* in seconds */
} metrics_t;

void histogram_add(histogram_t *histogram, double seconds);

/* A family of numbers: its comments, then its lines. labels: "model_name=\"x\"". */
void metrics_family(text_buffer_t *out, const char *name, const char *type, const char *help);
void metrics_line(text_buffer_t *out, const char *name, const char *labels, double value);
/* All of metrics. */
void metrics_write(text_buffer_t *out, const metrics_t *metrics, const char *labels);

#endif
