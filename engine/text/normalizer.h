/* What a tokenizer does to a text before it is split into words: steps of the "normalizer" of
 * tokenizer.json, in their order. Owns its texts; immutable once read. */
#ifndef CHOIR_TEXT_NORMALIZER_H
#define CHOIR_TEXT_NORMALIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/json.h"
#include "engine/text/text_buffer.h"

#define NORMALIZER_MAX_STEPS 8

typedef struct normalizer_step {
    enum { NORMALIZE_NFC, NORMALIZE_PREPEND, NORMALIZE_REPLACE } kind;
    text_buffer_t from,
        to; /* replace: a text by another; prepend: `to`, unless the text is empty */
} normalizer_step_t;

/* Zero-initialise. */
typedef struct normalizer {
    size_t n_steps;
    normalizer_step_t steps[NORMALIZER_MAX_STEPS];
} normalizer_t;

/* From the member of tokenizer.json, NULL and null included; name: of the file. FAIL_MODEL for a
 * part that is not known. */
int normalizer_read(normalizer_t *normalizer, json_t *json, const char *name, fail_t *fail);
/* NFC alone. */
void normalizer_set_nfc(normalizer_t *normalizer);
void normalizer_clear(normalizer_t *normalizer);

/* text: valid UTF-8. properties: see unicode.h. *changed false: the text is as it should be and *out
 * empty; else *out, whose former content is dropped, is the result. */
int normalizer_apply(const normalizer_t *normalizer, const uint8_t *properties, const char *text,
    size_t bytes, text_buffer_t *out, bool *changed, fail_t *fail);

/* Appends text with every `from` replaced by `to`. */
int text_replace(text_buffer_t *out, const char *text, size_t bytes, const text_buffer_t *from,
    const text_buffer_t *to, fail_t *fail);

#endif
