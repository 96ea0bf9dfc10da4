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

static int encode_chat(const ask_t *ask, tokenizer_ids_t *ids, fail_t *fail)
{
    const server_model_t *model = &ask->server->model;
    text_buffer_t text = {0};
    const chat_input_t input = chat_input_of(ask->request.document);
    if (model->chat == NULL)
        return fail_set(fail, FAIL_MODEL,
            "the model has no chat template; /v1/completions does without, --chat-template gives one");
    if (chat_render(model->chat, &input, &text, fail) == 0)
        tokenizer_encode(model->tokenizer, text.text, text.bytes, true, ids, fail);
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
        ask->parts[i] = (part_t){.ask = ask, .prompt = i / r->n};
    ask->n_parts = ask->n_answers;
    /* The log-probabilities of a prompt of one token are nobody's. */
    for (size_t i = 0; r->prompt_logprobs && i < r->n_prompts; i++)
        if (ask->prompts[i].count > 1)
            ask->parts[ask->n_parts++] = (part_t){.ask = ask, .prompt = i, .scores = true};
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
    for (size_t i = 0; i < ask->n_parts; i++)
        free(ask->parts[i].kept);
    for (size_t i = 0; ask->prompts != NULL && i < ask->request.n_prompts; i++)
        tokenizer_ids_clear(&ask->prompts[i]);
    for (told_t *told = ask->first, *next; told != NULL; told = next) {
        next = told->next;
        free(told);
    }
    free(ask->parts);
    free(ask->prompts);
    api_request_clear(&ask->request);
    free(ask);
}

/* ---- Whole answers --------------------------------------------------------------------------- */

static api_answer_t answer_of(const ask_t *ask)
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

char *ask_answer(const ask_t *ask, unsigned *status, size_t *bytes)
{
    const api_answer_t answer = answer_of(ask);
    *status = ask->error.status != 0 ? ask->error.status : 200;
    if (ask->error.status != 0)
        return server_json(api_error_json(&ask->error), bytes);
    api_choice_t *choices = calloc(ask->n_answers, sizeof *choices);
    if (choices == NULL)
        return NULL;
    for (size_t i = 0; i < ask->n_answers; i++) {
        const part_t *part = &ask->parts[i];
        choices[i] = (api_choice_t){
            i, &ask->prompts[part->prompt], &part->result, scores_of(ask, part->prompt)};
    }
    char *text = server_json(api_answer_json(&answer, choices, ask->n_answers), bytes);
    free(choices);
    return text;
}

/* ---- Streams --------------------------------------------------------------------------------- */

static void append(text_buffer_t *out, const char *text, size_t bytes)
{
    fail_t fail = {0};
    text_buffer_append(out, text, bytes, &fail); /* a client that gets less sees no [DONE] */
}

/* One server-sent event. */
static void send_event(text_buffer_t *out, json_t *value)
{
    size_t bytes;
    char *text = server_json(value, &bytes);
    if (text == NULL)
        return;
    append(out, "data: ", 6);
    append(out, text, bytes);
    append(out, "\n\n", 2);
    free(text);
}

static void send_token(
    ask_t *ask, const api_answer_t *answer, const told_t *told, text_buffer_t *out)
{
    part_t *part = &ask->parts[told->part];
    const api_tokens_t tokens = {&told->choice.token, &told->choice.logprob, &told->choice, 1};
    part->n_tokens++;
    part->n_text += told->bytes;
    if (told->bytes > 0 || told->has_choice)
        send_event(out, api_piece_json(answer, told->part, told->text, told->bytes,
                            told->has_choice ? &tokens : NULL, &part->n_characters, NULL));
}

/* What the result has beyond the tokens told, and why the answer has ended. */
static void send_end(ask_t *ask, const api_answer_t *answer, size_t number, text_buffer_t *out)
{
    part_t *part = &ask->parts[number];
    const fleet_result_t *result = &part->result;
    size_t first = size_min(part->n_tokens, result->n_tokens);
    const api_tokens_t rest = {result->tokens + first, result->logprobs + first,
        result->choices == NULL ? NULL : result->choices + first, result->n_tokens - first};
    bool logprobs = ask->request.logprobs && rest.n > 0;
    size_t bytes = result->text_bytes - size_min(part->n_text, result->text_bytes);
    if (bytes > 0 || logprobs)
        send_event(out, api_piece_json(answer, number, result->text + part->n_text, bytes,
                            logprobs ? &rest : NULL, &part->n_characters, NULL));
    json_t *end = api_piece_json(
        answer, number, "", 0, NULL, &part->n_characters, api_finish_name(result->finish));
    if (ask->request.want_digest) {
        char digest[17];
        snprintf(digest, sizeof digest, "%016llx", (unsigned long long)result->digest);
        json_object_set_new(json_array_get(json_object_get(end, "choices"), 0), "logits_digest",
            json_string(digest));
    }
    send_event(out, end);
    ask->n_ended++;
}

static void send_usage(const ask_t *ask, const api_answer_t *answer, text_buffer_t *out)
{
    size_t n_prompt = 0, n_completion = 0;
    for (size_t i = 0; i < ask->request.n_prompts; i++)
        n_prompt += ask->prompts[i].count;
    for (size_t i = 0; i < ask->n_answers; i++)
        n_completion += ask->parts[i].result.n_tokens;
    send_event(out, api_usage_piece_json(answer, n_prompt, n_completion));
}

void ask_stream(ask_t *ask, told_t *taken, bool finished, text_buffer_t *out, bool *ended)
{
    const api_answer_t answer = answer_of(ask);
    for (size_t i = 0; i < ask->n_answers && !ask->begun && ask->request.kind == API_CHAT; i++)
        send_event(out, api_role_json(&answer, i));
    ask->begun = true;
    for (told_t *told = taken, *next; told != NULL; told = next) {
        next = told->next;
        if (told->ends)
            send_end(ask, &answer, told->part, out);
        else
            send_token(ask, &answer, told, out);
        free(told);
    }
    *ended = finished;
    if (!finished)
        return;
    if (ask->error.status != 0) {
        send_event(out, api_error_json(&ask->error));
        return;
    }
    if (ask->request.include_usage)
        send_usage(ask, &answer, out);
    append(out, "data: [DONE]\n\n", 14);
}
