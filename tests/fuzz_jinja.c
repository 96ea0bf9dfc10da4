/* Fuzz target: chat templates and the conversations they render.
 *
 * Sources (fuzzing.h): engine/text/jinja/[a-z]*.c engine/text/unicode*.c engine/text/text_buffer.c -lutf8proc -lm
 *
 * An input is a template, a zero byte, and the variables as JSON. Without a zero byte there are no
 * variables. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja.h"
#include "tests/fuzzing.h"

static void render(const jinja_template_t *made, const char *json, size_t bytes)
{
    jinja_job_t *job;
    text_buffer_t out = {0}, quoted = {0};
    fail_t fail = {0};
    size_t message;
    require(jinja_job_open(&job, &fail) == 0);
    jinja_job_set_time(job, 0);
    int status = jinja_job_set_text(job, json, bytes, "variables", &fail);
    if (status == 0 && bytes % 2 == 0)
        status = jinja_job_prepare_chat(job, NULL, &fail);
    if (status == 0)
        status = jinja_job_render(job, made, &out, &fail);
    require(status == fail.status);
    if (status != 0) {
        require(out.bytes == 0 && strchr(fail.message, '\n') == NULL);
        require(jinja_job_error(job, &message) != NULL);
    } else {
        require(jinja_quote(out.text, out.bytes, &quoted, &fail) == 0);
    }
    text_buffer_clear(&out);
    text_buffer_clear(&quoted);
    jinja_job_close(job);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = size > 0 ? memchr(data, 0, size) : NULL;
    size_t bytes = zero != NULL ? (size_t)(zero - data) : size;
    const char *json = zero != NULL ? (const char *)zero + 1 : "{}";
    jinja_template_t *made;
    fail_t fail = {0};
    int status = jinja_template_open(&made, (const char *)data, bytes, "input", &fail);
    require(status == fail.status);
    if (status != 0) {
        require(made == NULL && fail.message[0] != 0 && strchr(fail.message, '\n') == NULL);
        return 0;
    }
    render(made, json, zero != NULL ? size - bytes - 1 : 2);
    jinja_template_close(made);
    return 0;
}

#ifdef CHOIR_FUZZ_MAIN
#define INPUT_BYTES_MAX 4096

static const char *const templates[] = {
    "{% for m in messages if m.role != 'x' %}{% if loop.first %}{{ m['content']|trim|upper }}{% "
    "elif "
    "loop.last %}{{ loop.previtem.role ~ loop.index }}{% else %}{% continue %}{% endif %}{% endfor "
    "%}",
    "{% macro f(a, b=2) %}{{ a }}{{ b|tojson(indent=2) }}{{ caller() if caller }}{{ varargs }}{{ "
    "kwargs }}{% endmacro %}{{ f(1, *[2, 3], **{'x': 4}) }}{% call f('q') %}body{% endcall %}",
    "{%- set ns = namespace(n=0, l=[]) -%}{% for i in range(5) %}{% set ns.n = ns.n + i ** 2 // 3 "
    "%}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.n }}{{ ns.l[::-1][1:3] }}{{ ns.l|sum }}",
    "{{ '%s %5.2f %r' % ('a', 1.5, [1, 'x']) }}{{ '{0:>5}{a[x]!r:^9}'.format('q', a={'x': 1}) }}{{ "
    "'a b c'.split(' ', 1) }}{{ 'abc'.replace('b', 'x').title().center(9) }}",
    "{% set x | replace('a', 'b') %}aa{# c #}{% raw %}{{ }}{% endraw %}{% endset %}{{ x }}{% "
    "filter "
    "indent(2) %}a\nb{% endfilter %}{% with a = 1, b = 2 %}{{ a < b <= 2 and not a is odd }}{% "
    "endwith %}",
    "{{ messages|map(attribute='role')|unique|list }}{{ messages|selectattr('role', 'eq', "
    "'user')|list|length }}{{ messages|groupby('role')|list|tojson }}{{ messages[0]|dictsort }}{{ "
    "[3, 1, 2]|sort(reverse=true)|join('-') }}{{ messages|batch(2, 'x')|list }}",
    "{% generation %}{{ strftime_now('%Y') }}{% endgeneration %}{{ raise_exception('no ' ~ "
    "messages[-1].content) if messages|length > 9 }}{{ messages[1].x.y is defined }}{{ none or 'é' "
    "}}{{ 'ß'.upper() ~ 'ΑΣ'.lower() }}",
};

static const char variables[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"H\\u00e9llo \\ud83d\\ude00\"}, {\"role\": "
    "\"assistant\", \"content\": null, \"thinking\": \"x\", \"n\": [1, 2.5, "
    "12345678901234567890]}, "
    "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\\\\b\"}]}], \"tools\": "
    "[{\"a\": {\"b\": true}}]}";

static void run_round(void *context, unsigned long i, uint64_t *state)
{
    (void)context;
    static const char *const words[] = {"{{", "}}", "{%", "%}", "{%-", "-%}", "|", "(", ")", "[",
        "]", "{", "}", "'", "\"", "\\", ",", ":", ".", "~", "**", "//", "-", "0", "9999999", "1e9",
        " in ", " not ", " if ", " else ", " is ", "loop", "messages", "|list", "|join", "|tojson",
        "[::-1]", "* 999", "true", "none", "\xff", "\xC3\xA9", "\n", "{#", "#}", "for ", "endfor",
        "set ", "=", "\"\\ud83d\"", "[[[[", "null", "range(999)", ".items()", "|map('upper')",
        "%s"};
    const fuzz_words_t put = {.words = words, .n_words = sizeof words / sizeof *words};
    uint8_t data[INPUT_BYTES_MAX];
    const char *source = templates[i % (sizeof templates / sizeof templates[0])];
    size_t bytes = strlen(source) + 1;
    memcpy(data, source, bytes);
    memcpy(data + bytes, variables, sizeof variables - 1);
    size_t size = bytes + sizeof variables - 1;
    fuzz_input(data, fuzz_mutate(data, 0, size, sizeof data, &put, state));
}

int main(int argc, char **argv)
{
    return fuzz_main(argc, argv, 20000, run_round, NULL);
}
#endif
