/* Chat templates against transformers' apply_chat_template (golden file), how templates are
 * recognised, and what malformed conversations are told. */
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

#include "engine/text/chat.h"

#define GOLDEN CHOIR_SOURCE_DIR "/tests/golden/tokenizer/"

static const chat_template_t all_templates[] = {
    CHAT_CHATML, CHAT_QWEN25, CHAT_QWEN25_BASE, CHAT_QWEN25_MATH, CHAT_QWEN2};
#define N_TEMPLATES (sizeof all_templates / sizeof all_templates[0])

static char *read_text(const char *path, size_t *bytes)
{
    char *text;
    fail_t fail = {0};
    if (file_read(path, (size_t)64 << 20, &text, bytes, &fail) != 0)
        fail_msg("%s", fail.message);
    return text;
}

static chat_template_t template_by_name(const char *name)
{
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (strcmp(chat_template_name(all_templates[i]), name) == 0)
            return all_templates[i];
    fail_msg("no template %s", name);
    return CHAT_NONE;
}

static void check_line(json_t *line, size_t number)
{
    const json_t *expected = json_object_get(line, "text");
    text_buffer_t out = {0};
    fail_t fail = {0};
    assert_int_equal(text_buffer_append(&out, "before", 6, &fail), 0);
    int status = chat_render(template_by_name(json_string_value(json_object_get(line, "template"))),
        json_object_get(line, "messages"), json_object_get(line, "tools"),
        json_is_true(json_object_get(line, "prompt")), &out, &fail);
    if (json_is_null(expected)) {
        if (status != FAIL_USAGE)
            fail_msg("line %zu: expected a usage failure as in Hugging Face", number);
        assert_string_equal(out.text, "before");
    } else if (status != 0 || out.bytes != 6 + json_string_length(expected) ||
               memcmp(out.text + 6, json_string_value(expected), out.bytes - 6) != 0) {
        fail_msg("line %zu: expected\n%s\nfound\n%s", number, json_string_value(expected),
            status != 0 ? fail.message : out.text + 6);
    }
    text_buffer_clear(&out);
}

static void conversations_render_as_apply_chat_template_does(void **state)
{
    (void)state;
    size_t bytes, number = 0;
    char *text = read_text(GOLDEN "chat.jsonl", &bytes);
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        json_t *object = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
        assert_non_null(object);
        check_line(object, ++number);
        json_decref(object);
    }
    assert_true(number > 200);
    free(text);
}

static char *template_text(chat_template_t chat_template, size_t *bytes)
{
    char path[4200];
    snprintf(path, sizeof path, "%stemplates/%s.jinja", GOLDEN, chat_template_name(chat_template));
    return read_text(path, bytes);
}

static int recognise(const char *text, size_t bytes, chat_template_t *chat_template, fail_t *fail)
{
    *fail = (fail_t){0};
    return chat_template_recognise(text, bytes, "tokenizer_config.json", chat_template, fail);
}

static void every_known_template_is_recognised(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_TEMPLATES; i++) {
        size_t bytes;
        char *text = template_text(all_templates[i], &bytes);
        chat_template_t found;
        fail_t fail;
        assert_int_equal(recognise(text, bytes, &found, &fail), 0);
        assert_int_equal(found, all_templates[i]);
        free(text);
    }
}

/* Applies a change to each template; those it changes must be recognised, or refused. */
static void check_changed(const char *from, const char *to, bool known)
{
    size_t n_changed = 0;
    for (size_t i = 0; i < N_TEMPLATES; i++) {
        size_t bytes;
        char *text = template_text(all_templates[i], &bytes);
        char *changed = malloc(bytes * (strlen(to) + 1) + 1), *out = changed;
        assert_non_null(changed);
        for (const char *at = text; *at != 0;) {
            bool here = strncmp(at, from, strlen(from)) == 0;
            const char *piece = here ? to : at;
            size_t length = here ? strlen(to) : 1;
            memcpy(out, piece, length);
            out += length;
            at += here ? strlen(from) : 1;
            n_changed += here;
        }
        bool differs = bytes != (size_t)(out - changed) || memcmp(text, changed, bytes) != 0;
        chat_template_t found;
        fail_t fail;
        int status = recognise(changed, (size_t)(out - changed), &found, &fail);
        if (differs && (status == 0) != known)
            fail_msg("%s for %s in %s: status %d", to, from, chat_template_name(all_templates[i]),
                status);
        if (status == 0)
            assert_int_equal(found, all_templates[i]);
        free(changed);
        free(text);
    }
    assert_true(n_changed > 0);
}

