#include "engine/serve/api_request.h"

#include <string.h>

#include "engine/base/json.h"
#include "engine/run/logit_bias.h"

/* ---- Fields ---------------------------------------------------------------------------------- */

enum { IN_COMPLETION = 1, IN_CHAT = 2, IN_BOTH = 3 };

/* What becomes of a field beside those that are read. */
typedef enum use {
    READ,
    IGNORED, /* OpenAI defines it, and it does not change an answer */
    REFUSED  /* it would change the answer, so only null, false and empty values are accepted */
} use_t;

static const struct field {
    const char *name;
    int kinds;
    use_t use;
} fields[] = {
    {"model", IN_BOTH, READ},
    {"prompt", IN_COMPLETION, READ},
    {"messages", IN_CHAT, READ},
    {"max_tokens", IN_BOTH, READ},
    {"max_completion_tokens", IN_CHAT, READ},
    {"n", IN_BOTH, READ},
    {"stream", IN_BOTH, READ},
    {"stream_options", IN_BOTH, READ},
    {"stop", IN_BOTH, READ},
    {"temperature", IN_BOTH, READ},
    {"top_p", IN_BOTH, READ},
    {"top_k", IN_BOTH, READ},
    {"min_p", IN_BOTH, READ},
    {"repetition_penalty", IN_BOTH, READ},
    {"seed", IN_BOTH, READ},
    {"ignore_eos", IN_BOTH, READ},
    {"logprobs", IN_BOTH, READ},
    {"top_logprobs", IN_CHAT, READ},
    {"prompt_logprobs", IN_BOTH, READ},
    {"echo", IN_COMPLETION, READ},
    {"logits_digest", IN_BOTH, READ},
    {"timeout", IN_BOTH, READ},
    {"documents", IN_CHAT, READ},
    {"chat_template_kwargs", IN_CHAT, READ},
    {"response_format", IN_CHAT, READ},
    {"user", IN_BOTH, IGNORED},
    {"metadata", IN_CHAT, IGNORED},
    {"store", IN_CHAT, IGNORED},
    {"service_tier", IN_CHAT, IGNORED},
    {"safety_identifier", IN_CHAT, IGNORED},
    {"prompt_cache_key", IN_CHAT, IGNORED},
    {"prompt_cache_retention", IN_CHAT, IGNORED},
    {"parallel_tool_calls", IN_CHAT, READ},
    {"prediction", IN_CHAT, IGNORED},
    {"reasoning_effort", IN_CHAT, IGNORED},
    {"verbosity", IN_CHAT, IGNORED},
    {"presence_penalty", IN_BOTH, READ},
    {"frequency_penalty", IN_BOTH, READ},
    {"logit_bias", IN_BOTH, READ},
    {"best_of", IN_COMPLETION, READ},
    {"suffix", IN_COMPLETION, REFUSED},
    {"tools", IN_CHAT, READ},
    {"tool_choice", IN_CHAT, READ},
    {"functions", IN_CHAT, REFUSED},
    {"function_call", IN_CHAT, REFUSED},
    {"audio", IN_CHAT, REFUSED},
    {"modalities", IN_CHAT, READ},
    {"web_search_options", IN_CHAT, REFUSED},
};

static bool says_nothing(const json_t *value)
{
    return json_is_null(value) || json_is_false(value) ||
           (json_is_number(value) && json_number_value(value) == 0) ||
           (json_is_string(value) &&
               (json_string_length(value) == 0 || strcmp(json_string_value(value), "none") == 0)) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static int check_field(
    const char *name, const json_t *value, int kind, const api_rules_t *rules, api_error_t *error)
{
    (void)rules;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (strcmp(fields[i].name, name) != 0 || (fields[i].kinds & kind) == 0)
            continue;
        if (fields[i].use == REFUSED && !says_nothing(value))
            return api_error_set(error, name, "%s: not implemented by this server", name);
        return 0;
    }
    return api_error_set(error, name, "unknown field \"%.60s\"", name);
}

/* The readers of json.h with a field's name. */
static void take(const fail_t *fail, const char *key, api_error_t *error)
{
    if (fail->status != 0)
        api_error_set(error, key, "%s", fail->message + strlen("request: "));
}

static void read_size(
    json_t *o, const char *key, size_t min, size_t max, size_t *value, api_error_t *error)
{
    fail_t fail = {0};
    json_opt_size(o, "request", key, min, max, value, &fail);
    take(&fail, key, error);
}

static void read_real(
    json_t *o, const char *key, double min, double max, double *value, api_error_t *error)
{
    fail_t fail = {0};
    json_opt_double(o, "request", key, min, max, value, &fail);
    take(&fail, key, error);
}

