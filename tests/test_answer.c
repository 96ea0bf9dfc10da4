#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/run/answer.h"

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
static bool feed(const tokenizer_t *tokenizer, const char *text, const char *stops, size_t n_stops,
    text_buffer_t *shown, size_t *n_fed)
{
    fail_t fail = {0};
    tokenizer_ids_t ids = {0};
    answer_t answer = {.tokenizer = tokenizer};
    bool stopped = false;
    assert_int_equal(answer_set_stops(&answer, stops, n_stops, &fail), 0);
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
    assert_int_equal(answer_end(&answer, &fail), 0);
    size_t bytes;
    const char *piece = answer_take(&answer, &bytes);
    text_buffer_append(shown, piece, bytes, &fail);
    tokenizer_ids_clear(&ids);
    answer_clear(&answer);
    return stopped;
}

static void expect(void **state, const char *text, const char *stops, size_t n_stops,
    const char *expected, bool expect_stop)
{
    text_buffer_t shown = {0};
    size_t n_fed;
    fail_t fail = {0};
    bool stopped = feed(*state, text, stops, n_stops, &shown, &n_fed);
    text_buffer_append(&shown, "", 1, &fail);
    assert_int_equal(stopped, expect_stop);
    assert_string_equal(shown.text, expected);
    text_buffer_clear(&shown);
}

static void text_comes_whole_and_in_pieces(void **state)
{
    expect(state, "The prince is naïve. 😀 日本", "", 0, "The prince is naïve. 😀 日本", false);
}

static void a_stop_string_ends_the_text_before_it(void **state)
{
    static const char stops[] = "#### \0left";
    expect(state, "3+4 = 7\n#### 7 left", stops, 2, "3+4 = 7\n", true);
    expect(state, "7 are left\n#### 7", stops, 2, "7 are ", true);
    expect(state, "nothing of the kind", stops, 2, "nothing of the kind", false);
}

static void a_beginning_of_a_stop_string_is_held_back_and_then_shown(void **state)
{
    static const char stops[] = "cookies and milk";
    expect(state, "She ate cookies and cake, cookies and", stops, 1,
        "She ate cookies and cake, cookies and", false);
    expect(state, "cookies and cookies and milk.", stops, 1, "cookies and ", true);
}

static void the_earliest_of_two_stops_counts(void **state)
{
    static const char stops[] = "milk\0and";
    expect(state, "bread and milk", stops, 2, "bread ", true);
}

static void half_a_character_is_not_shown(void **state)
{
    const tokenizer_t *tokenizer = *state;
    fail_t fail = {0};
    tokenizer_ids_t ids = {0};
    answer_t answer = {.tokenizer = tokenizer};
    assert_int_equal(tokenizer_encode(tokenizer, "日", 3, true, &ids, &fail), 0);
    assert_true(ids.count > 1);
    sampler_choice_t choice = {.token = ids.ids[0]};
    bool stopped;
    size_t bytes;
    assert_int_equal(answer_push(&answer, &choice, &stopped, &fail), 0);
    answer_take(&answer, &bytes);
    assert_int_equal(bytes, 0);
    answer_end(&answer, &fail);
    const char *text = answer_take(&answer, &bytes);
    assert_int_equal(bytes, 3);
    assert_memory_equal(text, "\xef\xbf\xbd", 3);
    tokenizer_ids_clear(&ids);
    answer_clear(&answer);
}

static void an_id_that_is_no_token_adds_no_text(void **state)
{
    fail_t fail = {0};
    answer_t answer = {.tokenizer = *state};
    sampler_choice_t choice = {.token = 5000};
    bool stopped;
    assert_int_equal(answer_push(&answer, &choice, &stopped, &fail), 0);
    assert_int_equal(answer.text.bytes, 0);
    assert_int_equal(answer.n_tokens, 1);
    answer_clear(&answer);
}

static void choices_and_their_digest_are_kept(void **state)
{
    (void)state;
    fail_t fail = {0};
    answer_t answer = {.keep_choices = true}, other = {0};
    bool stopped;
    for (int32_t i = 0; i < 100; i++) {
        const sampler_choice_t choice = {
            .token = i, .logprob = -i, .digest = (uint64_t)i, .n_top = 1, .top_tokens = {i + 1}};
        assert_int_equal(answer_push(&answer, &choice, &stopped, &fail), 0);
        assert_int_equal(answer_add(&other, &choice, -i, &fail), 0);
        assert_false(stopped);
    }
    assert_int_equal(answer.n_tokens, 100);
    assert_true(answer.tokens[99] == 99 && answer.logprobs[99] == -99);
    assert_int_equal(answer.choices[99].top_tokens[0], 100);
    assert_null(other.choices);
    assert_true(answer.digest == other.digest && answer.digest != 0);
    answer_clear(&answer);
    answer_clear(&other);
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
        cmocka_unit_test(choices_and_their_digest_are_kept),
    };
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
