#include "engine/text/chat.h"

#include <string.h>

#include "engine/text/python_json.h"
#include "engine/text/unicode.h"

/* What the templates say when the conversation does not begin with a system message; NULL: nothing.
 */
static const char *default_system(chat_template_t chat_template)
{
    switch (chat_template) {
    case CHAT_QWEN25:
        return "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
    case CHAT_QWEN25_MATH:
        return "Please reason step by step, and put your final answer within \\boxed{}.";
    case CHAT_QWEN25_BASE:
    case CHAT_QWEN2:
        return "You are a helpful assistant.";
    default:
        return NULL;
    }
}

static bool knows_tools(chat_template_t chat_template)
{
    return chat_template == CHAT_QWEN25 || chat_template == CHAT_QWEN25_BASE ||
           chat_template == CHAT_QWEN25_MATH;
}

const char *chat_template_name(chat_template_t chat_template)
{
    switch (chat_template) {
    case CHAT_CHATML:
        return "chatml";
    case CHAT_QWEN25:
        return "qwen2.5";
    case CHAT_QWEN25_BASE:
        return "qwen2.5-base";
    case CHAT_QWEN25_MATH:
        return "qwen2.5-math";
    case CHAT_QWEN2:
        return "qwen2";
    default:
        return "none";
    }
}

typedef struct renderer {
    chat_template_t chat_template;
    json_t *messages;
    text_buffer_t *out;
    fail_t *fail;
} renderer_t;

static void say(renderer_t *r, const char *text)
{
    text_buffer_append(r->out, text, strlen(text), r->fail);
}

static void say_value(renderer_t *r, const json_t *string)
{
    text_buffer_append(r->out, json_string_value(string), json_string_length(string), r->fail);
}

static bool has_role(const json_t *message, const char *role)
{
    const char *value = json_string_value(json_object_get(message, "role"));
    return value != NULL && strcmp(value, role) == 0;
}

/* A message's tool calls, NULL when there are none. */
static json_t *tool_calls_of(const json_t *message)
{
    json_t *calls = json_object_get(message, "tool_calls");
    return calls == NULL || json_is_null(calls) || json_array_size(calls) == 0 ? NULL : calls;
}

static bool is_absent(const json_t *value)
{
    return value == NULL || json_is_null(value);
}

/* The call itself may stand in a member "function". */
static json_t *function_of(json_t *call)
{
    json_t *function = json_object_get(call, "function");
    return function != NULL ? function : call;
}

static int check_tool_calls(const renderer_t *r, size_t i, json_t *message)
{
    json_t *calls = json_object_get(message, "tool_calls");
    if (is_absent(calls))
        return 0;
    if (!json_is_array(calls))
        return fail_set(r->fail, FAIL_USAGE, "messages[%zu]: tool_calls: expected an array", i);
    size_t n = json_array_size(calls);
    if (n > 0 && (!knows_tools(r->chat_template) || !has_role(message, "assistant")))
        return fail_set(r->fail, FAIL_USAGE,
            "messages[%zu]: tool_calls: the chat template %s does not show them in this message", i,
            chat_template_name(r->chat_template));
    for (size_t k = 0; k < n; k++) {
        json_t *function = function_of(json_array_get(calls, k));
        if (!json_is_string(json_object_get(function, "name")) ||
            json_object_get(function, "arguments") == NULL)
            return fail_set(r->fail, FAIL_USAGE,
                "messages[%zu]: tool_calls[%zu]: expected a string \"name\" and \"arguments\"", i,
                k);
    }
    return 0;
}

/* content may only be absent where a template would not look at it or prints nothing for it. */
static int check_message(const renderer_t *r, size_t i)
{
    json_t *message = json_array_get(r->messages, i);
    json_t *content = json_object_get(message, "content");
    if (!json_is_object(message) || !json_is_string(json_object_get(message, "role")))
        return fail_set(
            r->fail, FAIL_USAGE, "messages[%zu]: expected an object with a string \"role\"", i);
    if (knows_tools(r->chat_template) && !has_role(message, "system") &&
        !has_role(message, "user") && !has_role(message, "assistant") && !has_role(message, "tool"))
        return fail_set(r->fail, FAIL_USAGE,
            "messages[%zu]: role: expected system, user, assistant or tool, found \"%.64s\"", i,
            json_string_value(json_object_get(message, "role")));
    if (check_tool_calls(r, i, message) != 0)
        return r->fail->status;
    bool optional = knows_tools(r->chat_template) &&
                    (has_role(message, "tool") || tool_calls_of(message) != NULL);
    if (!json_is_string(content) && !(optional && is_absent(content)))
        return fail_set(r->fail, FAIL_USAGE, "messages[%zu]: content: expected a string", i);
    return 0;
}

