#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "launch/answer.h"
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

/* Feeds the tokens of a text one by one, collecting what is shown after each. Returns whether a
 * stop string ended it. */
static bool feed(const tokenizer_t *tokenizer, const char *text, const args_strings_t *stops,
    text_buffer_t *shown, size_t *n_fed)
{
    fail_t fail = {0};
    tokenizer_ids_t ids = {0};
    answer_t answer = {.tokenizer = tokenizer, .stops = stops};
    bool stopped = false;
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &fail), 0);
    for (*n_fed = 0; *n_fed < ids.count && !stopped; (*n_fed)++) {
        sampler_choice_t choice = {.token = ids.ids[*n_fed]};
        size_t bytes;
        assert_int_equal(answer_push(&answer, &choice, &stopped, &fail), 0);
        const char *piece = answer_take(&answer, &bytes);
        text_buffer_append(shown, piece, bytes, &fail);
        /* Nothing that was shown is taken back. */
        assert_true(shown->bytes <= answer.text.bytes || stopped);
    }
    assert_int_equal(answer_end(&answer, stopped ? ANSWER_STOP : ANSWER_LENGTH, &fail), 0);
    size_t bytes;
    const char *piece = answer_take(&answer, &bytes);
    text_buffer_append(shown, piece, bytes, &fail);
    tokenizer_ids_clear(&ids);
    answer_clear(&answer);
    return stopped;
}

static void expect(void **state, const char *text, const args_strings_t *stops,
    const char *expected, bool expect_stop)
{
    text_buffer_t shown = {0};
    size_t n_fed;
    fail_t fail = {0};
    bool stopped = feed(*state, text, stops, &shown, &n_fed);
    text_buffer_append(&shown, "", 1, &fail);
    assert_int_equal(stopped, expect_stop);
    assert_string_equal(shown.text, expected);
    text_buffer_clear(&shown);
}

static void text_comes_whole_and_in_pieces(void **state)
{
    args_strings_t none = {0};
    expect(state, "The prince is naïve. 😀 日本", &none, "The prince is naïve. 😀 日本", false);
}

static void a_stop_string_ends_the_text_before_it(void **state)
{
    args_strings_t stops = {.count = 2, .items = {"#### ", "left"}};
    expect(state, "3+4 = 7\n#### 7 left", &stops, "3+4 = 7\n", true);
    expect(state, "7 are left\n#### 7", &stops, "7 are ", true);
    expect(state, "nothing of the kind", &stops, "nothing of the kind", false);
}

static void a_beginning_of_a_stop_string_is_held_back_and_then_shown(void **state)
{
    args_strings_t stops = {.count = 1, .items = {"cookies and milk"}};
    expect(state, "She ate cookies and cake, cookies and", &stops,
        "She ate cookies and cake, cookies and", false);
    expect(state, "cookies and cookies and milk.", &stops, "cookies and ", true);
}

static void the_earliest_of_two_stops_counts(void **state)
{
    args_strings_t stops = {.count = 2, .items = {"milk", "and"}};
    expect(state, "bread and milk", &stops, "bread ", true);
}

static void half_a_character_is_not_shown(void **state)
{
    const tokenizer_t *tokenizer = *state;
    args_strings_t none = {0};
    fail_t fail = {0};
    tokenizer_ids_t ids = {0};
    answer_t answer = {.tokenizer = tokenizer, .stops = &none};
    assert_int_equal(tokenizer_encode(tokenizer, "日", 3, true, &ids, &fail), 0);
    assert_true(ids.count > 1);
    sampler_choice_t choice = {.token = ids.ids[0]};
    bool stopped;
    size_t bytes;
    assert_int_equal(answer_push(&answer, &choice, &stopped, &fail), 0);
    answer_take(&answer, &bytes);
    assert_int_equal(bytes, 0);
    answer_end(&answer, ANSWER_LENGTH, &fail);
    const char *text = answer_take(&answer, &bytes);
    assert_int_equal(bytes, 3);
    assert_memory_equal(text, "\xef\xbf\xbd", 3);
    tokenizer_ids_clear(&ids);
    answer_clear(&answer);
}

static void an_id_that_is_no_token_adds_no_text(void **state)
{
    args_strings_t none = {0};
    fail_t fail = {0};
    answer_t answer = {.tokenizer = *state, .stops = &none};
    sampler_choice_t choice = {.token = 5000};
    bool stopped;
    assert_int_equal(answer_push(&answer, &choice, &stopped, &fail), 0);
    assert_int_equal(answer.text.bytes, 0);
    assert_int_equal(answer.n_ids, 1);
    answer_clear(&answer);
}

static void the_limit_that_ended_an_answer_is_named(void **state)
{
    (void)state;
    char text[160];
    answer_t answer = {.prompt_ids = {.count = 1000}, .n_ids = 24, .end = ANSWER_LENGTH};
    answer_describe_limit(&answer, 24, 1024, text, sizeof text);
    assert_string_equal(text, "--max-tokens 24");
    answer_describe_limit(&answer, 512, 1024, text, sizeof text);
    assert_string_equal(
        text, "1000 tokens of prompt and 24 of answer are the 1024 that a sequence may have here");
}

static void json_holds_what_was_promised(void **state)
{
    args_strings_t none = {0};
    fail_t fail = {0};
    answer_t answer = {.tokenizer = *state, .stops = &none, .keep_choices = true};
    sampler_choice_t choice = {.token = 17,
        .logprob = -1.5,
        .n_top = 2,
        .top_tokens = {17, 18},
        .top_logprobs = {-1.5, -1.0 / 0.0}};
    bool stopped;
    assert_int_equal(prompts_parse_ids("4,5,6", "--ids", &answer.prompt_ids, &fail), 0);
    assert_int_equal(answer_push(&answer, &choice, &stopped, &fail), 0);
    answer_end(&answer, ANSWER_LENGTH, &fail);
    json_t *object = answer_json(&answer);
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
    answer_clear(&answer);
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
        cmocka_unit_test(text_comes_whole_and_in_pieces),
        cmocka_unit_test(a_stop_string_ends_the_text_before_it),
        cmocka_unit_test(a_beginning_of_a_stop_string_is_held_back_and_then_shown),
        cmocka_unit_test(the_earliest_of_two_stops_counts),
        cmocka_unit_test(half_a_character_is_not_shown),
        cmocka_unit_test(an_id_that_is_no_token_adds_no_text),
        cmocka_unit_test(the_limit_that_ended_an_answer_is_named),
        cmocka_unit_test(json_holds_what_was_promised),
        cmocka_unit_test(ids_are_parsed_or_refused),
        cmocka_unit_test(npy_has_the_header_that_numpy_reads),
    };
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
