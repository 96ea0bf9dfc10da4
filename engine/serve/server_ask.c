/* A request's way from its text to the fleet, and back to text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/size.h"
#include "engine/serve/server_internal.h"

#define SECOND 1e9

char *server_json(json_t *value, size_t *bytes)
{
    char *text = value == NULL ? NULL : json_dumps(value, JSON_COMPACT);
    *bytes = text == NULL ? 0 : strlen(text);
    json_decref(value);
    return text;
}

/* ---- Prompts --------------------------------------------------------------------------------- */

static int add_ids(const json_t *array, tokenizer_ids_t *ids, fail_t *fail)
{
    const json_t *id;
    size_t i;
    json_array_foreach (array, i, id)
        if (tokenizer_ids_append(ids, (int32_t)json_integer_value(id), fail) != 0)
            return fail->status;
    return 0;
}

static int encode_completion(const ask_t *ask, size_t i, tokenizer_ids_t *ids, fail_t *fail)
{
    const json_t *prompt = api_request_prompt(&ask->request, i);
    if (json_is_array(prompt))
        return add_ids(prompt, ids, fail);
    return tokenizer_encode_whole(ask->server->model.tokenizer, json_string_value(prompt),
        json_string_length(prompt), ids, fail);
}

/* Earlier calls have their arguments as text, where templates expect objects. */
static void parse_arguments(json_t *messages)
{
    json_t *message, *call;
    size_t i, k;
    json_array_foreach (messages, i, message) {
        json_array_foreach (json_object_get(message, "tool_calls"), k, call) {
            json_t *function = json_object_get(call, "function"), *object = NULL;
            json_t *text = json_object_get(function, "arguments");
            if (json_is_string(text))
                object = json_loads(json_string_value(text), 0, NULL);
            if (json_is_object(object))
                json_object_set(function, "arguments", object);
            json_decref(object);
        }
    }
}

static bool ends_with_think(const text_buffer_t *text)
{
    static const char think[] = "<think>";
    size_t n = text->bytes, length = strlen(think);
    while (n > 0 && strchr(" \n\t\r", text->text[n - 1]) != NULL)
        n--;
    return n >= length && memcmp(text->text + n - length, think, length) == 0;
}

int ask_render_chat(
    const server_t *server, json_t *document, text_buffer_t *text, bool prompts, fail_t *fail)
{
    chat_input_t input = chat_input_of(document);
    input.no_generation_prompt = !prompts;
    const char *choice = json_string_value(json_object_get(document, "tool_choice"));
    if (server->model.chat == NULL)
        return fail_set(fail, FAIL_MODEL,
            "the model has no chat template; /v1/completions does without, --chat-template gives one");
    if (json_array_size(input.tools) == 0 || (choice != NULL && strcmp(choice, "none") == 0))
        input.tools = NULL;
    parse_arguments(json_object_get(document, "messages"));
    return chat_render(server->model.chat, &input, text, fail);
}

static int encode_chat(ask_t *ask, tokenizer_ids_t *ids, fail_t *fail)
{
    const server_t *server = ask->server;
    const api_request_t *r = &ask->request;
    text_buffer_t text = {0};
    if (ask_render_chat(server, r->document, &text, true, fail) == 0)
        tokenizer_encode(server->model.tokenizer, text.text, text.bytes, true, ids, fail);
    ask->split = (split_options_t){.reasons = server->thinks,
        .begins_reasoning = server->thinks && ends_with_think(&text),
        .tools = r->tools != NULL ? server->call_form : SPLIT_NO_TOOLS,
        .one_call = r->one_call};
    text_buffer_clear(&text);
    return fail->status;
}

static const char *prompt_field(const ask_t *ask)
{
    return ask->request.kind == API_CHAT ? "messages" : "prompt";
}

static void encode_prompts(ask_t *ask, api_error_t *error)
{
    const api_request_t *r = &ask->request;
    ask->prompts = calloc(r->n_prompts, sizeof *ask->prompts);
    for (size_t i = 0; ask->prompts != NULL && i < r->n_prompts && error->status == 0; i++) {
        fail_t fail = {0};
        if (r->kind == API_CHAT)
            encode_chat(ask, &ask->prompts[i], &fail);
        else
            encode_completion(ask, i, &ask->prompts[i], &fail);
        if (fail.status != 0)
            api_error_set(error, prompt_field(ask), "%s", fail.message);
    }
    if (ask->prompts == NULL)
        api_error_of(error, 503, "server_error", NULL, "out of memory");
}

