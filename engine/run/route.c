#include "engine/run/route.h"

#include <stdlib.h>
#include <xxhash.h>

#define BLOCK_TOKENS 64 /* as of the cache */
#define PLACES 16384

typedef struct place {
    uint64_t hash; /* of a beginning; 0: none */
    size_t replica;
} place_t;

struct route {
    place_t places[PLACES];
};

int route_open(route_t **route, fail_t *fail)
{
    *route = calloc(1, sizeof **route);
    return *route != NULL ? 0 : fail_set(fail, FAIL_MEMORY, "fleet: out of memory for prefixes");
}

void route_close(route_t *route)
{
    free(route);
}

static uint64_t next_hash(uint64_t hash, const int32_t *block)
{
    return XXH3_64bits_withSeed(block, BLOCK_TOKENS * sizeof *block, hash);
}

size_t route_find(const route_t *route, const int32_t *ids, size_t n_ids)
{
    size_t replica = ROUTE_NONE;
    uint64_t hash = 0;
    for (size_t n = BLOCK_TOKENS; n < n_ids; n += BLOCK_TOKENS) {
        hash = next_hash(hash, ids + n - BLOCK_TOKENS);
        const place_t *place = &route->places[hash % PLACES];
        if (place->hash != hash)
            break;
        replica = place->replica;
    }
    return replica;
}

void route_note(route_t *route, const int32_t *ids, size_t n_ids, size_t replica)
{
    uint64_t hash = 0;
    for (size_t n = BLOCK_TOKENS; n < n_ids; n += BLOCK_TOKENS) {
        hash = next_hash(hash, ids + n - BLOCK_TOKENS);
        route->places[hash % PLACES] = (place_t){hash, replica};
    }
}
