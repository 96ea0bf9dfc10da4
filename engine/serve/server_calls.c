/* Calls on HTTP's thread: which endpoint is meant, and what it answers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/dtype.h"
#include "engine/base/json.h"
#include "engine/serve/page.h"
#include "engine/serve/server_internal.h"

static void reply_json(http_call_t *call, unsigned status, json_t *value)
{
    size_t bytes;
    char *text = server_json(value, &bytes);
    http_reply(call, status, "application/json", text, bytes);
}

static void reply_error(http_call_t *call, const api_error_t *error)
{
    if (error->status == 429 || error->status == 503)
        http_header(call, "Retry-After", "1");
    reply_json(call, error->status, api_error_json(error));
}

static server_state_t state_of(server_t *server, char *failure)
{
    pthread_mutex_lock(&server->lock);
    server_state_t state = server->state;
    memcpy(failure, server->failure, sizeof server->failure);
    pthread_mutex_unlock(&server->lock);
    return state;
}

/* ---- Endpoints that answer at once ----------------------------------------------------------- */

static void take_health(server_t *server, http_call_t *call, const http_request_t *request)
{
    static const char *const names[] = {"loading", "ok", "draining", "failed"};
    char failure[FAIL_MESSAGE_BYTES];
    server_state_t state = state_of(server, failure);
    json_t *body = json_pack("{s:s}", "status", names[state]);
    (void)request;
    if (state == SERVER_FAILED)
        json_object_set_new(body, "message", json_string(failure));
    reply_json(call, state == SERVER_READY ? 200 : 503, body);
}

static void take_version(server_t *server, http_call_t *call, const http_request_t *request)
{
    (void)request;
    reply_json(call, 200, json_pack("{s:s}", "version", server->options.version));
}

static void take_models(server_t *server, http_call_t *call, const http_request_t *request)
{
    json_t *model =
        json_pack("{s:s, s:s, s:I, s:s, s:I, s:s}", "id", server->options.model, "object", "model",
            "created", (json_int_t)server->began, "owned_by", "choir", "max_model_len",
            (json_int_t)server->info.max_context, "system_fingerprint", server->model.fingerprint);
    (void)request;
    reply_json(call, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model));
}

/* A body that is answered at once, without the engine. */
static void take_text(server_t *server, http_call_t *call, const http_request_t *request,
    json_t *(*answer_of)(const server_t *, const http_request_t *, api_error_t *))
{
    api_error_t error = {0};
    json_t *answer = answer_of(server, request, &error);
    if (error.status != 0)
        reply_error(call, &error);
    else
        reply_json(call, 200, answer);
}

static void take_tokenize(server_t *server, http_call_t *call, const http_request_t *request)
{
    take_text(server, call, request, server_tokenize);
}

static void take_detokenize(server_t *server, http_call_t *call, const http_request_t *request)
{
    take_text(server, call, request, server_detokenize);
}

static void take_metrics(server_t *server, http_call_t *call, const http_request_t *request)
{
    text_buffer_t out = {0};
    (void)request;
    server_write_metrics(server, &out);
    http_reply(call, 200, "text/plain; version=0.0.4", out.text, out.bytes);
}

static void take_stats(server_t *server, http_call_t *call, const http_request_t *request)
{
    (void)request;
    reply_json(call, 200, server_stats_json(server));
}

static void take_embeddings(server_t *server, http_call_t *call, const http_request_t *request)
{
    api_error_t error = {0};
    (void)server, (void)request;
    api_error_of(&error, 400, "invalid_request_error", "unsupported",
        "/v1/embeddings: this server has a model that generates text, and gives no embeddings");
    reply_error(call, &error);
}

/* ---- Requests for answers -------------------------------------------------------------------- */

/* Puts the request at the queue's end. Status 429 when it is full. */
static int enqueue(server_t *server, ask_t *ask, http_call_t *call, api_error_t *error)
{
    bool chat = ask->request.kind == API_CHAT;
    pthread_mutex_lock(&server->lock);
    if (server->state == SERVER_FAILED)
        api_error_of(error, 503, "server_error", "engine_failed", "%s", server->failure);
    else if (server->state == SERVER_DRAINING)
        api_error_of(error, 503, "server_error", "draining", "the server is being stopped");
    else if (server->n_queued >= server->options.max_queue)
        api_error_of(error, 429, "rate_limit_error", "queue_full",
            "%zu requests are waiting already (--max-queue)", server->n_queued);
    if (error->status == 0) {
        snprintf(ask->id, sizeof ask->id, "%s-%llx%08llx", chat ? "chatcmpl" : "cmpl",
            (unsigned long long)server->began, (unsigned long long)server->next_id++);
        ask->call = call;
        ask->in_engine = true;
        if (server->last != NULL)
            server->last->next = ask;
        else
            server->first = ask;
        server->last = ask;
        server->n_queued++;
        server->n_calls++;
        pthread_cond_signal(&server->work);
    }
    pthread_mutex_unlock(&server->lock);
    return (int)error->status;
}

static void take_ask(
    server_t *server, http_call_t *call, const http_request_t *request, api_kind_t kind)
{
    api_error_t error = {0};
    ask_t *ask = ask_open(server, kind, request, &error);
    if (ask == NULL) {
        reply_error(call, &error);
        return;
    }
    bool streams = ask->request.stream;
    if (enqueue(server, ask, call, &error) != 0) {
        reply_error(call, &error);
        ask_free(ask);
    } else if (streams) {
        http_stream(call, "text/event-stream", ask);
    } else {
        http_wait(call, ask);
    }
}

