#include <stdlib.h>
#include <string.h>

#include "engine/base/array.h"
#include "engine/base/clock.h"
#include "engine/base/size.h"
#include "engine/run/answer.h"
#include "engine/run/fleet_internal.h"
#include "engine/run/scorer.h"

/* A job from its arrival to its result. */
typedef struct active {
    struct active *next;
    uint64_t job, request;  /* the fleet's handle, and the engine's */
    size_t n_scored, n_top; /* n_top: alternatives at each place, when scoring */
    bool streams, cancelled;
    int32_t *ids; /* [n_prompt] when scoring */
    answer_t answer;
    size_t n_passes, n_drafted;
    uint64_t begin_ns, first_ns;
} active_t;

/* A result that has not been taken yet. */
typedef struct given {
    struct given *next;
    char *bytes;
    size_t n_bytes;
} given_t;

struct runner {
    engine_t *engine;
    const tokenizer_t *tokenizer;
    size_t vocab_size;
    active_t *first_active, **end_active; /* in the order in which they began */
    size_t n_active, n_done, n_cancelled;
    given_t *first, *last;
    fleet_event_t *events; /* [n_events] of the last step */
    size_t n_events, events_capacity;
    char *text; /* [text_bytes] of these events, one after another: answers go on growing */
    size_t text_bytes, text_capacity;
    scorer_t *scorer;
};

int runner_open(runner_t **out, engine_t *engine, const tokenizer_t *tokenizer, fail_t *fail)
{
    *out = NULL;
    engine_info_t info = engine_info(engine);
    runner_t *r = calloc(1, sizeof *r);
    if (r == NULL)
        return fail_set(fail, FAIL_MEMORY, "runner: out of memory");
    r->engine = engine;
    r->tokenizer = tokenizer;
    r->vocab_size = info.config->vocab_size;
    r->end_active = &r->first_active;
    *out = r;
    return 0;
}

static void active_free(active_t *a)
{
    free(a->ids);
    answer_clear(&a->answer);
    free(a);
}