/* ---- Parts ----------------------------------------------------------------------------------- */

static void make_parts(ask_t *ask, api_error_t *error)
{
    const api_request_t *r = &ask->request;
    ask->n_answers = r->n_prompts * r->n;
    ask->parts =
        calloc(ask->n_answers + (r->prompt_logprobs ? r->n_prompts : 0), sizeof *ask->parts);
    if (ask->parts == NULL) {
        api_error_of(error, 503, "server_error", NULL, "out of memory");
        return;
    }
    for (size_t i = 0; i < ask->n_answers; i++)
        ask->parts[i] = (part_t){.ask = ask, .prompt = i / r->n, .split.options = ask->split};
    ask->n_parts = ask->n_answers;
    /* The log-probabilities of a prompt of one token are nobody's. */
    for (size_t i = 0; r->prompt_logprobs && i < r->n_prompts; i++)
        if (ask->prompts[i].count > 1)
            ask->parts[ask->n_parts++] = (part_t){.ask = ask, .prompt = i, .scores = true};
    ask->n_unscored = ask->n_parts - ask->n_answers;
}

request_t ask_request(const ask_t *ask, size_t part)
{
    const api_request_t *r = &ask->request;
    const part_t *p = &ask->parts[part];
    const tokenizer_ids_t *prompt = &ask->prompts[p->prompt];
    request_t request = {
        .prompt_ids = prompt->ids, .n_prompt = prompt->count, .sampling = r->sampling};
    if (p->scores) {
        request.n_scored = prompt->count - 1;
        request.sampling = (sampler_params_t){.top_p = 1,
            .repetition_penalty = 1,
            .n_logprobs = r->n_prompt_logprobs > 0 ? r->n_prompt_logprobs : 1,
            .want_logprob = 1};
        return request;
    }
    request.sampling.request = part % r->n;
    request.bias = r->bias;
    request.n_bias = r->n_bias;
    request.max_tokens = r->max_tokens;
    request.stop_ids = ask->server->stop_ids;
    request.n_stop_ids = r->ignore_eos ? 0 : ask->server->n_stop_ids;
    request.stops = r->stops;
    request.n_stops = r->n_stops;
    request.streams = r->stream;
    return request;
}

/* What the engine would refuse is refused here, before anything is queued. */
static void check_parts(const ask_t *ask, api_error_t *error)
{
    for (size_t i = 0; i < ask->n_parts && error->status == 0; i++) {
        fail_t refused = {0};
        const request_t request = ask_request(ask, i);
        if (fleet_check(ask->server->model.fleet, &request, &refused) == 0)
            continue;
        api_error_set(error, prompt_field(ask), "%s", refused.message);
        if (refused.status == FAIL_LIMIT)
            error->code = "context_length_exceeded";
    }
}

ask_t *ask_open(
    server_t *server, api_kind_t kind, const http_request_t *request, api_error_t *error)
{
    const api_rules_t rules = {.model = server->options.model, .sampling = server->model.sampling};
    ask_t *ask = calloc(1, sizeof *ask);
    if (ask == NULL) {
        api_error_of(error, 503, "server_error", NULL, "out of memory");
        return NULL;
    }
    ask->server = server;
    ask->client = request->client;
    ask->created = (int64_t)time(NULL);
    ask->arrived_ns = clock_ns();
    api_request_t *r = &ask->request;
    api_request_read(r, kind, request->body, request->body_bytes, &rules, error);
    if (r->tools != NULL && server->call_form == SPLIT_NO_TOOLS)
        api_error_set(error, "tools",
            "tools: the model's chat template has no form of calls that this server knows");
    if (error->status == 0)
        encode_prompts(ask, error);
    if (error->status == 0)
        make_parts(ask, error);
    if (error->status == 0 && kind == API_CHAT && !r->has_max_tokens)
        r->max_tokens = server->options.max_tokens;
    if (error->status == 0 && !r->has_seed &&
        getrandom(&r->sampling.seed, sizeof r->sampling.seed, 0) < 0)
        r->sampling.seed = clock_ns();
    if (error->status == 0)
        check_parts(ask, error);
    if (error->status != 0) {
        ask_free(ask);
        return NULL;
    }
    if (r->timeout_s > 0)
        ask->deadline_ns = ask->arrived_ns + (uint64_t)(r->timeout_s * SECOND);
    return ask;
}

