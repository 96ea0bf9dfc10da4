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
#include "launch/args.h"

/* Where prompts come from. */
typedef struct prompt_flags {
    const char *prompt, *prompt_file, *prompts, *ids, *system;
    bool chat, raw;
    chat_choice_t template;
} prompt_flags_t;

extern const arg_group_t flags_prompt;

typedef struct prompts {
    tokenizer_t *tokenizer; /* NULL when --ids is given and the model has none */
    chat_t *chat;           /* NULL when no template is used */
    tokenizer_ids_t *items; /* [count] */
    json_t **fields;        /* [count] fields of a line of --prompts (request_fields.h), else
                             * NULL */
    size_t count;
} prompts_t;

/* Reads and encodes what the flags ask for. On failure nothing is kept. */
int prompts_open(prompts_t *prompts, const prompt_flags_t *flags, const args_given_t *given,
    const char *directory, fail_t *fail);
void prompts_close(prompts_t *prompts);

/* The text of standard input, at most max_bytes, without a byte order mark: freshly allocated, the
 * caller frees. */
int prompts_read_stdin(size_t max_bytes, char **text, size_t *bytes, fail_t *fail);

/* Parses "1,2,3". name: for messages. Appends. */
int prompts_parse_ids(const char *text, const char *name, tokenizer_ids_t *ids, fail_t *fail);

#endif
