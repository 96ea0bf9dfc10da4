/* Requests of choir serve: what is read, and which field a refusal names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/serve/api_request.h"

static const api_rules_t rules = {
    .model = "demo", .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};

static void read_text(api_request_t *request, api_kind_t kind, const char *text)
{
    api_error_t error = {0};
    if (api_request_read(request, kind, text, strlen(text), &rules, &error) != 0)
        fail_msg("%s: %s", text, error.message);
}

static void expect_refused(api_kind_t kind, const char *text, const char *param, unsigned status)
{
    api_request_t request;
    api_error_t error = {0};
    api_request_read(&request, kind, text, strlen(text), &rules, &error);
    if (error.status != status || strcmp(error.param, param) != 0)
        fail_msg("%s: status %u, param \"%s\": %s", text, error.status, error.param, error.message);
    assert_null(request.document);
}

static void a_request_that_says_nothing_has_openai_s_defaults(void **state)
{
    (void)state;
    api_request_t r;
    read_text(&r, API_COMPLETION, "{\"prompt\": \"x\"}");
    assert_int_equal(r.n_prompts, 1);
    assert_int_equal(r.n, 1);
    assert_int_equal(r.max_tokens, 16);
    assert_true(r.sampling.temperature == 1 && r.sampling.top_p == 1);
    assert_false(r.has_seed || r.stream || r.echo || r.logprobs || r.prompt_logprobs);
    api_request_clear(&r);
    read_text(&r, API_CHAT, "{\"messages\": [{\"role\": \"user\", \"content\": null}]}");
    assert_false(r.has_max_tokens);
    api_request_clear(&r);
}

static void every_field_is_read(void **state)
{
    (void)state;
    api_request_t r;
    read_text(&r, API_COMPLETION,
        "{\"model\": \"demo\", \"prompt\": [[1, 2], \"b\"], \"max_tokens\": 0, \"temperature\": 0.5, "
        "\"top_p\": 0.9, \"top_k\": -1, \"min_p\": 0.1, \"repetition_penalty\": 1.5, \"seed\": -1, "
        "\"stop\": [\"a\", \"b\"], \"n\": 3, \"logprobs\": 2, \"echo\": true, \"ignore_eos\": true, "
        "\"timeout\": 1.5, \"logits_digest\": true, \"user\": \"me\", \"best_of\": 3, \"suffix\": null}");
    assert_int_equal(r.n_prompts, 2);
    assert_int_equal(json_array_size(api_request_prompt(&r, 0)), 2);
    assert_string_equal(json_string_value(api_request_prompt(&r, 1)), "b");
    assert_int_equal(r.max_tokens, 0);
    assert_true(
        r.sampling.temperature == 0.5 && r.sampling.top_p == 0.9 && r.sampling.min_p == 0.1);
    assert_int_equal(r.sampling.top_k, 0);
    assert_true(r.sampling.repetition_penalty == 1.5);
    assert_true(r.has_seed && r.sampling.seed == UINT64_MAX);
    assert_int_equal(r.n_stops, 2);
    assert_string_equal(r.stops[1], "b");
    assert_int_equal(r.n, 3);
    assert_true(r.logprobs && r.echo && r.prompt_logprobs && r.ignore_eos && r.want_digest);
    assert_int_equal(r.sampling.n_logprobs, 2);
    assert_true(r.timeout_s == 1.5);
    api_request_clear(&r);
    read_text(&r, API_CHAT,
        "{\"messages\": [{\"role\": \"user\"}], \"stream\": true, \"stream_options\": "
        "{\"include_usage\": true}, \"logprobs\": true, \"top_logprobs\": 5, "
        "\"max_completion_tokens\": 7, \"max_tokens\": null, \"stop\": \"x\", \"response_format\": "
        "{\"type\": \"text\"}, \"tools\": [], \"store\": true}");
    assert_true(r.stream && r.include_usage && r.logprobs && r.has_max_tokens);
    assert_int_equal(r.max_tokens, 7);
    assert_int_equal(r.sampling.n_logprobs, 5);
    api_request_clear(&r);
}

/* A prompt of ids is one prompt, and not as many as it has ids. */
static void a_list_of_ids_is_one_prompt(void **state)
{
    (void)state;
    api_request_t r;
    read_text(&r, API_COMPLETION, "{\"prompt\": [5, 6, 7]}");
    assert_int_equal(r.n_prompts, 1);
    assert_int_equal(json_array_size(api_request_prompt(&r, 0)), 3);
    api_request_clear(&r);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *param;
        unsigned status;
    } completions[] = {
        {"", "", 400},
        {"[]", "", 400},
        {"{\"prompt\": \"x\"", "", 400},
        {"{\"prompt\": \"x\", \"prompt\": \"y\"}", "", 400},
        {"{\"prompt\": \"\\ud83d\"}", "", 400},
        {"{}", "prompt", 400},
        {"{\"prompt\": []}", "prompt", 400},
        {"{\"prompt\": {}}", "prompt", 400},
        {"{\"prompt\": [1, \"x\"]}", "prompt", 400},
        {"{\"prompt\": [-1]}", "prompt", 400},
        {"{\"prompt\": [4294967296]}", "prompt", 400},
        {"{\"prompt\": [[]]}", "prompt", 400},
        {"{\"prompt\": \"x\", \"model\": \"gpt\"}", "", 404},
        {"{\"prompt\": \"x\", \"model\": 1}", "model", 400},
        {"{\"prompt\": \"x\", \"temprature\": 1}", "temprature", 400},
        {"{\"prompt\": \"x\", \"messages\": []}", "messages", 400},
        {"{\"prompt\": \"x\", \"temperature\": \"1\"}", "temperature", 400},
        {"{\"prompt\": \"x\", \"temperature\": -1}", "temperature", 400},
        {"{\"prompt\": \"x\", \"temperature\": 1e-40}", "", 400},
        {"{\"prompt\": \"x\", \"top_p\": 1.5}", "top_p", 400},
        {"{\"prompt\": \"x\", \"top_k\": -2}", "top_k", 400},
        {"{\"prompt\": \"x\", \"min_p\": 2}", "min_p", 400},
        {"{\"prompt\": \"x\", \"seed\": 0.5}", "seed", 400},
        {"{\"prompt\": \"x\", \"max_tokens\": -1}", "max_tokens", 400},
        {"{\"prompt\": \"x\", \"max_tokens\": 1.5}", "max_tokens", 400},
        {"{\"prompt\": \"x\", \"n\": 0}", "n", 400},
        {"{\"prompt\": [\"x\", \"y\"], \"n\": 100}", "n", 400},
        {"{\"prompt\": \"x\", \"best_of\": 2}", "best_of", 400},
        {"{\"prompt\": \"x\", \"suffix\": \"y\"}", "suffix", 400},
        {"{\"prompt\": \"x\", \"stop\": \"\"}", "stop", 400},
        {"{\"prompt\": \"x\", \"stop\": [1]}", "stop", 400},
        {"{\"prompt\": \"x\", \"logprobs\": 21}", "logprobs", 400},
        {"{\"prompt\": \"x\", \"logprobs\": true}", "logprobs", 400},
        {"{\"prompt\": \"x\", \"stream\": 1}", "stream", 400},
        {"{\"prompt\": \"x\", \"stream_options\": {}}", "stream_options", 400},
        {"{\"prompt\": \"x\", \"stream\": true, \"stream_options\": {\"a\": 1}}", "stream_options",
            400},
        {"{\"prompt\": \"x\", \"timeout\": -1}", "timeout", 400},
        {"{\"prompt\": \"x\", \"presence_penalty\": 2.5}", "presence_penalty", 400},
        {"{\"prompt\": \"x\", \"frequency_penalty\": null, \"logit_bias\": {\"a\": 1}}",
            "logit_bias", 400},
        {"{\"prompt\": \"x\", \"prompt_logprobs\": 21}", "prompt_logprobs", 400},
    };
    static const struct {
        const char *text, *param;
    } chats[] = {
        {"{}", "messages"},
        {"{\"messages\": \"x\"}", "messages"},
        {"{\"messages\": []}", "messages"},
        {"{\"messages\": [1]}", "messages"},
        {"{\"messages\": [{\"content\": \"x\"}]}", "messages"},
        {"{\"messages\": [{\"role\": \"user\"}], \"prompt\": \"x\"}", "prompt"},
        {"{\"messages\": [{\"role\": \"user\"}], \"max_tokens\": 0}", "max_tokens"},
        {"{\"messages\": [{\"role\": \"user\"}], \"logprobs\": 1}", "logprobs"},
        {"{\"messages\": [{\"role\": \"user\"}], \"top_logprobs\": 1}", "top_logprobs"},
        {"{\"messages\": [{\"role\": \"user\"}], \"response_format\": {\"type\": \"json_object\"}}",
            "response_format"},
        {"{\"messages\": [{\"role\": \"user\"}], \"response_format\": \"text\"}",
            "response_format"},
        {"{\"messages\": [{\"role\": \"user\"}], \"functions\": [{}]}", "functions"},
        {"{\"messages\": [{\"role\": \"user\"}], \"tools\": [{}]}", "tools"},
        {"{\"messages\": [{\"role\": \"user\"}], \"tools\": {}}", "tools"},
        {"{\"messages\": [{\"role\": \"user\"}], \"tool_choice\": \"auto\"}", "tool_choice"},
        {"{\"messages\": [{\"role\": \"user\"}], \"tools\": [{\"type\": \"function\", \"function\": "
         "{\"name\": \"f\"}}], \"tool_choice\": {\"type\": \"function\"}}",
            "tool_choice"},
        {"{\"messages\": [{\"role\": \"user\"}], \"modalities\": [\"audio\"]}", "modalities"},
        {"{\"messages\": [{\"role\": \"user\"}], \"echo\": true}", "echo"},
    };
    for (size_t i = 0; i < sizeof completions / sizeof *completions; i++)
        expect_refused(
            API_COMPLETION, completions[i].text, completions[i].param, completions[i].status);
    for (size_t i = 0; i < sizeof chats / sizeof *chats; i++)
        expect_refused(API_CHAT, chats[i].text, chats[i].param, 400);
}

static void an_error_is_written_as_openai_s(void **state)
{
    (void)state;
    api_error_t error = {0};
    api_error_set(&error, "top_p", "top_p: expected 0 to 1, found \"\n\"");
    json_t *value = api_error_json(&error), *inner = json_object_get(value, "error");
    assert_string_equal(json_string_value(json_object_get(inner, "param")), "top_p");
    assert_string_equal(json_string_value(json_object_get(inner, "type")), "invalid_request_error");
    assert_true(json_is_null(json_object_get(inner, "code")));
    json_decref(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_that_says_nothing_has_openai_s_defaults),
        cmocka_unit_test(every_field_is_read),
        cmocka_unit_test(a_list_of_ids_is_one_prompt),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(an_error_is_written_as_openai_s),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
