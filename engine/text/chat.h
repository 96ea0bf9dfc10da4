/* Chat templates: a conversation to the prompt text, as transformers' apply_chat_template renders
 * it.
 *
 * The templates are those of the model directory, or a file in their place, and an interpreter
 * (engine/text/jinja) runs them. Which file counts, as in transformers:
 *
 *   1. chat_template.jinja, as the template "default", and additional_chat_templates/NAME.jinja;
 *   2. if there is none of these, chat_template of tokenizer_config.json: a text, or an array of
 *      {"name", "template"}.
 *
 * With tools, the template "tool_use" is taken where there is one of that name, otherwise
 * "default".
 *
 * A template sees messages, tools, documents and add_generation_prompt, the named special tokens
 * (bos_token, eos_token, ...) and any variables that the user gives. A chat belongs to one thread
 * at a time. */
#ifndef CHOIR_TEXT_CHAT_H
#define CHOIR_TEXT_CHAT_H

#include <stdbool.h>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

typedef struct chat chat_t;

/* The user's choice of templates; NULL: none. */
typedef struct chat_choice {
    const char *given;     /* the name of one of the model's templates, or a file */
    const char *variables; /* a JSON object, as text */
} chat_choice_t;

/* directory: of the model; NULL: none, which needs choice->given. *chat is NULL, and nothing fails,
 * when the model has no template. FAIL_FORMAT names file and line of a template that is malformed.
 */
int chat_open(chat_t **chat, const char *directory, const chat_choice_t *choice, fail_t *fail);

/* The same where a template is needed: FAIL_MODEL when there is none. */
int chat_require(chat_t **chat, const char *directory, const chat_choice_t *choice, fail_t *fail);

/* NULL is allowed. */
void chat_close(chat_t *chat);

/* The input of a template. Absent (NULL) values are null to the template. */
typedef struct chat_input {
    /* Array of {"role", "content", ...}. Content may be an array of {"type": "text", "text": ...}
     * with every template: the texts are concatenated for templates that expect one text. */
    const json_t *messages;
    const json_t *tools;     /* array of objects */
    const json_t *documents; /* array of objects */
    const json_t *variables; /* object: further variables by name */
    bool no_generation_prompt;
} chat_input_t;

/* The keys of a JSON object that make an input: "messages", "tools", "documents" and
 * "chat_template_kwargs". Borrowed. */
chat_input_t chat_input_of(json_t *object);

/* A message object {"role", "content"}; content need not end in zero. A new reference; NULL when out
 * of memory or not UTF-8. */
json_t *chat_message(const char *role, const char *content, size_t bytes);

/* Appends the text, nothing on failure. FAIL_USAGE: the conversation is malformed, or the template
 * refuses it (raise_exception), in its own words. */
int chat_render(chat_t *chat, const chat_input_t *input, text_buffer_t *out, fail_t *fail);

/* The same for a JSON object whose members are all variables, messages and tools among them.
 * Numbers are as Python's json.loads reads them. *error, when not NULL, gets the whole message of a
 * failure, of which *fail may have the beginning only. */
int chat_render_text(chat_t *chat, const char *json, size_t bytes, text_buffer_t *out,
    text_buffer_t *error, fail_t *fail);

/* Whether one of the templates that may be chosen has this text in it. */
bool chat_templates_have(const chat_t *chat, const char *text);

/* The token that ends a turn beside those of generation_config.json: <|im_end|>, if the default
 * template writes it. -1: none, or no chat (NULL). */
int32_t chat_end_id(const chat_t *chat, const tokenizer_t *tokenizer);

#endif
