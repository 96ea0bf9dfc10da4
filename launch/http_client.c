#include "launch/http_client.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_BYTES 65536
#define PATIENCE_MS 600000

int http_place_open(http_place_t *place, const char *url, fail_t *fail)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    *place = (http_place_t){.port = "80"};
    int n = sscanf(url, "http://%255[^:/]:%15[0-9]%255s", place->host, place->port, place->prefix);
    if (n < 2)
        n = sscanf(url, "http://%255[^:/]%255s", place->host, place->prefix);
    if (n < 1)
        return fail_set(fail, FAIL_USAGE, "--serve: expected http://HOST:PORT, found %.80s", url);
    for (size_t i = strlen(place->prefix); i > 0 && place->prefix[i - 1] == '/'; i--)
        place->prefix[i - 1] = 0;
    int error = getaddrinfo(place->host, place->port, &hints, &place->found);
    if (error != 0)
        return fail_set(fail, FAIL_COMM, "%s: %s", place->host, gai_strerror(error));
    return 0;
}

void http_place_close(http_place_t *place)
{
    if (place->found != NULL)
        freeaddrinfo(place->found);
    place->found = NULL;
}

static int write_request(http_client_t *c, const http_place_t *place, const char *path,
    const char *key, const char *body, fail_t *fail)
{
    char head[2048];
    int bytes = snprintf(head, sizeof head,
        "%s %s%s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n%s%s%s"
        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
        body == NULL ? "GET" : "POST", place->prefix, path, place->host, place->port,
        key == NULL ? "" : "Authorization: Bearer ", key == NULL ? "" : key,
        key == NULL ? "" : "\r\n", body == NULL ? 0 : strlen(body));
    if (bytes < 0 || (size_t)bytes >= sizeof head)
        return fail_set(fail, FAIL_USAGE, "--api-key: too long");
    text_buffer_append(&c->request, head, (size_t)bytes, fail);
    if (body != NULL && fail->status == 0)
        text_buffer_append(&c->request, body, strlen(body), fail);
    return fail->status;
}

int http_client_open(http_client_t *c, const http_place_t *place, const char *path, const char *key,
    const char *body, fail_t *fail)
{
    int one = 1;
    *c = (http_client_t){.fd = -1};
    if (write_request(c, place, path, key, body, fail) != 0)
        return fail->status;
    c->fd = socket(place->found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || (connect(c->fd, place->found->ai_addr, place->found->ai_addrlen) != 0 &&
                         errno != EINPROGRESS))
        return fail_set(fail, FAIL_COMM, "%s:%s: %s", place->host, place->port, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return 0;
}

void http_client_close(http_client_t *c)
{
    if (c->fd >= 0)
        close(c->fd);
    text_buffer_clear(&c->request);
    text_buffer_clear(&c->raw);
    text_buffer_clear(&c->body);
    *c = (http_client_t){.fd = -1};
}

short http_client_events(const http_client_t *c)
{
    return c->n_sent < c->request.bytes ? POLLOUT : POLLIN;
}

static void drop(text_buffer_t *text, size_t bytes)
{
    memmove(text->text, text->text + bytes, text->bytes - bytes);
    text->bytes -= bytes;
}

static void read_head(http_client_t *c)
{
    char *end = c->raw.bytes == 0 ? NULL : memmem(c->raw.text, c->raw.bytes, "\r\n\r\n", 4);
    if (end == NULL)
        return;
    *end = 0;
    c->has_head = true;
    sscanf(c->raw.text, "HTTP/%*s %d", &c->status);
    c->chunked = strcasestr(c->raw.text, "transfer-encoding: chunked") != NULL;
    drop(&c->raw, (size_t)(end - c->raw.text) + 4);
}

/* Moves what is complete of the body; a chunk is its size in hexadecimal, a line's end, data, a line's end. */
static int read_body(http_client_t *c, fail_t *fail)
{
    while (c->raw.bytes > 0 && fail->status == 0 && !c->ended) {
        if (c->chunk_left == 0 && c->chunked) {
            char *end = memmem(c->raw.text, c->raw.bytes, "\r\n", 2);
            if (end == c->raw.text) { /* of the chunk before */
                drop(&c->raw, 2);
                continue;
            }
            if (end == NULL)
                return 0;
            c->chunk_left = strtoull(c->raw.text, NULL, 16);
            drop(&c->raw, (size_t)(end - c->raw.text) + 2);
            c->ended = c->chunk_left == 0;
            continue;
        }
        size_t n = c->chunked && c->chunk_left < c->raw.bytes ? c->chunk_left : c->raw.bytes;
        text_buffer_append(&c->body, c->raw.text, n, fail);
        drop(&c->raw, n);
        c->chunk_left -= c->chunked ? n : 0;
    }
    return fail->status;
}

static int broken(http_client_t *c, fail_t *fail)
{
    c->ended = true;
    return fail_set(fail, FAIL_COMM, "the connection broke: %s", strerror(errno));
}

int http_client_move(http_client_t *c, fail_t *fail)
{
    char buffer[BUFFER_BYTES];
    while (c->n_sent < c->request.bytes) {
        ssize_t n =
            send(c->fd, c->request.text + c->n_sent, c->request.bytes - c->n_sent, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == ENOTCONN ? 0 : broken(c, fail);
        c->n_sent += (size_t)n;
    }
    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
        if (n < 0)
            return errno == EAGAIN ? fail->status : broken(c, fail);
        if (n > 0 && text_buffer_append(&c->raw, buffer, (size_t)n, fail) != 0)
            return fail->status;
        if (!c->has_head)
            read_head(c);
        if (c->has_head && read_body(c, fail) != 0)
            return fail->status;
        if (n == 0 && c->chunked && !c->ended) {
            errno = ECONNRESET;
            return broken(c, fail);
        }
        c->ended = c->ended || n == 0;
        if (c->ended)
            return 0;
    }
}

int http_client_ask(http_client_t *c, const http_place_t *place, const char *path, const char *key,
    const char *body, fail_t *fail)
{
    if (http_client_open(c, place, path, key, body, fail) != 0)
        return fail->status;
    while (!c->ended && fail->status == 0) {
        struct pollfd wait = {.fd = c->fd, .events = http_client_events(c)};
        if (poll(&wait, 1, PATIENCE_MS) == 0)
            return fail_set(fail, FAIL_COMM, "%s: no answer", place->host);
        http_client_move(c, fail);
    }
    if (fail->status == 0 && c->status != 200)
        fail_set(fail, FAIL_COMM, "%s: status %d: %.*s", path, c->status,
            (int)(c->body.bytes < 200 ? c->body.bytes : 200),
            c->body.bytes > 0 ? c->body.text : "");
    return fail->status;
}
