/* Requests of choir worker and lines of --prompts: whose a line is, which fields it has, what they
 * mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launch/request_fields.h"
#include "launch/worker_line.h"

static void expect_id(const char *line, const char *expected)
{
    json_t *id = worker_line_id(line, strlen(line));
    char *text = json_dumps(id, JSON_ENCODE_ANY | JSON_COMPACT);
    assert_string_equal(text, expected);
    free(text);
    json_decref(id);
}

static void a_broken_line_still_has_its_id(void **state)
{
    (void)state;
    expect_id("{\"id\": 7, \"text\": \"\\ud83d\"}", "7");
    expect_id("{\"text\": \"\\ud83d\", \"id\": \"b\"}", "\"b\"");
    expect_id("{\"id\": 7, \"text\": \"half", "7");
    expect_id("{\"id\": [1, {\"x\": 2}], oops", "[1,{\"x\":2}]");
    expect_id("{\"id\": 1, \"id\": 2}", "1");
    expect_id("{\"text\": \"\\\"id\\\": 3\", \"in\": {\"id\": 4}, \"id\": 5,", "5");
    /* None that can be read: a number that may go on, a text that is none, other places. */
    expect_id("{\"id\": 12", "null");
    expect_id("{\"id\": \"\\ud83d\"}", "null");
    expect_id("{\"text\": \"half, \\\"id\\\": 3", "null");
    expect_id("{\"in\": {\"id\": 4}", "null");
    expect_id("not JSON", "null");
    expect_id("", "null");
}

