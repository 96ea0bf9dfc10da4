#include "engine/text/chat.h"

int chat_require(chat_t **chat, const char *directory, const chat_choice_t *choice, fail_t *fail)
{
    if (chat_open(chat, directory, choice, fail) != 0)
        return fail->status;
    if (*chat == NULL)
        return fail_set(fail, FAIL_MODEL,
            "%s: expected a chat template in tokenizer_config.json or chat_template.jinja, found none; --chat-template FILE gives one, --raw does without",
            directory);
    return 0;
}

chat_input_t chat_input_of(json_t *object)
{
    return (chat_input_t){.messages = json_object_get(object, "messages"),
        .tools = json_object_get(object, "tools"),
        .documents = json_object_get(object, "documents"),
        .variables = json_object_get(object, "chat_template_kwargs")};
}

json_t *chat_message(const char *role, const char *content, size_t bytes)
{
    json_t *message = json_object();
    json_t *text = json_stringn(content, bytes);
    if (message == NULL || text == NULL) {
        json_decref(message);
        json_decref(text);
        return NULL;
    }
    json_object_set_new(message, "role", json_string(role));
    json_object_set_new(message, "content", text);
    return message;
}
