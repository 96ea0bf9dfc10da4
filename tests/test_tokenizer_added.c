/* Added tokens by their flags, and merges in their two forms: tokenizers altered for the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "tests/tokenizer_fixture.h"

/* A tokenizer with some added tokens more, given as JSON. */
static tokenizer_t *open_with_added(const char *tokens)
{
    json_t *root = demo_json(), *more = json_loads(tokens, 0, NULL);
    assert_non_null(more);
    json_array_extend(json_object_get(root, "added_tokens"), more);
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    if (open_json(root, &tokenizer, &fail) != 0)
        fail_msg("%s", fail.message);
    json_decref(more);
    json_decref(root);
    return tokenizer;
}

/* text must give the ids of the parts; a part "#N" stands for id N. */
static void check_parts(const tokenizer_t *tokenizer, const char *text, const char *const *parts)
{
    tokenizer_ids_t found = encode(tokenizer, text, strlen(text), true), expected = {0};
    fail_t fail = {0};
    for (; *parts != NULL; parts++) {
        size_t capacity = expected.count + strlen(*parts);
        expected.ids = realloc(expected.ids, capacity * sizeof *expected.ids);
        assert_non_null(expected.ids);
        expected.capacity = capacity;
        if (**parts == '#')
            expected.ids[expected.count++] = atoi(*parts + 1);
        else
            assert_int_equal(
                tokenizer_encode(tokenizer, *parts, strlen(*parts), true, &expected, &fail), 0);
    }
    assert_int_equal(found.count, expected.count);
    assert_memory_equal(found.ids, expected.ids, found.count * sizeof *found.ids);
    tokenizer_ids_clear(&found);
    tokenizer_ids_clear(&expected);
}

static void added_tokens_take_the_white_space_their_flags_say(void **state)
{
    (void)state;
    tokenizer_t *tokenizer =
        open_with_added("[{\"id\":2048,\"content\":\"<l>\",\"lstrip\":true,\"normalized\":false},"
                        "{\"id\":2049,\"content\":\"<r>\",\"rstrip\":true,\"normalized\":false},"
                        "{\"id\":2050,\"content\":\"<l>x\",\"normalized\":false}]");
    check_parts(
        tokenizer, "a \t\xE3\x80\x80<l> b", (const char *const[]){"a", "#2048", " b", NULL});
    check_parts(tokenizer, "a <r> \n b", (const char *const[]){"a ", "#2049", "b", NULL});
    check_parts(tokenizer, "<r>  <l>", (const char *const[]){"#2049", "#2048", NULL});
    check_parts(tokenizer, "a <l>x", (const char *const[]){"a ", "#2050", NULL});
    check_parts(tokenizer, "<l", (const char *const[]){"<l", NULL});
    assert_false(tokenizer_is_special(tokenizer, 2048));
    tokenizer_close(tokenizer);
}

static void normalized_added_tokens_are_found_in_normalised_text(void **state)
{
    (void)state;
    tokenizer_t *tokenizer =
        open_with_added("[{\"id\":2048,\"content\":\"<e\xCC\x81>\",\"normalized\":true},"
                        "{\"id\":2049,\"content\":\"<o\xCC\x81>\",\"normalized\":false}]");
    check_parts(tokenizer, "a<\xC3\xA9>", (const char *const[]){"a", "#2048", NULL});
    check_parts(tokenizer, "a<e\xCC\x81>", (const char *const[]){"a", "#2048", NULL});
    check_parts(tokenizer, "a<o\xCC\x81>", (const char *const[]){"a", "#2049", NULL});
    check_parts(tokenizer, "a<\xC3\xB3>", (const char *const[]){"a<\xC3\xB3>", NULL});
    tokenizer_close(tokenizer);
}

static void merges_may_be_strings_and_words_may_ignore_them(void **state)
{
    (void)state;
    json_t *root = demo_json(), *model = json_object_get(root, "model"), *strings = json_array();
    size_t i;
    json_t *merge;
    json_array_foreach (json_object_get(model, "merges"), i, merge)
        json_array_append_new(
            strings, json_sprintf("%s %s", json_string_value(json_array_get(merge, 0)),
                         json_string_value(json_array_get(merge, 1))));
    json_object_set_new(model, "merges", strings);
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    assert_int_equal(open_json(root, &tokenizer, &fail), 0);
    check_golden(tokenizer, "demo.jsonl");
    int32_t word = token_of(tokenizer, " the", 4);
    tokenizer_close(tokenizer);
    json_array_clear(strings);
    json_object_set_new(model, "ignore_merges", json_true());
    assert_int_equal(open_json(root, &tokenizer, &fail), 0);
    tokenizer_ids_t ids = encode(tokenizer, " the thx", 8, true);
    assert_int_equal(ids.ids[0], word);
    assert_int_equal(ids.count, 5);
    tokenizer_ids_clear(&ids);
    tokenizer_close(tokenizer);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(added_tokens_take_the_white_space_their_flags_say),
        cmocka_unit_test(normalized_added_tokens_are_found_in_normalised_text),
        cmocka_unit_test(merges_may_be_strings_and_words_may_ignore_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
