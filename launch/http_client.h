/* One request over HTTP/1.1 to a server, without waiting for it: the caller polls its descriptor. Plain HTTP alone.
 *
 * Owns socket and buffers; one thread. */
#ifndef CHOIR_LAUNCH_HTTP_CLIENT_H
#define CHOIR_LAUNCH_HTTP_CLIENT_H

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"
#include "engine/text/text_buffer.h"

typedef struct http_place {
    char host[256], port[16], prefix[256]; /* http://HOST:PORT/PREFIX */
    struct addrinfo *found;
} http_place_t;

/* FAIL_USAGE, FAIL_COMM. */
int http_place_open(http_place_t *place, const char *url, fail_t *fail);
void http_place_close(http_place_t *place);

typedef struct http_client {
    int fd; /* -1: none */
    bool connected, has_head, chunked, ended;
    int status;
    text_buffer_t request;
    size_t n_sent;
    text_buffer_t raw;  /* received, not looked at yet */
    size_t chunk_left;  /* bytes of the current chunk */
    text_buffer_t body; /* as it has come; the caller may empty it */
} http_client_t;

/* Begins a request. body: NULL: GET. key: NULL: none. FAIL_COMM, FAIL_MEMORY. */
int http_client_open(http_client_t *client, const http_place_t *place, const char *path,
    const char *key, const char *body, fail_t *fail);
void http_client_close(http_client_t *client);

/* POLLIN or POLLOUT: what it waits for. */
short http_client_events(const http_client_t *client);
/* Sends and receives what can be without waiting; `ended` when the answer is complete or broken. FAIL_COMM where it
 * is broken. */
int http_client_move(http_client_t *client, fail_t *fail);

/* A whole request, waited for. */
int http_client_ask(http_client_t *client, const http_place_t *place, const char *path,
    const char *key, const char *body, fail_t *fail);

#endif
