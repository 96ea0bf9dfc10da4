/* Who may ask: keys, and pages of other origins. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/serve/http_internal.h"

#define KEY_BYTES 512

/* Whether two texts are equal, in a time that tells nothing about where they differ. */
static bool same_secret(const char *a, const char *b)
{
    size_t n_a = strlen(a), n_b = strlen(b);
    volatile unsigned char differs = n_a != n_b;
    for (size_t i = 0; i < n_a; i++)
        differs |= (unsigned char)a[i] ^ (unsigned char)(n_b > 0 ? b[i % n_b] : 1);
    return differs == 0;
}

static const char *header(const http_call_t *call, const char *name)
{
    return MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, name);
}

static int base64_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c != 0 ? strchr(digits, c) : NULL;
    return at == NULL ? -1 : (int)(at - digits);
}

/* The password of "Basic ...", with which browsers answer when they have asked their user. */
static bool basic_password(const char *text, char *password)
{
    char plain[KEY_BYTES];
    unsigned bits = 0;
    size_t n = 0, n_bits = 0;
    for (; base64_digit(*text) >= 0 && n + 1 < sizeof plain; text++) {
        bits = bits << 6 | (unsigned)base64_digit(*text);
        n_bits += 6;
        if (n_bits >= 8)
            plain[n++] = (char)(bits >> (n_bits -= 8) & 0xff);
    }
    plain[n] = 0;
    const char *colon = strchr(plain, ':');
    if (colon == NULL)
        return false;
    strcpy(password, colon + 1);
    return true;
}

/* The number of the key that the request brings, or n_keys. Every key is compared. */
static size_t key_of(const http_call_t *call)
{
    const http_options_t *options = &call->http->options;
    const char *given = header(call, MHD_HTTP_HEADER_AUTHORIZATION);
    char password[KEY_BYTES] = "";
    size_t found = options->n_keys;
    if (given == NULL)
        return found;
    if (strncasecmp(given, "Bearer ", 7) == 0)
        snprintf(password, sizeof password, "%s", given + 7);
    else if (strncasecmp(given, "Basic ", 6) != 0 || !basic_password(given + 6, password))
        return found;
    for (size_t i = 0; i < options->n_keys; i++)
        if (same_secret(options->keys[i], password))
            found = i;
    return found;
}

static bool is_page(const char *path)
{
    return strcmp(path, "/") == 0 || strncmp(path, "/page/", 6) == 0;
}

/* Whether the page that asks, if it is one, may: the server's own, or of the origin allowed. */
static bool origin_allowed(const http_call_t *call)
{
    const char *origin = header(call, MHD_HTTP_HEADER_ORIGIN), *host;
    const char *allowed = call->http->options.allow_origin;
    if (origin == NULL || (allowed != NULL && strcmp(allowed, "*") == 0) ||
        (allowed != NULL && strcasecmp(allowed, origin) == 0))
        return true;
    host = header(call, MHD_HTTP_HEADER_HOST);
    const char *name = strstr(origin, "://");
    return host != NULL && name != NULL && strcasecmp(name + 3, host) == 0;
}

void http_common_headers(const http_call_t *call, struct MHD_Response *response)
{
    const char *allowed = call->http->options.allow_origin;
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (allowed == NULL)
        return;
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, "Origin");
}

static bool answer_preflight(http_call_t *call)
{
    http_header(call, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    http_header(call, "Access-Control-Allow-Headers", "authorization, content-type");
    http_header(call, "Access-Control-Max-Age", "600");
    http_reply(call, MHD_HTTP_NO_CONTENT, "text/plain", calloc(1, 1), 0);
    return false;
}

bool http_admit(http_call_t *call)
{
    const http_options_t *options = &call->http->options;
    if (!origin_allowed(call)) {
        http_refuse(call, MHD_HTTP_FORBIDDEN, "permission_error",
            "pages of this origin may not use this server; --allow-origin allows one");
        return false;
    }
    if (strcmp(call->method, MHD_HTTP_METHOD_OPTIONS) == 0 && options->allow_origin != NULL)
        return answer_preflight(call);
    if (options->n_keys == 0 || strcmp(call->path, "/health") == 0)
        return true;
    size_t key = key_of(call);
    if (key < options->n_keys) {
        call->client = key + 1;
        return true;
    }
    http_header(call, MHD_HTTP_HEADER_WWW_AUTHENTICATE,
        is_page(call->path) ? "Basic realm=\"choir\"" : "Bearer");
    http_refuse(call, MHD_HTTP_UNAUTHORIZED, "authentication_error",
        "expected one of the server's keys as Authorization: Bearer KEY");
    return false;
}
