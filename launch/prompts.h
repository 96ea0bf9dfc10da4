/* The prompts of a run as token ids: from flags, a file, standard input or JSON lines.
 *
 * Everything here is the coordinator's work and Local. */
#ifndef CHOIR_LAUNCH_PROMPTS_H
#define CHOIR_LAUNCH_PROMPTS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"
#include "launch/command.h"

typedef struct prompts {
    tokenizer_t *tokenizer; /* NULL when --ids is given and the model has none */
    chat_t *chat;           /* NULL when no template is used */
    tokenizer_ids_t *items; /* [count] */
    json_t **fields;        /* [count] what a line of --prompts says of its answer
                             * (request_fields.h), else NULL */
    size_t count;
} prompts_t;

/* Opens the model's tokenizer. It may have more tokens than the model, which only those who use
 * them hear of. */
int prompts_open_tokenizer(tokenizer_t **tokenizer, const char *directory, fail_t *fail);

/* The model's chat template, or the one that --chat-template names. FAIL_MODEL when there is none.
 */
int prompts_require_chat(
    chat_t **chat, const char *directory, const chat_choice_t *choice, fail_t *fail);

/* What the flags say about templates. */
chat_choice_t prompts_chat_choice(const options_t *options);

/* Keys of a JSON object that chat_render's input may have beside "messages". */
chat_input_t prompts_chat_input(json_t *object);

/* Reads and encodes what the flags ask for. On failure nothing is kept. */
int prompts_open(
    prompts_t *prompts, const invocation_t *invocation, const char *directory, fail_t *fail);
void prompts_close(prompts_t *prompts);

/* The text of standard input, at most max_bytes, without a byte order mark: freshly allocated, the
 * caller frees. */
int prompts_read_stdin(size_t max_bytes, char **text, size_t *bytes, fail_t *fail);

/* Parses "1,2,3". name: what messages call it. Appends. */
int prompts_parse_ids(const char *text, const char *name, tokenizer_ids_t *ids, fail_t *fail);

/* A message object {"role", "content"}; content need not end in zero. NULL when out of memory or
 * not UTF-8. */
json_t *prompts_message(const char *role, const char *content, size_t bytes);

#endif
