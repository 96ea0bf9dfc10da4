/* Clients that hang up while their answer is being made, and clients that stop sending in the midst of
 * their request. libmicrohttpd looks at neither: it does not read from a connection that waits, and it
 * counts every single byte as progress. */
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/serve/http_internal.h"

#define LOOK_MS 100
#define EVENTS 64
#define SECOND UINT64_C(1000000000)

void http_watch(http_call_t *call)
{
    http_t *http = call->http;
    pthread_mutex_lock(&http->lock);
    call->serial = ++http->next_serial;
    call->watched = true;
    call->before = NULL;
    call->next = http->calls;
    if (http->calls != NULL)
        http->calls->before = call;
    http->calls = call;
    struct epoll_event event = {
        .events = EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLONESHOT, .data.u64 = call->serial};
    epoll_ctl(http->epoll_fd, EPOLL_CTL_ADD, call->fd, &event);
    pthread_mutex_unlock(&http->lock);
}

void http_unwatch(http_call_t *call)
{
    http_t *http = call->http;
    pthread_mutex_lock(&http->lock);
    if (call->watched) {
        epoll_ctl(http->epoll_fd, EPOLL_CTL_DEL, call->fd, NULL);
        if (call->before != NULL)
            call->before->next = call->next;
        else
            http->calls = call->next;
        if (call->next != NULL)
            call->next->before = call->before;
        call->watched = false;
    }
    pthread_mutex_unlock(&http->lock);
}

static void note_hung_up(http_t *http, uint64_t serial)
{
    pthread_mutex_lock(&http->lock);
    http_call_t *call = http->calls;
    while (call != NULL && call->serial != serial)
        call = call->next;
    if (call != NULL) {
        call->dead = true;
        http->options.handler->hung_up(http->options.context, call->owner);
        call->woken = true;
        http_resume(call);
    }
    pthread_mutex_unlock(&http->lock);
}

static const char late[] =
    "{\"error\":{\"message\":\"the request did not arrive in time\",\"type\":"
    "\"timeout_error\",\"param\":null,\"code\":null}}";

/* Requests that have taken too long to arrive are answered here, past libmicrohttpd, which has sent
 * nothing yet, and their connections end. */
static void end_slow(http_t *http)
{
    char answer[512];
    int bytes = snprintf(answer, sizeof answer,
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\n\r\n%s",
        sizeof late - 1, late);
    uint64_t now = clock_ns(), limit = http->options.receive_seconds * SECOND;
    pthread_mutex_lock(&http->lock);
    for (http_connection_t *c = http->connections; c != NULL; c = c->next) {
        /* since_ns may be later than now, by a request that came meanwhile. */
        if (!c->receiving || now < c->since_ns + limit)
            continue;
        if (c->begun)
            send(c->fd, answer, (size_t)bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        shutdown(c->fd, SHUT_RDWR);
        c->receiving = false;
    }
    pthread_mutex_unlock(&http->lock);
}

static void *watch(void *context)
{
    http_t *http = context;
    struct epoll_event events[EVENTS];
    uint64_t looked_ns = clock_ns();
    while (!atomic_load(&http->closing)) {
        int n = epoll_wait(http->epoll_fd, events, EVENTS, LOOK_MS);
        for (int i = 0; i < n; i++)
            note_hung_up(http, events[i].data.u64);
        if (clock_ns() - looked_ns < LOOK_MS * UINT64_C(1000000))
            continue;
        end_slow(http);
        looked_ns = clock_ns();
    }
    return NULL;
}

int http_watch_open(http_t *http, fail_t *fail)
{
    http->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (http->epoll_fd < 0 || pthread_create(&http->watcher, NULL, watch, http) != 0)
        return fail_set(fail, FAIL_MEMORY, "serve: cannot start a thread");
    http->watching = true;
    return 0;
}

void http_watch_close(http_t *http)
{
    atomic_store(&http->closing, true);
    if (http->watching)
        pthread_join(http->watcher, NULL);
    if (http->epoll_fd >= 0)
        close(http->epoll_fd);
}
