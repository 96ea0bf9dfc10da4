#include "engine/run/draft.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"

#define NOWHERE UINT32_MAX

/* The places after grams of one length, by hash: the latest of each hash, and before each place the
 * one of the same hash before it. */
typedef struct chains {
    size_t gram;
    uint32_t *latest;   /* [n_hashes] */
    uint32_t *previous; /* [capacity + 1] */
} chains_t;

enum { N_CHAINS = 2 };

struct draft {
    size_t n, capacity, n_hashes; /* n_hashes: a power of two */
    int32_t *ids;                 /* [n] of capacity */
    chains_t chains[N_CHAINS];    /* the longer gram first */
};

static size_t hash(const draft_t *d, size_t gram, size_t place)
{
    uint64_t h = 0;
    for (size_t i = place - gram; i < place; i++)
        h = (h ^ (uint32_t)d->ids[i]) * 0x9e3779b97f4a7c15u;
    return (size_t)(h >> 32) & (d->n_hashes - 1);
}

int draft_open(draft_t **out, size_t capacity, fail_t *fail)
{
    static const size_t grams[N_CHAINS] = {DRAFT_GRAM, 1};
    size_t n_hashes = 16;
    while (n_hashes < capacity)
        n_hashes *= 2;
    size_t each = n_hashes + capacity + 1;
    draft_t *d = *out = NULL;
    if (capacity < NOWHERE)
        d = malloc(sizeof *d + (capacity + N_CHAINS * each) * sizeof(uint32_t));
    if (d == NULL)
        return fail_set(fail, FAIL_MEMORY, "draft: out of memory for %zu tokens", capacity);
    *d = (draft_t){.capacity = capacity, .n_hashes = n_hashes, .ids = (int32_t *)(d + 1)};
    uint32_t *at = (uint32_t *)(d + 1) + capacity;
    for (int i = 0; i < N_CHAINS; i++, at += each) {
        d->chains[i] = (chains_t){grams[i], at, at + n_hashes};
        memset(at, 0xff, n_hashes * sizeof *at);
    }
    *out = d;
    return 0;
}

void draft_close(draft_t *d)
{
    free(d);
}

/* Notes a place: the text up to it is there. */
static void note(draft_t *d, chains_t *chains, size_t place)
{
    if (place < chains->gram)
        return;
    uint32_t *latest = &chains->latest[hash(d, chains->gram, place)];
    chains->previous[place] = *latest;
    *latest = (uint32_t)place;
}

void draft_push(draft_t *d, const int32_t *ids, size_t n)
{
    assert(n <= d->capacity - d->n);
    memcpy(d->ids + d->n, ids, n * sizeof *ids);
    for (size_t i = 0; i < n; i++) {
        d->n++;
        for (int c = 0; c < N_CHAINS; c++)
            note(d, &d->chains[c], d->n);
    }
}

const int32_t *draft_text(const draft_t *d)
{
    return d->ids;
}

/* How many tokens before the place agree with those at the text's end. */
static size_t agreement(const draft_t *d, size_t place)
{
    size_t most = size_min(place, DRAFT_LONGEST_MATCH), n = 0;
    while (n < most && d->ids[place - 1 - n] == d->ids[d->n - 1 - n])
        n++;
    return n;
}

/* The best place of some chains; 0 where there is none. */
static size_t find_place(const draft_t *d, const chains_t *chains, size_t *match)
{
    size_t best = 0;
    *match = 0;
    if (d->n < chains->gram)
        return 0;
    uint32_t place = chains->previous[d->n];
    for (size_t i = 0; i < DRAFT_PLACES && place != NOWHERE; i++, place = chains->previous[place]) {
        size_t n = agreement(d, place);
        /* Others only have the same hash. */
        if (n >= chains->gram && n > *match) {
            *match = n;
            best = place;
        }
        if (n == DRAFT_LONGEST_MATCH)
            break;
    }
    return best;
}

size_t draft_propose(const draft_t *d, size_t most, int32_t *ids, size_t *match)
{
    size_t place = 0;
    *match = 0;
    for (int c = 0; c < N_CHAINS && place == 0; c++)
        place = find_place(d, &d->chains[c], match);
    if (place == 0)
        return 0;
    /* A draft longer than what follows goes on with what it drafted itself: the text repeats. */
    for (size_t i = 0; i < most; i++)
        ids[i] = place + i < d->n ? d->ids[place + i] : ids[place + i - d->n];
    return most;
}
