/* Requests, events and results of a fleet as bytes: native structs, then what they point to. */
#include <stdlib.h>
#include <string.h>

#include "engine/run/fleet_internal.h"

typedef struct wire_request {
    uint64_t job;
    request_t request; /* without its pointers */
} wire_request_t;

typedef struct wire_event {
    uint64_t job, text_bytes;
    sampler_choice_t choice;
} wire_event_t;

typedef struct wire_result {
    fleet_result_t result; /* without its pointers */
    bool has_choices, has_text;
} wire_result_t;

static char *put(char *at, const void *data, size_t bytes)
{
    if (bytes > 0)
        memcpy(at, data, bytes);
    return at + bytes;
}

/* ---- Requests -------------------------------------------------------------------------------- */

size_t runner_request_bytes(const request_t *request)
{
    size_t bytes = sizeof(wire_request_t) + request->n_bias * sizeof(sampler_bias_t) +
                   (request->n_prompt + request->n_stop_ids) * sizeof(int32_t);
    for (size_t i = 0; i < request->n_stops; i++)
        bytes += strlen(request->stops[i]) + 1;
    return bytes;
}

void runner_write_request(const request_t *request, uint64_t job, char *bytes)
{
    wire_request_t wire = {.job = job, .request = *request};
    wire.request.prompt_ids = wire.request.stop_ids = NULL;
    wire.request.stops = NULL;
    wire.request.bias = NULL;
    char *at = put(bytes, &wire, sizeof wire);
    at = put(at, request->bias, request->n_bias * sizeof(sampler_bias_t));
    at = put(at, request->prompt_ids, request->n_prompt * sizeof(int32_t));
    at = put(at, request->stop_ids, request->n_stop_ids * sizeof(int32_t));
    for (size_t i = 0; i < request->n_stops; i++)
        at = put(at, request->stops[i], strlen(request->stops[i]) + 1);
}

request_t runner_read_request(const char *bytes, uint64_t *job, const char **stops)
{
    wire_request_t wire;
    memcpy(&wire, bytes, sizeof wire);
    request_t request = wire.request;
    request.bias = (const sampler_bias_t *)(bytes + sizeof wire);
    request.prompt_ids = (const int32_t *)(request.bias + request.n_bias);
    request.stop_ids = request.prompt_ids + request.n_prompt;
    *stops = (const char *)(request.stop_ids + request.n_stop_ids);
    *job = wire.job;
    return request;
}

/* ---- Events ---------------------------------------------------------------------------------- */

/* Whole multiples, so that one event after another is aligned. */
size_t runner_event_bytes(const fleet_event_t *event)
{
    size_t align = _Alignof(wire_event_t);
    return sizeof(wire_event_t) + (event->text_bytes + align - 1) / align * align;
}

void runner_write_event(const fleet_event_t *event, char *bytes)
{
    const wire_event_t wire = {
        .job = event->job, .text_bytes = event->text_bytes, .choice = *event->choice};
    put(put(bytes, &wire, sizeof wire), event->text, event->text_bytes);
}

fleet_event_t runner_read_event(const char *bytes)
{
    const wire_event_t *wire = (const wire_event_t *)bytes;
    return (fleet_event_t){.job = wire->job,
        .choice = &wire->choice,
        .text = bytes + sizeof *wire,
        .text_bytes = wire->text_bytes};
}

/* ---- Results --------------------------------------------------------------------------------- */

char *runner_write_result(const fleet_result_t *result, size_t *n_bytes)
{
    wire_result_t wire = {.result = *result,
        .has_choices = result->choices != NULL,
        .has_text = result->text != NULL};
    size_t n = result->n_tokens, logprobs = n * sizeof(double), tokens = n * sizeof(int32_t);
    size_t choices = wire.has_choices ? n * sizeof *result->choices : 0;
    size_t text = wire.has_text ? result->text_bytes : 0, message = strlen(result->message) + 1;
    size_t bytes = sizeof wire + logprobs + choices + tokens + text + 1 + message;
    char *all = n_bytes == NULL ? NULL : malloc(bytes);
    if (all == NULL)
        return NULL;
    char *at = put(all, &wire, sizeof wire);
    at = put(at, result->logprobs, logprobs);
    at = put(at, result->choices, choices);
    at = put(at, result->tokens, tokens);
    at = put(at, result->text, text);
    at = put(at, "", 1);
    put(at, result->message, message);
    *n_bytes = bytes;
    return all;
}

fleet_result_t runner_read_result(const char *bytes)
{
    const wire_result_t *wire = (const wire_result_t *)bytes;
    fleet_result_t result = wire->result;
    size_t n = result.n_tokens;
    const char *at = bytes + sizeof *wire;
    result.logprobs = (const double *)at;
    at += n * sizeof(double);
    result.choices = wire->has_choices ? (const sampler_choice_t *)at : NULL;
    at += wire->has_choices ? n * sizeof *result.choices : 0;
    result.tokens = (const int32_t *)at;
    at += n * sizeof(int32_t);
    result.text = wire->has_text ? at : NULL;
    at += (wire->has_text ? result.text_bytes : 0) + 1;
    result.message = at;
    return result;
}

/* ---- Figures --------------------------------------------------------------------------------- */

char *runner_write_figures(const engine_t *engine, size_t n_ranks, size_t *n_bytes)
{
    const scheduler_figures_t figures = engine_figures(engine);
    *n_bytes = sizeof figures + n_ranks * sizeof(rank_times_t);
    char *bytes = malloc(*n_bytes), *at = bytes;
    if (bytes == NULL)
        return NULL;
    at = put(at, &figures, sizeof figures);
    for (size_t r = 0; r < n_ranks; r++) {
        const rank_times_t times = engine_rank_times(engine, r);
        at = put(at, &times, sizeof times);
    }
    return bytes;
}

void runner_read_figures(
    const char *bytes, size_t n_ranks, scheduler_figures_t *figures, rank_times_t *times)
{
    memcpy(figures, bytes, sizeof *figures);
    memcpy(times, bytes + sizeof *figures, n_ranks * sizeof *times);
}
