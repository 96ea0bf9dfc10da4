/* Chat templates of public models on conversations of all kinds, against transformers'
 * apply_chat_template (golden/chat-templates, made by oracle/jinja.py). CHOIR_CHAT_TEMPLATES names
 * a folder of the templates that are not in the repository because of their licences. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/base/digest.h"
#include "engine/base/json.h"
#include "engine/text/jinja/jinja.h"

#define GOLDEN CHOIR_SOURCE_DIR "/tests/golden/chat-templates/"
#define START_OF_2026 1767225600 /* UTC, where the oracle's clock stands */
#define LINES_MAX 64

typedef struct lines {
    char *text;
    char *at[LINES_MAX];
    size_t count;
} lines_t;

static char *read_text(const char *path, size_t *bytes)
{
    char *text;
    fail_t fail = {0};
    if (file_read(path, (size_t)8 << 20, &text, bytes, &fail) != 0)
        fail_msg("%s", fail.message);
    return text;
}

static int read_conversations(void **state)
{
    static lines_t lines;
    size_t bytes;
    setenv("TZ", "UTC", 1);
    lines.text = read_text(GOLDEN "conversations.jsonl", &bytes);
    for (char *line = strtok(lines.text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        assert_true(lines.count < LINES_MAX);
        lines.at[lines.count++] = line;
    }
    *state = &lines;
    return 0;
}

static int free_conversations(void **state)
{
    free(((lines_t *)*state)->text);
    return 0;
}

static void fnv1a(const char *text, size_t bytes, char digest[17])
{
    snprintf(digest, 17, "%016llx", (unsigned long long)digest_bytes(DIGEST_START, text, bytes));
}

static int render(const jinja_template_t *made, const char *line, text_buffer_t *out, fail_t *fail)
{
    jinja_job_t *job;
    assert_int_equal(jinja_job_open(&job, fail), 0);
    jinja_job_set_time(job, START_OF_2026);
    if (jinja_job_set_text(job, line, strlen(line), "line", fail) == 0 &&
        jinja_job_prepare_chat(job, NULL, fail) == 0)
        jinja_job_render(job, made, out, fail);
    jinja_job_close(job);
    return fail->status;
}

static void check_one(
    const char *name, const jinja_template_t *made, size_t i, const char *line, json_t *expected)
{
    text_buffer_t out = {0};
    fail_t fail = {0};
    char digest[17];
    const char *error = json_string_value(json_object_get(expected, "error"));
    int status = render(made, line, &out, &fail);
    if (error != NULL) {
        if (status == 0 || strstr(fail.message, error) == NULL)
            fail_msg("%s, conversation %zu: expected the error \"%s\", found \"%s\"", name, i + 1,
                error, status != 0 ? fail.message : out.text);
    } else if (status != 0) {
        fail_msg("%s, conversation %zu: %s", name, i + 1, fail.message);
    } else {
        fnv1a(out.text, out.bytes, digest);
        if (strcmp(digest, json_string_value(expected)) != 0)
            fail_msg(
                "%s, conversation %zu: not the text of transformers:\n%s", name, i + 1, out.text);
    }
    text_buffer_clear(&out);
}

static void texts_and_errors_are_those_of_transformers(void **state)
{
    const lines_t *lines = *state;
    const char *more = getenv("CHOIR_CHAT_TEMPLATES"), *name;
    json_t *expected, *results;
    fail_t fail = {0};
    size_t n_templates = 0;
    assert_int_equal(json_file_read(GOLDEN "expected.json", &expected, &fail), 0);
    assert_int_equal(json_object_size(expected), 24);
    json_object_foreach (expected, name, results) {
        char path[4096];
        snprintf(path, sizeof path, GOLDEN "%s", name);
        if (access(path, R_OK) != 0)
            snprintf(path, sizeof path, "%s/%s", more != NULL ? more : "", name);
        if (access(path, R_OK) != 0)
            continue;
        size_t bytes;
        char *text = read_text(path, &bytes);
        jinja_template_t *made;
        if (jinja_template_open(&made, text, bytes, name, &fail) != 0)
            fail_msg("%s", fail.message);
        assert_int_equal(json_array_size(results), lines->count);
        for (size_t i = 0; i < lines->count; i++)
            check_one(name, made, i, lines->at[i], json_array_get(results, i));
        jinja_template_close(made);
        free(text);
        n_templates++;
    }
    assert_true(n_templates >= 17);
    json_decref(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_and_errors_are_those_of_transformers),
    };
    return cmocka_run_group_tests(tests, read_conversations, free_conversations);
}
