#include "engine/serve/api_answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"

#define TOKEN_TEXT_BYTES 512

const char *api_finish_name(engine_finish_t finish, bool has_calls)
{
    switch (finish) {
    case ENGINE_STOP:
        return has_calls ? "tool_calls" : "stop";
    case ENGINE_LENGTH:
        return "length";
    default:
        return "abort";
    }
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

/* A token's text. Of one that is no whole character: "bytes:\xe2\x82", as OpenAI's. */
static json_t *token_text(const api_answer_t *answer, int32_t id)
{
    char text[TOKEN_TEXT_BYTES] = "bytes:";
    size_t bytes = 0, used = strlen(text);
    const char *raw = tokenizer_bytes(answer->tokenizer, id, &bytes);
    json_t *value = raw == NULL ? NULL : json_stringn(raw, bytes);
    for (size_t i = 0; value == NULL && raw != NULL && i < bytes && used + 5 < sizeof text; i++)
        used += (size_t)snprintf(
            text + used, sizeof text - used, "\\x%02x", (unsigned)(unsigned char)raw[i]);
    if (raw == NULL)
        snprintf(text, sizeof text, "id:%d", id);
    return value != NULL ? value : json_string(text);
}

static json_t *token_bytes(const api_answer_t *answer, int32_t id)
{
    size_t bytes = 0;
    const char *raw = tokenizer_bytes(answer->tokenizer, id, &bytes);
    json_t *array = raw == NULL ? json_null() : json_array();
    for (size_t i = 0; raw != NULL && i < bytes; i++)
        json_array_append_new(array, json_integer((unsigned char)raw[i]));
    return array;
}

static size_t n_characters(const json_t *text)
{
    const char *at = json_string_value(text);
    size_t n = 0;
    for (size_t i = 0; i < json_string_length(text); i++)
        n += ((unsigned char)at[i] & 0xc0) != 0x80;
    return n;
}

/* ---- Log-probabilities of chats -------------------------------------------------------------- */

static json_t *chat_token(const api_answer_t *answer, int32_t id, double logprob)
{
    return json_pack("{s:o, s:o, s:o}", "token", token_text(answer, id), "logprob",
        json_from_double(logprob), "bytes", token_bytes(answer, id));
}

static json_t *chat_logprobs(const api_answer_t *answer, const api_tokens_t *tokens)
{
    json_t *content = json_array();
    for (size_t i = 0; i < tokens->n; i++) {
        const sampler_choice_t *choice = tokens->choices == NULL ? NULL : &tokens->choices[i];
        json_t *token = chat_token(answer, tokens->tokens[i], tokens->logprobs[i]);
        json_t *top = json_array();
        for (uint32_t k = 0; choice != NULL && k < choice->n_top; k++)
            json_array_append_new(
                top, chat_token(answer, choice->top_tokens[k], choice->top_logprobs[k]));
        json_object_set_new(token, "top_logprobs", top);
        json_array_append_new(content, token);
    }
    return json_pack("{s:o, s:n}", "content", content, "refusal");
}

/* ---- Log-probabilities of completions -------------------------------------------------------- */

typedef struct lists {
    json_t *tokens, *token_logprobs, *top_logprobs, *text_offset;
    size_t offset;
} lists_t;

static lists_t lists_begin(const api_answer_t *answer, size_t offset)
{
    bool top = answer->request->sampling.n_logprobs > 0;
    return (lists_t){
        json_array(), json_array(), top ? json_array() : json_null(), json_array(), offset};
}

/* A dictionary has each text once: of two tokens of one text the likelier one. */
static json_t *alternatives(
    const api_answer_t *answer, int32_t id, double logprob, const sampler_choice_t *choice)
{
    json_t *top = json_object();
    for (uint32_t k = 0; k <= choice->n_top; k++) {
        bool own = k == choice->n_top; /* the token itself, if it is none of the likeliest */
        json_t *text = token_text(answer, own ? id : choice->top_tokens[k]);
        double value = own ? logprob : choice->top_logprobs[k];
        if (json_object_get(top, json_string_value(text)) == NULL)
            json_object_set_new(top, json_string_value(text), json_from_double(value));
        json_decref(text);
    }
    return top;
}

/* choice: with the alternatives, or NULL. logprob: NULL: none is there. */
static void lists_add(const api_answer_t *answer, lists_t *lists, int32_t id, const double *logprob,
    const sampler_choice_t *choice)
{
    json_t *text = token_text(answer, id);
    json_array_append_new(lists->text_offset, json_integer((json_int_t)lists->offset));
    lists->offset += n_characters(text);
    json_array_append_new(lists->tokens, text);
    json_array_append_new(
        lists->token_logprobs, logprob == NULL ? json_null() : json_from_double(*logprob));
    if (json_is_array(lists->top_logprobs))
        json_array_append_new(lists->top_logprobs,
            choice == NULL || logprob == NULL ? json_null()
                                              : alternatives(answer, id, *logprob, choice));
}

static void lists_add_all(const api_answer_t *answer, lists_t *lists, const api_tokens_t *tokens)
{
    for (size_t i = 0; i < tokens->n; i++)
        lists_add(answer, lists, tokens->tokens[i], &tokens->logprobs[i],
            tokens->choices == NULL ? NULL : &tokens->choices[i]);
}

static json_t *lists_json(const lists_t *lists)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "text_offset", lists->text_offset, "token_logprobs",
        lists->token_logprobs, "tokens", lists->tokens, "top_logprobs", lists->top_logprobs);
}

