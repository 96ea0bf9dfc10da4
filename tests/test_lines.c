/* engine/base/lines: whole lines, one that is too long, memory that stays bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/lines.h"

/* A reader of a pipe that holds the text, and whose other end is closed. */
static int pipe_of(const char *text)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], text, strlen(text)), strlen(text));
    close(ends[1]);
    return ends[0];
}

static void lines_come_one_by_one_without_a_byte_order_mark(void **state)
{
    (void)state;
    static const char *const expected[] = {"one", "",
        "\xef\xbb\xbf"
        "three",
        "last"};
    int file = pipe_of("\xef\xbb\xbfone\n\n\xef\xbb\xbfthree\nlast");
    lines_t lines;
    fail_t fail = {0};
    char *text;
    size_t bytes;
    lines_open(&lines, file, "input", 100);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(lines_next(&lines, &text, &bytes, &fail), 1);
        assert_string_equal(text, expected[i]);
        assert_int_equal(bytes, strlen(expected[i]));
        assert_int_equal(lines.number, i + 1);
    }
    assert_int_equal(lines_next(&lines, &text, &bytes, &fail), 0);
    lines_close(&lines);
    close(file);
}

static lines_state_t take(lines_t *lines, char **text, size_t *bytes)
{
    fail_t fail = {0};
    lines_state_t state;
    while ((state = lines_take(lines, text, bytes)) == LINES_MORE)
        assert_int_equal(lines_fill(lines, -1, &fail), 0);
    return state;
}

static void a_line_that_is_too_long_is_named_and_passed_over(void **state)
{
    (void)state;
    int file =
        pipe_of("{\"id\": 1, \"text\": \"aaaaaaaaaaaa\"}\nshort\n0123456789\n01234567890\nend\n");
    lines_t lines;
    fail_t fail = {0};
    char *text;
    size_t bytes;
    lines_open(&lines, file, "input", 10);
    assert_int_equal(take(&lines, &text, &bytes), LINES_LONG);
    assert_string_equal(text, "{\"id\": 1, ");
    assert_int_equal(lines_too_long(&lines, &fail), FAIL_FORMAT);
    assert_string_equal(fail.message, "input: line 1: expected at most 10 bytes, found more");
    assert_int_equal(take(&lines, &text, &bytes), LINES_LINE);
    assert_string_equal(text, "short");
    assert_int_equal(take(&lines, &text, &bytes), LINES_LINE);
    assert_string_equal(text, "0123456789");
    assert_int_equal(take(&lines, &text, &bytes), LINES_LONG);
    assert_int_equal(take(&lines, &text, &bytes), LINES_LINE);
    assert_string_equal(text, "end");
    assert_int_equal(lines.number, 5);
    assert_int_equal(take(&lines, &text, &bytes), LINES_END);
    lines_close(&lines);
    close(file);
}

/* Sixteen MiB in a line, of which little is kept; the beginning is there before the end has come.
 */
static void memory_is_bounded_by_the_limit(void **state)
{
    (void)state;
    int ends[2];
    static char block[32768];
    lines_t lines;
    fail_t fail = {0};
    char *text;
    size_t bytes, n_long = 0;
    memset(block, 'x', sizeof block);
    assert_int_equal(pipe(ends), 0);
    lines_open(&lines, ends[0], "input", 100000);
    for (size_t i = 0; i < 512; i++) {
        assert_int_equal(write(ends[1], block, sizeof block), sizeof block);
        assert_int_equal(lines_fill(&lines, -1, &fail), 0);
        n_long += lines_take(&lines, &text, &bytes) == LINES_LONG;
        assert_true(n_long == (i >= 3));
        assert_true(lines.capacity <= 100000 + 4 * 65536);
    }
    assert_int_equal(write(ends[1], "\nnext\n", 6), 6);
    assert_int_equal(lines_fill(&lines, -1, &fail), 0);
    assert_int_equal(lines_take(&lines, &text, &bytes), LINES_LINE);
    assert_string_equal(text, "next");
    lines_close(&lines);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_come_one_by_one_without_a_byte_order_mark),
        cmocka_unit_test(a_line_that_is_too_long_is_named_and_passed_over),
        cmocka_unit_test(memory_is_bounded_by_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
