#include "engine/run/prefix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"

/* Keys of a block of sdpa attention. */
#define SDPA_KEYS 512

uint32_t prefix_class(
    dtype_t mode, order_t order, attention_t attention, size_t end, size_t n_prompt)
{
    if (mode != DTYPE_BF16 || order == ORDER_UNIFORM)
        return 0;
    /* The keys that torch-avx2 treats apart are the last three of a prompt at most, and of an sdpa key
     * block fewer than a vector of them; blocks of the cache are longer and whole. */
    if (attention == ATTENTION_EAGER && order == ORDER_TORCH_AVX2)
        return 0;
    if (attention == ATTENTION_EAGER)
        return (uint32_t)order_output_leaf(order, mode, n_prompt, false);
    /* The key block that the prefix ends in; the prompt has `keys` of its keys. The prefix's rows
     * see no key beyond their own, so only the ends of leaves within the prefix matter. */
    size_t first_key = (end - 1) / SDPA_KEYS * SDPA_KEYS;
    size_t keys = size_min(SDPA_KEYS, n_prompt - first_key);
    size_t leaf = keys <= 192 ? keys : keys < 384 ? keys / 2 : 192;
    return leaf < end - first_key ? (uint32_t)leaf : 0;
}

typedef struct block {
    uint32_t holders;
    bool known, ready;
    uint32_t class_;
    uint64_t owner;
    uint64_t hash;
    uint64_t serial;        /* distinguishes contents of a block at different times */
    uint64_t before_serial; /* of the block before it; 0 at the beginning */
    int32_t next_of_bucket;
    int32_t newer, older; /* among kept blocks */
} block_t;

struct prefix {
    size_t n_blocks, block_tokens, n_buckets;
    block_t *blocks;      /* [n_blocks] */
    int32_t *tokens;      /* [n_blocks][block_tokens] */
    int32_t *buckets;     /* [n_buckets] first block */
    int32_t *free_blocks; /* a stack */
    size_t n_free, n_kept;
    int32_t newest, oldest; /* kept */
    uint64_t next_serial;
};

int prefix_open(prefix_t **out, size_t n_blocks, size_t block_tokens, fail_t *fail)
{
    *out = NULL;
    prefix_t *p = calloc(1, sizeof *p);
    if (p == NULL)
        return fail_set(fail, FAIL_MEMORY, "cache blocks: out of memory");
    *p = (prefix_t){.n_blocks = n_blocks,
        .block_tokens = block_tokens,
        .n_buckets = n_blocks,
        .newest = PREFIX_NONE,
        .oldest = PREFIX_NONE,
        .next_serial = 1};
    p->blocks = calloc(n_blocks, sizeof *p->blocks);
    p->tokens = calloc(n_blocks * block_tokens, sizeof *p->tokens);
    p->buckets = calloc(n_blocks, sizeof *p->buckets);
    p->free_blocks = calloc(n_blocks, sizeof *p->free_blocks);
    if (p->blocks == NULL || p->tokens == NULL || p->buckets == NULL || p->free_blocks == NULL) {
        prefix_close(p);
        return fail_set(fail, FAIL_MEMORY, "cache blocks: out of memory for %zu", n_blocks);
    }
    /* The lowest block is on top. */
    p->n_free = n_blocks;
    for (size_t i = 0; i < n_blocks; i++) {
        p->free_blocks[i] = (int32_t)(n_blocks - 1 - i);
        p->buckets[i] = PREFIX_NONE;
    }
    *out = p;
    return 0;
}

void prefix_close(prefix_t *p)
{
    if (p == NULL)
        return;
    free(p->blocks);
    free(p->tokens);
    free(p->buckets);
    free(p->free_blocks);
    free(p);
}

size_t prefix_available(const prefix_t *p)
{
    return p->n_free + p->n_kept;
}

/* ---- Kept blocks ----------------------------------------------------------------------------- */

static void keep(prefix_t *p, int32_t block)
{
    block_t *b = &p->blocks[block];
    b->newer = PREFIX_NONE;
    b->older = p->newest;
    if (p->newest != PREFIX_NONE)
        p->blocks[p->newest].newer = block;
    else
        p->oldest = block;
    p->newest = block;
    p->n_kept++;
}

