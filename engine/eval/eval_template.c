#include "engine/eval/eval_template.h"

#include <stdlib.h>
#include <string.h>

/* A field's path in the text, without braces and white space around it. */
typedef struct path {
    const char *text;
    size_t bytes;
} path_t;

static path_t trimmed(const char *begin, const char *end)
{
    while (begin < end && strchr(" \t\n", *begin) != NULL)
        begin++;
    while (end > begin && strchr(" \t\n", end[-1]) != NULL)
        end--;
    return (path_t){begin, (size_t)(end - begin)};
}

/* Finds the next field from *at on: its path, where its braces begin, and *at behind them. False
 * when there is none, or none that ends. */
static bool next_field(const char **at, const char **begin, path_t *path)
{
    const char *open = strstr(*at, "{{");
    const char *close = open == NULL ? NULL : strstr(open + 2, "}}");
    if (close == NULL)
        return false;
    *begin = open;
    *path = trimmed(open + 2, close);
    *at = close + 2;
    return true;
}

int template_check(const char *text, const char *name, fail_t *fail)
{
    const char *at = text, *begin;
    path_t path;
    while (next_field(&at, &begin, &path))
        if (path.bytes == 0)
            return fail_set(
                fail, FAIL_FORMAT, "%s: expected a field's name between {{ and }}", name);
    if (strstr(at, "{{") != NULL)
        return fail_set(fail, FAIL_FORMAT, "%s: {{ without }}", name);
    return 0;
}

/* The value at the path, or NULL. */
static json_t *follow(json_t *value, path_t path)
{
    const char *at = path.text, *end = path.text + path.bytes;
    while (value != NULL && at < end) {
        if (*at == '[') {
            char *rest;
            size_t index = strtoull(at + 1, &rest, 10);
            if (rest == at + 1 || rest >= end || *rest != ']' || !json_is_array(value))
                return NULL;
            value = json_array_get(value, index);
            at = rest + 1;
        } else {
            at += *at == '.';
            size_t n = 0;
            while (at + n < end && at[n] != '.' && at[n] != '[')
                n++;
            char name[256];
            if (n == 0 || n >= sizeof name)
                return NULL;
            memcpy(name, at, n);
            name[n] = 0;
            value = json_object_get(value, name);
            at += n;
        }
    }
    return value;
}

static int append_value(
    json_t *value, path_t path, const char *where, text_buffer_t *out, fail_t *fail)
{
    if (json_is_string(value))
        return text_buffer_append(out, json_string_value(value), json_string_length(value), fail);
    if (!json_is_number(value) && !json_is_boolean(value))
        return fail_set(fail, FAIL_FORMAT, "%s: field \"%.*s\": expected a text or a number, %s",
            where, (int)path.bytes, path.text,
            value == NULL ? "found no such field" : "found something else");
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    if (text == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", where);
    text_buffer_append(out, text, strlen(text), fail);
    free(text);
    return fail->status;
}

int template_render(
    const char *text, json_t *item, const char *where, text_buffer_t *out, fail_t *fail)
{
    const char *at = text, *before = text, *begin;
    path_t path;
    while (next_field(&at, &begin, &path) && fail->status == 0) {
        text_buffer_append(out, before, (size_t)(begin - before), fail);
        append_value(follow(item, path), path, where, out, fail);
        before = at;
    }
    if (fail->status == 0)
        text_buffer_append(out, before, strlen(before), fail);
    return fail->status;
}

json_t *template_value(const char *text, json_t *item)
{
    const char *at = text, *begin;
    path_t path;
    if (!next_field(&at, &begin, &path) || begin != text || *at != 0)
        return NULL;
    return follow(item, path);
}
