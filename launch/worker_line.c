#include "launch/worker_line.h"

#include <stdbool.h>
#include <string.h>

#include "engine/base/json.h"
#include "launch/request_fields.h"

#define OP_FIELDS 6

static const struct {
    const char *name;
    const char *fields[OP_FIELDS]; /* beside op and id */
} ops[] = {
    [WORKER_INFO] = {"info", {NULL}},
    [WORKER_TOKENIZE] = {"tokenize", {"text"}},
    [WORKER_CHAT] = {"chat",
        {"messages", "tools", "documents", "chat_template_kwargs", "add_generation_prompt"}},
    [WORKER_LOGLIKELIHOOD] = {"loglikelihood",
        {"context", "context_ids", "continuation", "continuation_ids"}},
    [WORKER_ROLLING] = {"loglikelihood_rolling", {"text", "text_ids", "window", "prefix_id"}},
    [WORKER_GENERATE] = {"generate_until", {"prompt", "prompt_ids"}},
};

static int check_fields(json_t *document, const char *name, worker_op_t op, fail_t *fail)
{
    const char *keys[2 + OP_FIELDS + REQUEST_FIELDS] = {"op", "id"};
    char where[128];
    memcpy(keys + 2, ops[op].fields, sizeof ops[op].fields);
    if (op == WORKER_GENERATE)
        memcpy(keys + 2 + OP_FIELDS, request_field_names, sizeof request_field_names);
    snprintf(where, sizeof where, "%s: %s", name, ops[op].name);
    return json_check_keys(document, where, keys, 2 + OP_FIELDS + REQUEST_FIELDS, fail);
}

int worker_line_read(const char *line, size_t bytes, const char *name, json_t **document,
    worker_op_t *op, fail_t *fail)
{
    if (json_line_read(line, bytes, name, document, fail) != 0)
        return fail->status;
    if (!json_is_object(*document))
        return fail_set(fail, FAIL_FORMAT, "%s: expected an object", name);
    const char *given = json_string_value(json_object_get(*document, "op"));
    for (int i = 0; given != NULL && i < (int)(sizeof ops / sizeof *ops); i++)
        if (strcmp(given, ops[i].name) == 0) {
            *op = (worker_op_t)i;
            return check_fields(*document, name, *op, fail);
        }
    return fail_set(fail, FAIL_USAGE,
        "op: expected info, tokenize, chat, loglikelihood, loglikelihood_rolling or generate_until, found %.40s",
        given == NULL ? "none" : given);
}

/* ---- Lines that are no JSON ------------------------------------------------------------------ */

/* Behind a string that begins with the quote at text[at]: its length in all, or 0 when it does not
 * end. */
static size_t string_bytes(const char *text, size_t bytes)
{
    for (size_t i = 1; i < bytes; i++) {
        if (text[i] == '\\')
            i++;
        else if (text[i] == '"')
            return i + 1;
    }
    return 0;
}

static size_t space_bytes(const char *text, size_t bytes)
{
    size_t n = 0;
    while (n < bytes && memchr(" \t\r\n", text[n], 4) != NULL)
        n++;
    return n;
}

/* A value that the text begins with, and whose end is there. NULL when there is none. */
static json_t *value_at(const char *text, size_t bytes)
{
    json_error_t error;
    json_t *value =
        json_loadb(text, bytes, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &error);
    size_t end = value == NULL ? 0 : (size_t)error.position;
    /* A number that ends with the text may have been longer. */
    if (value != NULL && json_is_number(value) && end >= bytes) {
        json_decref(value);
        return NULL;
    }
    return value;
}

json_t *worker_line_id(const char *line, size_t bytes)
{
    size_t depth = 0, n;
    for (size_t at = space_bytes(line, bytes); at < bytes; at += n) {
        n = 1;
        if (line[at] == '{' || line[at] == '[')
            depth++;
        if (line[at] == '}' || line[at] == ']')
            depth -= depth > 0;
        if (line[at] != '"')
            continue;
        n = string_bytes(line + at, bytes - at);
        if (n == 0)
            break;
        size_t after = at + n + space_bytes(line + at + n, bytes - at - n);
        bool is_key = depth == 1 && after < bytes && line[after] == ':';
        if (!is_key || n != 4 || memcmp(line + at, "\"id\"", 4) != 0)
            continue;
        json_t *value = value_at(line + after + 1, bytes - after - 1);
        return value != NULL ? value : json_null();
    }
    return json_null();
}
