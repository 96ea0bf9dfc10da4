/* The interpreter of chat templates against jinja2 as transformers sets it up (golden file by
 * oracle/jinja.py), and its bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/base/json.h"
#include "engine/text/jinja/jinja.h"

#define GOLDEN CHOIR_SOURCE_DIR "/tests/golden/jinja-snippets.json"
#define NOON_OF_2026 1767225600 /* 2026-01-01 00:00:00 UTC, where the oracle's clock stands */

/* Renders; the text, or what went wrong. The caller clears out. */
static int render(const char *source, const char *variables, text_buffer_t *out, fail_t *fail)
{
    jinja_template_t *made;
    jinja_job_t *job;
    if (jinja_template_open(&made, source, strlen(source), "T", fail) != 0)
        return fail->status;
    assert_int_equal(jinja_job_open(&job, fail), 0);
    jinja_job_set_time(job, NOON_OF_2026);
    if (jinja_job_set_text(job, variables, strlen(variables), "variables", fail) == 0)
        jinja_job_render(job, made, out, fail);
    jinja_job_close(job);
    jinja_template_close(made);
    return fail->status;
}

/* Messages of ours have the name and perhaps the line in front. */
static bool says(const char *message, const char *expected)
{
    size_t n = strlen(message), m = strlen(expected);
    return n >= m && strcmp(message + n - m, expected) == 0;
}

static void snippets_render_as_jinja2_does(void **state)
{
    (void)state;
    json_t *snippets, *snippet;
    fail_t fail = {0};
    size_t i, n_failing = 0, n_same = 0;
    if (json_file_read(GOLDEN, &snippets, &fail) != 0)
        fail_msg("%s", fail.message);
    assert_true(json_array_size(snippets) > 800);
    json_array_foreach (snippets, i, snippet) {
        const char *source = json_string_value(json_object_get(snippet, "template"));
        const json_t *expected = json_object_get(snippet, "text");
        text_buffer_t out = {0};
        fail = (fail_t){0};
        int status =
            render(source, json_string_value(json_object_get(snippet, "vars")), &out, &fail);
        if (expected == NULL) {
            if (status == 0)
                fail_msg("%s\nexpected an error: %s\nfound %s", source,
                    json_string_value(json_object_get(snippet, "error")), out.text);
            n_failing++;
            n_same += says(fail.message, json_string_value(json_object_get(snippet, "error")));
        } else if (status != 0 || out.bytes != json_string_length(expected) ||
                   memcmp(out.text, json_string_value(expected), out.bytes) != 0) {
            fail_msg("%s\nexpected %s\nfound %s", source, json_string_value(expected),
                status != 0 ? fail.message : out.text);
        }
        text_buffer_clear(&out);
    }
    /* Messages that name Python's own functions, lines or positions differ. */
    if (n_same + 13 < n_failing)
        fail_msg("%zu of %zu messages are those of jinja2", n_same, n_failing);
    json_decref(snippets);
}

