#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/run/draft.h"

enum { MOST = 32 };

static draft_t *open_draft(size_t capacity)
{
    draft_t *draft;
    fail_t fail = {0};
    assert_int_equal(draft_open(&draft, capacity, &fail), 0);
    return draft;
}

static void push_text(draft_t *draft, const char *text)
{
    for (; *text != 0; text++) {
        int32_t id = *text;
        draft_push(draft, &id, 1);
    }
}

/* What is drafted after a text, as text. */
static size_t drafted(const char *text, size_t most, char *to)
{
    draft_t *draft = open_draft(256);
    int32_t ids[MOST];
    size_t match;
    push_text(draft, text);
    size_t n = draft_propose(draft, most, ids, &match);
    for (size_t i = 0; i < n; i++)
        to[i] = (char)ids[i];
    to[n] = 0;
    draft_close(draft);
    return match;
}

static void check_draft(const char *text, size_t most, const char *expected, size_t expected_match)
{
    char found[MOST + 1];
    assert_int_equal(drafted(text, most, found), expected_match);
    assert_string_equal(found, expected);
}

static void what_followed_the_longest_match_is_drafted(void **state)
{
    (void)state;
    check_draft("the cat sat. the cat", 4, " sat", 7);
    check_draft("one two, six two. one", 4, " two", 3);
    /* "b c" came later, "a b c" agrees longer. */
    check_draft("xabc1 zbc2 xabc", 1, "1", 4);
    check_draft("abc1abc2abc", 1, "2", 3); /* the latest of two */
}

static void one_token_is_a_match(void **state)
{
    (void)state;
    check_draft("q1 q2 q", 2, "2 ", 2);
    check_draft("abca", 3, "bca", 1);
}

static void nothing_is_drafted_without_a_match(void **state)
{
    (void)state;
    check_draft("", 4, "", 0);
    check_draft("a", 4, "", 0);
    check_draft("abcdef", 4, "", 0);
    check_draft("abab", 0, "", 2);
}

static void a_text_that_repeats_itself_goes_on(void **state)
{
    (void)state;
    check_draft("aa", 5, "aaaaa", 1);
    check_draft("xabcabcab", 8, "cabcabca", 5);
}

static void a_match_is_not_longer_than_what_is_compared(void **state)
{
    (void)state;
    char text[201];
    memset(text, 'a', 200);
    text[200] = 0;
    check_draft(text, 2, "aa", DRAFT_LONGEST_MATCH);
}

/* The longest match and its latest place, by trying every place. */
static size_t longest_match(const int32_t *ids, size_t n, size_t *place)
{
    size_t best = 0;
    for (size_t at = 1; at < n; at++) {
        size_t same = 0;
        while (same < at && same < DRAFT_LONGEST_MATCH && ids[at - 1 - same] == ids[n - 1 - same])
            same++;
        if (same > 0 && same >= best) {
            best = same;
            *place = at;
        }
    }
    return best;
}

/* Texts of few different tokens, short enough for every place to be looked at. */
static void drafts_equal_a_search_of_all_places(void **state)
{
    (void)state;
    enum { LENGTH = DRAFT_PLACES };
    uint64_t seed = 1;
    for (int kinds = 2; kinds <= 40; kinds += 2) {
        draft_t *draft = open_draft(LENGTH);
        int32_t text[LENGTH], ids[4];
        for (size_t n = 0; n < LENGTH; n++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[n] = (int32_t)((seed >> 33) % (uint64_t)kinds) * 1000003;
            draft_push(draft, &text[n], 1);
            size_t match, place = 0, expected = longest_match(text, n + 1, &place);
            size_t found = draft_propose(draft, 4, ids, &match);
            assert_int_equal(match, expected);
            assert_int_equal(found, expected > 0 ? 4 : 0);
            if (expected > 0)
                assert_int_equal(ids[0], text[place]);
        }
        draft_close(draft);
    }
}

/* Many places agree in the last token: those with the gram are looked for first. */
static void a_long_match_far_back_is_found(void **state)
{
    (void)state;
    draft_t *draft = open_draft(20000);
    int32_t ids[2];
    size_t match;
    push_text(draft, "wxyz!");
    for (int i = 0; i < 9000; i++)
        push_text(draft, i % 2 == 0 ? "z" : "q");
    push_text(draft, "wxyz");
    assert_int_equal(draft_propose(draft, 2, ids, &match), 2);
    assert_int_equal(match, 4);
    assert_int_equal(ids[0], '!');
    draft_close(draft);
}

static void a_capacity_beyond_memory_fails(void **state)
{
    (void)state;
    draft_t *draft;
    fail_t fail = {0};
    assert_int_equal(draft_open(&draft, (size_t)1 << 40, &fail), FAIL_MEMORY);
    assert_null(draft);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_followed_the_longest_match_is_drafted),
        cmocka_unit_test(one_token_is_a_match),
        cmocka_unit_test(nothing_is_drafted_without_a_match),
        cmocka_unit_test(a_text_that_repeats_itself_goes_on),
        cmocka_unit_test(a_match_is_not_longer_than_what_is_compared),
        cmocka_unit_test(drafts_equal_a_search_of_all_places),
        cmocka_unit_test(a_long_match_far_back_is_found),
        cmocka_unit_test(a_capacity_beyond_memory_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
