/* `choir bench --serve`: load on a server of OpenAI's form, and what its clients see. */
#ifndef CHOIR_LAUNCH_BENCH_SERVE_H
#define CHOIR_LAUNCH_BENCH_SERVE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/status.h"

typedef struct bench_serve_options {
    const char *url, *key; /* key: NULL: none */
    size_t requests, clients, gen_tokens;
    size_t prompt_tokens; /* random words of a prompt, or */
    size_t prompt_ids;    /* where not 0, random ids below it, so that every vocabulary will do */
    double
        rate; /* requests a second at random times, whatever is under way; 0: clients ask one after another */
    size_t
        beside; /* prompt tokens of a request that arrives while all clients have answers; 0: none. Then requests are clients */
    uint64_t seed;
} bench_serve_options_t;

/* Runs it. *row: a new value, one row of --json. */
int bench_serve_run(const bench_serve_options_t *options, json_t **row, fail_t *fail);

void bench_serve_print(const json_t *row, FILE *out);

#endif
