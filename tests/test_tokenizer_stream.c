/* Streaming ids as text: only whole characters, and nothing for ids without a text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/tokenizer_fixture.h"

static void streaming_says_nothing_for_padding_rows_of_the_vocabulary(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    detokenizer_t detokenizer = {0};
    text_buffer_t out = {0};
    fail_t fail = {0};
    assert_int_equal(detokenizer_push(&detokenizer, tokenizer, 2100, false, &out, &fail), 0);
    assert_int_equal(out.bytes, 0);
    assert_int_equal(detokenizer_push(&detokenizer, tokenizer, -1, false, &out, &fail), FAIL_USAGE);
    text_buffer_clear(&out);
    tokenizer_close(tokenizer);
}

/* Pushes single bytes, as tokens of one byte. */
static void check_stream(const tokenizer_t *tokenizer, const char *bytes, const char *const *pieces)
{
    detokenizer_t detokenizer = {0};
    fail_t fail = {0};
    text_buffer_t out = {0};
    size_t n = strlen(bytes);
    for (size_t i = 0; i <= n; i++) {
        out.bytes = 0;
        assert_int_equal(text_buffer_append(&out, "", 0, &fail), 0);
        if (i < n)
            detokenizer_push(
                &detokenizer, tokenizer, token_of(tokenizer, bytes + i, 1), false, &out, &fail);
        else
            detokenizer_flush(&detokenizer, tokenizer, &out, &fail);
        assert_string_equal(out.text, pieces[i]);
    }
    text_buffer_clear(&out);
}

#define REPLACEMENT "\xEF\xBF\xBD"

static void streaming_holds_back_half_a_character(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    check_stream(tokenizer, "a\xC3\xA9z", (const char *const[]){"a", "", "\xC3\xA9", "z", ""});
    check_stream(
        tokenizer, "\xF0\x9F\x98\x80", (const char *const[]){"", "", "", "\xF0\x9F\x98\x80", ""});
    check_stream(tokenizer, "\xF0\x9F\x98", (const char *const[]){"", "", "", REPLACEMENT});
    check_stream(tokenizer, "\xE2\x82\x41", (const char *const[]){"", "", REPLACEMENT "A", ""});
    check_stream(tokenizer, "\xE2\xC3\xA9", (const char *const[]){"", REPLACEMENT, "\xC3\xA9", ""});
    check_stream(tokenizer, "\xED\xA0\x80",
        (const char *const[]){"", REPLACEMENT REPLACEMENT, REPLACEMENT, ""});
    check_stream(tokenizer, "\xC0\xFF", (const char *const[]){REPLACEMENT, REPLACEMENT, ""});
    tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streaming_says_nothing_for_padding_rows_of_the_vocabulary),
        cmocka_unit_test(streaming_holds_back_half_a_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
