/* Texts with {{fields}} of a JSON object: how a task says what its prompts look like.
 *
 * {{name}} stands for a member of the item; {{name.inner}} and {{name[2]}} reach further in. Text
 * is taken as it is, numbers as JSON writes them. White space inside the braces does not count. A
 * text of "{{name}}" alone can also name an array (template_value). Pure functions. */
#ifndef CHOIR_EVAL_EVAL_TEMPLATE_H
#define CHOIR_EVAL_EVAL_TEMPLATE_H

#include <jansson.h>

#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

/* Whether the braces are in order. name: what messages call the template. FAIL_FORMAT. */
int template_check(const char *text, const char *name, fail_t *fail);

/* Appends the text with its fields filled in. where: names the item in messages ("data.jsonl: line
 * 57"). FAIL_FORMAT names the field that is missing, or no text and no number. */
int template_render(
    const char *text, json_t *item, const char *where, text_buffer_t *out, fail_t *fail);

/* The value of the only field of the text, borrowed from the item; NULL, without a failure, when
 * the text is more than one field or the item lacks it. */
json_t *template_value(const char *text, json_t *item);

#endif
