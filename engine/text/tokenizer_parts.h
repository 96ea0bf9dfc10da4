/* Reading the parts of tokenizer.json: objects with a "type". Internal to engine/text. */
#ifndef CHOIR_TEXT_TOKENIZER_PARTS_H
#define CHOIR_TEXT_TOKENIZER_PARTS_H

#include <stdbool.h>

#include "engine/base/json.h"
#include "engine/text/text_buffer.h"

/* The "type" of a part, "" when there is none. */
const char *part_type(const json_t *part);
bool part_is_absent(const json_t *part);

/* FAIL_MODEL: names the file, the member of tokenizer.json, what is supported and what was found. */
int part_refuse(
    const char *name, const char *member, const char *expected, const json_t *found, fail_t *fail);

/* A member that is a text of at least one character. */
int part_text(json_t *part, const char *key, text_buffer_t *text, const char *name,
    const char *member, fail_t *fail);

/* {"pattern": {"String": from}, "content": to} */
int part_replacement(json_t *part, text_buffer_t *from, text_buffer_t *to, const char *name,
    const char *member, fail_t *fail);

#endif