static void white_space_that_jinja_ignores_does_not_matter(void **state)
{
    (void)state;
    check_changed("\n", "\r\n", true);
    check_changed("\n    ", "\n\t", true);
    check_changed("{%- ", "   {%-  ", true);
    check_changed("{% for message in messages %}", "{%for\tmessage  in messages-%}\n", true);
    check_changed("{{ '", "{{'", true);
    check_changed("' + ", "'+\n ", true);
    check_changed("{% endfor %}", "{% endfor %}\n", true);
    check_changed("{% endfor %}", "{% endfor %}\n  \t", true);
    check_changed("{%- endif %}\n", "{%- endif -%}\n\n", true);
}

static void a_template_that_says_something_else_is_refused(void **state)
{
    (void)state;
    check_changed("{% endfor %}", "{% endfor %} x", false);
    check_changed("{% endfor %}", "{% endfor %}\n\n", false);
    check_changed("<|im_end|>\\n", "<|im_end|>", false);
    check_changed("assistant\\n", "assistant\\n ", false);
    check_changed("# Tools", "#  Tools", false);
    check_changed("not loop.first", "notloop.first", false);
    chat_template_t found;
    fail_t fail;
    assert_int_equal(recognise("{{ bos_token }}", 15, &found, &fail), FAIL_MODEL);
    assert_int_equal(found, CHAT_NONE);
    for (size_t i = 0; i < N_TEMPLATES; i++)
        assert_non_null(strstr(fail.message, chat_template_name(all_templates[i])));
    assert_non_null(strstr(fail.message, "--raw"));
    assert_non_null(strstr(fail.message, "tokenizer_config.json"));
    static const char *const broken[] = {
        "", "{", "{%", "{{-", "{% '", "{% 'x\\", "a{#", "{%-", "x -%}"};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++)
        assert_int_equal(recognise(broken[i], strlen(broken[i]), &found, &fail), FAIL_MODEL);
}

static char directory[64];

static void write_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (text == NULL) {
        unlink(path);
        return;
    }
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static int detect(chat_template_t *found, fail_t *fail)
{
    *fail = (fail_t){0};
    return chat_template_detect(directory, found, fail);
}

static void a_directory_gives_its_template_from_any_place(void **state)
{
    (void)state;
    strcpy(directory, P_tmpdir "/choir-chat-XXXXXX");
    assert_non_null(mkdtemp(directory));
    chat_template_t found;
    fail_t fail;
    size_t bytes;
    char *qwen = template_text(CHAT_QWEN25, &bytes), *chatml = template_text(CHAT_CHATML, &bytes);
    assert_int_equal(detect(&found, &fail), 0);
    assert_int_equal(found, CHAT_NONE);
    write_file("tokenizer_config.json", "{\"chat_template\":null}");
    assert_int_equal(detect(&found, &fail), 0);
    assert_int_equal(found, CHAT_NONE);
    json_t *config = json_pack("{s:s}", "chat_template", chatml);
    char *text = json_dumps(config, 0);
    write_file("tokenizer_config.json", text);
    assert_int_equal(detect(&found, &fail), 0);
    assert_int_equal(found, CHAT_CHATML);
    free(text);
    json_decref(config);
    config = json_pack("{s:[{s:s,s:s},{s:s,s:s}]}", "chat_template", "name", "tool_use", "template",
        "x", "name", "default", "template", qwen);
    text = json_dumps(config, 0);
    write_file("tokenizer_config.json", text);
    assert_int_equal(detect(&found, &fail), 0);
    assert_int_equal(found, CHAT_QWEN25);
    free(text);
    json_decref(config);
    write_file("chat_template.jinja", chatml);
    assert_int_equal(detect(&found, &fail), 0);
    assert_int_equal(found, CHAT_CHATML);
    write_file("chat_template.jinja", "{{ other }}");
    assert_int_equal(detect(&found, &fail), FAIL_MODEL);
    assert_non_null(strstr(fail.message, "chat_template.jinja: "));
    write_file("chat_template.jinja", NULL);
    write_file(
        "tokenizer_config.json", "{\"chat_template\":[{\"name\":\"a\",\"template\":\"b\"}]}");
    assert_int_equal(detect(&found, &fail), FAIL_FORMAT);
    assert_non_null(strstr(fail.message, "\"default\""));
    write_file("tokenizer_config.json", "{");
    assert_int_equal(detect(&found, &fail), FAIL_FORMAT);
    write_file("tokenizer_config.json", NULL);
    assert_int_equal(rmdir(directory), 0);
    free(qwen);
    free(chatml);
}