static void what_is_over_a_bound_ends_with_a_message(void **state)
{
    (void)state;
    static const struct {
        const char *source, *message;
    } cases[] = {
        {"{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9999) %}x{% "
         "endfor "
         "%}{% endfor %}{% endfor %}",
            "the template "},
        {"{% for a in range(9999) %}{% for b in range(9999) %}{{ 'y' * 90000 }}{% endfor %}{% "
         "endfor "
         "%}",
            "MiB"},
        {"{{ 'x' * 1000000000000 }}", "MiB"},
        {"{{ [1] * 1000000000000 }}", "MiB"},
        {"{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% "
         "endfor %}",
            "MiB"},
        {"{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% "
         "endfor %}",
            "MiB"},
        {"{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "recursion"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% "
         "endfor "
         "%}{{ ns.x }}",
            "recursion"},
        {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "recursion"},
        {"{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}", "recursion"},
        {"{{ '%1000000000d' % 1 }}", "big"},
        {"{{ '{:1000000000}'.format(1) }}", "wide"},
        {"{{ 2 ** 64 }}", "64 bits"},
        {"{{ 9223372036854775807 + 1 }}", "64 bits"},
        {"{{ 99999999999999999999 }}", "64 bits"},
        {"{{ range(100001) }}", "Range too big"},
        /* What makes nothing, and still takes time. */
        {"{% set s = 'a' * 999999 %}{{ s.rfind('b' ~ 'a' * 499999) }}", "steps"},
        {"{% set a = [1] * 999999 %}{% set b = [1] * 999999 %}{% for i in range(99999) %}{% if a "
         "!= b "
         "%}{% endif %}{% endfor %}",
            "steps"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text_buffer_t out = {0};
        fail_t fail = {0};
        assert_true(render(cases[i].source, "{}", &out, &fail) != 0);
        if (strstr(fail.message, cases[i].message) == NULL)
            fail_msg("%s\nexpected \"%s\", found \"%s\"", cases[i].source, cases[i].message,
                fail.message);
        assert_null(out.text);
    }
}

static void deep_sources_and_variables_end_with_a_message(void **state)
{
    (void)state;
    static const struct {
        const char *open, *middle, *close;
    } cases[] = {{"(", "1", ")"}, {"[", "1", "]"}, {"-", "1", ""}, {"not ", "1", ""},
        {"", "1", "|abs"}, {"", "1", "+1"}, {"1 if 1 else ", "1", ""}, {"{1:", "1", "}"},
        {"x[", "1", "]"}};
    enum { DEPTH = 20000 };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text_buffer_t source = {0}, out = {0};
        fail_t fail = {0};
        text_buffer_append(&source, "{{ ", 3, &fail);
        for (int k = 0; k < DEPTH; k++)
            text_buffer_append(&source, cases[i].open, strlen(cases[i].open), &fail);
        text_buffer_append(&source, cases[i].middle, strlen(cases[i].middle), &fail);
        for (int k = 0; k < DEPTH; k++)
            text_buffer_append(&source, cases[i].close, strlen(cases[i].close), &fail);
        text_buffer_append(&source, " }}", 3, &fail);
        assert_true(render(source.text, "{}", &out, &fail) != 0);
        text_buffer_clear(&source);
    }
    text_buffer_t json = {0}, out = {0};
    fail_t fail = {0};
    text_buffer_append(&json, "{\"a\":", 5, &fail);
    for (int k = 0; k < DEPTH; k++)
        text_buffer_append(&json, "[", 1, &fail);
    assert_int_equal(render("{{ a }}", json.text, &out, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "variables: malformed JSON: more than"));
    text_buffer_clear(&json);
}

static void malformed_variables_are_named(void **state)
{
    (void)state;
    static const char *const cases[] = {"", "{", "[]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}",
        "{'a':1}", "{\"a\":01}", "{\"a\":1}x", "{\"a\":\"\\x\"}", "{\"a\":\"\n\"}", "{\"a\":-}",
        "{\"a\":.5}", "{\"a\":\"\\ud8\"}", "{\"a\":\"\xff\"}", "nul", "{\"a\":tru}"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text_buffer_t out = {0};
        fail_t fail = {0};
        if (render("x", cases[i], &out, &fail) != FAIL_USAGE)
            fail_msg("accepted: %s", cases[i]);
        assert_ptr_equal(strstr(fail.message, "variables: "), fail.message);
    }
}

static void syntax_errors_name_the_line(void **state)
{
    (void)state;
    text_buffer_t out = {0};
    fail_t fail = {0};
    assert_int_equal(render("a\nb\n{% if x %}\n{{ 1 + }}\n", "{}", &out, &fail), FAIL_FORMAT);
    assert_string_equal(fail.message, "T, line 4: unexpected 'end of print statement'");
    fail = (fail_t){0};
    assert_int_equal(render("\xff", "{}", &out, &fail), FAIL_FORMAT);
    assert_non_null(strstr(fail.message, "not UTF-8"));
}

static void a_lone_surrogate_is_quoted_as_it_came(void **state)
{
    (void)state;
    text_buffer_t out = {0}, quoted = {0};
    fail_t fail = {0};
    assert_int_equal(
        render("{{ a }}", "{\"a\": \"x\\ud83d\\\"\\n\\u0001\\u00e9\"}", &out, &fail), 0);
    assert_int_equal(jinja_quote(out.text, out.bytes, &quoted, &fail), 0);
    assert_string_equal(quoted.text, "\"x\\ud83d\\\"\\n\\u0001\xC3\xA9\"");
    text_buffer_clear(&out);
    text_buffer_clear(&quoted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snippets_render_as_jinja2_does),
        cmocka_unit_test(what_is_over_a_bound_ends_with_a_message),
        cmocka_unit_test(deep_sources_and_variables_end_with_a_message),
        cmocka_unit_test(malformed_variables_are_named),
        cmocka_unit_test(syntax_errors_name_the_line),
        cmocka_unit_test(a_lone_surrogate_is_quoted_as_it_came),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
