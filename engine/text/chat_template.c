/* Recognising chat templates. A template's text is brought into a form that does not depend on
 * white space which Jinja ignores (with trim_blocks and lstrip_blocks, as transformers sets it up),
 * and the digest of that form is looked up. The form:
 *
 *   - one newline at the end of the file is dropped, CR LF is LF;
 *   - white space before {%- {{- and after -%} -}} is dropped, and so are these minus signs;
 *   - spaces and tabs between the start of a line and {% are dropped, and one newline after %};
 *   - inside of tags, outside of strings, white space is dropped, or one space where two words
 * would meet.
 */
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/text/chat.h"

#define PATH_BYTES 4096
#define TEMPLATE_BYTES_MAX ((size_t)1 << 20)

static const struct {
    uint64_t digest;
    chat_template_t chat_template;
} known_templates[] = {
    {0x5d024df2da48de7e, CHAT_CHATML},
    {0x64cae7c461fba393, CHAT_QWEN2},
    {0xe09c8f23f71e12ad, CHAT_QWEN25},
    {0x01a4ded8257b6265, CHAT_QWEN25_BASE},
    {0xa0fd17b4579e9c8d, CHAT_QWEN25_MATH},
};

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

typedef struct canon {
    const char *at, *end;
    char *out; /* room for as many bytes as the source has */
    size_t n;
    bool line_start; /* the text before `at` ended a line, though the newline was dropped */
} canon_t;

/* Text up to the next tag. */
static void canon_text(canon_t *c)
{
    size_t begin = c->n;
    while (c->at < c->end &&
           !(c->end - c->at >= 2 && c->at[0] == '{' && strchr("{%#", c->at[1]) && c->at[1]))
        c->out[c->n++] = *c->at++;
    if (c->at == c->end)
        return;
    if (c->end - c->at >= 3 && c->at[2] == '-') {
        while (c->n > begin && is_space(c->out[c->n - 1]))
            c->n--;
    } else if (c->at[1] != '{') {
        size_t n = c->n;
        while (n > begin && (c->out[n - 1] == ' ' || c->out[n - 1] == '\t'))
            n--;
        if (n > begin ? c->out[n - 1] == '\n' : c->line_start)
            c->n = n;
    }
}

/* Copies a string literal with its quotes. */
static void canon_string(canon_t *c)
{
    char quote = *c->at;
    c->out[c->n++] = *c->at++;
    while (c->at < c->end) {
        char byte = *c->at++;
        c->out[c->n++] = byte;
        if (byte == quote)
            return;
        if (byte == '\\' && c->at < c->end)
            c->out[c->n++] = *c->at++;
    }
}

static bool at_tag_end(const canon_t *c, char closing)
{
    return c->end - c->at >= 2 && c->at[0] == closing && c->at[1] == '}';
}

/* A tag from its opening to its closing braces, and the white space behind that Jinja takes away.
 */
static void canon_tag(canon_t *c)
{
    char kind = c->at[1], closing = kind == '{' ? '}' : kind;
    c->out[c->n++] = '{';
    c->out[c->n++] = kind;
    c->at += 2;
    if (c->at < c->end && *c->at == '-')
        c->at++;
    bool gap = false, strip = false;
    while (c->at < c->end && !at_tag_end(c, closing)) {
        if (*c->at == '-' && c->end - c->at >= 3 && c->at[1] == closing && c->at[2] == '}') {
            strip = true;
            c->at++;
        } else if (is_space(*c->at)) {
            gap = true;
            c->at++;
        } else {
            if (gap && is_word(*c->at) && is_word(c->out[c->n - 1]))
                c->out[c->n++] = ' ';
            gap = false;
            if (*c->at == '\'' || *c->at == '"')
                canon_string(c);
            else
                c->out[c->n++] = *c->at++;
        }
    }
    if (c->at == c->end)
        return;
    c->out[c->n++] = *c->at++;
    c->out[c->n++] = *c->at++;
    while (strip && c->at < c->end && is_space(*c->at))
        c->at++;
    c->line_start = !strip && kind != '{' && c->at < c->end && *c->at == '\n';
    if (c->line_start)
        c->at++;
}

