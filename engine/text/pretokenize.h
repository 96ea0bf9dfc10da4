/* Splitting text into words by the regular expression of a tokenizer, on PCRE2.
 *
 * `tokenizers` matches with Oniguruma, which is of another Unicode version and differs in details.
 * Only expressions whose meaning both share are accepted, and before matching, every character
 * outside of ASCII is replaced by a stand-in of the same class and length, so that PCRE2's own
 * tables never decide anything. Immutable once open; one pretokenize_scratch per caller. */
#ifndef CHOIR_TEXT_PRETOKENIZE_H
#define CHOIR_TEXT_PRETOKENIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

/* The expression of Qwen2 and Qwen2.5, for directories that do not spell it out. */
extern const char pretokenizer_qwen2[];

typedef struct pretokenizer pretokenizer_t;

/* FAIL_MODEL for an expression that is not supported; file names the object in messages. */
int pretokenizer_open(pretokenizer_t **pretokenizer, const char *pattern, size_t bytes,
    const char *file, fail_t *fail);
void pretokenizer_close(pretokenizer_t *pretokenizer);

/* Whether the expression means the same to both engines; if not, *why names the reason. */
bool pretokenize_pattern_supported(const char *pattern, size_t bytes, const char **why);

/* Copies valid UTF-8 with stand-ins outside of ASCII; shadow has room for `bytes` bytes. */
void pretokenize_shadow(const uint8_t *properties, const char *text, size_t bytes, char *shadow);

/* Working memory of one caller. */
typedef struct pretokenize_scratch pretokenize_scratch_t;
int pretokenize_scratch_open(
    pretokenize_scratch_t **scratch, const pretokenizer_t *pretokenizer, fail_t *fail);
void pretokenize_scratch_close(pretokenize_scratch_t *scratch);

/* The next match at or after `from` in a shadow; *begin == *end == bytes when there is none. */
int pretokenize_next(const pretokenizer_t *pretokenizer, pretokenize_scratch_t *scratch,
    const char *shadow, size_t bytes, size_t from, size_t *begin, size_t *end, fail_t *fail);

#endif
