#include "launch/worker_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/array.h"
#include "engine/base/json.h"
#include "engine/base/size.h"
#include "engine/eval/eval_record.h"
#include "launch/prompts.h"
#include "launch/request_fields.h"

#define PROTOCOL 1

void worker_request_free(worker_request_t *request)
{
    if (request == NULL)
        return;
    json_decref(request->id);
    json_decref(request->document);
    json_decref(request->answer);
    tokenizer_ids_clear(&request->ids);
    free(request);
}

/* ---- Answers --------------------------------------------------------------------------------- */

static void answer_failure(worker_request_t *request, const fail_t *failure)
{
    json_decref(request->answer);
    json_t *error = json_object();
    json_object_set_new(error, "kind", json_string(fail_name(failure->status)));
    json_object_set_new(error, "message", json_string(failure->message));
    request->answer = json_object();
    json_object_set(request->answer, "id", request->id);
    json_object_set_new(request->answer, "error", error);
}

static void begin_answer(worker_request_t *request)
{
    request->answer = json_object();
    json_object_set(request->answer, "id", request->id);
}

/* The text of the first token that ends a text; null where there is none. */
static json_t *eos_text(const worker_t *worker, const config_generation_t *generation)
{
    size_t bytes = 0;
    const char *text = generation->n_stop_ids == 0 ? NULL
                                                   : tokenizer_bytes(worker->mesh->tokenizer,
                                                         generation->stop_ids[0], &bytes);
    json_t *value = text == NULL ? NULL : json_stringn(text, bytes);
    return value != NULL ? value : json_null();
}

json_t *worker_info(const worker_t *worker)
{
    engine_info_t info = engine_info(fleet_engine(worker->mesh->fleet));
    const config_generation_t *generation = &info.config->generation;
    json_t *stops = json_array(), *object = json_object();
    for (size_t i = 0; i < generation->n_stop_ids; i++)
        json_array_append_new(stops, json_integer(generation->stop_ids[i]));
    json_object_set_new(object, "protocol", json_integer(PROTOCOL));
    json_object_set_new(object, "version", json_string(CHOIR_VERSION));
    json_object_set_new(object, "dtype", json_string(dtype_name(info.mode)));
    json_object_set_new(object, "max_context", json_integer((json_int_t)info.max_context));
    json_object_set_new(object, "vocab_size", json_integer((json_int_t)info.config->vocab_size));
    json_object_set_new(object, "stop_ids", stops);
    json_object_set_new(object, "eos_text", eos_text(worker, generation));
    json_object_set_new(object, "generation",
        json_pack("{s:b, s:f, s:f, s:I, s:f}", "do_sample", generation->do_sample, "temperature",
            generation->temperature, "top_p", generation->top_p, "top_k",
            (json_int_t)generation->top_k, "repetition_penalty", generation->repetition_penalty));
    json_object_set_new(object, "replicas", json_integer((json_int_t)worker->mesh->n_replicas));
    json_object_set_new(
        object, "ranks_of_a_replica", json_integer((json_int_t)worker->mesh->ranks_each));
    json_object_set_new(
        object, "batch", json_integer((json_int_t)(info.max_batch * worker->mesh->n_replicas)));
    return object;
}

/* ---- Fields ---------------------------------------------------------------------------------- */

/* Appends the ids of a field: KEY holds text, KEY_ids holds ids; one of the two is needed. */
static int append_field(
    const worker_t *worker, json_t *document, const char *key, tokenizer_ids_t *ids, fail_t *fail)
{
    char ids_key[64];
    snprintf(ids_key, sizeof ids_key, "%s_ids", key);
    json_t *text = json_object_get(document, key), *list = json_object_get(document, ids_key), *id;
    size_t i, vocab_size = engine_info(fleet_engine(worker->mesh->fleet)).config->vocab_size;
    if (json_is_string(text) && list == NULL)
        return tokenizer_encode(worker->mesh->tokenizer, json_string_value(text),
            json_string_length(text), true, ids, fail);
    if (!json_is_array(list) || text != NULL)
        return fail_set(fail, FAIL_USAGE,
            "expected \"%s\" (text) or \"%s\" (array of ids), found neither or both", key, ids_key);
    json_array_foreach (list, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            (size_t)json_integer_value(id) >= vocab_size)
            return fail_set(fail, FAIL_USAGE,
                "%s: expected ids from 0 to %zu, found something else at index %zu", ids_key,
                vocab_size - 1, i);
        if (tokenizer_ids_append(ids, (int32_t)json_integer_value(id), fail) != 0)
            return fail->status;
    }
    return 0;
}

