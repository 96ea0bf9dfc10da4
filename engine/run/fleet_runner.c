#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/fleet_internal.h"

typedef struct wire_job {
    uint64_t handle;
    uint64_t n_ids, n_scored, max_tokens, n_stop_ids, n_stops, stop_bytes;
    sampler_params_t sampling;
} wire_job_t;

typedef struct wire_result {
    uint64_t job, n_tokens, digest;
    uint64_t first_ns, total_ns;
    int32_t status, finish;
} wire_result_t;

/* A job from its arrival to its result. */
typedef struct active {
    struct active *next;
    uint64_t job, request;
    size_t n_ids, n_scored;
    int32_t *ids; /* [n_ids] when scoring */
    char *stops;  /* [n_stops] texts with their zeros */
    size_t n_stops;
    int32_t *tokens;  /* [n_tokens] */
    double *logprobs; /* [n_tokens] */
    size_t n_tokens, capacity;
    uint64_t digest;
    detokenizer_t detokenizer;
    text_buffer_t text;
    uint64_t begin_ns, first_ns;
} active_t;

/* A result that nobody has taken yet. */
typedef struct given {
    struct given *next;
    char *bytes;
    size_t n_bytes;
} given_t;

struct runner {
    engine_t *engine;
    const tokenizer_t *tokenizer;
    size_t vocab_size;
    bool is_f64;
    active_t *active;
    size_t n_active, n_done;
    given_t *first, *last;
    size_t n_threads;
    char *summaries; /* [n_threads] of a row of logits */
    size_t summary_bytes;
    sampler_choice_t *scores; /* [scores_capacity] of the rows of an event */
    size_t scores_capacity;
};

/* How rows of a scored prompt are looked at: best token, its log-probability, digest. */
static const sampler_params_t score_params = {
    .top_p = 1, .repetition_penalty = 1, .want_logprob = 1, .want_digest = 1};

int runner_open(runner_t **out, engine_t *engine, const tokenizer_t *tokenizer, fail_t *fail)
{
    *out = NULL;
    runner_t *r = calloc(1, sizeof *r);
    if (r == NULL)
        return fail_set(fail, FAIL_MEMORY, "runner: out of memory");
    engine_info_t info = engine_info(engine);
    r->engine = engine;
    r->tokenizer = tokenizer;
    r->vocab_size = info.config->vocab_size;
    r->is_f64 = info.mode == DTYPE_F64;
    r->n_threads = info.threads;
    r->summary_bytes = size_round_up(sampler_summary_bytes(&score_params, r->vocab_size), 64);
    r->summaries = memory_alloc(r->n_threads * r->summary_bytes, "summaries of logits", fail);
    if (r->summaries == NULL) {
        free(r);
        return fail->status;
    }
    *out = r;
    return 0;
}

static void active_free(active_t *a)
{
    free(a->ids);
    free(a->stops);
    free(a->tokens);
    free(a->logprobs);
    text_buffer_clear(&a->text);
    free(a);
}

void runner_close(runner_t *r)
{
    if (r == NULL)
        return;
    for (active_t *a = r->active, *next; a != NULL; a = next) {
        next = a->next;
        active_free(a);
    }
    for (given_t *g = r->first, *next; g != NULL; g = next) {
        next = g->next;
        free(g->bytes);
        free(g);
    }
    memory_free(r->summaries, r->n_threads * r->summary_bytes);
    free(r->scores);
    free(r);
}

size_t runner_n_active(const runner_t *r)
{
    return r->n_active;
}

size_t runner_n_done(const runner_t *r)
{
    return r->n_done;
}

/* ---- Jobs as bytes --------------------------------------------------------------------------- */

static size_t stop_bytes(const fleet_job_t *job)
{
    size_t bytes = 0;
    for (size_t i = 0; i < job->n_stops; i++)
        bytes += strlen(job->stops[i]) + 1;
    return bytes;
}

size_t runner_job_bytes(const fleet_job_t *job)
{
    return sizeof(wire_job_t) + (job->n_ids + job->n_stop_ids) * sizeof(int32_t) + stop_bytes(job);
}

static char *put(char *at, const void *data, size_t bytes)
{
    if (bytes > 0)
        memcpy(at, data, bytes);
    return at + bytes;
}

