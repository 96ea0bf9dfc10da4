/* Conversations against transformers' apply_chat_template (golden file), where a model directory
 * keeps its templates and special tokens, and what users give beside them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/text/chat.h"

#define GOLDEN CHOIR_SOURCE_DIR "/tests/golden/tokenizer/"
#define DEMO CHOIR_SOURCE_DIR "/configs/demo"

static char *read_text(const char *path, size_t *bytes)
{
    char *text;
    fail_t fail = {0};
    if (file_read(path, (size_t)64 << 20, &text, bytes, &fail) != 0)
        fail_msg("%s", fail.message);
    return text;
}

/* A chat of the golden templates by name; kept until the end. */
static chat_t *golden_chat(const char *name)
{
    static const char *const names[] = {
        "chatml", "qwen2.5", "qwen2.5-base", "qwen2.5-math", "qwen2"};
    static chat_t *chats[5];
    for (size_t i = 0; i < 5; i++) {
        char path[4096];
        fail_t fail = {0};
        snprintf(path, sizeof path, GOLDEN "templates/%s.jinja", names[i]);
        const chat_choice_t choice = {.given = path};
        if (name == NULL) {
            chat_close(chats[i]);
            chats[i] = NULL;
        } else if (strcmp(name, names[i]) == 0) {
            if (chats[i] == NULL && chat_open(&chats[i], NULL, &choice, &fail) != 0)
                fail_msg("%s", fail.message);
            return chats[i];
        }
    }
    return NULL;
}