/* Turns CR LF into LF in place and drops the last newline; returns the new length. */
static size_t canon_lines(char *text, size_t bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        if (text[i] != '\r' || i + 1 == bytes || text[i + 1] != '\n')
            text[n++] = text[i];
    return n > 0 && text[n - 1] == '\n' ? n - 1 : n;
}

static int template_digest(const char *text, size_t bytes, uint64_t *digest, fail_t *fail)
{
    char *lines = malloc(bytes + 1), *out = malloc(bytes + 1);
    if (lines == NULL || out == NULL) {
        free(lines);
        free(out);
        return fail_set(fail, FAIL_MEMORY, "chat template: no memory for its %zu bytes", bytes);
    }
    memcpy(lines, text, bytes);
    canon_t c = {.at = lines, .out = out, .line_start = true};
    c.end = lines + canon_lines(lines, bytes);
    while (c.at < c.end) {
        canon_text(&c);
        if (c.at < c.end)
            canon_tag(&c);
    }
    *digest = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < c.n; i++)
        *digest = (*digest ^ (unsigned char)out[i]) * UINT64_C(0x100000001b3);
    free(lines);
    free(out);
    return 0;
}

int chat_template_recognise(
    const char *text, size_t bytes, const char *name, chat_template_t *chat_template, fail_t *fail)
{
    uint64_t digest = 0;
    *chat_template = CHAT_NONE;
    if (template_digest(text, bytes, &digest, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < sizeof known_templates / sizeof known_templates[0]; i++)
        if (known_templates[i].digest == digest) {
            *chat_template = known_templates[i].chat_template;
            return 0;
        }
    return fail_set(fail, FAIL_MODEL,
        "%s: this chat template (digest %016llx) is not known; known are chatml, qwen2, qwen2.5, "
        "qwen2.5-base and qwen2.5-math; with --raw the prompt is taken as it is, without a "
        "template",
        name, (unsigned long long)digest);
}

/* chat_template: a string, or an array of {"name", "template"} of which "default" counts. */
static int recognise_member(
    json_t *config, const char *path, chat_template_t *chat_template, fail_t *fail)
{
    json_t *member = json_object_get(config, "chat_template");
    if (member == NULL || json_is_null(member))
        return 0;
    json_t *text = member;
    for (size_t i = 0; i < json_array_size(member); i++) {
        json_t *entry = json_array_get(member, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name != NULL && strcmp(name, "default") == 0)
            text = json_object_get(entry, "template");
    }
    if (!json_is_string(text))
        return fail_set(fail, FAIL_FORMAT,
            "%s: chat_template: expected a string or an array with a template named \"default\"",
            path);
    return chat_template_recognise(
        json_string_value(text), json_string_length(text), path, chat_template, fail);
}

int chat_template_detect(const char *directory, chat_template_t *chat_template, fail_t *fail)
{
    char path[PATH_BYTES];
    *chat_template = CHAT_NONE;
    snprintf(path, sizeof path, "%s/chat_template.jinja", directory);
    if (access(path, F_OK) == 0) {
        char *text;
        size_t bytes;
        if (text_file_read(path, TEMPLATE_BYTES_MAX, &text, &bytes, fail) == 0) {
            chat_template_recognise(text, bytes, path, chat_template, fail);
            free(text);
        }
        return fail->status;
    }
    snprintf(path, sizeof path, "%s/tokenizer_config.json", directory);
    json_t *config;
    if (access(path, F_OK) != 0 || json_file_read(path, &config, fail) != 0)
        return fail->status;
    recognise_member(config, path, chat_template, fail);
    json_decref(config);
    return fail->status;
}