static void read_bool(json_t *o, const char *key, bool *value, api_error_t *error)
{
    fail_t fail = {0};
    json_opt_bool(o, "request", key, value, &fail);
    take(&fail, key, error);
}

static bool is_given(json_t *o, const char *key)
{
    json_t *value = json_object_get(o, key);
    return value != NULL && !json_is_null(value);
}

/* ---- Sampling -------------------------------------------------------------------------------- */

static void read_seed(api_request_t *r, json_t *o, api_error_t *error)
{
    json_t *seed = json_object_get(o, "seed");
    if (!is_given(o, "seed"))
        return;
    if (!json_is_integer(seed)) {
        api_error_set(error, "seed", "seed: expected an integer");
        return;
    }
    r->sampling.seed = (uint64_t)json_integer_value(seed);
    r->has_seed = true;
}

static void read_top_k(api_request_t *r, json_t *o, api_error_t *error)
{
    json_t *given = json_object_get(o, "top_k");
    size_t top_k = r->sampling.top_k;
    /* As vLLM has it, -1 is off, too. */
    if (json_is_integer(given) && json_integer_value(given) == -1)
        top_k = 0;
    else
        read_size(o, "top_k", 0, UINT32_MAX, &top_k, error);
    r->sampling.top_k = (uint32_t)top_k;
}

static void read_bias(api_request_t *r, json_t *o, api_error_t *error)
{
    fail_t fail = {0};
    logit_bias_read(o, "request", r->bias, &r->n_bias, &fail);
    take(&fail, "logit_bias", error);
}

static void read_sampling(api_request_t *r, json_t *o, api_error_t *error)
{
    sampler_params_t *s = &r->sampling;
    fail_t wrong = {0};
    read_real(o, "temperature", 0, 1e4, &s->temperature, error);
    read_real(o, "top_p", 0, 1, &s->top_p, error);
    read_real(o, "min_p", 0, 1, &s->min_p, error);
    read_real(o, "repetition_penalty", 0.01, 100, &s->repetition_penalty, error);
    read_real(o, "presence_penalty", -2, 2, &s->presence_penalty, error);
    read_real(o, "frequency_penalty", -2, 2, &s->frequency_penalty, error);
    read_bias(r, o, error);
    read_top_k(r, o, error);
    read_seed(r, o, error);
    if (error->status == 0 && sampler_check(s, &wrong) != 0)
        api_error_set(error, NULL, "%s", wrong.message);
}

/* ---- The end of an answer -------------------------------------------------------------------- */

static void add_stop(api_request_t *r, const json_t *stop, api_error_t *error)
{
    const char *text = json_string_value(stop);
    if (text == NULL || text[0] == 0 || strlen(text) != json_string_length(stop))
        api_error_set(error, "stop", "stop: expected texts, none of them empty");
    else
        r->stops[r->n_stops++] = text;
}

static void read_stops(api_request_t *r, json_t *o, api_error_t *error)
{
    json_t *value = json_object_get(o, "stop"), *one;
    size_t i;
    if (!is_given(o, "stop"))
        return;
    if (json_is_string(value)) {
        add_stop(r, value, error);
        return;
    }
    if (!json_is_array(value) || json_array_size(value) > API_MAX_STOPS) {
        api_error_set(
            error, "stop", "stop: expected a text or an array of at most %d", API_MAX_STOPS);
        return;
    }
    json_array_foreach (value, i, one) {
        if (error->status == 0)
            add_stop(r, one, error);
    }
}

static void read_length(api_request_t *r, json_t *o, api_error_t *error)
{
    const char *key = is_given(o, "max_completion_tokens") ? "max_completion_tokens" : "max_tokens";
    r->has_max_tokens = is_given(o, key);
    r->max_tokens = r->kind == API_COMPLETION ? 16 : UINT32_MAX; /* OpenAI's */
    read_size(o, key, r->kind == API_CHAT ? 1 : 0, UINT32_MAX, &r->max_tokens, error);
    read_stops(r, o, error);
    read_bool(o, "ignore_eos", &r->ignore_eos, error);
    read_real(o, "timeout", 0, 1e6, &r->timeout_s, error);
}

/* ---- What is told of an answer --------------------------------------------------------------- */

static void read_logprobs(api_request_t *r, json_t *o, api_error_t *error)
{
    size_t n_top = 0;
    if (r->kind == API_COMPLETION) {
        r->logprobs = is_given(o, "logprobs");
        read_size(o, "logprobs", 0, SAMPLER_MAX_LOGPROBS, &n_top, error);
    } else {
        read_bool(o, "logprobs", &r->logprobs, error);
        read_size(o, "top_logprobs", 0, SAMPLER_MAX_LOGPROBS, &n_top, error);
        if (n_top > 0 && !r->logprobs)
            api_error_set(error, "top_logprobs", "top_logprobs: needs logprobs to be true");
    }
    r->sampling.n_logprobs = (uint32_t)n_top;
    r->sampling.want_logprob = r->logprobs;
    read_bool(o, "logits_digest", &r->want_digest, error);
    r->sampling.want_digest = r->want_digest;
}

