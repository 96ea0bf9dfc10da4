/* The engine's side: the queue, steps, and what they give to whom. */
#include "engine/serve/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/size.h"
#include "engine/serve/server_internal.h"

#define IDLE_NS 20000000 /* between looks for signals while there is no request */
#define SECOND_NS 1000000000
#define FIGURES_NS UINT64_C(100000000) /* between looks at the engine's figures */
#define FLUSH_NS UINT64_C(2000000000)  /* that answers get after a failure */
/* Streams are written to at most so often, so that a model of short steps does not spend them on writing. First tokens and
 * ends do not wait. */
#define STREAM_NS UINT64_C(10000000)

/* ---- Opening and closing --------------------------------------------------------------------- */

int server_open(server_t **out, const server_options_t *options, fail_t *fail)
{
    server_t *server = *out = calloc(1, sizeof *server);
    pthread_condattr_t monotonic;
    if (server == NULL)
        return fail_set(fail, FAIL_MEMORY, "serve: out of memory");
    server->options = *options;
    server->options.http.handler = &server_handler;
    server->options.http.context = server;
    server->began = (int64_t)time(NULL);
    server->log_fd = -1;
    pthread_mutex_init(&server->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&server->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (server_log_open(server, fail) != 0 ||
        http_open(&server->http, &server->options.http, fail) != 0) {
        server_close(server);
        *out = NULL;
    }
    return fail->status;
}

size_t server_port(const server_t *server)
{
    return http_port(server->http);
}

int server_ready(server_t *server, const server_model_t *model, fail_t *fail)
{
    engine_t *engine = fleet_engine(model->fleet);
    int32_t end = chat_end_id(model->chat, model->tokenizer);
    if (end < 0)
        end = tokenizer_special_id(model->tokenizer, "<|im_end|>");
    server->model = *model;
    server->info = engine_info(engine);
    server->n_replicas = fleet_n_replicas(model->fleet);
    server->n_ranks = server->n_replicas * server->info.ranks;
    server->figures = calloc(server->n_replicas, sizeof *server->figures);
    server->rank_times = calloc(server->n_ranks, sizeof *server->rank_times);
    if (server->figures == NULL || server->rank_times == NULL)
        return fail_set(fail, FAIL_MEMORY, "serve: out of memory");
    server->n_stop_ids = engine_stop_ids(engine, end, server->stop_ids);
    server->thinks = chat_templates_have(model->chat, "</think>");
    if (chat_templates_have(model->chat, "<tool_call>"))
        server->call_form = SPLIT_HERMES;
    else if (chat_templates_have(model->chat, "\"parameters\""))
        server->call_form = SPLIT_LLAMA;
    pthread_mutex_lock(&server->lock);
    server->state = SERVER_READY;
    pthread_mutex_unlock(&server->lock);
    return 0;
}

/* Frees those whose calls are over: all of them, once HTTP is closed. */
static void free_list(ask_t *ask)
{
    for (ask_t *next; ask != NULL; ask = next) {
        next = ask->next;
        ask_free(ask);
    }
}

void server_close(server_t *server)
{
    if (server == NULL)
        return;
    http_close(server->http);
    free_list(server->first);
    free_list(server->running);
    server_log_close(server);
    free(server->figures);
    free(server->rank_times);
    pthread_cond_destroy(&server->work);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

/* ---- The end of a request -------------------------------------------------------------------- */

/* With the lock held. Lets HTTP send what there is. */
static void wake(ask_t *ask)
{
    if (ask->call != NULL)
        http_wake(ask->call);
}

/* With the lock held. */
static void finish(ask_t *ask)
{
    ask->finished = true;
    wake(ask);
}

/* The engine's side is done with it: whoever is last frees it. */
static void leave(server_t *server, ask_t *ask)
{
    pthread_mutex_lock(&server->lock);
    if (!ask->finished)
        finish(ask);
    ask->in_engine = false;
    bool last = ask->call == NULL;
    pthread_mutex_unlock(&server->lock);
    if (last)
        ask_free(ask);
}

/* With the lock held. */
static size_t fail_list(ask_t *ask, const char *message)
{
    size_t n = 0;
    for (; ask != NULL; ask = ask->next) {
        if (ask->finished)
            continue;
        api_error_of(&ask->error, 500, "server_error", "engine_failed", "%s", message);
        finish(ask);
        n++;
    }
    return n;
}

void server_fail(server_t *server, const char *message)
{
    uint64_t end = clock_ns() + FLUSH_NS;
    bool open = true;
    pthread_mutex_lock(&server->lock);
    server->state = SERVER_FAILED;
    if (server->failure[0] == 0)
        strncpy(server->failure, message, sizeof server->failure - 1);
    size_t n = fail_list(server->first, message) + fail_list(server->running, message);
    pthread_mutex_unlock(&server->lock);
    while (n > 0 && open && clock_ns() < end) {
        const struct timespec pause = {.tv_nsec = IDLE_NS};
        nanosleep(&pause, NULL);
        open = false;
        pthread_mutex_lock(&server->lock);
        for (const ask_t *ask = server->first; ask != NULL; ask = ask->next)
            open = open || ask->call != NULL;
        for (const ask_t *ask = server->running; ask != NULL; ask = ask->next)
            open = open || ask->call != NULL;
        pthread_mutex_unlock(&server->lock);
    }
}

/* ---- From the queue to the fleet ------------------------------------------------------------- */

static part_t **bucket_of(server_t *server, uint64_t job)
{
    return &server->by_job[job % SERVER_BUCKETS];
}

static part_t *part_of(server_t *server, uint64_t job)
{
    part_t *part = *bucket_of(server, job);
    while (part != NULL && part->job != job)
        part = part->next_of_bucket;
    return part;
}

static int submit(server_t *server, ask_t *ask, fail_t *fail)
{
    for (size_t i = 0; i < ask->n_parts; i++) {
        part_t *part = &ask->parts[i];
        const request_t request = ask_request(ask, i);
        if (fleet_submit(server->model.fleet, &request, &part->job, fail) != 0)
            return fail->status;
        part->submitted = true;
        part_t **bucket = bucket_of(server, part->job);
        part->next_of_bucket = *bucket;
        *bucket = part;
    }
    return 0;
}

/* Jobs that the fleet should have: a few in reserve, and the others wait here, where it is decided whose turn
 * it is. */
static bool has_room(const server_t *server)
{
    size_t batch = server->info.max_batch;
    return fleet_pending(server->model.fleet) <
           fleet_n_replicas(server->model.fleet) * (batch + batch / 4 + 1);
}

/* Requests of a client that run. */
static size_t n_running_of(const server_t *server, uint64_t client)
{
    size_t n = 0;
    for (const ask_t *ask = server->running; ask != NULL; ask = ask->next)
        n += ask->client == client;
    return n;
}

/* With the lock held. Takes the next request out of the queue: the first of the client that has the fewest
 * running. */
static ask_t *next_ask(server_t *server)
{
    ask_t **best = NULL;
    size_t fewest = SIZE_MAX;
    for (ask_t **at = &server->first; *at != NULL; at = &(*at)->next) {
        size_t n = n_running_of(server, (*at)->client);
        if (n < fewest) {
            fewest = n;
            best = at;
        }
        if (n == 0)
            break;
    }
    if (best == NULL)
        return NULL;
    ask_t *ask = *best;
    *best = ask->next;
    if (server->last == ask) {
        server->last = server->first;
        while (server->last != NULL && server->last->next != NULL)
            server->last = server->last->next;
    }
    server->n_queued--;
    ask->next = server->running;
    server->running = ask;
    return ask;
}

static int take_asks(server_t *server, fail_t *fail)
{
    while (fail->status == 0 && has_room(server)) {
        pthread_mutex_lock(&server->lock);
        ask_t *ask = next_ask(server);
        pthread_mutex_unlock(&server->lock);
        if (ask == NULL)
            break;
        ask->begun_ns = clock_ns();
        submit(server, ask, fail);
    }
    return fail->status;
}

/* ---- Cancelling ------------------------------------------------------------------------------ */

static int cancel(server_t *server, ask_t *ask, fail_t *fail)
{
    ask->cancelled = true;
    for (size_t i = 0; i < ask->n_parts && fail->status == 0; i++)
        if (ask->parts[i].submitted && !ask->parts[i].done)
            fleet_cancel(server->model.fleet, ask->parts[i].job, fail);
    return fail->status;
}

/* With the lock held. */
static bool has_ended_early(ask_t *ask, uint64_t now)
{
    if (ask->deadline_ns != 0 && now > ask->deadline_ns && !ask->finished) {
        api_error_of(&ask->error, 408, "timeout_error", "timeout",
            "the answer was not complete after %g s, the request's timeout",
            ask->request.timeout_s);
        finish(ask);
    }
    return atomic_load(&ask->gone) || ask->error.status != 0;
}

/* Those that nobody waits for any more leave the queue. */
static void drop_queued(server_t *server, uint64_t now)
{
    ask_t *dropped = NULL, *next;
    pthread_mutex_lock(&server->lock);
    server->last = NULL;
    for (ask_t **at = &server->first; *at != NULL;) {
        ask_t *ask = *at;
        if (!has_ended_early(ask, now)) {
            server->last = ask;
            at = &ask->next;
            continue;
        }
        *at = ask->next;
        ask->next = dropped;
        dropped = ask;
        server->n_queued--;
    }
    pthread_mutex_unlock(&server->lock);
    for (; dropped != NULL; dropped = next) {
        next = dropped->next;
        leave(server, dropped);
    }
}

static int drop_running(server_t *server, uint64_t now, fail_t *fail)
{
    bool any = false;
    pthread_mutex_lock(&server->lock);
    for (ask_t *ask = server->running; ask != NULL; ask = ask->next) {
        ask->unwanted = !ask->cancelled && has_ended_early(ask, now);
        any = any || ask->unwanted;
    }
    pthread_mutex_unlock(&server->lock);
    for (ask_t *ask = server->running; any && ask != NULL && fail->status == 0; ask = ask->next)
        if (ask->unwanted)
            cancel(server, ask, fail);
    return fail->status;
}

/* ---- From the fleet to clients --------------------------------------------------------------- */

/* With the lock held. event: NULL: the part has ended. Out of memory, a client gets the text with the result. */
static void tell(part_t *part, const fleet_event_t *event)
{
    ask_t *ask = part->ask;
    const told_t told = {.part = (size_t)(part - ask->parts),
        .ends = event == NULL,
        .has_choice = event != NULL && ask->request.logprobs,
        .bytes = event == NULL ? 0 : event->text_bytes};
    size_t choice_bytes = told.has_choice ? sizeof *event->choice : 0;
    fail_t fail = {0};
    if (text_buffer_reserve(&ask->told, sizeof told + told.bytes + choice_bytes, &fail) != 0)
        return;
    text_buffer_append(&ask->told, (const char *)&told, sizeof told, &fail);
    if (event != NULL) {
        text_buffer_append(&ask->told, event->text, told.bytes, &fail);
        text_buffer_append(&ask->told, (const char *)event->choice, choice_bytes, &fail);
    }
    if (part->n_counted == 1)
        wake(ask); /* the first token is not kept waiting */
}

/* Lets HTTP send what streams have been told, if the last time is long enough ago. */
static void flush_streams(server_t *server, uint64_t now)
{
    if (now - server->flushed_ns < STREAM_NS)
        return;
    server->flushed_ns = now;
    pthread_mutex_lock(&server->lock);
    for (ask_t *ask = server->running; ask != NULL; ask = ask->next)
        if (ask->told.bytes > 0)
            wake(ask);
    pthread_mutex_unlock(&server->lock);
}

static void tell_events(server_t *server)
{
    size_t n_events;
    const fleet_event_t *events = fleet_events(server->model.fleet, &n_events);
    uint64_t now = clock_ns();
    if (n_events == 0)
        return;
    pthread_mutex_lock(&server->lock);
    for (size_t i = 0; i < n_events; i++) {
        part_t *part = part_of(server, events[i].job);
        if (part == NULL || events[i].choice == NULL)
            continue;
        server_count_token(server, part, now);
        server->n_streaming_tokens++;
        part->n_counted++;
        if (part->ask->call != NULL)
            tell(part, &events[i]);
    }
    pthread_mutex_unlock(&server->lock);
}

static void unlist(server_t *server, ask_t *ask)
{
    ask_t **at = &server->running;
    while (*at != ask)
        at = &(*at)->next;
    pthread_mutex_lock(&server->lock);
    *at = ask->next;
    pthread_mutex_unlock(&server->lock);
}

static void take_result(server_t *server, const fleet_result_t *result)
{
    part_t *part = part_of(server, result->job), **at = bucket_of(server, result->job);
    if (part == NULL)
        return;
    while (*at != part)
        at = &(*at)->next_of_bucket;
    *at = part->next_of_bucket;
    ask_t *ask = part->ask;
    pthread_mutex_lock(&server->lock);
    part->result = *result;
    part->kept = fleet_keep(server->model.fleet, result);
    part->done = true;
    ask->n_unscored -= part->scores;
    if (result->status != 0)
        api_error_of(&ask->error,
            result->status == FAIL_LIMIT || result->status == FAIL_USAGE ? 400 : 500,
            result->status == FAIL_LIMIT || result->status == FAIL_USAGE ? "invalid_request_error"
                                                                         : "server_error",
            NULL, "%s", result->message);
    else if (!ask->cancelled && ask->request.stream && !part->scores)
        tell(part, NULL);
    server->n_streaming_tokens -= part->n_counted;
    if (!part->scores)
        server_count_answer(server, part, clock_ns());
    pthread_mutex_unlock(&server->lock);
    if (++ask->n_done == ask->n_parts) {
        unlist(server, ask);
        leave(server, ask);
    }
}

/* ---- Serving --------------------------------------------------------------------------------- */

/* Without work: until there is a request, or for a moment. */
static void wait_for_work(server_t *server)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += IDLE_NS;
    if (until.tv_nsec >= SECOND_NS) {
        until.tv_sec++;
        until.tv_nsec -= SECOND_NS;
    }
    pthread_mutex_lock(&server->lock);
    if (server->first == NULL)
        pthread_cond_timedwait(&server->work, &server->lock, &until);
    pthread_mutex_unlock(&server->lock);
}

/* What signals have asked for. Whether serving has ended. */
static bool obey(server_t *server, uint64_t now)
{
    const server_options_t *o = &server->options;
    fail_t fail = {0};
    if (o->asked_to_reopen() && server_log_open(server, &fail) != 0)
        log_write(LOG_WARN, "%s", fail.message);
    bool asked = o->asked_to_drain() || engine_was_noted(fleet_engine(server->model.fleet));
    if (server->drain_end_ns == 0 && asked) {
        server->drain_end_ns = now + o->drain_seconds * (uint64_t)SECOND_NS + 1;
        pthread_mutex_lock(&server->lock);
        server->state = SERVER_DRAINING;
        pthread_mutex_unlock(&server->lock);
        log_write(LOG_INFO, "told to stop: open requests have %zu s", o->drain_seconds);
    }
    if (server->drain_end_ns == 0)
        return false;
    if (now > server->drain_end_ns) {
        server_fail(server, "the server is being stopped, and the time for open requests is over");
        return true;
    }
    pthread_mutex_lock(&server->lock);
    bool empty = server->first == NULL && server->running == NULL && server->n_calls == 0;
    pthread_mutex_unlock(&server->lock);
    return empty;
}

static int step(server_t *server, uint64_t now, fail_t *fail)
{
    const fleet_result_t *results;
    size_t n_results = 0;
    drop_queued(server, now);
    if (drop_running(server, now, fail) != 0 || take_asks(server, fail) != 0 ||
        fleet_step(server->model.fleet, &results, &n_results, fail) < 0)
        return fail->status;
    /* Before the last answer is told: its client may look at the figures next. */
    if (now - server->figures_ns > FIGURES_NS || fleet_pending(server->model.fleet) == 0) {
        server_take_figures(server);
        server->figures_ns = now;
    }
    tell_events(server);
    for (size_t i = 0; i < n_results; i++)
        take_result(server, &results[i]);
    flush_streams(server, clock_ns());
    return 0;
}

int server_run(server_t *server, fail_t *fail)
{
    for (uint64_t now = clock_ns(); !obey(server, now) && step(server, now, fail) == 0;
         now = clock_ns())
        if (fleet_pending(server->model.fleet) == 0)
            wait_for_work(server);
    if (fail->status != 0)
        server_fail(server, fail->message);
    return fail->status;
}