static void take_completion(server_t *server, http_call_t *call, const http_request_t *request)
{
    take_ask(server, call, request, API_COMPLETION);
}

static void take_chat(server_t *server, http_call_t *call, const http_request_t *request)
{
    take_ask(server, call, request, API_CHAT);
}

/* ---- Routes ---------------------------------------------------------------------------------- */

static const struct route {
    const char *method, *path;
    bool while_loading;
    void (*take)(server_t *server, http_call_t *call, const http_request_t *request);
} routes[] = {
    {"GET", "/health", true, take_health},
    {"GET", "/version", true, take_version},
    {"GET", "/v1/models", false, take_models},
    {"GET", "/metrics", false, take_metrics},
    {"GET", "/stats", false, take_stats},
    {"POST", "/v1/completions", false, take_completion},
    {"POST", "/v1/chat/completions", false, take_chat},
    {"POST", "/v1/embeddings", false, take_embeddings},
    {"POST", "/tokenize", false, take_tokenize},
    {"POST", "/detokenize", false, take_detokenize},
};

static const struct route *find_route(
    const http_request_t *request, const char **allowed, api_error_t *error)
{
    bool head = strcmp(request->method, "HEAD") == 0;
    *allowed = NULL;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (strcmp(routes[i].path, request->path) != 0)
            continue;
        if (strcmp(routes[i].method, head ? "GET" : request->method) == 0)
            return &routes[i];
        *allowed = routes[i].method;
    }
    if (*allowed != NULL)
        api_error_of(error, 405, "invalid_request_error", "method_not_allowed",
            "%.60s: expected %s, found %.20s", request->path, *allowed, request->method);
    else
        api_error_of(error, 404, "invalid_request_error", "not_found",
            "no such endpoint: %.20s %.100s", request->method, request->path);
    return NULL;
}

/* A file of the page, if it is one. */
static bool take_page(http_call_t *call, const http_request_t *request)
{
    const page_file_t *file = page_files;
    while (file->path != NULL && strcmp(file->path, request->path) != 0)
        file++;
    if (file->path == NULL ||
        (strcmp(request->method, "GET") != 0 && strcmp(request->method, "HEAD") != 0))
        return false;
    http_header(call, "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    http_header(call, "Cache-Control", "no-cache");
    http_header(call, "Referrer-Policy", "no-referrer");
    char *copy = malloc(file->bytes);
    if (copy != NULL)
        memcpy(copy, file->data, file->bytes);
    http_reply(call, 200, file->type, copy, file->bytes);
    return true;
}

static void take(void *context, http_call_t *call, const http_request_t *request)
{
    server_t *server = context;
    api_error_t error = {0};
    char failure[FAIL_MESSAGE_BYTES];
    const char *allowed;
    if (take_page(call, request))
        return;
    const struct route *route = find_route(request, &allowed, &error);
    server_state_t state = state_of(server, failure);
    if (allowed != NULL && route == NULL)
        http_header(call, "Allow", allowed);
    if (route != NULL && !route->while_loading && state == SERVER_LOADING)
        api_error_of(&error, 503, "server_error", "loading", "the model is being loaded");
    if (route != NULL && !route->while_loading && state == SERVER_FAILED)
        api_error_of(&error, 503, "server_error", "engine_failed", "%s", failure);
    if (error.status != 0)
        reply_error(call, &error);
    else
        route->take(server, call, request);
}

/* ---- Calls that wait ------------------------------------------------------------------------- */

static void woken(void *context, http_call_t *call, void *owner)
{
    server_t *server = context;
    ask_t *ask = owner;
    unsigned status;
    size_t bytes;
    pthread_mutex_lock(&server->lock);
    bool finished = ask->finished;
    pthread_mutex_unlock(&server->lock);
    if (!finished)
        return;
    char *text = ask_answer(ask, &status, &bytes);
    http_reply(call, status, "application/json", text, bytes);
}

static void stream(void *context, void *owner, text_buffer_t *out, bool *ended)
{
    server_t *server = context;
    ask_t *ask = owner;
    pthread_mutex_lock(&server->lock);
    text_buffer_t told = ask->told;
    bool finished = ask->finished;
    if (ask->n_unscored > 0 && !finished) { /* the prompt comes first */
        pthread_mutex_unlock(&server->lock);
        return;
    }
    ask->told = ask->taken;
    ask->told.bytes = 0;
    pthread_mutex_unlock(&server->lock);
    ask->taken = told;
    ask_stream(ask, finished, out, ended);
}

static void hung_up(void *context, void *owner)
{
    ask_t *ask = owner;
    (void)context;
    atomic_store(&ask->gone, true);
}

static void over(void *context, void *owner, const http_record_t *record)
{
    server_t *server = context;
    ask_t *ask = owner;
    if (ask == NULL) {
        server_log_write(server, NULL, record);
        return;
    }
    pthread_mutex_lock(&server->lock);
    server_log_write(server, ask, record);
    server->n_calls--;
    ask->call = NULL;
    atomic_store(&ask->gone, true);
    bool last = !ask->in_engine;
    pthread_mutex_unlock(&server->lock);
    if (last)
        ask_free(ask);
}

const http_handler_t server_handler = {take, woken, stream, hung_up, over};