static void the_demo_model_has_chatml(void **state)
{
    (void)state;
    chat_template_t found;
    fail_t fail = {0};
    assert_int_equal(chat_template_detect(CHOIR_SOURCE_DIR "/configs/demo", &found, &fail), 0);
    assert_int_equal(found, CHAT_CHATML);
}

static void malformed_conversations_are_told_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        chat_template_t chat_template;
        const char *messages, *tools;
        int status;
        const char *message;
    } cases[] = {
        {CHAT_NONE, "[{\"role\":\"user\",\"content\":\"x\"}]", "[]", FAIL_MODEL, "--raw"},
        {CHAT_QWEN25, "{}", "[]", FAIL_USAGE, "messages: expected an array"},
        {CHAT_QWEN25, "[]", "[]", FAIL_USAGE, "at least one message"},
        {CHAT_QWEN25, "[7]", "[]", FAIL_USAGE, "messages[0]"},
        {CHAT_QWEN25, "[{\"content\":\"x\"}]", "[]", FAIL_USAGE, "messages[0]"},
        {CHAT_QWEN25, "[{\"role\":1,\"content\":\"x\"}]", "[]", FAIL_USAGE, "\"role\""},
        {CHAT_QWEN25, "[{\"role\":\"user\",\"content\":[]}]", "[]", FAIL_USAGE, "content"},
        {CHAT_QWEN25,
            "[{\"role\":\"user\",\"content\":\"\"},{\"role\":\"developer\",\"content\":\"\"}]",
            "[]", FAIL_USAGE, "messages[1]: role: expected system, user, assistant or tool"},
        {CHAT_QWEN25, "[{\"role\":\"tool\",\"content\":{}}]", "[]", FAIL_USAGE, "content"},
        {CHAT_QWEN25, "[{\"role\":\"user\",\"content\":\"x\"}]", "{}", FAIL_USAGE, "tools"},
        {CHAT_QWEN25, "[{\"role\":\"user\",\"content\":\"x\"}]", "[1]", FAIL_USAGE, "tools[0]"},
        {CHAT_QWEN25, "[{\"role\":\"assistant\",\"tool_calls\":{}}]", "[]", FAIL_USAGE,
            "tool_calls"},
        {CHAT_QWEN25, "[{\"role\":\"assistant\",\"tool_calls\":[3]}]", "[]", FAIL_USAGE,
            "tool_calls[0]"},
        {CHAT_QWEN25, "[{\"role\":\"assistant\",\"tool_calls\":[{\"arguments\":{}}]}]", "[]",
            FAIL_USAGE, "\"name\""},
        {CHAT_QWEN25,
            "[{\"role\":\"user\",\"content\":\"\",\"tool_calls\":[{\"name\":\"f\",\"arguments\":{}}"
            "]}]",
            "[]", FAIL_USAGE, "does not show"},
        {CHAT_CHATML, "[{\"role\":\"user\",\"content\":\"x\"}]", "[{}]", FAIL_USAGE, "no place"},
        {CHAT_CHATML, "[{\"role\":\"assistant\",\"content\":null}]", "[]", FAIL_USAGE, "content"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *messages = json_loads(cases[i].messages, 0, NULL);
        json_t *tools = json_loads(cases[i].tools, 0, NULL);
        assert_non_null(messages);
        assert_non_null(tools);
        text_buffer_t out = {0};
        fail_t fail = {0};
        assert_int_equal(chat_render(cases[i].chat_template, messages, tools, true, &out, &fail),
            cases[i].status);
        if (strstr(fail.message, cases[i].message) == NULL)
            fail_msg("expected \"%s\", found \"%s\"", cases[i].message, fail.message);
        assert_int_equal(out.bytes, 0);
        text_buffer_clear(&out);
        json_decref(messages);
        json_decref(tools);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations_render_as_apply_chat_template_does),
        cmocka_unit_test(every_known_template_is_recognised),
        cmocka_unit_test(white_space_that_jinja_ignores_does_not_matter),
        cmocka_unit_test(a_template_that_says_something_else_is_refused),
        cmocka_unit_test(a_directory_gives_its_template_from_any_place),
        cmocka_unit_test(the_demo_model_has_chatml),
        cmocka_unit_test(malformed_conversations_are_told_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
