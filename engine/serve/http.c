#include "engine/serve/http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/serve/http_internal.h"

#define IDLE_SECONDS 75u   /* of a connection between requests, and of a reader that has stopped */
#define STREAM_BLOCK 16384 /* bytes of a stream that are sent at once */
#define BODIES_AT_ONCE 16  /* as many of the longest bodies may be in memory while they arrive */
#define FIRST_BODY_BYTES 4096

/* ---- Calls ----------------------------------------------------------------------------------- */

static uint64_t hash_of(const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *text != 0; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return hash | UINT64_C(1) << 63; /* apart from numbers of keys */
}

static void describe_address(struct MHD_Connection *connection, char *text)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info == NULL ? NULL : info->client_addr;
    text[0] = 0;
    if (address != NULL && address->sa_family == AF_INET6)
        inet_ntop(
            AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, text, HTTP_ADDRESS_BYTES);
    else if (address != NULL)
        inet_ntop(
            AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text, HTTP_ADDRESS_BYTES);
}

static http_connection_t *connection_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info == NULL ? NULL : info->socket_context;
}

static void set_receiving(http_t *http, struct MHD_Connection *connection, bool receiving)
{
    http_connection_t *c = connection_of(connection);
    if (c == NULL)
        return;
    pthread_mutex_lock(&http->lock);
    c->receiving = receiving;
    c->begun = false;
    c->since_ns = clock_ns();
    pthread_mutex_unlock(&http->lock);
}

/* The first line of a request is there. */
static void *note_begin(void *context, const char *uri, struct MHD_Connection *connection)
{
    http_t *http = context;
    http_connection_t *c = connection_of(connection);
    (void)uri;
    if (c != NULL) {
        pthread_mutex_lock(&http->lock);
        c->begun = true;
        pthread_mutex_unlock(&http->lock);
    }
    return NULL;
}

static void call_free(http_call_t *call)
{
    if (call == NULL)
        return;
    atomic_fetch_sub(&call->http->body_bytes, call->body_capacity);
    if (call->response != NULL)
        MHD_destroy_response(call->response);
    text_buffer_clear(&call->out);
    free(call->method);
    free(call->path);
    free(call->body);
    free(call);
}

static http_call_t *call_open(
    http_t *http, struct MHD_Connection *connection, const char *method, const char *path)
{
    http_call_t *call = calloc(1, sizeof *call);
    if (call == NULL)
        return NULL;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    call->http = http;
    call->connection = connection;
    call->fd = info == NULL ? -1 : info->connect_fd;
    call->begin_ns = clock_ns();
    call->method = strdup(method);
    call->path = strdup(path);
    if (call->method == NULL || call->path == NULL) {
        call_free(call);
        return NULL;
    }
    describe_address(connection, call->address);
    call->client = hash_of(call->address);
    return call;
}

/* ---- Answers --------------------------------------------------------------------------------- */

void http_header(http_call_t *call, const char *name, const char *value)
{
    if (call->n_headers == HTTP_HEADERS)
        return;
    call->headers[call->n_headers].name = name;
    snprintf(call->headers[call->n_headers++].value, HTTP_VALUE_BYTES, "%s", value);
}

static void add_headers(const http_call_t *call, struct MHD_Response *response, const char *type)
{
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    for (size_t i = 0; i < call->n_headers; i++)
        MHD_add_response_header(response, call->headers[i].name, call->headers[i].value);
    http_common_headers(call, response);
}

void http_reply(http_call_t *call, unsigned status, const char *type, char *body, size_t body_bytes)
{
    static char nothing[] = "";
    if (call->response != NULL)
        MHD_destroy_response(call->response);
    call->status = body == NULL ? MHD_HTTP_SERVICE_UNAVAILABLE : status;
    call->bytes = body == NULL ? 0 : body_bytes;
    call->response = body == NULL
                         ? MHD_create_response_from_buffer(0, nothing, MHD_RESPMEM_PERSISTENT)
                         : MHD_create_response_from_buffer(body_bytes, body, MHD_RESPMEM_MUST_FREE);
    if (call->response == NULL)
        free(body);
    else
        add_headers(call, call->response, type);
}

void http_refuse(http_call_t *call, unsigned status, const char *type, const char *message)
{
    char text[512];
    int bytes = snprintf(text, sizeof text,
        "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":null}}", message,
        type);
    http_reply(call, status, "application/json", strdup(text), (size_t)bytes);
}

void http_wait(http_call_t *call, void *owner)
{
    call->owner = owner;
    http_watch(call);
}

void http_stream(http_call_t *call, const char *type, void *owner)
{
    call->owner = owner;
    call->stream_type = type;
    call->woken = true;
    if (!call->watched)
        http_watch(call);
}

void http_resume(http_call_t *call)
{
    if (call->suspended)
        MHD_resume_connection(call->connection);
    call->suspended = false;
}

void http_wake(http_call_t *call)
{
    pthread_mutex_lock(&call->http->lock);
    call->woken = true;
    http_resume(call);
    pthread_mutex_unlock(&call->http->lock);
}