static void read_prompt_logprobs(api_request_t *r, json_t *o, api_error_t *error)
{
    size_t n_top = 0;
    read_size(o, "prompt_logprobs", 0, SAMPLER_MAX_LOGPROBS, &n_top, error);
    r->tells_prompt = is_given(o, "prompt_logprobs");
    r->prompt_logprobs = r->tells_prompt || (r->echo && r->logprobs);
    r->n_prompt_logprobs = (uint32_t)n_top;
    if (r->echo && r->logprobs && n_top < r->sampling.n_logprobs)
        r->n_prompt_logprobs = r->sampling.n_logprobs;
}

static void read_stream_options(api_request_t *r, json_t *o, api_error_t *error)
{
    static const char *const keys[] = {"include_usage", "include_obfuscation"};
    json_t *options = json_object_get(o, "stream_options");
    fail_t fail = {0};
    read_bool(o, "stream", &r->stream, error);
    if (!is_given(o, "stream_options"))
        return;
    if (!json_is_object(options))
        api_error_set(error, "stream_options", "stream_options: expected an object");
    else if (!r->stream)
        api_error_set(error, "stream_options", "stream_options: needs stream to be true");
    else if (json_check_keys(options, "stream_options", keys, 2, &fail) != 0)
        api_error_set(error, "stream_options", "%s", fail.message);
    else
        read_bool(options, "include_usage", &r->include_usage, error);
}

/* A format that is asked for and not kept to would be a free answer. */
static void read_format(json_t *o, api_error_t *error)
{
    json_t *format = json_object_get(o, "response_format"), *modality;
    const char *type = json_string_value(json_object_get(format, "type"));
    size_t i;
    if (is_given(o, "response_format") && (type == NULL || strcmp(type, "text") != 0))
        api_error_set(error, "response_format",
            "response_format: expected {\"type\": \"text\"}; this server does not enforce %.40s",
            type == NULL ? "other forms" : type);
    json_array_foreach (json_object_get(o, "modalities"), i, modality) {
        const char *name = json_string_value(modality);
        if (name == NULL || strcmp(name, "text") != 0)
            api_error_set(error, "modalities", "modalities: expected [\"text\"]");
    }
}

static void read_count(api_request_t *r, json_t *o, api_error_t *error)
{
    size_t best_of = 1;
    r->n = 1;
    read_size(o, "n", 1, API_MAX_CHOICES, &r->n, error);
    read_size(o, "best_of", 0, SIZE_MAX >> 1, &best_of, error);
    if (is_given(o, "best_of") && best_of != r->n)
        api_error_set(error, "best_of", "best_of: not implemented by this server");
    if (error->status == 0 && r->n * r->n_prompts > API_MAX_CHOICES)
        api_error_set(error, "n", "n: expected at most %d answers to all prompts, found %zu",
            API_MAX_CHOICES, r->n * r->n_prompts);
}

/* ---- Prompts --------------------------------------------------------------------------------- */

static bool are_ids(const json_t *value)
{
    const json_t *id;
    size_t i;
    if (!json_is_array(value) || json_array_size(value) == 0)
        return false;
    json_array_foreach (value, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return false;
    }
    return true;
}

static void read_prompt(api_request_t *r, json_t *o, api_error_t *error)
{
    json_t *prompt = json_object_get(o, "prompt"), *one;
    size_t i;
    r->n_prompts = 1;
    if (json_is_string(prompt) || are_ids(prompt))
        return;
    r->n_prompts = json_array_size(prompt);
    if (r->n_prompts == 0 || r->n_prompts > API_MAX_CHOICES)
        api_error_set(error, "prompt",
            "prompt: expected a text, an array of ids, or an array of at most %d of these",
            API_MAX_CHOICES);
    json_array_foreach (prompt, i, one) {
        if (!json_is_string(one) && !are_ids(one))
            api_error_set(error, "prompt",
                "prompt: expected texts or arrays of ids, found something else at index %zu", i);
    }
}

const json_t *api_request_prompt(const api_request_t *r, size_t i)
{
    json_t *prompt = json_object_get(r->document, "prompt");
    bool single = json_is_string(prompt) || json_is_integer(json_array_get(prompt, 0));
    return single ? prompt : json_array_get(prompt, i);
}