static void expect_line(const char *line, int status, const char *words)
{
    json_t *document = NULL;
    worker_op_t op = WORKER_INFO;
    fail_t fail = {0};
    assert_int_equal(worker_line_read(line, strlen(line), "line 3", &document, &op, &fail), status);
    if (strstr(fail.message, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", fail.message, words);
    json_decref(document);
}

static void fields_that_an_operation_does_not_read_are_refused(void **state)
{
    (void)state;
    expect_line(
        "{\"op\": \"generate_until\", \"id\": 1, \"prompt\": \"x\", \"temperature\": 1}", 0, "");
    expect_line("{\"op\": \"generate_until\", \"prompt\": \"x\", \"temprature\": 1}", FAIL_FORMAT,
        "line 3: generate_until: unknown field \"temprature\"; allowed are op, id, prompt, "
        "prompt_ids, max_tokens, stop, until, temperature");
    expect_line("{\"op\": \"tokenize\", \"text\": \"x\", \"max_tokens\": 1}", FAIL_FORMAT,
        "unknown field \"max_tokens\"; allowed are op, id, text");
    expect_line("{\"op\": \"loglikelihood\", \"prompt\": \"x\"}", FAIL_FORMAT, "\"prompt\"");
    expect_line("{\"op\": \"fly\"}", FAIL_USAGE, "found fly");
    expect_line("[1]", FAIL_FORMAT, "expected an object");
}

static int read_fields(const char *text, request_fields_t *fields, fail_t *fail)
{
    static json_t *object;
    json_decref(object);
    object = json_loads(text, 0, NULL);
    assert_non_null(object);
    *fields = (request_fields_t){.max_tokens = 512,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .seed = 3, .request = 9},
        .stops = {1, {"flag"}}};
    *fail = (fail_t){0};
    return request_fields_read(object, "p.jsonl: line 2", fields, fail);
}

static void what_a_line_says_goes_over_the_flags(void **state)
{
    (void)state;
    request_fields_t fields;
    fail_t fail;
    assert_int_equal(read_fields("{}", &fields, &fail), 0);
    assert_int_equal(fields.max_tokens, 512);
    assert_int_equal(fields.sampling.seed, 3);
    assert_int_equal(fields.sampling.request, 9);
    assert_string_equal(fields.stops.items[0], "flag");
    assert_int_equal(
        read_fields("{\"max_tokens\": 7, \"stop\": [\"a\", \"b\"], \"seed\": 5, \"temperature\": "
                    "1e-6, \"top_p\": 0.5, \"top_k\": 4, \"min_p\": 0.1, "
                    "\"repetition_penalty\": 1.5, \"ignore_eos\": true, \"presence_penalty\": 1, "
                    "\"frequency_penalty\": -2, \"logit_bias\": {\"5\": -100, \"7\": 1.5}}",
            &fields, &fail),
        0);
    assert_int_equal(fields.max_tokens, 7);
    assert_int_equal(fields.stops.count, 2);
    assert_string_equal(fields.stops.items[1], "b");
    assert_int_equal(fields.sampling.seed, 5);
    assert_int_equal(fields.sampling.request, 0);
    assert_int_equal(fields.sampling.top_k, 4);
    assert_true(fields.sampling.temperature == 1e-6 && fields.sampling.top_p == 0.5);
    assert_true(fields.sampling.min_p == 0.1 && fields.sampling.repetition_penalty == 1.5);
    assert_true(fields.ignore_eos);
    assert_true(fields.sampling.presence_penalty == 1 && fields.sampling.frequency_penalty == -2);
    assert_int_equal(fields.n_bias, 2);
    assert_true(fields.bias[0].token == 5 && fields.bias[0].bias == -100);
    assert_true(fields.bias[1].token == 7 && fields.bias[1].bias == 1.5f);
    assert_int_equal(read_fields("{\"until\": \"x\"}", &fields, &fail), 0);
    assert_string_equal(fields.stops.items[0], "x");
    assert_int_equal(read_fields("{\"stop\": []}", &fields, &fail), 0);
    assert_int_equal(fields.stops.count, 0);
}

static void wrong_values_are_named_with_their_line(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"max_tokens\": -1}", "p.jsonl: line 2: max_tokens"},
        {"{\"max_tokens\": \"7\"}", "max_tokens: expected an integer"},
        {"{\"temperature\": -0.5}", "p.jsonl: line 2: temperature"},
        {"{\"temperature\": 1e-40}", "p.jsonl: line 2: temperature (0 is greedy)"},
        {"{\"top_p\": 1.5}", "top_p"},
        {"{\"seed\": -1}", "seed"},
        {"{\"stop\": [\"\"]}", "p.jsonl: line 2: stop"},
        {"{\"stop\": 3}", "p.jsonl: line 2: stop"},
        {"{\"until\": [\"a\\u0000b\"]}", "p.jsonl: line 2: until"},
        {"{\"stop\": \"a\", \"until\": \"b\"}", "expected stop or until"},
        {"{\"ignore_eos\": 1}", "ignore_eos"},
        {"{\"presence_penalty\": 3}", "presence_penalty"},
        {"{\"logit_bias\": [1]}", "p.jsonl: line 2: logit_bias"},
        {"{\"logit_bias\": {\"x\": 1}}", "found \"x\""},
        {"{\"logit_bias\": {\"-1\": 1}}", "found \"-1\""},
        {"{\"logit_bias\": {\"1\": 101}}", "logit_bias"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        request_fields_t fields;
        fail_t fail;
        json_error_t error;
        json_t *object = json_loads(cases[i][0], JSON_ALLOW_NUL, &error);
        assert_non_null(object);
        fields = (request_fields_t){.sampling = {.top_p = 1, .repetition_penalty = 1}};
        fail = (fail_t){0};
        assert_int_not_equal(request_fields_read(object, "p.jsonl: line 2", &fields, &fail), 0);
        if (strstr(fail.message, cases[i][1]) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", fail.message, cases[i][1]);
        json_decref(object);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broken_line_still_has_its_id),
        cmocka_unit_test(fields_that_an_operation_does_not_read_are_refused),
        cmocka_unit_test(what_a_line_says_goes_over_the_flags),
        cmocka_unit_test(wrong_values_are_named_with_their_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
