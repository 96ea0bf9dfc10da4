#include "engine/text/tokenizer_parts.h"

#include <stdio.h>
#include <stdlib.h>

const char *part_type(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    return type != NULL ? type : "";
}

bool part_is_absent(const json_t *part)
{
    return part == NULL || json_is_null(part);
}

int part_refuse(
    const char *name, const char *member, const char *expected, const json_t *found, fail_t *fail)
{
    char *text = found != NULL ? json_dumps(found, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    fail_set(fail, FAIL_MODEL, "%s: %s: expected %s, found %.200s", name, member, expected,
        text != NULL ? text : "nothing");
    free(text);
    return fail->status;
}

int part_text(json_t *part, const char *key, text_buffer_t *text, const char *name,
    const char *member, fail_t *fail)
{
    const json_t *value = json_object_get(part, key);
    char expected[96];
    snprintf(expected, sizeof expected, "%s with a text \"%s\"", part_type(part), key);
    if (!json_is_string(value) || json_string_length(value) == 0)
        return part_refuse(name, member, expected, part, fail);
    return text_buffer_append(text, json_string_value(value), json_string_length(value), fail);
}

int part_replacement(json_t *part, text_buffer_t *from, text_buffer_t *to, const char *name,
    const char *member, fail_t *fail)
{
    json_t *pattern = json_object_get(part, "pattern");
    const json_t *text = json_object_get(pattern, "String");
    const json_t *content = json_object_get(part, "content");
    if (!json_is_string(text) || json_string_length(text) == 0 || !json_is_string(content))
        return part_refuse(
            name, member, "Replace with a pattern {\"String\": text} and a content", part, fail);
    if (text_buffer_append(from, json_string_value(text), json_string_length(text), fail) != 0)
        return fail->status;
    return text_buffer_append(to, json_string_value(content), json_string_length(content), fail);
}
