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

#define BUFFER_BYTES 32768
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

static int write_request(
    http_client_t *c, const char *path, const char *key, const char *body, fail_t *fail)
{
    const http_place_t *place = c->place;
    char head[2048];
    int bytes = snprintf(head, sizeof head,
        "%s %s%s HTTP/1.1\r\nHost: %s:%s\r\n%s%s%s"
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

static int connect_to_place(http_client_t *c, fail_t *fail)
{
    const struct addrinfo *found = c->place->found;
    int one = 1;
    if (c->fd >= 0)
        close(c->fd);
    c->reused = false;
    c->fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0 ||
        (connect(c->fd, found->ai_addr, found->ai_addrlen) != 0 && errno != EINPROGRESS))
        return fail_set(
            fail, FAIL_COMM, "%s:%s: %s", c->place->host, c->place->port, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return 0;
}

int http_client_open(http_client_t *c, const http_place_t *place, const char *path, const char *key,
    const char *body, fail_t *fail)
{
    *c = (http_client_t){.place = place, .fd = -1};
    return http_client_again(c, path, key, body, fail);
}

int http_client_again(
    http_client_t *c, const char *path, const char *key, const char *body, fail_t *fail)
{
    c->reused = c->fd >= 0 && c->keeps;
    c->has_head = c->chunked = c->until_close = c->ended = c->keeps = false;
    c->status = 0;
    c->n_sent = c->left = 0;
    c->request.bytes = c->raw.bytes = c->body.bytes = 0;
    if (write_request(c, path, key, body, fail) != 0)
        return fail->status;
    return c->reused ? 0 : connect_to_place(c, fail);
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
    c->chunked = strcasestr(c->raw.text, "\r\ntransfer-encoding: chunked") != NULL;
    const char *length = strcasestr(c->raw.text, "\r\ncontent-length:");
    c->keeps = strncmp(c->raw.text, "HTTP/1.1", 8) == 0 && (c->chunked || length != NULL) &&
               strcasestr(c->raw.text, "\r\nconnection: close") == NULL;
    c->until_close = !c->chunked && length == NULL;
    c->left = c->chunked ? 0 : c->until_close ? SIZE_MAX : strtoull(length + 17, NULL, 10);
    c->ended = !c->chunked && c->left == 0;
    drop(&c->raw, (size_t)(end - c->raw.text) + 4);
}

/* The size of the next chunk, in hexadecimal, and its line's end; behind the last one comes an empty line. Whether it was
 * there. */
static bool read_size(http_client_t *c)
{
    if (c->raw.bytes >= 2 && memcmp(c->raw.text, "\r\n", 2) == 0) /* of the chunk before */
        drop(&c->raw, 2);
    char *end = memmem(c->raw.text, c->raw.bytes, "\r\n", 2);
    if (end == NULL || end == c->raw.text)
        return false;
    c->left = strtoull(c->raw.text, NULL, 16);
    if (c->left == 0 &&
        (end = memmem(end, c->raw.bytes - (size_t)(end - c->raw.text), "\r\n\r\n", 4)) == NULL)
        return false;
    c->ended = c->left == 0;
    drop(&c->raw, (size_t)(end - c->raw.text) + (c->ended ? 4 : 2));
    return true;
}

/* Moves what is complete of the body. */
static int read_body(http_client_t *c, fail_t *fail)
{
    while (c->raw.bytes > 0 && fail->status == 0 && !c->ended) {
        if (c->left == 0 && !read_size(c))
            return 0;
        size_t n = c->left < c->raw.bytes ? c->left : c->raw.bytes;
        text_buffer_append(&c->body, c->raw.text, n, fail);
        drop(&c->raw, n);
        c->left -= n;
        c->ended = c->ended || (!c->chunked && c->left == 0);
    }
    return fail->status;
}

/* error: 0: the server has closed the connection. Where it did so before it saw the request, another connection is tried. */
static int broken(http_client_t *c, int error, fail_t *fail)
{
    if (c->reused && !c->has_head && c->raw.bytes == 0) {
        c->n_sent = 0;
        return connect_to_place(c, fail);
    }
    c->ended = true;
    c->keeps = false;
    return fail_set(
        fail, FAIL_COMM, "the connection broke: %s", strerror(error == 0 ? ECONNRESET : error));
}

static int send_request(http_client_t *c, fail_t *fail)
{
    while (c->n_sent < c->request.bytes) {
        ssize_t n =
            send(c->fd, c->request.text + c->n_sent, c->request.bytes - c->n_sent, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == ENOTCONN ? 0 : broken(c, errno, fail);
        c->n_sent += (size_t)n;
    }
    return 0;
}

int http_client_move(http_client_t *c, fail_t *fail)
{
    ssize_t n = BUFFER_BYTES;
    if (c->n_sent < c->request.bytes)
        return send_request(c, fail);
    /* Less than was asked for: that was all there is. */
    while (!c->ended && n == BUFFER_BYTES) {
        if (text_buffer_reserve(&c->raw, BUFFER_BYTES, fail) != 0)
            return fail->status;
        n = recv(c->fd, c->raw.text + c->raw.bytes, BUFFER_BYTES, 0);
        if (n < 0)
            return errno == EAGAIN ? 0 : broken(c, errno, fail);
        if (n == 0 && !c->until_close)
            return broken(c, 0, fail);
        c->ended = n == 0;
        c->raw.bytes += (size_t)n;
        if (!c->has_head)
            read_head(c);
        if (c->has_head && read_body(c, fail) != 0)
            return fail->status;
    }
    return 0;
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