/* The template looks at the rest. */
static void read_messages(api_request_t *r, json_t *o, api_error_t *error)
{
    json_t *messages = json_object_get(o, "messages"), *message;
    size_t i;
    r->n_prompts = 1;
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        api_error_set(error, "messages", "messages: expected an array of at least one message");
    json_array_foreach (messages, i, message) {
        if (!json_is_string(json_object_get(message, "role")))
            api_error_set(
                error, "messages", "messages: expected an object with a role at index %zu", i);
    }
}

/* ---- Tools ----------------------------------------------------------------------------------- */

static void read_tool_choice(api_request_t *r, json_t *o, api_error_t *error)
{
    json_t *choice = json_object_get(o, "tool_choice");
    const char *name = json_is_string(choice) ? json_string_value(choice) : "";
    bool none = strcmp(name, "none") == 0;
    if (!is_given(o, "tool_choice"))
        return;
    /* A choice that is asked for and not kept to would be a free answer. */
    if (!none && strcmp(name, "auto") != 0)
        api_error_set(error, "tool_choice",
            "tool_choice: expected \"auto\" or \"none\"; this server does not force calls");
    else if (!none && r->tools == NULL)
        api_error_set(error, "tool_choice", "tool_choice: needs tools");
    if (none)
        r->tools = NULL;
}

static void read_tools(api_request_t *r, json_t *o, api_error_t *error)
{
    json_t *tools = json_object_get(o, "tools"), *tool;
    bool several = true;
    size_t i;
    read_bool(o, "parallel_tool_calls", &several, error);
    r->one_call = !several;
    if (is_given(o, "tools") && !json_is_array(tools))
        api_error_set(error, "tools", "tools: expected an array");
    json_array_foreach (tools, i, tool) {
        json_t *function = json_object_get(tool, "function");
        const char *type = json_string_value(json_object_get(tool, "type"));
        if (type == NULL || strcmp(type, "function") != 0 ||
            !json_is_string(json_object_get(function, "name")))
            api_error_set(error, "tools",
                "tools: expected {\"type\": \"function\", \"function\": {\"name\": ...}} at index %zu",
                i);
    }
    r->tools = json_array_size(tools) > 0 ? tools : NULL;
    read_tool_choice(r, o, error);
}

/* ---- Whole requests -------------------------------------------------------------------------- */

static void read_model(json_t *o, const api_rules_t *rules, api_error_t *error)
{
    json_t *model = json_object_get(o, "model");
    if (!is_given(o, "model"))
        return;
    if (!json_is_string(model))
        api_error_set(error, "model", "model: expected a text");
    else if (strcmp(json_string_value(model), rules->model) != 0)
        api_error_of(error, 404, "invalid_request_error", "model_not_found",
            "the model \"%.100s\" does not exist; this server has \"%.200s\"",
            json_string_value(model), rules->model);
}

static json_t *parse(const char *text, size_t bytes, api_error_t *error)
{
    json_t *document = NULL;
    fail_t fail = {0};
    if (json_text_read(text, bytes, "request", &document, &fail) != 0) {
        api_error_set(error, NULL, "%s", fail.message);
    } else if (!json_is_object(document)) {
        api_error_set(error, NULL, "request: expected a JSON object");
        json_decref(document);
        document = NULL;
    }
    return document;
}

int api_request_read(api_request_t *r, api_kind_t kind, const char *text, size_t bytes,
    const api_rules_t *rules, api_error_t *error)
{
    const char *name;
    json_t *value, *o = parse(text, bytes, error);
    *r = (api_request_t){.kind = kind, .document = o, .sampling = rules->sampling};
    if (o == NULL)
        return (int)error->status;
    json_object_foreach (o, name, value)
        check_field(name, value, kind == API_CHAT ? IN_CHAT : IN_COMPLETION, rules, error);
    read_model(o, rules, error);
    if (kind == API_CHAT)
        read_messages(r, o, error);
    else
        read_prompt(r, o, error);
    read_count(r, o, error);
    read_sampling(r, o, error);
    read_length(r, o, error);
    read_logprobs(r, o, error);
    read_stream_options(r, o, error);
    read_format(o, error);
    read_tools(r, o, error);
    read_bool(o, "echo", &r->echo, error);
    read_prompt_logprobs(r, o, error);
    if (error->status != 0)
        api_request_clear(r);
    return (int)error->status;
}

void api_request_clear(api_request_t *r)
{
    json_decref(r->document);
    *r = (api_request_t){0};
}

json_t *api_object_read(
    const char *text, size_t bytes, const char *const *keys, size_t n_keys, api_error_t *error)
{
    fail_t fail = {0};
    json_t *document = parse(text, bytes, error);
    if (document != NULL && json_check_keys(document, "request", keys, n_keys, &fail) != 0) {
        api_error_set(error, NULL, "%s", fail.message);
        json_decref(document);
        document = NULL;
    }
    return document;
}
