/* Tokens that are found in a text as they stand, before it is split into words: the special ones
 * and others that were added to the vocabulary. Owned by the tokenizer, immutable once it is open.
 *
 * As in Hugging Face `tokenizers`, the same content may be added several times: the last flags
 * count, but a token that was special once stays so. */
#ifndef CHOIR_TEXT_ADDED_TOKENS_H
#define CHOIR_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct added_flags {
    bool special;
    bool normalized;              /* searched in the normalised text rather than in the original */
    bool left_strip, right_strip; /* includes the white space on that side */
    bool single_word;             /* found only where no letter, digit or "_" is beside it */
} added_flags_t;

typedef struct added_token {
    int32_t id;    /* -1 until it has one */
    char *content; /* as in the file */
    size_t bytes;
    char *normal; /* the content, normalised, for the search in normalised text */
    size_t normal_bytes;
    added_flags_t flags;               /* as it was added last */
    bool special;                      /* was added as a special one */
    bool is_new;                       /* is not in the vocabulary */
    bool is_in_original, is_in_normal; /* where it is searched */
} added_token_t;

typedef struct added_pattern {
    const char *text; /* borrowed from the token */
    size_t bytes;
    uint32_t token;
} added_pattern_t;

/* The tokens searched in one kind of text. */
typedef struct added_patterns {
    added_pattern_t *items; /* in the order of their bytes */
    size_t count;
    uint32_t first[257]; /* items[first[b]] .. items[first[b + 1]] begin with byte b */
} added_patterns_t;

typedef struct added_tokens {
    added_token_t *tokens;
    size_t n_tokens, capacity;
    uint32_t
        *slots; /* hash table by content of 1 + index, 0 for empty; n_slots is a power of two */
    size_t n_slots;
    added_patterns_t original, normal; /* once finished */
} added_tokens_t;

void added_tokens_clear(added_tokens_t *added);

/* The token with this content, or NULL. */
added_token_t *added_tokens_by_content(
    const added_tokens_t *added, const char *content, size_t bytes);

/* The same, made when it is not there yet, without an id and with `normal` as normalised content
 * (copied). NULL on failure. The pointer holds until the next call. */
added_token_t *added_tokens_get(added_tokens_t *added, const char *content, size_t bytes,
    const char *normal, size_t normal_bytes, fail_t *fail);

/* Call once, after the last token was added and before the first search. */
int added_tokens_finish(added_tokens_t *added, fail_t *fail);

typedef struct added_match {
    size_t begin, end; /* the stripped white space included */
    size_t resume; /* where the next search starts: behind the token, before stripped white space */
    const added_token_t *token;
} added_match_t;

/* The leftmost, there longest token at or after `from`; what is before `floor` is taken already and
 * cannot be stripped. normalized: look for the tokens that live in normalised text, else for the
 * others. specials: false passes over special tokens. False when there is none. properties: see
 * unicode.h. */
bool added_tokens_find(const added_tokens_t *added, const uint8_t *properties, const char *text,
    size_t bytes, size_t from, size_t floor, bool normalized, bool specials, added_match_t *match);

#endif
