/* /tokenize and /detokenize, on HTTP's thread. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/serve/server_internal.h"

static int read_flag(json_t *document, const char *key, bool *value, api_error_t *error)
{
    fail_t fail = {0};
    if (json_opt_bool(document, "request", key, value, &fail) != 0)
        api_error_set(error, key, "%s", fail.message);
    return (int)error->status;
}

static int encode(
    const server_t *server, json_t *document, tokenizer_ids_t *ids, api_error_t *error)
{
    const tokenizer_t *tokenizer = server->model.tokenizer;
    json_t *prompt = json_object_get(document, "prompt");
    json_t *messages = json_object_get(document, "messages");
    bool special = true, begins_answer = true;
    text_buffer_t text = {0};
    fail_t fail = {0};
    read_flag(document, "add_special_tokens", &special, error);
    if (read_flag(document, "add_generation_prompt", &begins_answer, error) != 0)
        return (int)error->status;
    if (json_is_array(messages) && prompt == NULL) {
        if (ask_render_chat(server, document, &text, begins_answer, &fail) == 0)
            tokenizer_encode(tokenizer, text.text, text.bytes, true, ids, &fail);
    } else if (!json_is_string(prompt) || messages != NULL) {
        api_error_set(error, "prompt", "expected prompt, a text, or messages, an array");
    } else if (special) {
        tokenizer_encode_whole(
            tokenizer, json_string_value(prompt), json_string_length(prompt), ids, &fail);
    } else {
        tokenizer_encode(
            tokenizer, json_string_value(prompt), json_string_length(prompt), true, ids, &fail);
    }
    text_buffer_clear(&text);
    if (fail.status != 0)
        api_error_set(error, messages != NULL ? "messages" : "prompt", "%s", fail.message);
    return (int)error->status;
}

json_t *server_tokenize(const server_t *server, const http_request_t *request, api_error_t *error)
{
    static const char *const keys[] = {"model", "prompt", "messages", "tools", "tool_choice",
        "documents", "chat_template_kwargs", "add_special_tokens", "add_generation_prompt"};
    json_t *answer = NULL;
    json_t *document = api_object_read(
        request->body, request->body_bytes, keys, sizeof keys / sizeof *keys, error);
    tokenizer_ids_t ids = {0};
    if (document != NULL && encode(server, document, &ids, error) == 0)
        answer = json_pack("{s:I, s:I, s:o}", "count", (json_int_t)ids.count, "max_model_len",
            (json_int_t)server->info.max_context, "tokens", json_from_ids(ids.ids, ids.count));
    tokenizer_ids_clear(&ids);
    json_decref(document);
    return answer;
}

static int read_ids(const json_t *tokens, tokenizer_ids_t *ids, api_error_t *error)
{
    const json_t *token;
    size_t i;
    fail_t fail = {0};
    if (!json_is_array(tokens))
        return api_error_set(error, "tokens", "tokens: expected an array of ids");
    json_array_foreach (tokens, i, token) {
        json_int_t id = json_integer_value(token);
        if (!json_is_integer(token) || id < 0 || id > INT32_MAX)
            return api_error_set(error, "tokens", "tokens: expected an id at index %zu", i);
        if (tokenizer_ids_append(ids, (int32_t)id, &fail) != 0)
            return api_error_of(error, 503, "server_error", NULL, "%s", fail.message);
    }
    return 0;
}

json_t *server_detokenize(const server_t *server, const http_request_t *request, api_error_t *error)
{
    static const char *const keys[] = {"model", "tokens"};
    json_t *answer = NULL;
    json_t *document = api_object_read(
        request->body, request->body_bytes, keys, sizeof keys / sizeof *keys, error);
    tokenizer_ids_t ids = {0};
    char *text = NULL;
    size_t bytes = 0;
    fail_t fail = {0};
    if (document != NULL && read_ids(json_object_get(document, "tokens"), &ids, error) == 0 &&
        tokenizer_decode(
            server->model.tokenizer, ids.ids, ids.count, false, &text, &bytes, &fail) != 0)
        api_error_set(error, "tokens", "tokens: %s", fail.message);
    if (document != NULL && error->status == 0)
        answer = json_pack("{s:o}", "prompt", json_stringn(text, bytes));
    free(text);
    tokenizer_ids_clear(&ids);
    json_decref(document);
    return answer;
}
