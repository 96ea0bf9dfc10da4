/* Tokens that are found in a text as they stand, before it is split into words: the special ones
 * and others that were added to the vocabulary. Owned by the tokenizer, immutable once it is open.
 */
#ifndef CHOIR_TEXT_ADDED_TOKENS_H
#define CHOIR_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct added_token {
    int32_t id;
    char *content; /* as the file gives it */
    size_t bytes;
    char *pattern; /* what is looked for: the content, normalised where the token is */
    size_t pattern_bytes;
    bool special;
    bool left_strip, right_strip; /* takes the white space on that side with it */
    bool normalized; /* looked for in the normalised text rather than in the original */
} added_token_t;

typedef struct added_tokens {
    added_token_t
        *tokens; /* sorted by the pattern's first byte, then longest first, once finished */
    size_t n_tokens, capacity;
    uint32_t first[257]; /* tokens[first[b]] .. tokens[first[b + 1]] begin with byte b */
    bool any_normalized;
} added_tokens_t;

void added_tokens_clear(added_tokens_t *added);

/* Takes the content and the pattern, also on failure. */
int added_tokens_add(added_tokens_t *added, const added_token_t *token, fail_t *fail);

/* To be called once, after the last token was added and before the first search. */
void added_tokens_finish(added_tokens_t *added);

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

/* NULL when there is none. */
const added_token_t *added_tokens_by_content(
    const added_tokens_t *added, const char *content, size_t bytes);

#endif