/* Whether the call was woken since the last time; else it is suspended until it is. */
static bool take_wake(http_call_t *call, bool *dead)
{
    pthread_mutex_lock(&call->http->lock);
    bool woken = call->woken;
    call->woken = false;
    *dead = call->dead || atomic_load(&call->http->closing);
    if (!woken && !*dead) {
        call->suspended = true;
        MHD_suspend_connection(call->connection);
    }
    pthread_mutex_unlock(&call->http->lock);
    return woken;
}

/* libmicrohttpd asks for more of a stream. */
static ssize_t read_stream(void *context, uint64_t position, char *buffer, size_t most)
{
    http_call_t *call = context;
    const http_handler_t *handler = call->http->options.handler;
    bool dead = false;
    (void)position;
    for (;;) {
        size_t left = call->out.bytes - call->n_sent;
        if (left > 0) {
            size_t n = left < most ? left : most;
            memcpy(buffer, call->out.text + call->n_sent, n);
            call->n_sent += n;
            call->bytes += n;
            return (ssize_t)n;
        }
        call->out.bytes = call->n_sent = 0;
        if (call->ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (!take_wake(call, &dead))
            return dead ? MHD_CONTENT_READER_END_WITH_ERROR : 0;
        if (dead)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        handler->stream(call->http->options.context, call->owner, &call->out, &call->ended);
    }
}

static enum MHD_Result begin_stream(http_call_t *call)
{
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, call, NULL);
    if (response == NULL)
        return MHD_NO;
    call->status = MHD_HTTP_OK;
    add_headers(call, response, call->stream_type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(response, "X-Accel-Buffering", "no"); /* nginx: pass it on at once */
    enum MHD_Result queued = MHD_queue_response(call->connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return queued;
}

/* Sends what the handler has decided, or waits. */
static enum MHD_Result settle(http_call_t *call)
{
    const http_options_t *options = &call->http->options;
    bool dead = false;
    while (call->response == NULL && call->stream_type == NULL) {
        if (call->owner == NULL)
            return MHD_NO; /* out of memory */
        if (!take_wake(call, &dead))
            return dead ? MHD_NO : MHD_YES;
        if (dead)
            return MHD_NO;
        options->handler->woken(options->context, call, call->owner);
    }
    if (call->response != NULL)
        return MHD_queue_response(call->connection, call->status, call->response);
    return begin_stream(call);
}

/* ---- Requests -------------------------------------------------------------------------------- */

/* Bytes that the body is going to have, if the client says so. */
static unsigned long long announced_bytes(const http_call_t *call)
{
    const char *length = MHD_lookup_connection_value(
        call->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    return length == NULL ? 0 : strtoull(length, NULL, 10);
}

static void refuse_body(http_call_t *call)
{
    char message[128];
    snprintf(message, sizeof message, "the request's body is longer than %zu bytes (--max-body)",
        call->http->options.max_body_bytes);
    http_refuse(call, MHD_HTTP_CONTENT_TOO_LARGE, "invalid_request_error", message);
}

/* The head of a request is there. A client that is refused and sends on would see its connection break
 * before it has read why, so what it sends is read and dropped, unless that is very long or it waits to be
 * told to go on. */
static enum MHD_Result take_head(http_call_t *call)
{
    unsigned long long bytes = announced_bytes(call);
    size_t most = call->http->options.max_body_bytes;
    call->refused = true;
    if (bytes > most)
        refuse_body(call);
    else
        call->refused = !http_admit(call);
    bool asks = MHD_lookup_connection_value(
                    call->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT) != NULL;
    return call->refused && (asks || bytes > 4 * (unsigned long long)most) ? settle(call) : MHD_YES;
}

/* A part of the body. What goes beyond a limit is read and dropped, since no answer may be sent before the
 * request's end. */
static void take_body(http_call_t *call, const char *data, size_t bytes)
{
    http_t *http = call->http;
    size_t most = http->options.max_body_bytes, needed = call->body_bytes + bytes + 1;
    if (call->refused || call->too_large || needed > most + 1) {
        call->too_large = true;
        return;
    }
    if (needed > call->body_capacity) {
        size_t capacity = call->body_capacity > 0 ? 2 * call->body_capacity : FIRST_BODY_BYTES;
        capacity = capacity < needed ? needed : capacity;
        size_t others = atomic_load(&http->body_bytes) - call->body_capacity;
        char *body = others + capacity > BODIES_AT_ONCE * (most + 1) + FIRST_BODY_BYTES
                         ? NULL
                         : realloc(call->body, capacity);
        if (body == NULL) {
            call->too_large = true;
            return;
        }
        atomic_fetch_add(&http->body_bytes, capacity - call->body_capacity);
        call->body = body;
        call->body_capacity = capacity;
    }
    memcpy(call->body + call->body_bytes, data, bytes);
    call->body_bytes += bytes;
    call->body[call->body_bytes] = 0;
}

static enum MHD_Result take_whole(http_call_t *call)
{
    const http_options_t *options = &call->http->options;
    set_receiving(call->http, call->connection, false);
    call->taken = true;
    const http_request_t request = {.method = call->method,
        .path = call->path,
        .body = call->body != NULL ? call->body : "",
        .body_bytes = call->body_bytes,
        .client = call->client};
    if (call->too_large && !call->refused)
        refuse_body(call);
    else if (!call->refused)
        options->handler->take(options->context, call, &request);
    atomic_fetch_sub(&call->http->body_bytes, call->body_capacity);
    free(call->body);
    call->body = NULL;
    call->body_capacity = 0;
    return settle(call);
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection,
    const char *path, const char *method, const char *version, const char *upload,
    size_t *upload_bytes, void **state)
{
    http_call_t *call = *state;
    (void)version;
    if (call == NULL) {
        *state = call = call_open(context, connection, method, path);
        return call == NULL ? MHD_NO : take_head(call);
    }
    if (*upload_bytes > 0) {
        take_body(call, upload, *upload_bytes);
        *upload_bytes = 0;
        return MHD_YES;
    }
    return call->taken ? settle(call) : take_whole(call);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **state,
    enum MHD_RequestTerminationCode how)
{
    http_t *http = context;
    http_call_t *call = *state;
    if (call == NULL)
        return;
    http_unwatch(call);
    const http_record_t record = {.method = call->method,
        .path = call->path,
        .address = call->address,
        .status = call->status,
        .complete = how == MHD_REQUEST_TERMINATED_COMPLETED_OK,
        .bytes = call->bytes,
        .took_ns = clock_ns() - call->begin_ns};
    http->options.handler->over(http->options.context, call->owner, &record);
    call_free(call);
    *state = NULL;
    set_receiving(http, connection, true);
}

/* ---- Connections ----------------------------------------------------------------------------- */

static void on_connection(void *context, struct MHD_Connection *connection, void **state,
    enum MHD_ConnectionNotificationCode what)
{
    http_t *http = context;
    http_connection_t *c = *state;
    pthread_mutex_lock(&http->lock);
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        c = info == NULL ? NULL : calloc(1, sizeof *c);
        if (c != NULL) {
            *c = (http_connection_t){.next = http->connections,
                .fd = info->connect_fd,
                .receiving = true,
                .begun = true,
                .since_ns = clock_ns()};
            if (c->next != NULL)
                c->next->before = c;
            http->connections = c;
        }
        *state = c;
    } else if (c != NULL) {
        *(c->before != NULL ? &c->before->next : &http->connections) = c->next;
        if (c->next != NULL)
            c->next->before = c->before;
        free(c);
        *state = NULL;
    }
    pthread_mutex_unlock(&http->lock);
}

/* ---- Opening and closing --------------------------------------------------------------------- */

static void allow_descriptors(size_t n)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= n + 64)
        return;
    limit.rlim_cur = limit.rlim_max < n + 64 ? limit.rlim_max : n + 64;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Paths stay as they come: those of this server need no escapes. */
static size_t unescape_nothing(void *context, struct MHD_Connection *connection, char *text)
{
    (void)context, (void)connection;
    return strlen(text);
}

static int start(http_t *http, fail_t *fail)
{
    const http_options_t *o = &http->options;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC;
    http->port = o->port;
    http->listen_fd = http_listen(o->host, &http->port, fail);
    if (http->listen_fd < 0 || http_watch_open(http, fail) != 0)
        return fail->status;
    http->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, http,
        MHD_OPTION_LISTEN_SOCKET, http->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)o->max_connections, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, o->max_header_bytes, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, http, MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
        MHD_OPTION_URI_LOG_CALLBACK, note_begin, http, MHD_OPTION_UNESCAPE_CALLBACK,
        unescape_nothing, NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    if (http->daemon == NULL)
        return fail_set(fail, FAIL_COMM, "serve: cannot start the HTTP server");
    http->listen_fd = -1; /* the daemon's */
    return 0;
}