static void check_line(json_t *line, size_t number)
{
    const json_t *expected = json_object_get(line, "text");
    text_buffer_t out = {0};
    fail_t fail = {0};
    assert_int_equal(text_buffer_append(&out, "before", 6, &fail), 0);
    const chat_input_t input = {.messages = json_object_get(line, "messages"),
        .tools = json_object_get(line, "tools"),
        .no_generation_prompt = !json_is_true(json_object_get(line, "prompt"))};
    int status = chat_render(
        golden_chat(json_string_value(json_object_get(line, "template"))), &input, &out, &fail);
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
    assert_true(number > 350);
    free(text);
    golden_chat(NULL);
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

static int make_directory(void **state)
{
    (void)state;
    char path[128];
    strcpy(directory, P_tmpdir "/choir-chat-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/additional_chat_templates", directory);
    return mkdir(path, 0700);
}

static int remove_directory(void **state)
{
    (void)state;
    char path[128];
    static const char *const names[] = {"tokenizer_config.json", "special_tokens_map.json",
        "chat_template.jinja", "chat_template.json", "additional_chat_templates/tool_use.jinja",
        "additional_chat_templates/rag.jinja", "mine.jinja"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        write_file(names[i], NULL);
    snprintf(path, sizeof path, "%s/additional_chat_templates", directory);
    rmdir(path);
    return rmdir(directory);
}

/* What the directory's template makes of a short conversation; fails the test unless it is so. */
static void expect(
    const char *given, const char *variables, const char *tools, const char *expected)
{
    chat_t *chat;
    fail_t fail = {0};
    text_buffer_t out = {0};
    const chat_choice_t choice = {given, variables};
    json_t *messages = json_loads("[{\"role\":\"user\",\"content\":\"hi\"}]", 0, NULL);
    json_t *functions = json_loads(tools, JSON_DECODE_ANY, NULL);
    const chat_input_t input = {.messages = messages, .tools = functions};
    if (chat_open(&chat, directory, &choice, &fail) == 0 && chat != NULL)
        chat_render(chat, &input, &out, &fail);
    const char *found = fail.status != 0 ? fail.message : chat == NULL ? "none" : out.text;
    if (strstr(found, expected) == NULL || (fail.status == 0 && strcmp(found, expected) != 0))
        fail_msg("expected \"%s\", found \"%s\"", expected, found);
    chat_close(chat);
    text_buffer_clear(&out);
    json_decref(messages);
    json_decref(functions);
}

static void a_directory_gives_its_template_from_any_place(void **state)
{
    (void)state;
    expect(NULL, NULL, "null", "none");
    write_file("tokenizer_config.json", "{\"chat_template\":null}");
    expect(NULL, NULL, "null", "none");
    write_file("chat_template.json", "{\"chat_template\":\"of a processor\"}");
    expect(NULL, NULL, "null", "none");
    write_file("tokenizer_config.json", "{\"chat_template\":\"config {{ messages[0].content }}\"}");
    expect(NULL, NULL, "null", "config hi");
    write_file("tokenizer_config.json",
        "{\"chat_template\":[{\"name\":\"default\",\"template\":\"d\"},{\"name\":\"tool_use\","
        "\"template\":\"t{{ tools|length }}\"},{\"name\":\"rag\",\"template\":\"r\"}]}");
    expect(NULL, NULL, "null", "d");
    expect(NULL, NULL, "[{}]", "t1");
    expect(NULL, NULL, "[]", "t0");
    expect("rag", NULL, "null", "r");
    expect("rag", NULL, "[{}]", "r");
    write_file("additional_chat_templates/rag.jinja", "extra rag");
    expect(NULL, NULL, "null", "none named \"default\"");
    expect("rag", NULL, "null", "extra rag");
    write_file("chat_template.jinja", "file");
    expect(NULL, NULL, "[{}]", "file");
    write_file("additional_chat_templates/tool_use.jinja", "extra tools");
    expect(NULL, NULL, "[{}]", "extra tools");
    expect(NULL, NULL, "null", "file");
    write_file("chat_template.jinja", "{{ other");
    expect(NULL, NULL, "null", "chat_template.jinja, line 1: ");
    write_file("chat_template.jinja", NULL);
    write_file("additional_chat_templates/rag.jinja", NULL);
    write_file("additional_chat_templates/tool_use.jinja", NULL);
    write_file("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"a\"}]}");
    expect(NULL, NULL, "null", "chat_template[0]: expected an object");
    write_file("tokenizer_config.json", "{\"chat_template\":7}");
    expect(NULL, NULL, "null", "expected a string or an array");
    write_file("tokenizer_config.json", "{");
    expect(NULL, NULL, "null", "tokenizer_config.json");
}

static void a_template_sees_special_tokens_and_variables(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/mine.jinja", directory);
    write_file("tokenizer_config.json",
        "{\"bos_token\":\"<b>\",\"eos_token\":{\"content\":\"<e>\"},\"pad_token\":null}");
    write_file("special_tokens_map.json", "{\"unk_token\":\"<u>\",\"bos_token\":\"<no>\"}");
    write_file("mine.jinja",
        "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token is defined }}{{ x }}{{ tools is "
        "none }}{{ documents is none }}{{ add_generation_prompt }}");
    expect(path, NULL, "null", "<b><e><u>FalseTrueTrueTrue");
    expect(path, "{\"x\":1.0,\"bos_token\":\"q\"}", "null", "q<e><u>False1.0TrueTrueTrue");
    expect(path, "{\"x\":123456789012345678901}", "[]",
        "<b><e><u>False123456789012345678901FalseTrueTrue");
    expect(path, "[1]", "null", "--template-vars: expected a JSON object");
    expect(path, "{", "null", "--template-vars: malformed JSON");
    expect("no-such-file", NULL, "null", "no-such-file: no file");
    write_file("mine.jinja", "{{ raise_exception('not ' ~ messages[0].content) }}");
    expect(path, NULL, "null", "chat template: not hi");
    write_file("mine.jinja", "{{ messages[0].content.nothing.more }}");
    expect(path, NULL, "null", "'str object' has no attribute 'nothing'");
}

static int render_content(
    const char *template, const char *content, text_buffer_t *out, fail_t *fail)
{
    char path[4096];
    chat_t *chat;
    *fail = (fail_t){0};
    snprintf(path, sizeof path, CHOIR_SOURCE_DIR "/tests/golden/%s.jinja", template);
    const chat_choice_t choice = {.given = path};
    json_t *messages = json_pack(
        "[{s:s,s:o}]", "role", "user", "content", json_loads(content, JSON_DECODE_ANY, NULL));
    const chat_input_t input = {.messages = messages};
    if (chat_open(&chat, NULL, &choice, fail) == 0)
        chat_render(chat, &input, out, fail);
    chat_close(chat);
    json_decref(messages);
    return fail->status;
}

static void parts_of_text_are_shown_by_every_template(void **state)
{
    (void)state;
    static const char *const templates[] = {"tokenizer/templates/chatml",
        "tokenizer/templates/qwen2.5", "chat-templates/microsoft-Phi-3.5-mini-instruct",
        "chat-templates/Qwen3-Coder", "chat-templates/Qwen3.5-4B", "chat-templates/GLM-4.7-Flash",
        "chat-templates/Mistral-Small-3.2-24B-Instruct-2506"};
    for (size_t i = 0; i < sizeof templates / sizeof templates[0]; i++) {
        text_buffer_t plain = {0}, parts = {0};
        fail_t fail;
        assert_int_equal(render_content(templates[i], "\"one two\"", &plain, &fail), 0);
        if (render_content(templates[i],
                "[{\"type\":\"text\",\"text\":\"one \"},{\"type\":\"text\",\"text\":\"two\"}]",
                &parts, &fail) != 0)
            fail_msg("%s: %s", templates[i], fail.message);
        assert_string_equal(parts.text, plain.text);
        text_buffer_clear(&plain);
        text_buffer_clear(&parts);
    }
    text_buffer_t out = {0};
    fail_t fail;
    assert_int_equal(
        render_content("tokenizer/templates/chatml", "[{\"type\":\"image\"}]", &out, &fail),
        FAIL_USAGE);
    assert_non_null(strstr(fail.message, "messages[0]: content[0]: expected {\"type\": \"text\""));
}

static void malformed_conversations_are_told_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"{\"messages\":{}}", "messages: expected an array"},
        {"{}", "messages: expected an array"},
        {"{\"messages\":[]}", "empty conversation"},
        {"{\"messages\":[7]}", "messages[0]: expected an object"},
        {"{\"messages\":[{}],\"tools\":{}}", "tools: expected an array"},
        {"{\"messages\":[{}],\"tools\":[1]}", "tools[0]: expected an object"},
        {"{\"messages\":[{}],\"documents\":[1]}", "documents[0]: expected an object"},
        {"{\"messages\":[{}]", "malformed JSON at byte 17"},
        {"{\"messages\":[{}]}", "'dict object' has no attribute 'role'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text_buffer_t out = {0}, error = {0};
        fail_t fail = {0};
        assert_int_equal(chat_render_text(golden_chat("chatml"), cases[i].line,
                             strlen(cases[i].line), &out, &error, &fail),
            FAIL_USAGE);
        if (strstr(fail.message, cases[i].message) == NULL ||
            strstr(error.text, cases[i].message) == NULL)
            fail_msg("expected \"%s\", found \"%s\"", cases[i].message, fail.message);
        assert_int_equal(out.bytes, 0);
        text_buffer_clear(&error);
    }
    golden_chat(NULL);
}

