/* Drafts from a text's own past: what followed the last place where the text was as it is now.
 *
 * The place is the one whose tokens before it agree with the text's end the longest, and of several
 * the latest, among the places that the index looks at: the DRAFT_PLACES latest that agree in
 * DRAFT_GRAM tokens, or, where there is none, the DRAFT_PLACES latest that agree in the last token.
 * Owns the text. One thread at a time. */
#ifndef CHOIR_RUN_DRAFT_H
#define CHOIR_RUN_DRAFT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

enum { DRAFT_GRAM = 3, DRAFT_PLACES = 128, DRAFT_LONGEST_MATCH = 64 };

typedef struct draft draft_t;

/* capacity: tokens of the text at most. FAIL_MEMORY. */
int draft_open(draft_t **draft, size_t capacity, fail_t *fail);
/* NULL is allowed. */
void draft_close(draft_t *draft);

/* Appends to the text, which has room for it. */
void draft_push(draft_t *draft, const int32_t *ids, size_t n);

/* The text so far. */
const int32_t *draft_text(const draft_t *draft);

/* Writes up to `most` tokens that may come next; their number, which is `most` or 0. *match: how
 * many tokens before the place agree with the text's end, at most DRAFT_LONGEST_MATCH; 0 when there
 * is no such place. */
size_t draft_propose(const draft_t *draft, size_t most, int32_t *ids, size_t *match);

#endif
