/* Content as an array of parts, {"type": "text", "text": ...}: some templates show them, others
 * take a message's content for a text. For those, the parts' texts are put together first. */
#include <string.h>

#include "engine/text/chat_internal.h"

#define MARK "parts of a message"

static bool has_parts(const json_t *messages)
{
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (json_is_array(json_object_get(json_array_get(messages, i), "content")))
            return true;
    return false;
}

/* Tries: the text has to come out, and nothing of the array around it. */
static bool shows_parts(const chat_t *chat, const chat_template_t *chosen)
{
    jinja_job_t *job = NULL;
    fail_t fail = {0};
    text_buffer_t out = {0};
    json_t *messages =
        json_pack("[{s:s,s:[{s:s,s:s}]}]", "role", "user", "content", "type", "text", "text", MARK);
    if (messages != NULL && jinja_job_open(&job, &fail) == 0 &&
        jinja_job_set(job, "messages", messages, &fail) == 0 &&
        jinja_job_prepare_chat(job, chat->special_tokens, &fail) == 0)
        jinja_job_render(job, chosen->made, &out, &fail);
    const char *mark = fail.status == 0 && out.text != NULL ? strstr(out.text, MARK) : NULL;
    bool shown = mark != NULL && (mark == out.text || (mark[-1] != '\'' && mark[-1] != '"'));
    jinja_job_close(job);
    json_decref(messages);
    text_buffer_clear(&out);
    return shown;
}

/* A message with the texts of its parts as its content. A new reference. */
static json_t *joined(const json_t *message, size_t i, fail_t *fail)
{
    const json_t *parts = json_object_get(message, "content");
    text_buffer_t text = {0};
    for (size_t k = 0; k < json_array_size(parts); k++) {
        const json_t *part = json_array_get(parts, k);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *piece = json_object_get(part, "text");
        if ((type != NULL && strcmp(type, "text") != 0) || !json_is_string(piece))
            fail_set(fail, FAIL_USAGE,
                "messages[%zu]: content[%zu]: expected {\"type\": \"text\", \"text\": ...}, found type %.40s",
                i, k, type != NULL ? type : "none");
        else
            text_buffer_append(&text, json_string_value(piece), json_string_length(piece), fail);
    }
    json_t *copy = json_copy((json_t *)message);
    json_object_set_new(
        copy, "content", json_stringn(text.text != NULL ? text.text : "", text.bytes));
    text_buffer_clear(&text);
    return copy;
}

int chat_join_parts(const chat_t *chat, const chat_template_t *chosen, const json_t *messages,
    json_t **result, fail_t *fail)
{
    *result = NULL;
    if (!has_parts(messages) || shows_parts(chat, chosen))
        return 0;
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *message = json_array_get(messages, i);
        if (json_is_array(json_object_get(message, "content")))
            json_array_append_new(list, joined(message, i, fail));
        else
            json_array_append(list, message);
    }
    if (json_array_size(list) != json_array_size(messages))
        fail_set(fail, FAIL_MEMORY, "messages: out of memory");
    if (fail->status != 0)
        json_decref(list);
    else
        *result = list;
    return fail->status;
}