static void turns_end_where_the_template_says(void **state)
{
    (void)state;
    tokenizer_t *tokenizer;
    chat_t *chat;
    fail_t fail = {0};
    assert_int_equal(tokenizer_open(&tokenizer, DEMO, &fail), 0);
    assert_int_equal(chat_open(&chat, DEMO, NULL, &fail), 0);
    assert_int_equal(chat_end_id(chat, tokenizer), tokenizer_special_id(tokenizer, "<|im_end|>"));
    assert_true(chat_end_id(chat, tokenizer) > 0);
    assert_int_equal(chat_end_id(NULL, tokenizer), -1);
    chat_close(chat);
    const chat_choice_t other = {
        .given =
            CHOIR_SOURCE_DIR "/tests/golden/chat-templates/microsoft-Phi-3.5-mini-instruct.jinja"};
    assert_int_equal(chat_open(&chat, DEMO, &other, &fail), 0);
    assert_int_equal(chat_end_id(chat, tokenizer), -1);
    chat_close(chat);
    tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations_render_as_apply_chat_template_does),
        cmocka_unit_test_setup_teardown(
            a_directory_gives_its_template_from_any_place, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(
            a_template_sees_special_tokens_and_variables, make_directory, remove_directory),
        cmocka_unit_test(parts_of_text_are_shown_by_every_template),
        cmocka_unit_test(malformed_conversations_are_told_what_is_wrong),
        cmocka_unit_test(turns_end_where_the_template_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