/* The likeliest tokens, and what answers tell of them. */
static const sampler_params_t plain = {
    .top_p = 1, .repetition_penalty = 1, .want_logprob = 1, .want_digest = 1};

/* ---- Jobs ------------------------------------------------------------------------------------ */

static int submit(worker_t *worker, worker_request_t *request, const request_t *job, fail_t *fail)
{
    uint64_t handle;
    if (array_reserve(&worker->by_job, &worker->capacity, worker->n_jobs + 1,
            sizeof *worker->by_job, "worker: jobs", fail) != 0)
        return fail->status;
    if (fleet_submit(worker->mesh->fleet, job, &handle, fail) != 0)
        return fail->status;
    worker->by_job[worker->n_jobs++] = request;
    request->n_jobs++;
    return 0;
}

static int submit_loglikelihood(worker_t *worker, worker_request_t *request, fail_t *fail)
{
    if (append_field(worker, request->document, "context", &request->ids, fail) != 0)
        return fail->status;
    request->n_context = request->ids.count;
    if (append_field(worker, request->document, "continuation", &request->ids, fail) != 0)
        return fail->status;
    size_t n_scored = request->ids.count - request->n_context;
    if (request->n_context == 0 || n_scored == 0)
        return fail_set(fail, FAIL_USAGE,
            "loglikelihood: expected tokens in context and continuation, found %zu and %zu",
            request->n_context, n_scored);
    const request_t job = {.prompt_ids = request->ids.ids,
        .n_prompt = request->ids.count,
        .n_scored = n_scored,
        .sampling = plain};
    return submit(worker, request, &job, fail);
}

/* Windows of a text: the first scores up to `window` tokens, each later one as many behind those,
 * after as much context as there is room for. */
static int submit_rolling(worker_t *worker, worker_request_t *request, fail_t *fail)
{
    engine_info_t info = engine_info(fleet_engine(worker->mesh->fleet));
    const config_generation_t *generation = &info.config->generation;
    size_t window = info.max_context, prefix = info.config->vocab_size;
    json_opt_size(request->document, "request", "window", 1, info.max_context, &window, fail);
    json_opt_size(
        request->document, "request", "prefix_id", 0, info.config->vocab_size - 1, &prefix, fail);
    if (prefix == info.config->vocab_size)
        prefix = generation->n_stop_ids > 0 ? (size_t)generation->stop_ids[0] : 0;
    if (fail->status != 0 || tokenizer_ids_append(&request->ids, (int32_t)prefix, fail) != 0 ||
        append_field(worker, request->document, "text", &request->ids, fail) != 0)
        return fail->status;
    size_t count = request->ids.count;
    for (size_t first = 1, end; first < count && fail->status == 0; first = end) {
        end = size_min(count, first + window);
        size_t begin = end > window + 1 ? end - window - 1 : 0;
        const request_t job = {.prompt_ids = request->ids.ids + begin,
            .n_prompt = end - begin,
            .n_scored = end - first,
            .sampling = plain};
        submit(worker, request, &job, fail);
    }
    return fail->status;
}

static int submit_generate(worker_t *worker, worker_request_t *request, fail_t *fail)
{
    int32_t stop_ids[CONFIG_MAX_STOP_IDS + 1];
    request_fields_t fields = {.max_tokens = 256, .sampling = plain};
    if (request_fields_read(request->document, "request", &fields, fail) != 0 ||
        append_field(worker, request->document, "prompt", &request->ids, fail) != 0)
        return fail->status;
    int32_t chat_end = tokenizer_special_id(worker->mesh->tokenizer, "<|im_end|>");
    const request_t job = request_of_fields(
        &fields, &request->ids, fleet_engine(worker->mesh->fleet), chat_end, stop_ids);
    return submit(worker, request, &job, fail);
}

/* ---- Answered at once ------------------------------------------------------------------------ */

static int answer_tokenize(worker_t *worker, worker_request_t *request, fail_t *fail)
{
    if (append_field(worker, request->document, "text", &request->ids, fail) != 0)
        return fail->status;
    json_t *ids = json_array();
    for (size_t i = 0; i < request->ids.count; i++)
        json_array_append_new(ids, json_integer(request->ids.ids[i]));
    begin_answer(request);
    json_object_set_new(request->answer, "ids", ids);
    return 0;
}

static int answer_chat(worker_t *worker, worker_request_t *request, fail_t *fail)
{
    bool prompt = true;
    text_buffer_t text = {0};
    if (worker->chat == NULL &&
        chat_require(&worker->chat, worker->directory, worker->template, fail) != 0)
        return fail->status;
    chat_input_t input = chat_input_of(request->document);
    json_opt_bool(request->document, "request", "add_generation_prompt", &prompt, fail);
    input.no_generation_prompt = !prompt;
    if (fail->status == 0 && chat_render(worker->chat, &input, &text, fail) == 0) {
        begin_answer(request);
        json_object_set_new(request->answer, "text", json_stringn(text.text, text.bytes));
    }
    text_buffer_clear(&text);
    return fail->status;
}

