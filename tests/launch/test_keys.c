#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launch/keys.h"

/* All keys of a text as words: "a", "U+e9", "alt-b", "up", "paste[...]". */
static const char *keys_of(const char *bytes, size_t n)
{
    static char words[4096];
    static const char *const names[] = {[KEY_UP] = "up",
        [KEY_DOWN] = "down",
        [KEY_LEFT] = "left",
        [KEY_RIGHT] = "right",
        [KEY_WORD_LEFT] = "word-left",
        [KEY_WORD_RIGHT] = "word-right",
        [KEY_HOME] = "home",
        [KEY_END] = "end",
        [KEY_DELETE] = "delete",
        [KEY_PASTE] = "paste"};
    keys_t keys = {0};
    size_t at = 0;
    words[0] = 0;
    for (size_t i = 0; i < n;) {
        bool again;
        key_event_t event = keys_push(&keys, (unsigned char)bytes[i], &again);
        i += !again;
        if (event.kind == KEY_NONE)
            continue;
        at += (size_t)snprintf(words + at, sizeof words - at, "%s", at > 0 ? " " : "");
        if (event.kind == KEY_PASTE)
            at += (size_t)snprintf(words + at, sizeof words - at, "paste[%.*s]",
                (int)keys.paste.bytes, keys.paste.text == NULL ? "" : keys.paste.text);
        else if (event.kind != KEY_CHARACTER && event.kind != KEY_ALT)
            at += (size_t)snprintf(words + at, sizeof words - at, "%s", names[event.kind]);
        else if (event.character > ' ' && event.character < 0x7f)
            at += (size_t)snprintf(words + at, sizeof words - at, "%s%c",
                event.kind == KEY_ALT ? "alt-" : "", (char)event.character);
        else
            at += (size_t)snprintf(words + at, sizeof words - at, "%sU+%x",
                event.kind == KEY_ALT ? "alt-" : "", event.character);
    }
    keys_clear(&keys);
    return words;
}

#define assert_keys(bytes, expected) assert_string_equal(keys_of(bytes, sizeof bytes - 1), expected)

static void characters_are_utf8(void **state)
{
    (void)state;
    assert_keys("a\xc3\xa9\xe6\x97\xa5\xf0\x9f\x98\x80\r", "a U+e9 U+65e5 U+1f600 U+d");
}

static void what_is_not_utf8_is_replaced_and_takes_nothing_with_it(void **state)
{
    (void)state;
    assert_keys("\xff"
                "a",
        "U+fffd a");
    assert_keys("\xe6\x97"
                "a",
        "U+fffd a");
    assert_keys("\xc0\x80", "U+fffd U+fffd");
    assert_keys("\xe0\x80\x80", "U+fffd");     /* longer than need be */
    assert_keys("\xed\xa0\xbd", "U+fffd");     /* a surrogate */
    assert_keys("\xf4\x90\x80\x80", "U+fffd"); /* beyond Unicode */
    assert_keys("\xc3\x1b[A", "U+fffd up");
}

static void sequences_of_several_terminals_are_keys(void **state)
{
    (void)state;
    assert_keys("\x1b[A\x1b[B\x1b[C\x1b[D\x1bOA\x1bOD", "up down right left up left");
    assert_keys("\x1b[1;5C\x1b[1;3D\x1b[1;2C", "word-right word-left right");
    assert_keys("\x1b[H\x1b[F\x1bOH\x1bOF\x1b[1~\x1b[4~\x1b[7~\x1b[8~",
        "home end home end home end home end");
    assert_keys("\x1b[3~", "delete");
    assert_keys("\x1b"
                "b\x1b\r",
        "alt-b alt-U+d");
}

static void unknown_sequences_leave_nothing_behind(void **state)
{
    (void)state;
    assert_keys("a\x1b[15~b\x1b[?1;2cc\x1b[99;99;99;99;99;99;99;99;99~d\x1bOPe", "a b c d e");
    assert_keys("\x1b\x1b[A", "up");
    assert_keys("\x1b[1\x1b[A", "up");
    assert_keys("\x1b[\xc3\xa9", "U+e9");
}

