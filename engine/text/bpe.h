/* Byte-pair encoding of one word: pairs of neighbouring tokens merge, always the pair that was
 * learned first (the lowest rank), the leftmost of equal ones, until no pair can merge. */
#ifndef CHOIR_TEXT_BPE_H
#define CHOIR_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/token_ids.h"
#include "engine/text/vocabulary.h"

typedef struct bpe_merge {
    uint32_t left, right; /* ids */
    uint32_t rank;        /* BPE_NO_RANK for an empty slot */
    uint32_t merged;      /* id of the result */
} bpe_merge_t;

#define BPE_NO_RANK UINT32_MAX

typedef struct bpe {
    bpe_merge_t *slots; /* hash table by (left, right); n_slots is a power of two */
    size_t n_slots;
    int32_t byte_ids[256];
    /* Words are texts: a character that is no token of its own falls back to its bytes. */
    const vocabulary_t *characters; /* borrowed; NULL: words are bytes */
    int32_t ascii_ids[128];         /* of characters, -1 for none */
} bpe_t;

/* Working memory of one caller; zero-initialise. */
typedef struct bpe_scratch {
    uint32_t *ids, *ranks, *next, *previous; /* per position of the word */
    uint64_t *heap;                          /* rank << 32 | position */
    size_t capacity, heap_capacity;
} bpe_scratch_t;

/* Finds the ids of the 256 bytes (of <0x00> and following where words are texts) and makes an empty
 * table with room for n_merges. */
int bpe_init(bpe_t *bpe, const vocabulary_t *vocabulary, bool is_text, size_t n_merges,
    const char *file, fail_t *fail);
void bpe_clear(bpe_t *bpe);

/* Each pair of ids at most n_merges times in all; the last rank given for a pair holds. */
void bpe_add(bpe_t *bpe, int32_t left, int32_t right, uint32_t rank, int32_t merged);

/* Appends the ids of a word, which is valid UTF-8 where words are texts. Time is at most proportional to bytes * log(bytes). */
int bpe_append(const bpe_t *bpe, const char *word, size_t bytes, bpe_scratch_t *scratch,
    tokenizer_ids_t *ids, fail_t *fail);
void bpe_scratch_clear(bpe_scratch_t *scratch);

#endif
