#include "launch/chat_commands.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/size.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define LONGEST_NAME 64

#define HELP_COMMANDS                                                                              \
    "  /system TEXT     set the system message, and start over\n"                                  \
    "  /set NAME VALUE  set how answers are drawn: /set temperature 0.7; /set lists all\n"         \
    "  /save FILE       write the conversation as JSON\n"                                          \
    "  /reset           forget the conversation\n"                                                 \
    "  /quit            leave (as Ctrl-D does)\n"                                                  \
    "  //TEXT           a text that begins with a slash\n"
#define HELP_KEYS                                                                                  \
    "  Enter            send; Ctrl-J, Alt-Enter, or a backslash before Enter begin a new line\n"   \
    "  Up, Down         earlier texts; Ctrl-R searches them\n"                                     \
    "  Ctrl-C           end the answer, or drop what is typed\n"
#define HELP_LINES "  Ctrl-C           end the answer\n"

static const struct {
    const char *word;
    chat_command_t command;
} words[] = {
    {"/help", COMMAND_HELP},
    {"/quit", COMMAND_QUIT},
    {"/exit", COMMAND_QUIT},
    {"/reset", COMMAND_RESET},
    {"/save", COMMAND_SAVE},
    {"/set", COMMAND_SET},
    {"/system", COMMAND_SYSTEM},
};

/* Flags of the same names, with dashes. */
static const char *const settings[] = {
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "max_tokens"};

/* ---- Commands -------------------------------------------------------------------------------- */

/* Bytes of the slash and the word at the begin of a command; 0 where a text begins. */
static size_t word_bytes(const char *line)
{
    size_t n = 1;
    if (line[0] != '/')
        return 0;
    while (isalpha((unsigned char)line[n]))
        n++;
    return n > 1 && (line[n] == 0 || isspace((unsigned char)line[n])) ? n : 0;
}

chat_command_t chat_command_parse(char *line, size_t bytes, char **argument, size_t *n_argument)
{
    size_t n = word_bytes(line);
    if (n == 0) {
        *argument = line + (strncmp(line, "//", 2) == 0);
        *n_argument = bytes - (size_t)(*argument - line);
        return COMMAND_TEXT;
    }
    char *end = line + bytes;
    *argument = line + n;
    while (*argument < end && isspace((unsigned char)**argument))
        ++*argument;
    while (end > *argument && isspace((unsigned char)end[-1]))
        *--end = 0;
    *n_argument = (size_t)(end - *argument);
    for (size_t i = 0; i < COUNT(words); i++)
        if (strlen(words[i].word) == n && memcmp(words[i].word, line, n) == 0)
            return words[i].command;
    return COMMAND_UNKNOWN;
}

int chat_command_unknown(const char *line, fail_t *fail)
{
    char word[LONGEST_NAME];
    const char *candidates[COUNT(words)];
    for (size_t i = 0; i < COUNT(words); i++)
        candidates[i] = words[i].word;
    snprintf(word, sizeof word, "%.*s", (int)size_min(word_bytes(line), LONGEST_NAME - 1), line);
    const char *nearest = args_nearest(word, candidates, COUNT(words));
    return fail_set(fail, FAIL_USAGE,
        "unknown command %s%s%s; /help lists them (// begins a text with a slash)", word,
        nearest != NULL ? ", did you mean " : "", nearest != NULL ? nearest : "");
}

const char *chat_command_help(bool edited)
{
    return edited ? HELP_COMMANDS HELP_KEYS : HELP_COMMANDS HELP_LINES;
}

/* ---- Settings -------------------------------------------------------------------------------- */

static int unknown_setting(const char *name, fail_t *fail)
{
    const char *nearest = args_nearest(name, settings, COUNT(settings));
    return fail_set(fail, FAIL_USAGE, "/set: unknown setting %s%s%s; /set lists them", name,
        nearest != NULL ? ", did you mean " : "", nearest != NULL ? nearest : "");
}

int chat_settings_set(
    answer_flags_t *flags, args_given_t *given, const char *argument, fail_t *fail)
{
    static const arg_part_t parts[] = {{&flags_answer, 0}, {NULL, 0}};
    char name[LONGEST_NAME], flag[LONGEST_NAME + 2] = "--", value[LONGEST_NAME];
    size_t n = size_min(strcspn(argument, " \t="), LONGEST_NAME - 1);
    bool known = false;
    snprintf(name, sizeof name, "%.*s", (int)n, argument);
    for (size_t i = 0; i < n; i++)
        name[i] = name[i] == '-' ? '_' : name[i];
    for (size_t i = 0; i < COUNT(settings); i++)
        known = known || strcmp(settings[i], name) == 0;
    if (!known)
        return unknown_setting(name, fail);
    for (size_t i = 0; i <= n; i++)
        flag[2 + i] = name[i] == '_' ? '-' : name[i];
    argument += n + strspn(argument + n, " \t");
    argument += *argument == '=';
    snprintf(value, sizeof value, "%s", argument + strspn(argument, " \t"));
    if (value[0] == 0)
        return fail_set(fail, FAIL_USAGE, "/set %s: expected a value, found none", name);
    char *argv[] = {flag, value};
    args_given_t now = {0};
    if (args_parse(parts, 2, argv, flags, &now, fail) == 0 && !args_was_given(given, flag) &&
        given->count < ARGS_MAX_GIVEN)
        given->args[given->count++] = now.args[0];
    return fail->status;
}

int chat_settings_list(
    const answer_flags_t *flags, const sampler_params_t *sampling, text_buffer_t *out, fail_t *fail)
{
    char text[512];
    int n = snprintf(text, sizeof text,
        "  temperature         %g%s\n"
        "  top_k               %" PRIu32 "%s\n"
        "  top_p               %g\n"
        "  min_p               %g\n"
        "  repetition_penalty  %g\n"
        "  seed                %" PRIu64 "\n"
        "  max_tokens          %zu\n",
        sampling->temperature, sampling->temperature == 0 ? " (always the most likely token)" : "",
        sampling->top_k, sampling->top_k == 0 ? " (all)" : "", sampling->top_p, sampling->min_p,
        sampling->repetition_penalty, sampling->seed, flags->max_tokens);
    return text_buffer_append(out, text, (size_t)n, fail);
}
