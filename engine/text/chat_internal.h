/* A chat's templates, for the files that find and render them. */
#ifndef CHOIR_TEXT_CHAT_INTERNAL_H
#define CHOIR_TEXT_CHAT_INTERNAL_H

#include "engine/text/chat.h"
#include "engine/text/jinja/jinja.h"

typedef struct chat_template {
    char *name;   /* "default", "tool_use", ... */
    char *origin; /* its name in messages: the file */
    char *text;
    size_t bytes;
    jinja_template_t *made; /* NULL until it is used first */
} chat_template_t;

struct chat {
    chat_template_t *templates;
    size_t n_templates;
    json_t *special_tokens; /* object: bos_token and friends */
    char *variables;        /* JSON text of an object, or NULL */
};

/* Takes a copy of text. */
int chat_add_template(chat_t *chat, const char *name, const char *origin, const char *text,
    size_t bytes, fail_t *fail);

/* *result: NULL when the messages can be used unchanged; else a new reference to messages with
 * texts in place of parts. FAIL_USAGE names a part that is no text. */
int chat_join_parts(const chat_t *chat, const chat_template_t *chosen, const json_t *messages,
    json_t **result, fail_t *fail);

/* The templates and special tokens of a model directory. */
int chat_read_directory(chat_t *chat, const char *directory, fail_t *fail);

#endif
