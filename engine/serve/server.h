/* An OpenAI-compatible server over a fleet (docs/serve.md).
 *
 * On the coordinator. HTTP's threads read and check requests, turn them into token ids, and write
 * answers; the thread that calls server_run takes requests from a queue, runs the fleet's steps and
 * hands on what they give. The two share the queue and what has been told of answers, under one
 * lock that nobody holds while he waits or computes. Owns HTTP and open requests; borrows all else. */
#ifndef CHOIR_SERVE_SERVER_H
#define CHOIR_SERVE_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/run/fleet.h"
#include "engine/serve/http.h"
#include "engine/text/chat.h"

typedef struct server server_t;

typedef struct server_options {
    http_options_t http; /* without handler and context */
    size_t max_queue;    /* requests that wait; one more is refused with status 429 */
    size_t max_tokens;   /* of an answer in a chat whose request does not say */
    const char *model;   /* the name that requests give */
    const char *version;
    const char *access_log; /* a file, "-": standard error; NULL: none */
    size_t drain_seconds;
    bool (*asked_to_drain)(void); /* looked at between steps */
    bool (*asked_to_reopen)(void);
} server_options_t;

/* What a server answers with, once it is loaded. */
typedef struct server_model {
    fleet_t *fleet;
    const tokenizer_t *tokenizer;
    chat_t *chat; /* NULL: the model has no template. From now on HTTP's */
    const char *fingerprint;
    sampler_params_t sampling; /* of requests that do not say */
} server_model_t;

/* Listens; until server_ready every request but /health gets status 503. FAIL_COMM. */
int server_open(server_t **server, const server_options_t *options, fail_t *fail);
size_t server_port(const server_t *server);

/* From now on requests are taken. FAIL_MEMORY. */
int server_ready(server_t *server, const server_model_t *model, fail_t *fail);

/* Serves until the fleet fails or is interrupted; then open requests are told by server_fail. Or until it
 * is asked to drain: then no new request is taken, and those that are open have drain_seconds; returns 0. */
int server_run(server_t *server, fail_t *fail);

/* Any thread. Every open request ends with this error, and no other is taken. Waits for a moment, so that the
 * answers get out. */
void server_fail(server_t *server, const char *message);

/* NULL is allowed. */
void server_close(server_t *server);

#endif
