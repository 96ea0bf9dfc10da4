/* Connections and calls, for the files of http.h. Internal to engine/serve. */
#ifndef CHOIR_SERVE_HTTP_INTERNAL_H
#define CHOIR_SERVE_HTTP_INTERNAL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "engine/serve/http.h"

#define HTTP_HEADERS 6
#define HTTP_VALUE_BYTES 256
#define HTTP_ADDRESS_BYTES 64

/* A client's connection, from accept to close. */
typedef struct http_connection {
    struct http_connection *next, *before;
    int fd;
    bool receiving; /* it is the client's turn, since since_ns */
    bool begun;     /* something of a request is there, or it is the connection's first */
    uint64_t since_ns;
} http_connection_t;

struct http_call {
    struct http_call *next, *before; /* of open calls that are watched */
    http_t *http;
    struct MHD_Connection *connection;
    uint64_t serial; /* names it to the watching thread */
    int fd;
    char *method, *path;
    char address[HTTP_ADDRESS_BYTES];
    uint64_t begin_ns, client;
    char *body;
    size_t body_bytes, body_capacity;
    bool refused, too_large, taken;
    void *owner;
    /* The answer. */
    unsigned status;
    struct MHD_Response *response; /* whole */
    const char *stream_type;       /* of a stream */
    struct {
        const char *name;
        char value[HTTP_VALUE_BYTES];
    } headers[HTTP_HEADERS];
    size_t n_headers;
    text_buffer_t out; /* of a stream */
    size_t n_sent;
    uint64_t bytes;
    bool ended;
    /* Under http->lock. */
    bool watched, woken, suspended, dead;
};

struct http {
    http_options_t options;
    struct MHD_Daemon *daemon;
    size_t port;
    int listen_fd, epoll_fd;
    pthread_t watcher;
    bool watching;
    atomic_bool closing;
    atomic_size_t body_bytes; /* of all requests that are being received */
    pthread_mutex_t lock;
    http_connection_t *connections;
    http_call_t *calls;
    uint64_t next_serial;
};

/* The watching thread. watch and unwatch take a call whose client may hang up; the lock is not held. */
int http_watch_open(http_t *http, fail_t *fail);
void http_watch_close(http_t *http);
void http_watch(http_call_t *call);
void http_unwatch(http_call_t *call);

/* With the lock held. */
void http_resume(http_call_t *call);

/* Who asks (http_access.c). Whether a request may go on; else it has been answered. */
bool http_admit(http_call_t *call);
/* Headers that every answer of the call has. */
void http_common_headers(const http_call_t *call, struct MHD_Response *response);

/* A listening socket. -1 and FAIL_COMM. */
int http_listen(const char *host, size_t *port, fail_t *fail);

/* An error as OpenAI's servers write it; before any handler. */
void http_refuse(http_call_t *call, unsigned status, const char *type, const char *message);

#endif
