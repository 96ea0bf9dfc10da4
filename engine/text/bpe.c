#include "engine/text/bpe.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/base/size.h"
#include "engine/text/unicode.h"

/* Up to this many bytes a scan for the lowest rank beats the heap. */
#define BPE_SHORT_WORD 40
#define BPE_NO_POSITION UINT32_MAX

static size_t hash_pair(uint32_t left, uint32_t right)
{
    uint64_t key = ((uint64_t)left << 32 | right) * UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(key >> 32 ^ key >> 15);
}

static int find_bytes(
    bpe_t *bpe, const vocabulary_t *vocabulary, bool is_text, const char *file, fail_t *fail)
{
    for (int byte = 0; byte < 256; byte++) {
        char text[8] = {(char)byte};
        if (is_text)
            snprintf(text, sizeof text, "<0x%02X>", byte);
        bpe->byte_ids[byte] = vocabulary_find(vocabulary, text, is_text ? 6 : 1);
        if (bpe->byte_ids[byte] < 0)
            return fail_set(fail, FAIL_MODEL,
                "%s: expected BPE with a token for each of the 256 bytes%s, none for byte 0x%02X",
                file, is_text ? ", as <0x00>" : "", byte);
        if (is_text && byte < 128) {
            text[0] = (char)byte;
            bpe->ascii_ids[byte] = vocabulary_find(vocabulary, text, 1);
        }
    }
    return 0;
}

int bpe_init(bpe_t *bpe, const vocabulary_t *vocabulary, bool is_text, size_t n_merges,
    const char *file, fail_t *fail)
{
    if (find_bytes(bpe, vocabulary, is_text, file, fail) != 0)
        return fail->status;
    bpe->characters = is_text ? vocabulary : NULL;
    bpe->n_slots = 16;
    while (bpe->n_slots < n_merges * 2)
        bpe->n_slots *= 2;
    bpe->slots = malloc(bpe->n_slots * sizeof *bpe->slots);
    if (bpe->slots == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: no memory for %zu merges", file, n_merges);
    for (size_t i = 0; i < bpe->n_slots; i++)
        bpe->slots[i] = (bpe_merge_t){.rank = BPE_NO_RANK};
    return 0;
}

void bpe_clear(bpe_t *bpe)
{
    free(bpe->slots);
    *bpe = (bpe_t){0};
}

/* The slot of a pair, or the empty slot where it belongs. */
static inline bpe_merge_t *find_merge(const bpe_t *bpe, uint32_t left, uint32_t right)
{
    size_t mask = bpe->n_slots - 1;
    for (size_t i = hash_pair(left, right) & mask;; i = (i + 1) & mask) {
        bpe_merge_t *slot = &bpe->slots[i];
        if ((slot->left == left && slot->right == right) || slot->rank == BPE_NO_RANK)
            return slot;
    }
}

void bpe_add(bpe_t *bpe, int32_t left, int32_t right, uint32_t rank, int32_t merged)
{
    *find_merge(bpe, (uint32_t)left, (uint32_t)right) =
        (bpe_merge_t){(uint32_t)left, (uint32_t)right, rank, (uint32_t)merged};
}

/* Arrays on the stack, the lowest rank found by looking at all of them. */
static size_t merge_short(const bpe_t *bpe, size_t n, int32_t *ids)
{
    uint32_t id[BPE_SHORT_WORD], rank[BPE_SHORT_WORD], merged[BPE_SHORT_WORD];
    for (size_t i = 0; i < n; i++)
        id[i] = (uint32_t)ids[i];
    for (size_t i = 0; i + 1 < n; i++) {
        const bpe_merge_t *merge = find_merge(bpe, id[i], id[i + 1]);
        rank[i] = merge->rank;
        merged[i] = merge->merged;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == BPE_NO_RANK)
            break;
        id[best] = merged[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i - 1] = rank[i];
            merged[i - 1] = merged[i];
        }
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const bpe_merge_t *merge = find_merge(bpe, id[i], id[i + 1]);
            rank[i] = merge->rank;
            merged[i] = merge->merged;
        }
    }
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)id[i];
    return n;
}

static int scratch_reserve(bpe_scratch_t *scratch, size_t n, fail_t *fail)
{
    if (n <= scratch->capacity)
        return 0;
    bpe_scratch_clear(scratch);
    scratch->ids = malloc(n * sizeof *scratch->ids);
    scratch->ranks = malloc(n * sizeof *scratch->ranks);
    scratch->next = malloc(n * sizeof *scratch->next);
    scratch->previous = malloc(n * sizeof *scratch->previous);
    /* Each merge takes one entry and adds two at most, and there are fewer than n merges. */
    scratch->heap = malloc(2 * n * sizeof *scratch->heap);
    if (scratch->ids == NULL || scratch->ranks == NULL || scratch->next == NULL ||
        scratch->previous == NULL || scratch->heap == NULL)
        return fail_set(fail, FAIL_MEMORY, "tokenizer: no memory for a word of %zu tokens", n);
    scratch->capacity = n;
    return 0;
}

void bpe_scratch_clear(bpe_scratch_t *scratch)
{
    free(scratch->ids);
    free(scratch->ranks);
    free(scratch->next);
    free(scratch->previous);
    free(scratch->heap);
    *scratch = (bpe_scratch_t){0};
}

/* A heap of four children a node: half the depth of a binary one, so fewer cache misses on long
 * words. */
