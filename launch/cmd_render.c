/* choir render: conversations, a JSON object a line, to the text that a chat template makes of
 * them. A line of output for a line of input: {"text": ...} or {"error": ...}. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/text/chat.h"
#include "engine/text/jinja/jinja.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/output.h"
#include "launch/prompts.h"
#include "sharding/store/store.h"

typedef struct render_flags {
    common_flags_t common;
    chat_choice_t template;
} render_flags_t;

#define LINE_BYTES_MAX ((size_t)64 << 20)

/* Reads a line without its end; the rest of one that is too long is dropped. False at the end of
 * the input. */
static bool read_line(text_buffer_t *line, bool *too_long, fail_t *fail)
{
    int c = EOF;
    line->bytes = 0;
    *too_long = false;
    while (fail->status == 0 && (c = getc_unlocked(stdin)) != EOF && c != '\n') {
        char byte = (char)c;
        *too_long |= line->bytes == LINE_BYTES_MAX;
        if (!*too_long && line->bytes < line->capacity - (line->capacity > 0))
            line->text[line->bytes++] = byte;
        else if (!*too_long)
            text_buffer_append(line, &byte, 1, fail);
    }
    if (ferror(stdin))
        fail_set(fail, FAIL_FILE, "standard input: cannot read: %s", strerror(errno));
    return fail->status == 0 && (c != EOF || line->bytes > 0);
}

static int write_line(output_t *output, const char *key, const text_buffer_t *value, fail_t *fail)
{
    text_buffer_t json = {0};
    text_buffer_append(&json, "{\"", 2, fail);
    text_buffer_append(&json, key, strlen(key), fail);
    text_buffer_append(&json, "\": ", 3, fail);
    jinja_quote(value->text != NULL ? value->text : "", value->bytes, &json, fail);
    if (text_buffer_append(&json, "}\n", 2, fail) == 0)
        output_write(output, json.text, json.bytes, fail);
    text_buffer_clear(&json);
    return fail->status;
}

static int render_line(
    chat_t *chat, output_t *output, const text_buffer_t *line, bool too_long, fail_t *fail)
{
    text_buffer_t text = {0}, error = {0};
    fail_t refused = {0};
    if (too_long) {
        const char *message = "line: longer than 64 MiB";
        fail_set(&refused, FAIL_USAGE, "%s", message);
        text_buffer_append(&error, message, strlen(message), fail);
    } else {
        chat_render_text(
            chat, line->text != NULL ? line->text : "", line->bytes, &text, &error, &refused);
    }
    if (refused.status == FAIL_MEMORY)
        fail_set(fail, FAIL_MEMORY, "%s", refused.message);
    else if (refused.status != 0)
        write_line(output, "error", &error, fail);
    else
        write_line(output, "text", &text, fail);
    text_buffer_clear(&text);
    text_buffer_clear(&error);
    return fail->status;
}

static int open_chat(chat_t **chat, const render_flags_t *flags, fail_t *fail)
{
    char directory[4096];
    if (flags->template.given != NULL && flags->common.model == NULL)
        return chat_open(chat, NULL, &flags->template, fail);
    if (model_dir_find(flags->common.model, directory, sizeof directory, fail) == 0 &&
        store_check_copied(directory, fail) == 0)
        chat_require(chat, directory, &flags->template, fail);
    return fail->status;
}

static int cmd_render(invocation_t *invocation, fail_t *fail)
{
    chat_t *chat = NULL;
    text_buffer_t line = {0};
    output_t output = {0};
    bool too_long;
    if (comm_rank(invocation->comm) != 0)
        return 0;
    if (open_chat(&chat, invocation->flags, fail) == 0)
        while (!output.closed && read_line(&line, &too_long, fail))
            render_line(chat, &output, &line, too_long, fail);
    text_buffer_clear(&line);
    chat_close(chat);
    return fail->status;
}

#define AT(member) offsetof(render_flags_t, member)

static const arg_t render_args[] = {
    FLAG_TEXT("--template", AT(template.given), "FILE",
        "The chat template (Jinja), in place of a model's."),
    FLAG_TEXT("--template-vars", AT(template.variables), "JSON",
        "Variables for all lines, as an object; a line's own variables take precedence."),
};
static const arg_group_t own = ARG_GROUP("Rendering", render_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&own, 0},
    PARTS_END,
};

static const render_flags_t defaults = {.common = COMMON_DEFAULTS};

const command_t command_render = {"render",
    "choir render [--model DIR | --template FILE] < CONVERSATIONS.jsonl",
    "conversations to text by a chat template", parts, &defaults, sizeof defaults, NULL,
    cmd_render};
