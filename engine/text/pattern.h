/* Regular expressions of the user's, in PCRE2's syntax over UTF-8, with Unicode classes as Python's
 * `re` has them: what finds an answer in a text.
 *
 * Immutable after opening; one thread at a time, for the scratch of a match. */
#ifndef CHOIR_TEXT_PATTERN_H
#define CHOIR_TEXT_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"
#include "engine/text/text_buffer.h"

typedef struct pattern pattern_t;

/* name: for messages. FAIL_FORMAT names the error in the expression, and its place. */
int pattern_open(pattern_t **pattern, const char *text, const char *name, fail_t *fail);
/* NULL is allowed. */
void pattern_close(pattern_t *pattern);

/* A stretch of a text: bytes [begin, end). */
typedef struct pattern_span {
    size_t begin, end;
} pattern_span_t;

/* The first match at or after byte `from` of a UTF-8 text. found: the first group that took part
 * and is not empty, or all of the match when the pattern has no groups; empty when no group did.
 * whole: the match. False when there is none, or when the search would take too long. */
bool pattern_find(pattern_t *pattern, const char *text, size_t bytes, size_t from,
    pattern_span_t *whole, pattern_span_t *found);

/* Removes every match from the text. */
void pattern_remove(pattern_t *pattern, text_buffer_t *text);

#endif
