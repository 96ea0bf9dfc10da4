/* Normalisation form C as `tokenizers` computes it, on utf8proc's decompositions and compositions.
 */
#ifndef CHOIR_TEXT_NFC_H
#define CHOIR_TEXT_NFC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/text/text_buffer.h"

/* text: valid UTF-8. properties: see unicode.h. When the text is in form C already (nearly always),
 * *changed is false and nothing is appended; otherwise the whole normalised text is appended to
 * *out. */
int nfc_append(const uint8_t *properties, const char *text, size_t bytes, text_buffer_t *out,
    bool *changed, fail_t *fail);

#endif