void ask_free(ask_t *ask)
{
    for (size_t i = 0; i < ask->n_parts; i++) {
        free(ask->parts[i].kept);
        free(ask->parts[i].frame);
        split_clear(&ask->parts[i].split);
    }
    for (size_t i = 0; ask->prompts != NULL && i < ask->request.n_prompts; i++)
        tokenizer_ids_clear(&ask->prompts[i]);
    text_buffer_clear(&ask->told);
    text_buffer_clear(&ask->taken);
    free(ask->parts);
    free(ask->prompts);
    api_request_clear(&ask->request);
    free(ask);
}

/* ---- Whole answers --------------------------------------------------------------------------- */

api_answer_t ask_head(const ask_t *ask)
{
    const server_t *server = ask->server;
    return (api_answer_t){.request = &ask->request,
        .id = ask->id,
        .model = server->options.model,
        .fingerprint = server->model.fingerprint,
        .created = ask->created,
        .tokenizer = server->model.tokenizer};
}

static const fleet_result_t *scores_of(const ask_t *ask, size_t prompt)
{
    for (size_t i = ask->n_answers; i < ask->n_parts; i++)
        if (ask->parts[i].prompt == prompt)
            return &ask->parts[i].result;
    return NULL;
}

api_choice_t ask_choice(const ask_t *ask, size_t i)
{
    const part_t *part = &ask->parts[i];
    return (api_choice_t){.index = i,
        .prompt = &ask->prompts[part->prompt],
        .result = &part->result,
        .scores = scores_of(ask, part->prompt)};
}

static void add_to_message(
    void *context, split_kind_t kind, const char *text, size_t bytes, json_t *call)
{
    api_message_t *message = context;
    fail_t fail = {0};
    if (kind != SPLIT_CALL) {
        text_buffer_append(
            kind == SPLIT_CONTENT ? &message->content : &message->reasoning, text, bytes, &fail);
        return;
    }
    if (message->calls == NULL)
        message->calls = json_array();
    json_array_append(message->calls, call);
}

static void split_message(const ask_t *ask, const fleet_result_t *result, api_message_t *message)
{
    split_t split = {.options = ask->split};
    fail_t fail = {0};
    if (split_push(&split, result->text, result->text_bytes, add_to_message, message, &fail) == 0)
        split_end(&split, add_to_message, message);
    split_clear(&split);
}

static void clear_message(api_message_t *message)
{
    text_buffer_clear(&message->content);
    text_buffer_clear(&message->reasoning);
    json_decref(message->calls);
}

char *ask_answer(const ask_t *ask, unsigned *status, size_t *bytes)
{
    const api_answer_t answer = ask_head(ask);
    *status = ask->error.status != 0 ? ask->error.status : 200;
    if (ask->error.status != 0)
        return server_json(api_error_json(&ask->error), bytes);
    api_choice_t *choices = calloc(ask->n_answers, sizeof *choices);
    api_message_t *messages = calloc(ask->n_answers, sizeof *messages);
    char *text = NULL;
    for (size_t i = 0; choices != NULL && messages != NULL && i < ask->n_answers; i++) {
        choices[i] = ask_choice(ask, i);
        choices[i].message = &messages[i];
        if (ask->request.kind == API_CHAT)
            split_message(ask, choices[i].result, &messages[i]);
    }
    if (choices != NULL && messages != NULL)
        text = server_json(api_answer_json(&answer, choices, ask->n_answers), bytes);
    for (size_t i = 0; messages != NULL && i < ask->n_answers; i++)
        clear_message(&messages[i]);
    free(choices);
    free(messages);
    return text;
}