void runner_write_job(const fleet_job_t *job, uint64_t handle, char *bytes)
{
    wire_job_t wire = {.handle = handle,
        .n_ids = job->n_ids,
        .n_scored = job->n_scored,
        .max_tokens = job->max_tokens,
        .n_stop_ids = job->n_stop_ids,
        .n_stops = job->n_stops,
        .stop_bytes = stop_bytes(job),
        .sampling = job->sampling};
    wire.sampling.want_logprob = wire.sampling.want_digest = 1;
    char *at = put(bytes, &wire, sizeof wire);
    at = put(at, job->ids, job->n_ids * sizeof(int32_t));
    at = put(at, job->stop_ids, job->n_stop_ids * sizeof(int32_t));
    for (size_t i = 0; i < job->n_stops; i++)
        at = put(at, job->stops[i], strlen(job->stops[i]) + 1);
}

/* ---- Results as bytes ------------------------------------------------------------------------ */

/* status and message: why the job did not run, or 0 and "". */
static int give(runner_t *r, const active_t *a, engine_finish_t finish, int status,
    const char *message, fail_t *fail)
{
    size_t tokens = a->n_tokens * sizeof(int32_t), logprobs = a->n_tokens * sizeof(double);
    size_t n_bytes = sizeof(wire_result_t) + logprobs + tokens + strlen(message) + 1;
    given_t *g = calloc(1, sizeof *g);
    char *bytes = malloc(n_bytes);
    if (g == NULL || bytes == NULL) {
        free(g);
        free(bytes);
        return fail_set(fail, FAIL_MEMORY, "result: out of memory for %zu tokens", a->n_tokens);
    }
    uint64_t now = clock_ns();
    wire_result_t wire = {.job = a->job,
        .n_tokens = a->n_tokens,
        .digest = a->digest,
        .first_ns = (a->first_ns != 0 ? a->first_ns : now) - a->begin_ns,
        .total_ns = now - a->begin_ns,
        .status = status,
        .finish = (int32_t)finish};
    char *at = put(bytes, &wire, sizeof wire);
    at = put(at, a->logprobs, logprobs);
    at = put(at, a->tokens, tokens);
    put(at, message, strlen(message) + 1);
    *g = (given_t){.bytes = bytes, .n_bytes = n_bytes};
    if (r->last != NULL)
        r->last->next = g;
    else
        r->first = g;
    r->last = g;
    r->n_done++;
    return 0;
}

char *runner_give(runner_t *r, size_t *n_bytes)
{
    given_t *g = r->first;
    if (g == NULL)
        return NULL;
    r->first = g->next;
    if (r->first == NULL)
        r->last = NULL;
    char *bytes = g->bytes;
    *n_bytes = g->n_bytes;
    free(g);
    return bytes;
}

fleet_result_t runner_read_result(const char *bytes)
{
    wire_result_t wire;
    memcpy(&wire, bytes, sizeof wire);
    const char *logprobs = bytes + sizeof wire;
    const char *tokens = logprobs + wire.n_tokens * sizeof(double);
    return (fleet_result_t){.job = wire.job,
        .status = wire.status,
        .message = tokens + wire.n_tokens * sizeof(int32_t),
        .finish = (engine_finish_t)wire.finish,
        .tokens = (const int32_t *)tokens,
        .logprobs = (const double *)logprobs,
        .n_tokens = wire.n_tokens,
        .digest = wire.digest,
        .first_ns = wire.first_ns,
        .total_ns = wire.total_ns};
}

/* ---- Beginning ------------------------------------------------------------------------------- */

/* Copies what the job needs beyond the engine's own copy. */
static active_t *begin(const wire_job_t *wire, const int32_t *ids, const char *stops, fail_t *fail)
{
    active_t *a = calloc(1, sizeof *a);
    if (a == NULL) {
        fail_set(fail, FAIL_MEMORY, "job: out of memory");
        return NULL;
    }
    a->job = wire->handle;
    a->n_ids = wire->n_ids;
    a->n_scored = wire->n_scored;
    a->n_stops = wire->n_stops;
    a->begin_ns = clock_ns();
    size_t kept = wire->n_scored > 0 ? wire->n_ids * sizeof *ids : 0;
    a->ids = malloc(kept + 1);
    a->stops = malloc(wire->stop_bytes + 1);
    if (a->ids == NULL || a->stops == NULL) {
        active_free(a);
        fail_set(fail, FAIL_MEMORY, "job: out of memory for %zu ids", (size_t)wire->n_ids);
        return NULL;
    }
    memcpy(a->ids, ids, kept);
    memcpy(a->stops, stops, wire->stop_bytes);
    return a;
}