/* The prompt's tokens: the first has no probability, since nothing is before it. */
static void lists_add_prompt(const api_answer_t *answer, lists_t *lists, const api_choice_t *choice)
{
    const tokenizer_ids_t *prompt = choice->prompt;
    const fleet_result_t *scores = choice->scores;
    for (size_t i = 0; i < prompt->count; i++) {
        bool scored = i > 0 && scores != NULL && i - 1 < scores->n_tokens;
        lists_add(answer, lists, prompt->ids[i], scored ? &scores->logprobs[i - 1] : NULL,
            scored && scores->choices != NULL ? &scores->choices[i - 1] : NULL);
    }
}

/* ---- Whole answers --------------------------------------------------------------------------- */

static api_tokens_t tokens_of(const fleet_result_t *result)
{
    return (api_tokens_t){result->tokens, result->logprobs, result->choices, result->n_tokens};
}

/* vLLM's form: for each token of the prompt the likeliest ones and itself, by their ids. */
static json_t *prompt_logprobs(const api_answer_t *answer, const api_choice_t *choice)
{
    const fleet_result_t *scores = choice->scores;
    json_t *array = json_array();
    json_array_append_new(array, json_null());
    for (size_t i = 0; scores != NULL && i < scores->n_tokens; i++) {
        const sampler_choice_t *c = scores->choices == NULL ? NULL : &scores->choices[i];
        json_t *tokens = json_object();
        for (uint32_t k = 0; c != NULL && k <= c->n_top; k++) {
            bool own = k == c->n_top;
            int32_t id = own ? choice->prompt->ids[i + 1] : c->top_tokens[k];
            char key[16];
            snprintf(key, sizeof key, "%d", id);
            if (json_object_get(tokens, key) == NULL)
                json_object_set_new(tokens, key,
                    json_pack("{s:o, s:o}", "logprob",
                        json_from_double(own ? scores->logprobs[i] : c->top_logprobs[k]),
                        "decoded_token", token_text(answer, id)));
        }
        json_array_append_new(array, tokens);
    }
    return array;
}

static json_t *text_of(const text_buffer_t *text)
{
    return json_stringn(text->text != NULL ? text->text : "", text->bytes);
}

static void add_prompt(const api_answer_t *answer, const api_choice_t *choice, text_buffer_t *text)
{
    fail_t fail = {0};
    char *prompt = NULL;
    size_t bytes = 0;
    tokenizer_decode(answer->tokenizer, choice->prompt->ids, choice->prompt->count, false, &prompt,
        &bytes, &fail);
    if (fail.status == 0)
        text_buffer_append(text, prompt, bytes, &fail);
    free(prompt);
}

