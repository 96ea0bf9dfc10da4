/* Long, monotonous and strange texts: time and stack stay bounded; normalisation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/text/nfc.h"
#include "engine/text/pretokenize.h"
#include "engine/text/unicode.h"
#include "tests/tokenizer_fixture.h"

/* Encodes `bytes` bytes of a repeated unit and decodes them again. */
static void check_repeated(const tokenizer_t *tokenizer, const char *unit, size_t bytes)
{
    size_t period = strlen(unit), back_bytes;
    char *text = malloc(bytes);
    assert_non_null(text);
    for (size_t i = 0; i < bytes; i++)
        text[i] = unit[i % period];
    tokenizer_ids_t ids = encode(tokenizer, text, bytes, true);
    fail_t fail = {0};
    char *back;
    assert_int_equal(
        tokenizer_decode(tokenizer, ids.ids, ids.count, false, &back, &back_bytes, &fail), 0);
    assert_int_equal(back_bytes, bytes);
    assert_memory_equal(back, text, bytes);
    free(back);
    free(text);
    tokenizer_ids_clear(&ids);
}

static void ten_megabytes_of_one_letter_do_not_hang(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    check_repeated(tokenizer, "a", 10000000);
    tokenizer_close(tokenizer);
}

static void long_runs_of_any_kind_stay_within_the_limits_of_matching(void **state)
{
    (void)state;
    static const char *const units[] = {
        " ", "\n", "\t ", "7", "ab", "!", " \n", "\r\n", "a ", "'", "'s", "\xE4\xB8\xAD", "<|im_"};
    tokenizer_t *tokenizer = open_directory(DEMO);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        check_repeated(tokenizer, units[i], 1200000);
    tokenizer_close(tokenizer);
}

static void matching_that_needs_a_large_stack_succeeds(void **state)
{
    (void)state;
    json_t *root = demo_json();
    json_set_path(
        root, "pre_tokenizer/pretokenizers/0/pattern/Regex", json_string("(?:a|b|ab)+(?!a)"));
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    assert_int_equal(open_json(root, &tokenizer, &fail), 0);
    check_repeated(tokenizer, "ab", 200000);
    tokenizer_close(tokenizer);
    json_decref(root);
}

static void a_long_run_of_combining_marks_is_sorted_in_linear_time(void **state)
{
    (void)state;
    fail_t fail = {0};
    uint8_t *properties;
    text_buffer_t out = {0};
    bool changed;
    size_t n = 1000000;
    assert_int_equal(unicode_table_make(&properties, &fail), 0);
    char *text = malloc(1 + 4 * n);
    assert_non_null(text);
    text[0] = 'x';
    for (size_t i = 0; i < n; i++)
        memcpy(text + 1 + 4 * i, "\xCC\x81\xCC\xB4", 4); /* classes 230 and 1 */
    assert_int_equal(nfc_append(properties, text, 1 + 4 * n, &out, &changed, &fail), 0);
    assert_true(changed);
    assert_int_equal(out.bytes, 1 + 4 * n);
    assert_memory_equal(out.text, "x\xCC\xB4\xCC\xB4", 5);
    assert_memory_equal(out.text + 1 + 2 * n - 2, "\xCC\xB4\xCC\x81", 4);
    text_buffer_clear(&out);
    free(text);
    free(properties);
}

static void normalisation_composes_reorders_and_leaves_newer_characters_alone(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"plain", NULL},
        {"caf\xC3\xA9", NULL},
        {"cafe\xCC\x81", "caf\xC3\xA9"},
        {"e\xCC\x81", "\xC3\xA9"},
        {"e\xCC\x81 e\xCC\x81!", "\xC3\xA9 \xC3\xA9!"},
        {"a\xCC\x81\xCC\xA3", "\xE1\xBA\xA1\xCC\x81"},            /* below before above */
        {"\xE2\x84\xA6", "\xCE\xA9"},                             /* Ohm sign */
        {"\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"}, /* Hangul */
        {"\xCD\x84", "\xCC\x88\xCC\x81"},                         /* excluded from composition */
        /* Assigned after the normaliser of `tokenizers` was made: class 0 to it. */
        {"a\xE0\xA3\x93\xCC\xA3", "a\xE0\xA3\x93\xCC\xA3"},
    };
    fail_t fail = {0};
    uint8_t *properties;
    assert_int_equal(unicode_table_make(&properties, &fail), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text_buffer_t out = {0};
        bool changed;
        assert_int_equal(
            nfc_append(properties, cases[i].text, strlen(cases[i].text), &out, &changed, &fail), 0);
        if (cases[i].expected == NULL)
            assert_false(changed);
        else
            assert_string_equal(out.text, cases[i].expected);
        text_buffer_clear(&out);
    }
    free(properties);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_megabytes_of_one_letter_do_not_hang),
        cmocka_unit_test(long_runs_of_any_kind_stay_within_the_limits_of_matching),
        cmocka_unit_test(matching_that_needs_a_large_stack_succeeds),
        cmocka_unit_test(a_long_run_of_combining_marks_is_sorted_in_linear_time),
        cmocka_unit_test(normalisation_composes_reorders_and_leaves_newer_characters_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