static void heap_sink(uint64_t *heap, size_t n, size_t at)
{
    uint64_t entry = heap[at];
    for (;;) {
        size_t child = at * 4 + 1;
        if (child >= n)
            break;
        size_t end = size_min(child + 4, n), least = child;
        for (size_t i = child + 1; i < end; i++)
            if (heap[i] < heap[least])
                least = i;
        if (entry <= heap[least])
            break;
        heap[at] = heap[least];
        at = least;
    }
    heap[at] = entry;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t entry)
{
    size_t at = (*n)++;
    while (at > 0 && heap[(at - 1) / 4] > entry) {
        heap[at] = heap[(at - 1) / 4];
        at = (at - 1) / 4;
    }
    heap[at] = entry;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
    uint64_t least = heap[0];
    heap[0] = heap[--*n];
    if (*n > 0)
        heap_sink(heap, *n, 0);
    return least;
}

/* Fills the linked list of positions and the heap of the pairs that can merge; returns the heap's
 * size. */
static size_t start_long(const bpe_t *bpe, const int32_t *ids, size_t n, bpe_scratch_t *s)
{
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        s->ids[i] = (uint32_t)ids[i];
        s->previous[i] = i > 0 ? (uint32_t)(i - 1) : BPE_NO_POSITION;
        s->next[i] = i + 1 < n ? (uint32_t)(i + 1) : BPE_NO_POSITION;
    }
    for (size_t i = 0; i < n; i++) {
        s->ranks[i] = i + 1 < n ? find_merge(bpe, s->ids[i], s->ids[i + 1])->rank : BPE_NO_RANK;
        if (s->ranks[i] != BPE_NO_RANK)
            s->heap[n_heap++] = (uint64_t)s->ranks[i] << 32 | i;
    }
    for (size_t i = n_heap / 4 + 1; i-- > 0;)
        if (i < n_heap)
            heap_sink(s->heap, n_heap, i);
    return n_heap;
}

/* The pair that starts at a position has changed: notes its rank. */
static void update_pair(const bpe_t *bpe, bpe_scratch_t *s, uint32_t at, size_t *n_heap)
{
    uint32_t next = s->next[at];
    s->ranks[at] =
        next != BPE_NO_POSITION ? find_merge(bpe, s->ids[at], s->ids[next])->rank : BPE_NO_RANK;
    if (s->ranks[at] != BPE_NO_RANK)
        heap_push(s->heap, n_heap, (uint64_t)s->ranks[at] << 32 | at);
}

static size_t merge_long(const bpe_t *bpe, size_t n, bpe_scratch_t *s, int32_t *ids, fail_t *fail)
{
    if (scratch_reserve(s, n, fail) != 0)
        return 0;
    size_t n_heap = start_long(bpe, ids, n, s), n_left = 0;
    while (n_heap > 0) {
        uint64_t entry = heap_pop(s->heap, &n_heap);
        uint32_t at = (uint32_t)entry;
        /* A pair grows with every change and so never has an earlier rank again: entries that were
         * overtaken show by their rank. */
        if (s->ranks[at] != entry >> 32)
            continue;
        uint32_t right = s->next[at], behind = s->next[right];
        s->ids[at] = find_merge(bpe, s->ids[at], s->ids[right])->merged;
        s->ranks[right] = BPE_NO_RANK;
        s->next[at] = behind;
        if (behind != BPE_NO_POSITION)
            s->previous[behind] = at;
        update_pair(bpe, s, at, &n_heap);
        if (s->previous[at] != BPE_NO_POSITION)
            update_pair(bpe, s, s->previous[at], &n_heap);
    }
    for (uint32_t at = 0; at != BPE_NO_POSITION; at = s->next[at])
        ids[n_left++] = (int32_t)s->ids[at];
    return n_left;
}

/* The tokens that a word begins as: its bytes, or its characters. Returns their number. */
static size_t start_word(const bpe_t *bpe, const char *word, size_t bytes, int32_t *ids)
{
    const unsigned char *text = (const unsigned char *)word;
    size_t n = 0;
    for (size_t i = 0, length; i < bytes; i += length) {
        length = bpe->characters == NULL ? 1 : utf8_length(text[i]);
        int32_t id = bpe->characters == NULL ? bpe->byte_ids[text[i]]
                     : length == 1           ? bpe->ascii_ids[text[i]]
                                             : vocabulary_find(bpe->characters, word + i, length);
        if (id >= 0)
            ids[n++] = id;
        for (size_t byte = 0; id < 0 && byte < length; byte++)
            ids[n++] = bpe->byte_ids[text[i + byte]];
    }
    return n;
}

int bpe_append(const bpe_t *bpe, const char *word, size_t bytes, bpe_scratch_t *scratch,
    tokenizer_ids_t *ids, fail_t *fail)
{
    if (bytes >= BPE_NO_POSITION)
        return fail_set(
            fail, FAIL_LIMIT, "tokenizer: a word of %zu bytes, expected fewer than 4 GiB", bytes);
    if (tokenizer_ids_reserve(ids, bytes, fail) != 0)
        return fail->status;
    int32_t *to = ids->ids + ids->count;
    size_t n = start_word(bpe, word, bytes, to);
    ids->count +=
        n <= BPE_SHORT_WORD ? merge_short(bpe, n, to) : merge_long(bpe, n, scratch, to, fail);
    return fail->status;
}
