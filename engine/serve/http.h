/* HTTP for a server: listens, reads whole requests within limits, checks who asks, and sends
 * answers, whole or as a stream of server-sent events.
 *
 * It has two threads of its own: one for all connections (libmicrohttpd), which calls the handler,
 * and one that notices clients that hang up or take too long to send a request. So no other thread
 * ever waits for a client. Owns sockets, threads and open calls; borrows options. Functions that may
 * be called by any thread say so; the others belong to the handler, on its thread. */
#ifndef CHOIR_SERVE_HTTP_H
#define CHOIR_SERVE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/text_buffer.h"

typedef struct http http_t;
typedef struct http_call http_call_t; /* a request until its answer has been sent */

typedef struct http_request {
    const char *method, *path;
    const char *body; /* [body_bytes], with a zero behind it */
    size_t body_bytes;
    uint64_t client; /* the same for requests with one key, or without keys from one address */
} http_request_t;

/* How a call ended, for the log. */
typedef struct http_record {
    const char *method, *path, *address;
    unsigned status;  /* 0: no answer was begun */
    bool complete;    /* all of the answer was sent */
    uint64_t bytes;   /* of the answer's body */
    uint64_t took_ns; /* since the request's head was there */
} http_record_t;

typedef struct http_handler {
    /* A whole request: calls http_reply, http_stream or http_wait. */
    void (*take)(void *context, http_call_t *call, const http_request_t *request);
    /* A call that waits was woken: calls http_reply, or leaves it waiting. */
    void (*woken)(void *context, http_call_t *call, void *owner);
    /* Appends what there is more of a streamed answer; *ended: that was all. */
    void (*stream)(void *context, void *owner, text_buffer_t *out, bool *ended);
    /* From the other thread: the client of a call that waits or streams has hung up. Only sets flags:
     * http_wake has to wait meanwhile. */
    void (*hung_up)(void *context, void *owner);
    /* The call is over; it does not exist any more. owner: NULL when there was none. */
    void (*over)(void *context, void *owner, const http_record_t *record);
} http_handler_t;

typedef struct http_options {
    const char *host;        /* a name or address */
    size_t port;             /* 0: one that is free */
    const char *const *keys; /* [n_keys] one of which a request has to bring; 0: none needed */
    size_t n_keys;
    const char *allow_origin; /* of pages that may ask; "*": any; NULL: only the server's own */
    size_t max_body_bytes, max_header_bytes, max_connections;
    size_t receive_seconds; /* a request that has not arrived whole after them is refused */
    const http_handler_t *handler;
    void *context;
} http_options_t;

/* FAIL_USAGE when this build has no libmicrohttpd, FAIL_COMM when the address cannot be used. */
int http_open(http_t **http, const http_options_t *options, fail_t *fail);
/* Ends open calls as they are. NULL is allowed. */
void http_close(http_t *http);

size_t http_port(const http_t *http);

/* A whole answer. body: from malloc, taken; NULL: out of memory, which is answered. */
void http_reply(
    http_call_t *call, unsigned status, const char *type, char *body, size_t body_bytes);
/* A header of the answer, before http_reply or http_stream. name: static; value: copied. */
void http_header(http_call_t *call, const char *name, const char *value);
/* The answer will come when the call is woken. */
void http_wait(http_call_t *call, void *owner);
/* An answer of status 200 that comes piece by piece, by handler->stream. */
void http_stream(http_call_t *call, const char *type, void *owner);

/* Any thread, from handler->take to handler->over. There is something new to send. */
void http_wake(http_call_t *call);

#endif
