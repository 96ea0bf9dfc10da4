/* Commands of choir chat: lines that begin with a slash.
 *
 * A command is a slash and a word of letters, alone or before a space. Other lines are texts for
 * the model, also "/usr/bin" and "/ * ..."; "//" begins a text with one slash. */
#ifndef CHOIR_LAUNCH_CHAT_COMMANDS_H
#define CHOIR_LAUNCH_CHAT_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"
#include "engine/run/engine.h"
#include "engine/text/tokenizer.h"
#include "launch/args.h"
#include "launch/flags.h"

typedef enum chat_command {
    COMMAND_TEXT, /* none: a text for the model */
    COMMAND_HELP,
    COMMAND_QUIT,
    COMMAND_RESET,
    COMMAND_SAVE,
    COMMAND_SET,
    COMMAND_SYSTEM,
    COMMAND_UNKNOWN
} chat_command_t;

/* line ends in zero. *argument: what follows the word, without spaces around it, which are cut off
 * in place; of a text, the text. */
chat_command_t chat_command_parse(char *line, size_t bytes, char **argument, size_t *n_argument);

/* FAIL_USAGE, with the nearest command if one is near. */
int chat_command_unknown(const char *line, fail_t *fail);

/* The text of /help. edited: with the line editor's keys. */
const char *chat_command_help(bool edited);

/* /set NAME VALUE, or NAME=VALUE: stores it as the flag of that name would be. FAIL_USAGE. */
int chat_settings_set(
    answer_flags_t *flags, args_given_t *given, const char *argument, fail_t *fail);

/* Appends the current settings, a line each. */
int chat_settings_list(const answer_flags_t *flags, const sampler_params_t *sampling,
    text_buffer_t *out, fail_t *fail);

#endif