int http_open(http_t **out, const http_options_t *options, fail_t *fail)
{
    sigset_t all, before;
    http_t *http = *out = calloc(1, sizeof *http);
    if (http == NULL)
        return fail_set(fail, FAIL_MEMORY, "serve: out of memory");
    http->options = *options;
    http->listen_fd = http->epoll_fd = -1;
    pthread_mutex_init(&http->lock, NULL);
    allow_descriptors(options->max_connections);
    /* Signals are for the threads that were there before. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    start(http, fail);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (fail->status != 0) {
        http_close(http);
        *out = NULL;
    }
    return fail->status;
}

void http_close(http_t *http)
{
    if (http == NULL)
        return;
    http_watch_close(http);
    /* libmicrohttpd does not end while a connection waits. */
    pthread_mutex_lock(&http->lock);
    for (http_call_t *call = http->calls; call != NULL; call = call->next) {
        call->dead = call->woken = true;
        http_resume(call);
    }
    pthread_mutex_unlock(&http->lock);
    if (http->daemon != NULL)
        MHD_stop_daemon(http->daemon);
    if (http->listen_fd >= 0)
        close(http->listen_fd);
    pthread_mutex_destroy(&http->lock);
    free(http);
}

size_t http_port(const http_t *http)
{
    return http->port;
}
