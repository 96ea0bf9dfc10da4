/* JSON as Python's json.dumps(value, ensure_ascii=False) writes it: that is what chat templates
 * print. */
#ifndef CHOIR_TEXT_PYTHON_JSON_H
#define CHOIR_TEXT_PYTHON_JSON_H

#include "engine/base/json.h"
#include "engine/text/tokenizer.h"

int python_json_append(text_buffer_t *out, const json_t *value, fail_t *fail);

#endif