int runner_take(runner_t *r, const char *bytes, size_t n_bytes, fail_t *fail)
{
    (void)n_bytes;
    wire_job_t wire;
    memcpy(&wire, bytes, sizeof wire);
    const int32_t *ids = (const int32_t *)(bytes + sizeof wire);
    const int32_t *stop_ids = ids + wire.n_ids;
    active_t *a = begin(&wire, ids, (const char *)(stop_ids + wire.n_stop_ids), fail);
    if (a == NULL)
        return fail->status;
    bool scores = wire.n_scored > 0;
    engine_request_t request = {.prompt_ids = ids,
        .n_prompt = scores ? wire.n_ids - 1 : wire.n_ids,
        .max_tokens = scores ? 0 : wire.max_tokens,
        .stop_ids = stop_ids,
        .n_stop_ids = wire.n_stop_ids,
        .sampling = wire.sampling,
        .want_prompt_logits = scores,
        .first_prompt_logits = scores ? wire.n_ids - 1 - wire.n_scored : 0};
    fail_t refused = {0};
    /* The last one is only scored. */
    int32_t last = scores ? ids[wire.n_ids - 1] : 0;
    if (last < 0 || (size_t)last >= r->vocab_size)
        fail_set(&refused, FAIL_USAGE, "text: token %zu: expected an id from 0 to %zu, found %d",
            (size_t)wire.n_ids - 1, r->vocab_size - 1, last);
    if (refused.status == 0 && engine_submit(r->engine, &request, &a->request, &refused) == 0) {
        a->next = r->active;
        r->active = a;
        r->n_active++;
        return 0;
    }
    if (refused.status == FAIL_MEMORY)
        *fail = refused;
    else
        give(r, a, ENGINE_CANCELLED, refused.status, refused.message, fail);
    active_free(a);
    return fail->status;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static int append(active_t *a, int32_t token, double logprob, uint64_t digest, fail_t *fail)
{
    if (a->n_tokens == a->capacity) {
        size_t capacity = size_max(32, 2 * a->capacity);
        int32_t *tokens = realloc(a->tokens, capacity * sizeof *tokens);
        if (tokens != NULL)
            a->tokens = tokens;
        double *logprobs = realloc(a->logprobs, capacity * sizeof *logprobs);
        if (logprobs != NULL)
            a->logprobs = logprobs;
        if (tokens == NULL || logprobs == NULL)
            return fail_set(fail, FAIL_MEMORY, "job: out of memory for %zu tokens", capacity);
        a->capacity = capacity;
    }
    if (a->n_tokens == 0)
        a->first_ns = clock_ns();
    a->tokens[a->n_tokens] = token;
    a->logprobs[a->n_tokens++] = logprob;
    const uint64_t chain[2] = {a->digest, digest};
    a->digest = XXH3_64bits(chain, sizeof chain);
    return 0;
}

static double logit_at(const void *logits, bool is_f64, size_t i)
{
    return is_f64 ? ((const double *)logits)[i] : (double)((const float *)logits)[i];
}

/* An event's rows, dealt out to threads in turn. */
typedef struct scoring {
    runner_t *runner;
    const engine_event_t *event;
    size_t row_bytes;
    bool *decided; /* [n_threads] */
} scoring_t;

static void score_thread(void *context, size_t thread)
{
    scoring_t *s = context;
    runner_t *r = s->runner;
    char *summary = r->summaries + thread * r->summary_bytes;
    const void *summaries[1] = {summary};
    const kernels_t *kernels = engine_info(r->engine).kernels;
    s->decided[thread] = true;
    for (size_t i = thread; i < s->event->n_logits; i += r->n_threads) {
        const char *logits = (const char *)s->event->logits + i * s->row_bytes;
        sampler_summarise(
            kernels, &score_params, logits, r->is_f64, 0, r->vocab_size, NULL, summary);
        if (!sampler_pick(&score_params, summaries, &r->vocab_size, 1, 0, &r->scores[i]))
            s->decided[thread] = false;
    }
}

/* The best token of every row, with its log-probability, and the row's digest. */
static int find_best(runner_t *r, const engine_event_t *event, size_t row_bytes, fail_t *fail)
{
    if (event->n_logits > r->scores_capacity) {
        sampler_choice_t *scores = realloc(r->scores, event->n_logits * sizeof *scores);
        if (scores == NULL)
            return fail_set(fail, FAIL_MEMORY, "job: out of memory for %zu rows", event->n_logits);
        r->scores = scores;
        r->scores_capacity = event->n_logits;
    }
    bool *decided = calloc(r->n_threads, sizeof *decided), all = decided != NULL;
    scoring_t scoring = {r, event, row_bytes, decided};
    if (all)
        engine_parallel(r->engine, score_thread, &scoring);
    for (size_t t = 0; all && t < r->n_threads; t++)
        all = decided[t];
    free(decided);
    return all ? 0 : fail_set(fail, FAIL_MEMORY, "job: out of memory for a row of logits");
}

/* Logits of some positions: the log-probability of the token behind each. */
static int score_rows(runner_t *r, active_t *a, const engine_event_t *event, fail_t *fail)
{
    size_t row_bytes = r->vocab_size * (r->is_f64 ? sizeof(double) : sizeof(float));
    if (find_best(r, event, row_bytes, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < event->n_logits && fail->status == 0; i++) {
        const char *logits = (const char *)event->logits + i * row_bytes;
        const sampler_choice_t *best = &r->scores[i];
        size_t target = (size_t)a->ids[event->first_logits_position + i + 1];
        double behind =
            logit_at(logits, r->is_f64, (size_t)best->token) - logit_at(logits, r->is_f64, target);
        append(a, best->token, best->logprob - behind, best->digest, fail);
    }
    return fail->status;
}

/* Whether the text holds a stop string that reaches beyond its first `before` bytes. */
static bool finds_stop(const active_t *a, size_t before)
{
    const char *stop = a->stops;
    for (size_t i = 0; i < a->n_stops; i++, stop += strlen(stop) + 1) {
        size_t n = strlen(stop), from = before - size_min(before, n - 1);
        if (memmem(a->text.text + from, a->text.bytes - from, stop, n) != NULL)
            return true;
    }
    return false;
}

/* A token that was drawn. *stopped: it completes a stop string. */
static int take_token(
    runner_t *r, active_t *a, const sampler_choice_t *choice, bool *stopped, fail_t *fail)
{
    append(a, choice->token, choice->logprob, choice->digest, fail);
    size_t before = a->text.bytes, bytes;
    if (a->n_stops == 0 || r->tokenizer == NULL || fail->status != 0 ||
        tokenizer_bytes(r->tokenizer, choice->token, &bytes) == NULL)
        return fail->status;
    detokenizer_push(&a->detokenizer, r->tokenizer, choice->token, true, &a->text, fail);
    *stopped = fail->status == 0 && a->text.bytes > before && finds_stop(a, before);
    return fail->status;
}

static active_t **find(runner_t *r, uint64_t request)
{
    active_t **at = &r->active;
    while (*at != NULL && (*at)->request != request)
        at = &(*at)->next;
    return at;
}

static int take_event(runner_t *r, const engine_event_t *event, fail_t *fail)
{
    active_t **at = find(r, event->request), *a = *at;
    bool stopped = false;
    if (a == NULL)
        return 0;
    if (event->n_logits > 0)
        score_rows(r, a, event, fail);
    if (event->has_token)
        take_token(r, a, &event->choice, &stopped, fail);
    if (stopped && event->finish == ENGINE_RUNNING)
        engine_cancel(r->engine, event->request);
    if (fail->status != 0 || (!stopped && event->finish == ENGINE_RUNNING))
        return fail->status;
    *at = a->next;
    r->n_active--;
    give(r, a, stopped ? ENGINE_STOP : event->finish, 0, "", fail);
    active_free(a);
    return fail->status;
}

int runner_step(runner_t *r, fail_t *fail)
{
    const engine_event_t *events;
    size_t n_events;
    engine_step(r->engine, &events, &n_events, fail);
    for (size_t i = 0; i < n_events && fail->status == 0; i++)
        take_event(r, &events[i], fail);
    return fail->status;
}