static void a_paste_is_one_key(void **state)
{
    (void)state;
    assert_keys("a\x1b[200~one\rtwo\r\nthree\n\x1b[201~b", "a paste[one\ntwo\nthree\n] b");
    assert_keys("\x1b[200~\x1b[201~", "paste[]");
    assert_keys("\x1b[200~a\0b\x1b[201~", "paste[ab]");
    /* Sequences within it are text, also the begin of its end. */
    assert_keys("\x1b[200~\x1b[A\x1b[201\x1b[20\x1b[200~\x1b[201~x",
        "paste[\x1b[A\x1b[201\x1b[20\x1b[200~] x");
}

static void a_paste_may_be_cut_anywhere(void **state)
{
    (void)state;
    keys_t keys = {0};
    bool again;
    static const char begin[] = "\x1b[200~", end[] = "\x1b[201~";
    for (const char *c = begin; *c != 0; c++)
        assert_int_equal(keys_push(&keys, (unsigned char)*c, &again).kind, KEY_NONE);
    for (size_t i = 0; i < 200000; i++)
        assert_int_equal(keys_push(&keys, i % 50 == 49 ? '\r' : 'x', &again).kind, KEY_NONE);
    for (const char *c = end; *c != '~'; c++)
        assert_int_equal(keys_push(&keys, (unsigned char)*c, &again).kind, KEY_NONE);
    assert_int_equal(keys_push(&keys, '~', &again).kind, KEY_PASTE);
    assert_int_equal(keys.paste.bytes, 200000);
    assert_int_equal(keys.paste.text[49], '\n');
    keys_clear(&keys);
}

static void a_paste_that_is_too_long_is_lost_as_a_whole(void **state)
{
    (void)state;
    keys_t keys = {0};
    bool again;
    static const char begin[] = "\x1b[200~", end[] = "\x1b[201~";
    for (const char *c = begin; *c != 0; c++)
        keys_push(&keys, (unsigned char)*c, &again);
    for (size_t i = 0; i <= KEYS_MAX_PASTE_BYTES; i++)
        assert_int_equal(keys_push(&keys, 'x', &again).kind, KEY_NONE);
    for (const char *c = end; *c != '~'; c++)
        keys_push(&keys, (unsigned char)*c, &again);
    assert_int_equal(keys_push(&keys, '~', &again).kind, KEY_PASTE);
    assert_true(keys.paste_lost);
    assert_int_equal(keys.paste.bytes, 0);
    assert_int_equal(keys_push(&keys, 'a', &again).character, 'a');
    keys_clear(&keys);
}

static void a_reset_forgets_half_of_a_key(void **state)
{
    (void)state;
    keys_t keys = {0};
    bool again;
    static const char begin[] = "\x1b[200~half";
    for (const char *c = begin; *c != 0; c++)
        keys_push(&keys, (unsigned char)*c, &again);
    keys_reset(&keys);
    key_event_t event = keys_push(&keys, 'a', &again);
    assert_int_equal(event.kind, KEY_CHARACTER);
    keys_push(&keys, 0x1b, &again);
    keys_reset(&keys);
    assert_int_equal(keys_push(&keys, 'b', &again).kind, KEY_CHARACTER);
    keys_clear(&keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_are_utf8),
        cmocka_unit_test(what_is_not_utf8_is_replaced_and_takes_nothing_with_it),
        cmocka_unit_test(sequences_of_several_terminals_are_keys),
        cmocka_unit_test(unknown_sequences_leave_nothing_behind),
        cmocka_unit_test(a_paste_is_one_key),
        cmocka_unit_test(a_paste_may_be_cut_anywhere),
        cmocka_unit_test(a_paste_that_is_too_long_is_lost_as_a_whole),
        cmocka_unit_test(a_reset_forgets_half_of_a_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