/* offset: characters of tokens before, advanced. */
static json_t *completion_choice(
    const api_answer_t *answer, const api_choice_t *choice, size_t *offset)
{
    const fleet_result_t *result = choice->result;
    bool echo = answer->request->echo;
    text_buffer_t text = {0};
    fail_t fail = {0};
    json_t *logprobs = json_null();
    if (echo)
        add_prompt(answer, choice, &text);
    if (result != NULL)
        text_buffer_append(&text, result->text, result->text_bytes, &fail);
    if (answer->request->logprobs && (echo || result != NULL)) {
        lists_t lists = lists_begin(answer, *offset);
        const api_tokens_t tokens = result != NULL ? tokens_of(result) : (api_tokens_t){0};
        if (echo)
            lists_add_prompt(answer, &lists, choice);
        lists_add_all(answer, &lists, &tokens);
        *offset = lists.offset;
        logprobs = lists_json(&lists);
    }
    json_t *value = json_pack("{s:I, s:o, s:o, s:s?}", "index", (json_int_t)choice->index, "text",
        text_of(&text), "logprobs", logprobs, "finish_reason",
        result != NULL ? api_finish_name(result->finish, false) : NULL);
    text_buffer_clear(&text);
    return value;
}

/* Ids follow from the answer's, so that no two calls of a conversation have one. */
static json_t *call_json(
    const api_answer_t *answer, size_t index, const json_t *call, size_t number)
{
    char id[96];
    const char *name = strchr(answer->id, '-');
    snprintf(id, sizeof id, "call_%s_%zu_%zu", name != NULL ? name + 1 : answer->id, index, number);
    return json_pack("{s:s, s:s, s:{s:O, s:O}}", "id", id, "type", "function", "function", "name",
        json_object_get(call, "name"), "arguments", json_object_get(call, "arguments"));
}

static json_t *calls_json(const api_answer_t *answer, const api_choice_t *choice)
{
    json_t *array = json_array(), *call;
    size_t i;
    json_array_foreach (choice->message->calls, i, call)
        json_array_append_new(array, call_json(answer, choice->index, call, i));
    return array;
}

static json_t *chat_choice(const api_answer_t *answer, const api_choice_t *choice)
{
    const fleet_result_t *result = choice->result;
    const api_tokens_t tokens = tokens_of(result);
    const api_message_t *said = choice->message;
    json_t *message = json_pack("{s:s, s:o, s:n}", "role", "assistant", "content",
        said->calls != NULL && said->content.bytes == 0 ? json_null() : text_of(&said->content),
        "refusal");
    if (said->reasoning.bytes > 0)
        json_object_set_new(message, "reasoning_content", text_of(&said->reasoning));
    if (said->calls != NULL)
        json_object_set_new(message, "tool_calls", calls_json(answer, choice));
    return json_pack("{s:I, s:o, s:o, s:s}", "index", (json_int_t)choice->index, "message", message,
        "logprobs", answer->request->logprobs ? chat_logprobs(answer, &tokens) : json_null(),
        "finish_reason", api_finish_name(result->finish, said->calls != NULL));
}

static json_t *usage_json(size_t n_prompt, size_t n_completion)
{
    return json_pack("{s:I, s:I, s:I}", "prompt_tokens", (json_int_t)n_prompt, "completion_tokens",
        (json_int_t)n_completion, "total_tokens", (json_int_t)(n_prompt + n_completion));
}

/* An object of the answer without its choices. */
static json_t *envelope(const api_answer_t *answer, const char *object, json_t *choices)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", answer->id, "object", object,
        "created", (json_int_t)answer->created, "model", answer->model, "system_fingerprint",
        answer->fingerprint, "choices", choices);
}

static json_t *digest_json(uint64_t digest)
{
    char text[17];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)digest);
    return json_string(text);
}