static int answer_info(worker_t *worker, worker_request_t *request)
{
    begin_answer(request);
    json_object_set_new(request->answer, "info", worker_info(worker));
    return 0;
}

/* ---- Lines ----------------------------------------------------------------------------------- */

static int begin(worker_t *worker, worker_request_t *request, fail_t *fail)
{
    switch (request->op) {
    case WORKER_INFO:
        return answer_info(worker, request);
    case WORKER_TOKENIZE:
        return answer_tokenize(worker, request, fail);
    case WORKER_CHAT:
        return answer_chat(worker, request, fail);
    case WORKER_LOGLIKELIHOOD:
        return submit_loglikelihood(worker, request, fail);
    case WORKER_ROLLING:
        return submit_rolling(worker, request, fail);
    default:
        return submit_generate(worker, request, fail);
    }
}

int worker_request_open(worker_t *worker, const char *line, size_t bytes, size_t number,
    const fail_t *unreadable, worker_request_t **out, fail_t *fail)
{
    char where[64];
    fail_t malformed = {0};
    worker_request_t *request = *out = calloc(1, sizeof *request);
    if (request == NULL)
        return fail_set(fail, FAIL_MEMORY, "worker: out of memory for a request");
    snprintf(where, sizeof where, "line %zu", number);
    request->greedy = true;
    if (unreadable != NULL)
        malformed = *unreadable;
    else
        worker_line_read(line, bytes, where, &request->document, &request->op, &malformed);
    request->id = request->document != NULL ? json_incref(json_object_get(request->document, "id"))
                                            : worker_line_id(line, bytes);
    if (request->id == NULL)
        request->id = json_null();
    if (malformed.status == 0)
        begin(worker, request, &malformed);
    if (malformed.status == FAIL_MEMORY) {
        *fail = malformed;
    } else if (malformed.status != 0) {
        answer_failure(request, &malformed);
    } else if (request->op == WORKER_ROLLING && request->n_jobs == 0) {
        begin_answer(request); /* an empty text is certain */
        json_object_set_new(request->answer, "logprob", json_real(0));
    }
    return fail->status;
}

/* ---- Results --------------------------------------------------------------------------------- */

static void take_scores(worker_request_t *request, const fleet_result_t *result)
{
    for (size_t i = 0; i < result->n_tokens; i++)
        request->logprob += result->logprobs[i];
    const int32_t *expected = request->ids.ids + request->n_context;
    for (size_t i = 0; i < result->n_tokens && request->op == WORKER_LOGLIKELIHOOD; i++)
        request->greedy = request->greedy && result->tokens[i] == expected[i];
    request->n_tokens += result->n_tokens;
    request->digest = request->n_jobs == 1 ? result->digest : request->digest + result->digest;
}

static void answer_scores(worker_request_t *request)
{
    begin_answer(request);
    json_t *answer = request->answer;
    json_object_set_new(answer, "logprob", json_from_double(request->logprob));
    if (request->op == WORKER_LOGLIKELIHOOD)
        json_object_set_new(answer, "greedy", json_boolean(request->greedy));
    json_object_set_new(answer, "n_tokens", json_integer((json_int_t)request->n_tokens));
    json_object_set_new(answer, "logits_digest", eval_hex(request->digest));
}

static void answer_text(worker_request_t *request, const fleet_result_t *result)
{
    begin_answer(request);
    json_t *answer = request->answer;
    json_object_set_new(answer, "text", json_stringn(result->text, result->text_bytes));
    json_object_set_new(answer, "tokens", json_from_ids(result->tokens, result->n_tokens));
    json_object_set_new(answer, "logprobs", json_from_doubles(result->logprobs, result->n_tokens));
    json_object_set_new(
        answer, "finish", json_string(result->finish == ENGINE_STOP ? "stop" : "length"));
    json_object_set_new(answer, "logits_digest", eval_hex(result->digest));
}

void worker_request_take(worker_request_t *request, const fleet_result_t *result)
{
    request->n_done++;
    if (result->status != 0) {
        fail_t failure = {0};
        fail_set(&failure, result->status, "%s", result->message);
        if (request->answer == NULL)
            answer_failure(request, &failure);
    } else if (request->op == WORKER_GENERATE) {
        answer_text(request, result);
    } else {
        take_scores(request, result);
    }
    if (request->n_done == request->n_jobs && request->answer == NULL)
        answer_scores(request);
}
