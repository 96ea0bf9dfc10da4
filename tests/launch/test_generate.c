#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "launch/answer_json.h"
#include "launch/npy.h"
#include "launch/prompts.h"

#define DEMO CHOIR_SOURCE_DIR "/configs/demo"

static int open_demo(void **state)
{
    fail_t fail = {0};
    return tokenizer_open((tokenizer_t **)state, DEMO, &fail);
}

static int close_demo(void **state)
{
    tokenizer_close(*state);
    return 0;
}

static void the_limit_that_ended_an_answer_is_named(void **state)
{
    (void)state;
    char text[160];
    const fleet_result_t result = {.n_tokens = 24, .finish = ENGINE_LENGTH};
    answer_describe_limit(&result, 1000, 24, 1024, text, sizeof text);
    assert_string_equal(text, "--max-tokens 24");
    answer_describe_limit(&result, 1000, 512, 1024, text, sizeof text);
    assert_string_equal(
        text, "1000 tokens of prompt and 24 of answer are the 1024 that a sequence may have here");
}

static void json_holds_what_was_promised(void **state)
{
    fail_t fail = {0};
    tokenizer_ids_t prompt = {0};
    const int32_t tokens[] = {17};
    const double logprobs[] = {-1.5};
    const sampler_choice_t choices[] = {{.token = 17,
        .logprob = -1.5,
        .n_top = 2,
        .top_tokens = {17, 18},
        .top_logprobs = {-1.5, -1.0 / 0.0}}};
    const fleet_result_t result = {.finish = ENGINE_LENGTH,
        .tokens = tokens,
        .logprobs = logprobs,
        .choices = choices,
        .n_tokens = 1,
        .text = "x",
        .text_bytes = 1};
    assert_int_equal(prompts_parse_ids("4,5,6", "--ids", &prompt, &fail), 0);
    json_t *object = answer_json(&result, &prompt, *state, true);
    static const char *const keys[] = {
        "text", "prompt_ids", "output_ids", "finish_reason", "usage", "timings", "logprobs"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_non_null(json_object_get(object, keys[i]));
    assert_string_equal(json_string_value(json_object_get(object, "finish_reason")), "length");
    json_t *usage = json_object_get(object, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")), 3);
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 1);
    json_t *token = json_array_get(json_object_get(object, "logprobs"), 0);
    assert_true(json_real_value(json_object_get(token, "logprob")) == -1.5);
    json_t *second = json_array_get(json_object_get(token, "top"), 1);
    assert_true(json_is_null(json_object_get(second, "logprob")));
    char *line = json_dumps(object, 0);
    assert_non_null(line);
    free(line);
    json_decref(object);
    tokenizer_ids_clear(&prompt);
}

static void ids_are_parsed_or_refused(void **state)
{
    (void)state;
    tokenizer_ids_t ids = {0};
    fail_t fail = {0};
    assert_int_equal(prompts_parse_ids("1, 22 ,333", "--ids", &ids, &fail), 0);
    assert_int_equal(ids.count, 3);
    assert_int_equal(ids.ids[2], 333);
    static const char *const wrong[] = {
        "", ",", "1,", "1,,2", "x", "1;2", "-1", "99999999999", "1.5"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        fail = (fail_t){0};
        assert_int_equal(prompts_parse_ids(wrong[i], "--ids", &ids, &fail), FAIL_USAGE);
    }
    tokenizer_ids_clear(&ids);
}

static void npy_has_the_header_that_numpy_reads(void **state)
{
    (void)state;
    char path[] = "test_answer_XXXXXX", bytes[512];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    fail_t fail = {0};
    npy_t npy;
    const double rows[2][3] = {{1, 2, 3}, {4, 5, 6}};
    assert_int_equal(npy_open(&npy, path, 2, 3, true, &fail), 0);
    assert_int_equal(npy_write(&npy, rows[0], 1, &fail), 0);
    assert_int_equal(npy_write(&npy, rows[1], 1, &fail), 0);
    assert_int_equal(npy_close(&npy, &fail), 0);
    FILE *file = fopen(path, "rb");
    size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_int_equal(n, 128 + sizeof rows);
    assert_memory_equal(bytes, "\x93NUMPY\x01\x00\x76\x00", 10);
    const char *dictionary = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }";
    assert_memory_equal(bytes + 10, dictionary, strlen(dictionary));
    assert_int_equal(bytes[127], '\n');
    assert_memory_equal(bytes + 128, rows, sizeof rows);
    remove(path);
    assert_int_equal(npy_open(&npy, "/nowhere/x.npy", 1, 1, false, &fail), FAIL_FILE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_limit_that_ended_an_answer_is_named),
        cmocka_unit_test(json_holds_what_was_promised),
        cmocka_unit_test(ids_are_parsed_or_refused),
        cmocka_unit_test(npy_has_the_header_that_numpy_reads),
    };
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