static void unkeep(prefix_t *p, int32_t block)
{
    block_t *b = &p->blocks[block];
    if (b->newer != PREFIX_NONE)
        p->blocks[b->newer].older = b->older;
    else
        p->newest = b->older;
    if (b->older != PREFIX_NONE)
        p->blocks[b->older].newer = b->newer;
    else
        p->oldest = b->newer;
    p->n_kept--;
}

/* ---- Known blocks ---------------------------------------------------------------------------- */

static uint64_t serial_of(const prefix_t *p, int32_t block)
{
    return block == PREFIX_NONE ? 0 : p->blocks[block].serial;
}

static uint64_t hash_of(
    const prefix_t *p, uint64_t before_serial, const int32_t *tokens, uint32_t class_)
{
    uint64_t hash = (before_serial + 1) * UINT64_C(0x9E3779B97F4A7C15) ^ class_;
    for (size_t i = 0; i < p->block_tokens; i++)
        hash = (hash ^ (uint32_t)tokens[i]) * UINT64_C(0xff51afd7ed558ccd) + (hash >> 31);
    return hash;
}

static int32_t *bucket_of(const prefix_t *p, uint64_t hash)
{
    return &p->buckets[(hash >> 20) % p->n_buckets];
}

int32_t prefix_find(const prefix_t *p, int32_t before, const int32_t *tokens, uint32_t class_)
{
    uint64_t before_serial = serial_of(p, before);
    uint64_t hash = hash_of(p, before_serial, tokens, class_);
    int32_t block = *bucket_of(p, hash);
    for (; block != PREFIX_NONE; block = p->blocks[block].next_of_bucket) {
        const block_t *b = &p->blocks[block];
        if (b->hash == hash && b->before_serial == before_serial && b->class_ == class_ &&
            memcmp(p->tokens + (size_t)block * p->block_tokens, tokens,
                p->block_tokens * sizeof *tokens) == 0)
            break;
    }
    return block;
}

static void forget(prefix_t *p, int32_t block)
{
    int32_t *at = bucket_of(p, p->blocks[block].hash);
    while (*at != block)
        at = &p->blocks[*at].next_of_bucket;
    *at = p->blocks[block].next_of_bucket;
    p->blocks[block].known = p->blocks[block].ready = false;
}

void prefix_register(prefix_t *p, int32_t block, int32_t before, const int32_t *tokens,
    uint32_t class_, uint64_t owner)
{
    block_t *b = &p->blocks[block];
    assert(b->holders > 0 && !b->known);
    b->known = true;
    b->ready = false;
    b->owner = owner;
    b->class_ = class_;
    b->before_serial = serial_of(p, before);
    b->hash = hash_of(p, b->before_serial, tokens, class_);
    memcpy(p->tokens + (size_t)block * p->block_tokens, tokens, p->block_tokens * sizeof *tokens);
    int32_t *bucket = bucket_of(p, b->hash);
    b->next_of_bucket = *bucket;
    *bucket = block;
}

/* ---- Holding --------------------------------------------------------------------------------- */

int32_t prefix_take(prefix_t *p)
{
    int32_t block;
    if (p->n_free > 0) {
        block = p->free_blocks[--p->n_free];
    } else {
        block = p->oldest;
        assert(block != PREFIX_NONE);
        unkeep(p, block);
        forget(p, block);
    }
    p->blocks[block].holders = 1;
    p->blocks[block].serial = p->next_serial++;
    return block;
}

void prefix_hold(prefix_t *p, int32_t block)
{
    if (p->blocks[block].holders++ == 0)
        unkeep(p, block);
}

void prefix_release(prefix_t *p, int32_t block)
{
    block_t *b = &p->blocks[block];
    assert(b->holders > 0);
    if (--b->holders > 0)
        return;
    if (b->known && b->ready) {
        keep(p, block);
        return;
    }
    if (b->known)
        forget(p, block);
    p->free_blocks[p->n_free++] = block;
}

bool prefix_is_ready(const prefix_t *p, int32_t block)
{
    return p->blocks[block].ready;
}

void prefix_set_ready(prefix_t *p, int32_t block)
{
    if (p->blocks[block].known)
        p->blocks[block].ready = true;
}

uint64_t prefix_owner(const prefix_t *p, int32_t block)
{
    return p->blocks[block].known ? p->blocks[block].owner : PREFIX_NOBODY;
}

void prefix_set_owner(prefix_t *p, int32_t block, uint64_t owner)
{
    p->blocks[block].owner = owner;
}
