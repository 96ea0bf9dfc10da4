/* http.h without libmicrohttpd. */
#include "engine/serve/http.h"

#include <stdlib.h>

int http_open(http_t **http, const http_options_t *options, fail_t *fail)
{
    (void)options;
    *http = NULL;
    return fail_set(fail, FAIL_USAGE,
        "serve: this build of choir has no HTTP server; install libmicrohttpd (libmicrohttpd-dev) and build it again");
}

void http_close(http_t *http)
{
    (void)http;
}

size_t http_port(const http_t *http)
{
    (void)http;
    return 0;
}

void http_reply(http_call_t *call, unsigned status, const char *type, char *body, size_t body_bytes)
{
    (void)call, (void)status, (void)type, (void)body_bytes;
    free(body);
}

void http_header(http_call_t *call, const char *name, const char *value)
{
    (void)call, (void)name, (void)value;
}

void http_wait(http_call_t *call, void *owner)
{
    (void)call, (void)owner;
}

void http_stream(http_call_t *call, const char *type, void *owner)
{
    (void)call, (void)type, (void)owner;
}

void http_wake(http_call_t *call)
{
    (void)call;
}