static int check_all(const renderer_t *r, json_t *tools)
{
    if (default_system(r->chat_template) == NULL && r->chat_template != CHAT_CHATML)
        return fail_set(r->fail, FAIL_MODEL, "this model has no chat template; use --raw");
    if (!json_is_array(r->messages) || json_array_size(r->messages) == 0)
        return fail_set(r->fail, FAIL_USAGE, "messages: expected an array of at least one message");
    if (tools != NULL && !json_is_null(tools) && !json_is_array(tools))
        return fail_set(r->fail, FAIL_USAGE, "tools: expected an array");
    if (json_array_size(tools) > 0 && !knows_tools(r->chat_template))
        return fail_set(r->fail, FAIL_USAGE, "tools: the chat template %s has no place for them",
            chat_template_name(r->chat_template));
    for (size_t i = 0; i < json_array_size(tools); i++)
        if (!json_is_object(json_array_get(tools, i)))
            return fail_set(r->fail, FAIL_USAGE, "tools[%zu]: expected an object", i);
    for (size_t i = 0; i < json_array_size(r->messages); i++)
        if (check_message(r, i) != 0)
            return r->fail->status;
    return 0;
}

/* <|im_start|>ROLE\nCONTENT<|im_end|>\n */
static void say_turn(renderer_t *r, const json_t *message)
{
    say(r, "<|im_start|>");
    say_value(r, json_object_get(message, "role"));
    say(r, "\n");
    say_value(r, json_object_get(message, "content"));
    say(r, "<|im_end|>\n");
}

/* The conversation's own system message or the default, and the tools. */
static void say_system(renderer_t *r, json_t *tools)
{
    const json_t *first = json_array_get(r->messages, 0);
    bool own = has_role(first, "system");
    const char *fallback = default_system(r->chat_template);
    say(r, "<|im_start|>system\n");
    if (own)
        say_value(r, json_object_get(first, "content"));
    else
        say(r, fallback);
    if (json_array_size(tools) > 0) {
        say(r,
            "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>");
        for (size_t i = 0; i < json_array_size(tools); i++) {
            say(r, "\n");
            python_json_append(r->out, json_array_get(tools, i), r->fail);
        }
        say(r, "\n</tools>\n\nFor each function call, return a json object with function name and "
               "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": "
               "<function-name>, \"arguments\": <args-json-object>}\n</tool_call>");
    }
    say(r, "<|im_end|>\n");
}

static void say_tool_calls(renderer_t *r, const json_t *message)
{
    say(r, "<|im_start|>assistant");
    const json_t *content = json_object_get(message, "content");
    if (json_string_length(content) > 0) {
        say(r, "\n");
        say_value(r, content);
    }
    json_t *calls = tool_calls_of(message);
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *function = function_of(json_array_get(calls, i));
        say(r, "\n<tool_call>\n{\"name\": \"");
        say_value(r, json_object_get(function, "name"));
        say(r, "\", \"arguments\": ");
        python_json_append(r->out, json_object_get(function, "arguments"), r->fail);
        say(r, "}\n</tool_call>");
    }
    say(r, "<|im_end|>\n");
}

/* Tool responses that follow each other share one turn of the user. */
static void say_tool_response(renderer_t *r, size_t i)
{
    const json_t *content = json_object_get(json_array_get(r->messages, i), "content");
    size_t n = json_array_size(r->messages);
    if (i == 0 || !has_role(json_array_get(r->messages, i - 1), "tool"))
        say(r, "<|im_start|>user");
    say(r, "\n<tool_response>\n");
    if (json_is_string(content))
        say_value(r, content);
    say(r, "\n</tool_response>");
    if (i + 1 == n || !has_role(json_array_get(r->messages, i + 1), "tool"))
        say(r, "<|im_end|>\n");
}

static void say_qwen25_message(renderer_t *r, size_t i)
{
    const json_t *message = json_array_get(r->messages, i);
    if (has_role(message, "tool"))
        say_tool_response(r, i);
    else if (tool_calls_of(message) != NULL)
        say_tool_calls(r, message);
    else if (i > 0 || !has_role(message, "system"))
        say_turn(r, message);
}

int chat_render(chat_template_t chat_template, json_t *messages, json_t *tools,
    bool add_generation_prompt, text_buffer_t *out, fail_t *fail)
{
    renderer_t r = {chat_template, messages, out, fail};
    size_t before = out->bytes;
    if (check_all(&r, tools) != 0) {
        utf8_make_printable(fail->message);
        return fail->status;
    }
    bool plain = !knows_tools(chat_template);
    if (!plain || (chat_template == CHAT_QWEN2 && !has_role(json_array_get(messages, 0), "system")))
        say_system(&r, tools);
    for (size_t i = 0; i < json_array_size(messages); i++) {
        if (plain)
            say_turn(&r, json_array_get(messages, i));
        else
            say_qwen25_message(&r, i);
    }
    if (add_generation_prompt)
        say(&r, "<|im_start|>assistant\n");
    if (fail->status != 0 && out->text != NULL) {
        out->bytes = before;
        out->text[before] = 0;
    }
    return fail->status;
}
