/* Which replica of a fleet has computed the beginning of a prompt: a guess, for speed alone, by the last
 * replica that got a prompt with the same blocks at its beginning. Owns a table of fixed size; one thread
 * at a time. */
#ifndef CHOIR_RUN_ROUTE_H
#define CHOIR_RUN_ROUTE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct route route_t;

#define ROUTE_NONE SIZE_MAX

int route_open(route_t **route, fail_t *fail);
/* NULL is allowed. */
void route_close(route_t *route);

/* The replica with the longest beginning of these ids, or ROUTE_NONE. */
size_t route_find(const route_t *route, const int32_t *ids, size_t n_ids);
/* The replica gets a prompt of these ids. */
void route_note(route_t *route, const int32_t *ids, size_t n_ids, size_t replica);

#endif