json_t *api_answer_json(const api_answer_t *answer, const api_choice_t *choices, size_t n_choices)
{
    bool chat = answer->request->kind == API_CHAT;
    size_t n_prompt = 0, n_completion = 0;
    json_t *array = json_array();
    for (size_t i = 0; i < n_choices; i++) {
        size_t offset = 0;
        json_t *choice = chat ? chat_choice(answer, &choices[i])
                              : completion_choice(answer, &choices[i], &offset);
        if (answer->request->want_digest)
            json_object_set_new(choice, "logits_digest", digest_json(choices[i].result->digest));
        if (answer->request->tells_prompt)
            json_object_set_new(choice, "prompt_logprobs", prompt_logprobs(answer, &choices[i]));
        json_array_append_new(array, choice);
        n_completion += choices[i].result->n_tokens;
        n_prompt += choices[i].index % answer->request->n == 0 ? choices[i].prompt->count : 0;
    }
    json_t *object = envelope(answer, chat ? "chat.completion" : "text_completion", array);
    json_object_set_new(object, "usage", usage_json(n_prompt, n_completion));
    return object;
}

/* ---- Pieces ---------------------------------------------------------------------------------- */

static json_t *piece(const api_answer_t *answer, json_t *choice)
{
    bool chat = answer->request->kind == API_CHAT;
    json_t *choices = choice != NULL ? json_pack("[o]", choice) : json_array();
    json_t *object = envelope(answer, chat ? "chat.completion.chunk" : "text_completion", choices);
    if (answer->request->include_usage)
        json_object_set_new(object, "usage", json_null());
    return object;
}

json_t *api_piece_json(const api_answer_t *answer, size_t index, const char *text, size_t bytes,
    const api_tokens_t *tokens, size_t *offset, const char *finish)
{
    bool chat = answer->request->kind == API_CHAT;
    json_t *logprobs = json_null(), *choice = json_object();
    json_t *end = finish != NULL ? json_string(finish) : json_null();
    if (tokens != NULL && chat) {
        logprobs = chat_logprobs(answer, tokens);
    } else if (tokens != NULL) {
        lists_t lists = lists_begin(answer, *offset);
        lists_add_all(answer, &lists, tokens);
        *offset = lists.offset;
        logprobs = lists_json(&lists);
    }
    json_object_set_new(choice, "index", json_integer((json_int_t)index));
    if (!chat)
        json_object_set_new(choice, "text", json_stringn(text, bytes));
    else if (bytes > 0 || finish == NULL)
        json_object_set_new(
            choice, "delta", json_pack("{s:o}", "content", json_stringn(text, bytes)));
    else
        json_object_set_new(choice, "delta", json_object());
    json_object_set_new(choice, "logprobs", logprobs);
    json_object_set_new(choice, "finish_reason", end);
    return piece(answer, choice);
}

static json_t *delta(const api_answer_t *answer, size_t index, json_t *said)
{
    return piece(answer, json_pack("{s:I, s:o, s:n, s:n}", "index", (json_int_t)index, "delta",
                             said, "logprobs", "finish_reason"));
}

json_t *api_reasoning_json(const api_answer_t *answer, size_t index, const char *text, size_t bytes)
{
    return delta(answer, index, json_pack("{s:o}", "reasoning_content", json_stringn(text, bytes)));
}

json_t *api_call_json(const api_answer_t *answer, size_t index, const json_t *call, size_t number)
{
    json_t *said = call_json(answer, index, call, number);
    json_object_set_new(said, "index", json_integer((json_int_t)number));
    return delta(answer, index, json_pack("{s:[o]}", "tool_calls", said));
}

json_t *api_first_json(const api_answer_t *answer, const api_choice_t *choice, size_t *offset)
{
    const api_request_t *r = answer->request;
    json_t *object = NULL;
    if (r->kind == API_CHAT)
        object = delta(
            answer, choice->index, json_pack("{s:s, s:s}", "role", "assistant", "content", ""));
    else if (r->echo || r->tells_prompt)
        object = piece(answer, completion_choice(answer, choice, offset));
    if (r->tells_prompt)
        json_object_set_new(json_array_get(json_object_get(object, "choices"), 0),
            "prompt_logprobs", prompt_logprobs(answer, choice));
    return object;
}

json_t *api_usage_piece_json(const api_answer_t *answer, size_t n_prompt, size_t n_completion)
{
    json_t *object = piece(answer, NULL);
    json_object_set_new(object, "usage", usage_json(n_prompt, n_completion));
    return object;
}
