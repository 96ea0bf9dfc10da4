/* Requests over HTTP/1.1 to a server, one after another on a connection, without waiting for it: the caller polls its
 * descriptor. Plain HTTP alone.
 *
 * Owns socket and buffers, borrows the place; one thread. */
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
    const http_place_t *place;
    int fd;                                     /* -1: none */
    bool has_head, chunked, until_close, ended; /* until_close: the answer has no length */
    bool keeps;  /* the connection takes another request when this one has ended */
    bool reused; /* the server may have closed the connection before this request */
    int status;
    text_buffer_t request;
    size_t n_sent;
    text_buffer_t raw;  /* received, not looked at yet */
    size_t left;        /* bytes of the current chunk, or of the body */
    text_buffer_t body; /* as it has come; the caller may empty it */
} http_client_t;

/* body: NULL: GET. key: NULL: none. FAIL_COMM, FAIL_MEMORY. */
int http_client_open(http_client_t *client, const http_place_t *place, const char *path,
    const char *key, const char *body, fail_t *fail);
/* Begins another request when one has ended, on the same connection if it keeps. */
int http_client_again(
    http_client_t *client, const char *path, const char *key, const char *body, fail_t *fail);
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