void runner_close(runner_t *r)
{
    if (r == NULL)
        return;
    for (active_t *a = r->first_active, *next; a != NULL; a = next) {
        next = a->next;
        active_free(a);
    }
    for (given_t *g = r->first, *next; g != NULL; g = next) {
        next = g->next;
        free(g->bytes);
        free(g);
    }
    scorer_close(r->scorer);
    free(r->events);
    free(r->text);
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

const fleet_event_t *runner_events(const runner_t *r, size_t *n_events)
{
    *n_events = r->n_events;
    return r->events;
}

/* ---- Results --------------------------------------------------------------------------------- */

/* status and message: why the job did not run, or 0 and "". */
static int give(runner_t *r, const active_t *a, engine_finish_t finish, int status,
    const char *message, fail_t *fail)
{
    uint64_t now = clock_ns();
    const answer_t *answer = &a->answer;
    bool has_text = answer->tokenizer != NULL && a->n_scored == 0;
    const fleet_result_t result = {.job = a->job,
        .status = status,
        .message = message,
        .finish = finish,
        .tokens = answer->tokens,
        .logprobs = answer->logprobs,
        .choices = answer->choices,
        .n_tokens = answer->n_tokens,
        .n_passes = a->n_passes,
        .n_drafted = a->n_drafted,
        .text = has_text ? answer->text.text != NULL ? answer->text.text : "" : NULL,
        .text_bytes = answer->text.bytes,
        .digest = answer->digest,
        .first_ns = (a->first_ns != 0 ? a->first_ns : now) - a->begin_ns,
        .total_ns = now - a->begin_ns};
    given_t *g = calloc(1, sizeof *g);
    char *bytes = runner_write_result(&result, g == NULL ? NULL : &g->n_bytes);
    if (g == NULL || bytes == NULL) {
        free(g);
        free(bytes);
        return fail_set(fail, FAIL_MEMORY, "result: out of memory for %zu tokens", result.n_tokens);
    }
    g->bytes = bytes;
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

/* Gives the result of *at, which is taken out of the list. */
static int finish(runner_t *r, active_t **at, engine_finish_t how, fail_t *fail)
{
    active_t *a = *at;
    *at = a->next;
    if (a->next == NULL)
        r->end_active = at;
    r->n_active--;
    r->n_cancelled -= a->cancelled;
    if (answer_end(&a->answer, fail) == 0)
        give(r, a, how, 0, "", fail);
    active_free(a);
    return fail->status;
}

/* ---- Beginning ------------------------------------------------------------------------------- */

/* Copies what the job needs beyond the engine's own copy. */
static active_t *begin(
    const runner_t *r, uint64_t job, const request_t *request, const char *stops, fail_t *fail)
{
    active_t *a = calloc(1, sizeof *a);
    if (a == NULL) {
        fail_set(fail, FAIL_MEMORY, "job: out of memory");
        return NULL;
    }
    a->job = job;
    a->n_scored = request->n_scored;
    a->n_top = request->sampling.n_logprobs;
    a->streams = request->streams;
    a->answer.tokenizer = r->tokenizer;
    a->answer.keep_choices = request->sampling.n_logprobs > 0;
    size_t kept = request->n_scored > 0 ? request->n_prompt * sizeof(int32_t) : 0;
    a->ids = malloc(kept + 1);
    if (a->ids == NULL)
        fail_set(fail, FAIL_MEMORY, "job: out of memory for %zu ids", request->n_prompt);
    if (fail->status != 0 || answer_set_stops(&a->answer, stops, request->n_stops, fail) != 0) {
        active_free(a);
        return NULL;
    }
    memcpy(a->ids, request->prompt_ids, kept);
    return a;
}

request_t runner_engine_request(const request_t *request)
{
    request_t asked = *request;
    if (request->n_scored == 0)
        return asked;
    asked.n_prompt--; /* the last one is only scored */
    asked.max_tokens = 0;
    asked.want_prompt_logits = true;
    asked.first_prompt_logits = request->n_prompt - 1 - request->n_scored;
    return asked;
}

int runner_take(runner_t *r, const char *bytes, uint64_t begin_ns, fail_t *fail)
{
    uint64_t job;
    const char *stops;
    const request_t request = runner_read_request(bytes, &job, &stops);
    const request_t asked = runner_engine_request(&request);
    active_t *a = begin(r, job, &request, stops, fail);
    if (a == NULL)
        return fail->status;
    a->begin_ns = begin_ns;
    if (request.n_scored > 0 && r->scorer == NULL &&
        scorer_open(&r->scorer, r->engine, fail) != 0) {
        active_free(a);
        return fail->status;
    }
    fail_t refused = {0};
    int32_t last = request.n_scored > 0 ? request.prompt_ids[request.n_prompt - 1] : 0;
    if (last < 0 || (size_t)last >= r->vocab_size)
        fail_set(&refused, FAIL_USAGE, "text: token %zu: expected an id from 0 to %zu, found %d",
            request.n_prompt - 1, r->vocab_size - 1, last);
    if (refused.status == 0 && engine_submit(r->engine, &asked, &a->request, &refused) == 0) {
        *r->end_active = a;
        r->end_active = &a->next;
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

/* ---- Cancelling ------------------------------------------------------------------------------ */

void runner_cancel(runner_t *r, uint64_t job)
{
    for (active_t *a = r->first_active; a != NULL; a = a->next)
        if (a->job == job && !a->cancelled) {
            a->cancelled = true;
            r->n_cancelled++;
        }
}

int runner_cancel_all(runner_t *r, fail_t *fail)
{
    while (r->first_active != NULL && fail->status == 0) {
        engine_cancel(r->engine, r->first_active->request);
        finish(r, &r->first_active, ENGINE_CANCELLED, fail);
    }
    return fail->status;
}

int runner_cancel_unbegun(runner_t *r, uint64_t job, fail_t *fail)
{
    const active_t none = {
        .job = job, .begin_ns = clock_ns(), .answer = {.tokenizer = r->tokenizer}};
    return give(r, &none, ENGINE_CANCELLED, 0, "", fail);
}

static int end_cancelled(runner_t *r, fail_t *fail)
{
    for (active_t **at = &r->first_active; r->n_cancelled > 0 && *at != NULL && fail->status == 0;)
        if ((*at)->cancelled) {
            engine_cancel(r->engine, (*at)->request);
            finish(r, at, ENGINE_CANCELLED, fail);
        } else {
            at = &(*at)->next;
        }
    return fail->status;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* Logits of some positions: the log-probability of the token behind each. */
static int score(runner_t *r, active_t *a, const engine_event_t *event, fail_t *fail)
{
    const sampler_choice_t *choices;
    const int32_t *targets = a->ids + event->first_logits_position + 1;
    if (scorer_rows(r->scorer, event, targets, a->n_top, &choices, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < event->n_logits && fail->status == 0; i++)
        answer_add(&a->answer, &choices[i], choices[i].logprob, fail);
    return fail->status;
}

/* Keeps text that grows an answer; its place follows when all of the step is there. */
static int keep_text(runner_t *r, fleet_event_t *told, const char *text, fail_t *fail)
{
    size_t end = r->text_bytes + told->text_bytes;
    if (array_reserve(&r->text, &r->text_capacity, end, 1, "text of a step", fail) != 0)
        return fail->status;
    memcpy(r->text + r->text_bytes, text, told->text_bytes);
    r->text_bytes = end;
    return 0;
}

/* Tells what a step made of a job that goes on, or logits. */
static int tell(runner_t *r, active_t *a, const engine_event_t *event, bool ended, fail_t *fail)
{
    fleet_event_t told = {.job = a->job};
    if (event->has_token && a->streams && !ended) {
        told.choice = &event->choice;
        const char *text = answer_take(&a->answer, &told.text_bytes);
        keep_text(r, &told, text, fail);
    }
    if (event->n_logits > 0 && a->n_scored == 0) {
        told.logits = event->logits;
        told.n_logits = event->n_logits;
        told.first_logits_position = event->first_logits_position;
    }
    if (told.choice == NULL && told.n_logits == 0)
        return fail->status;
    if (array_reserve(&r->events, &r->events_capacity, r->n_events + 1, sizeof *r->events, "events",
            fail) == 0)
        r->events[r->n_events++] = told;
    return fail->status;
}

/* Where the events' texts are. */
static void place_texts(runner_t *r)
{
    const char *at = r->text;
    for (size_t i = 0; i < r->n_events; i++) {
        r->events[i].text = at;
        at += r->events[i].text_bytes;
    }
}

static int take_event(runner_t *r, const engine_event_t *event, fail_t *fail)
{
    active_t **at = &r->first_active;
    bool stopped = false;
    while (*at != NULL && (*at)->request != event->request)
        at = &(*at)->next;
    active_t *a = *at;
    if (a == NULL)
        return 0;
    size_t before = a->answer.n_tokens;
    a->n_passes += event->has_token && event->begins_pass;
    a->n_drafted += event->n_drafted;
    if (event->n_logits > 0 && a->n_scored > 0)
        score(r, a, event, fail);
    if (event->has_token)
        answer_push(&a->answer, &event->choice, &stopped, fail);
    if (before == 0 && a->answer.n_tokens > 0)
        a->first_ns = clock_ns();
    if (stopped && event->finish == ENGINE_RUNNING)
        engine_cancel(r->engine, event->request);
    bool ended = stopped || event->finish != ENGINE_RUNNING;
    if (fail->status != 0 || tell(r, a, event, ended, fail) != 0)
        return fail->status;
    return ended ? finish(r, at, stopped ? ENGINE_STOP : event->finish, fail) : 0;
}

int runner_step(runner_t *r, fail_t *fail)
{
    const engine_event_t *events;
    size_t n_events;
    r->n_events = r->text_bytes = 0;
    if (end_cancelled(r, fail) != 0 || r->n_active == 0)
        return fail->status;
    engine_step(r->engine, &events, &n_events, fail);
    for (size_t i = 0; i < n_events && fail->status == 0; i++)
        take_event(r, &events[i], fail);
    place_texts(r);
    return fail->status;
}
