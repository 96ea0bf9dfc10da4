/* The tokens of a tokenizer: the bytes of every id, and the id of a string of bytes.
 *
 * In tokenizer files a token of byte-level BPE is written with 256 printable characters that stand
 * for the 256 bytes (GPT-2's alphabet); here it is held as the bytes. Owned by the tokenizer,
 * immutable once the tokenizer is open. */
#ifndef CHOIR_TEXT_VOCABULARY_H
#define CHOIR_TEXT_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/text_buffer.h"

/* Ids beyond this mean a damaged file: they size the table of tokens. */
#define VOCABULARY_ID_MAX ((int32_t)(1 << 24))

typedef struct vocabulary_token {
    uint32_t begin, bytes; /* in the arena */
    bool present;
    bool special; /* an added token marked special */
} vocabulary_token_t;

typedef struct vocabulary {
    text_buffer_t arena;
    vocabulary_token_t *tokens; /* [size], by id */
    size_t size, capacity;      /* size: one more than the largest id */
    int32_t *slots; /* hash table of ids by bytes, -1 for empty; n_slots is a power of two */
    size_t n_slots, n_hashed;
    int32_t *literals; /* tokens of the file that are not spelled in the alphabet */
    size_t n_literals, literals_capacity;
} vocabulary_t;

void vocabulary_clear(vocabulary_t *vocabulary);

/* Translates from the alphabet to bytes; out needs room for `bytes` bytes and may not overlap.
 * False when a character is not in the alphabet. text is valid UTF-8. */
bool vocabulary_bytes_of(const char *text, size_t bytes, char *out, size_t *out_bytes);

/* Adds a token given as bytes. file names the object in messages. findable: vocabulary_find will
 * find it. */
int vocabulary_add(vocabulary_t *vocabulary, const char *file, int32_t id, const char *text,
    size_t bytes, bool findable, fail_t *fail);

/* Makes a token that is not spelled in the alphabet one of those that vocabulary_find_literal
 * knows. */
int vocabulary_note_literal(vocabulary_t *vocabulary, int32_t id, fail_t *fail);
/* Such a token by its text, or -1. */
int32_t vocabulary_find_literal(const vocabulary_t *vocabulary, const char *text, size_t bytes);

/* The findable token with these bytes, or -1. */
int32_t vocabulary_find(const vocabulary_t *vocabulary, const char *text, size_t bytes);

static inline const vocabulary_token_t *vocabulary_token(const vocabulary_t *vocabulary, int32_t id)
{
    if (id < 0 || (size_t)id >= vocabulary->size || !vocabulary->tokens[id].present)
        return NULL;
    return &vocabulary->tokens[id];
}

#endif
