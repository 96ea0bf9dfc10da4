/* Evaluation without a model: templates, tasks and what is wrong with them, and what is extracted from
 * answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/eval/eval_record.h"
#include "engine/eval/eval_task.h"
#include "engine/eval/eval_template.h"
#include "tests/eval_fixture.h"

#define DEMO CHOIR_SOURCE_DIR "/configs/demo"

static tokenizer_t *tokenizer;

static int open_tools(void **state)
{
    fail_t fail = {0};
    log_set_level(LOG_ERROR);
    return open_folder(state) != 0 || tokenizer_open(&tokenizer, DEMO, &fail) != 0;
}

static int close_tools(void **state)
{
    tokenizer_close(tokenizer);
    return close_folder(state);
}

/* ---- Templates ------------------------------------------------------------------------------- */

static void fields_are_filled_in(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"Q: {{q}}\nA:", "Q: what?\nA:"},
        {"{{ q }}{{n}} {{x.y}} {{list[1]}} {{list[0].z}}", "what?3 deep b 0.5"},
        {"no field } {", "no field } {"},
        {"{{yes}}", "true"},
        {"", ""},
    };
    json_t *item = parse("{\"q\": \"what?\", \"n\": 3, \"x\": {\"y\": \"deep\"}, \"yes\": true, "
                         "\"list\": [{\"z\": 0.5}, \"b\"]}");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        text_buffer_t out = {0};
        fail_t fail = {0};
        assert_int_equal(template_render(cases[i][0], item, "here", &out, &fail), 0);
        assert_string_equal(out.text == NULL ? "" : out.text, cases[i][1]);
        text_buffer_clear(&out);
    }
    assert_ptr_equal(template_value("{{list}}", item), json_object_get(item, "list"));
    assert_null(template_value("{{list}} ", item));
    assert_null(template_value("{{none}}", item));
    json_decref(item);
}

static void missing_fields_are_named(void **state)
{
    (void)state;
    static const char *const bad[] = {"{{none}}", "{{q.deeper}}", "{{list[9]}}", "{{list}}"};
    json_t *item = parse("{\"q\": \"what?\", \"list\": [1]}");
    for (size_t i = 0; i < 4; i++) {
        text_buffer_t out = {0};
        fail_t fail = {0};
        assert_int_equal(
            template_render(bad[i], item, "d.jsonl: line 57", &out, &fail), FAIL_FORMAT);
        assert_non_null(strstr(fail.message, "line 57"));
        text_buffer_clear(&out);
    }
    json_decref(item);
    fail_t fail = {0};
    assert_int_equal(template_check("{{a}} {{b", "t", &fail), FAIL_FORMAT);
    fail = (fail_t){0};
    assert_int_equal(template_check("{{ }}", "t", &fail), FAIL_FORMAT);
    fail = (fail_t){0};
    assert_int_equal(template_check("a }} b {{c}}", "t", &fail), 0);
}

/* ---- Tasks ----------------------------------------------------------------------------------- */

static int open_task(eval_task_t *task, const char *text, fail_t *fail)
{
    const eval_overrides_t overrides = {0};
    return eval_task_open(task, write_file("task.json", text), &overrides, DEMO, tokenizer, fail);
}

/* The message of a task that must not open, on data of two good lines. */
static void refused(const char *text, int status, const char *words)
{
    eval_task_t task;
    fail_t fail = {0};
    assert_int_equal(open_task(&task, text, &fail), status);
    if (strstr(fail.message, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", fail.message, words);
}

static void bad_tasks_are_refused_with_their_field(void **state)
{
    (void)state;
    write_file("two.jsonl", "{\"q\": \"a\", \"t\": \"b\"}\n\n{\"q\": \"c\", \"t\": \"d\"}\n");
    write_file("third.jsonl", "{\"q\":\"a\",\"t\":\"b\"}\n\n{\"t\":\"d\"}\n");
    write_file(
        "twice.jsonl", "{\"q\":\"a\",\"t\":\"b\",\"i\":4}\n{\"q\":\"c\",\"t\":\"d\",\"i\":4}\n");
    write_file("broken.jsonl", "{\"q\":\"a\",\"t\":\"b\"}\n{\"q\":\n");
    write_file("empty.jsonl", "\n\n");
#define TASK(data, more)                                                                           \
    "{\"name\":\"n\",\"kind\":\"generate\",\"data\":\"" data                                       \
    "\",\"prompt\":\"{{q}}\",\"target\":\"{{t}}\"" more "}"
    refused("{", FAIL_FORMAT, "task.json");
    refused("[]", FAIL_FORMAT, "object");
    refused("{\"name\":\"n\",\"kind\":\"guess\"}", FAIL_FORMAT, "guess");
    refused("{\"kind\":\"generate\"}", FAIL_FORMAT, "\"name\"");
    refused("{\"name\":\"n\",\"kind\":\"generate\",\"prompt\":\"x\"}", FAIL_FORMAT, "\"target\"");
    refused("{\"name\":\"n\",\"kind\":\"choice\",\"prompt\":\"x\"}", FAIL_FORMAT, "\"answer\"");
    refused(TASK("two.jsonl", ",\"stops\":[]"), FAIL_FORMAT, "\"stops\"");
    refused(TASK("two.jsonl", ",\"stop\":[\"\"]"), FAIL_FORMAT, "\"stop\"");
    refused(TASK("two.jsonl", ",\"max_tokens\":0"), FAIL_FORMAT, "max_tokens");
    refused(TASK("two.jsonl", ",\"extract\":[{\"name\":\"x\",\"pattern\":\"(\"}]"), FAIL_FORMAT,
        "regular expression");
    refused(TASK("two.jsonl", ",\"shots\":{\"data\":\"two.jsonl\",\"count\":3}"), FAIL_FORMAT,
        "expected 3 examples, found 2");
    refused(TASK("none.jsonl", ""), FAIL_FILE, "none.jsonl");
    refused(TASK("third.jsonl", ""), FAIL_FORMAT, "third.jsonl: line 3: field \"q\"");
    refused(TASK("broken.jsonl", ""), FAIL_FORMAT, "broken.jsonl: line 2");
    refused(TASK("empty.jsonl", ""), FAIL_FORMAT, "found none");
    refused(
        TASK("twice.jsonl", ",\"id\":\"{{i}}\""), FAIL_FORMAT, "items 1 and 2 have the same id");
    fail_t fail = {0};
    eval_task_t task;
    const eval_overrides_t overrides = {0};
    assert_int_equal(
        eval_task_open(&task, "no-such", &overrides, DEMO, tokenizer, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "no-such"));
}

#define CHOICE(more)                                                                               \
    "{\"name\":\"n\",\"kind\":\"choice\",\"data\":\"choices.jsonl\",\"prompt\":\"{{q}}\","         \
    "\"answer\":"                                                                                  \
    "\"{{a}}\",\"choices\":[\"yes\",\"no\"]" more "}"
#define PERPLEXITY(more) "{\"name\":\"n\",\"kind\":\"perplexity\",\"data\":\"two.jsonl\"" more "}"

static void fields_that_nobody_would_read_are_refused(void **state)
{
    (void)state;
    write_file("two.jsonl", "{\"q\": \"a\", \"t\": \"b\"}\n\n{\"q\": \"c\", \"t\": \"d\"}\n");
    write_file("choices.jsonl", "{\"q\": \"Is it?\", \"a\": \"no\"}\n");
    refused(CHOICE(",\"target\":\"x\""), FAIL_FORMAT,
        "kind choice: unknown field \"target\"; allowed are name, about, licence, kind, data, id, "
        "chat, system, prompt, shots, choices, answer, before_choice");
    refused(CHOICE(",\"max_tokens\":3"), FAIL_FORMAT, "\"max_tokens\"");
    refused(CHOICE(",\"before_choice\":3"), FAIL_FORMAT, "before_choice: expected a string");
    refused(TASK("two.jsonl", ",\"choices\":[]"), FAIL_FORMAT, "\"choices\"");
    refused(TASK("two.jsonl", ",\"system\":\"Be brief.\""), FAIL_FORMAT,
        "field \"system\": needs \"chat\": true");
    refused(TASK("two.jsonl", ",\"shots\":3"), FAIL_FORMAT, "\"shots\": expected an object");
    refused(TASK("two.jsonl", ",\"shots\":{\"data\":\"two.jsonl\",\"count\":1,\"betwen\":\"\"}"),
        FAIL_FORMAT, "unknown field \"betwen\"; allowed are data, count, between, before_target");
    refused(TASK("two.jsonl", ",\"chat\":true,\"shots\":{\"data\":\"two.jsonl\",\"between\":\"\"}"),
        FAIL_FORMAT, "\"between\"");
    refused(TASK("two.jsonl", ",\"extract\":[{\"name\":\"x\",\"patern\":\"a\"}]"), FAIL_FORMAT,
        "unknown field \"patern\"; allowed are name, pattern, take");
    refused(TASK("two.jsonl", ",\"extract\":[{\"name\":\"x\"},{\"name\":\"x\",\"pattern\":\"a\"}]"),
        FAIL_FORMAT, "found \"x\" twice");
    refused(PERPLEXITY(",\"prompt\":\"{{q}}\""), FAIL_FORMAT, "kind perplexity: unknown field");
    refused(PERPLEXITY(",\"id\":\"{{q}}\""), FAIL_FORMAT, "\"id\": needs \"text\"");
    refused("{\"name\":\"n\",\"kind\":\"generate\",\"prompt\":\"a\\u0000b\"}", FAIL_FORMAT,
        "prompt: expected a text without the character U+0000");
}

static void flags_that_a_kind_does_not_read_are_refused(void **state)
{
    (void)state;
    const eval_overrides_t longer = {.has_max_tokens = true, .max_tokens = 9};
    const eval_overrides_t shots = {.has_shots = true, .shots = 2};
    eval_task_t task;
    fail_t fail = {0};
    assert_int_equal(
        eval_task_open(&task, "word-problems-choice", &longer, DEMO, tokenizer, &fail), FAIL_USAGE);
    assert_non_null(
        strstr(fail.message, "--max-tokens: task word-problems-choice is of kind choice"));
    fail = (fail_t){0};
    assert_int_equal(eval_task_open(&task, "plays", &shots, DEMO, tokenizer, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "--shots: task plays is of kind perplexity"));
}

/* A name is part of a folder's. */
static void names_that_lead_elsewhere_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {
        "../../../x", "a/b", "..", ".hidden", "", "\\u001b[31mred", "a\\nb", "a\\u0000b"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[200];
        snprintf(text, sizeof text,
            "{\"name\":\"%s\",\"kind\":\"generate\",\"data\":\"two.jsonl\",\"prompt\":\"{{q}}\","
            "\"target\":\"{{t}}\"}",
            names[i]);
        refused(text, FAIL_FORMAT, "name");
    }
    refused("{\"name\":\"\\u001b[2J\",\"kind\":\"generate\",\"data\":\"d\",\"prompt\":\"\","
            "\"target\":\"\"}",
        FAIL_FORMAT, "found \"\\x1b[2J\"");
}

/* Examples of a choice task are turns that end in the right choice. */
static void examples_of_choices_have_their_answers_in_a_chat(void **state)
{
    (void)state;
    eval_task_t task;
    fail_t fail = {0};
    char *text;
    size_t bytes;
    write_file("choices.jsonl", "{\"q\": \"Is it?\", \"a\": \"no\"}\n");
    assert_int_equal(
        open_task(&task,
            CHOICE(",\"chat\":true,\"shots\":{\"data\":\"choices.jsonl\",\"count\":1}"), &fail),
        0);
    const tokenizer_ids_t *ids = &task.items[0].jobs[0].ids;
    assert_int_equal(
        tokenizer_decode(tokenizer, ids->ids, ids->count, false, &text, &bytes, &fail), 0);
    assert_non_null(strstr(text, "<|im_start|>assistant\nno<|im_end|>\n<|im_start|>user\nIs it?"));
    free(text);
    eval_task_close(&task);
}

static void prompts_have_their_shots(void **state)
{
    (void)state;
    eval_task_t task;
    fail_t fail = {0};
    write_file("two.jsonl", "{\"q\": \"a\", \"t\": \"b\"}\n{\"q\": \"c\", \"t\": \"d\"}\n");
    assert_int_equal(open_task(&task,
                         TASK("two.jsonl", ",\"shots\":{\"data\":\"two.jsonl\",\"count\":2,"
                                           "\"between\":\";\",\"before_target\":\"=\"}"),
                         &fail),
        0);
    assert_int_equal(task.n_items, 2);
    char *text;
    size_t bytes;
    const tokenizer_ids_t *ids = &task.items[1].jobs[0].ids;
    assert_int_equal(
        tokenizer_decode(tokenizer, ids->ids, ids->count, false, &text, &bytes, &fail), 0);
    assert_string_equal(text, "a=b;c=d;c");
    assert_string_equal(task.items[1].target, "d");
    assert_string_equal(task.items[1].id, "1");
    free(text);
    eval_task_close(&task);
}

static void every_task_that_ships_opens(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t n_items;
    } tasks[] = {
        {"gsm8k", 1319}, {"word-problems", 400}, {"word-problems-choice", 400}, {"plays", 61}};
    for (size_t i = 0; i < 4; i++) {
        eval_task_t task;
        fail_t fail = {0};
        const eval_overrides_t overrides = {0};
        assert_int_equal(
            eval_task_open(&task, tasks[i].name, &overrides, DEMO, tokenizer, &fail), 0);
        assert_int_equal(task.n_items, tasks[i].n_items);
        eval_task_close(&task);
    }
}

/* Every token but the first is scored once, with as much before it as the window has room for. */
static void windows_cover_a_text_once(void **state)
{
    (void)state;
    eval_task_t task;
    fail_t fail = {0};
    const eval_overrides_t overrides = {0};
    assert_int_equal(eval_task_open(&task, "plays", &overrides, DEMO, tokenizer, &fail), 0);
    size_t scored = 0, words = 0, bytes = 0;
    for (size_t i = 0; i < task.n_items; i++) {
        const eval_job_t *job = &task.items[i].jobs[0];
        assert_true(job->ids.count <= task.window + 1);
        assert_true(i == 0 || i + 1 == task.n_items || job->n_scored == task.stride);
        assert_true(i == 0 || job->ids.count == task.window + 1);
        scored += job->n_scored;
        words += task.items[i].words;
        bytes += task.items[i].bytes;
    }
    tokenizer_ids_t ids = {0};
    char *text;
    size_t n;
    assert_int_equal(
        file_read(CHOIR_SOURCE_DIR "/configs/tasks/data/plays.txt", 1 << 20, &text, &n, &fail), 0);
    assert_int_equal(tokenizer_encode(tokenizer, text, n, false, &ids, &fail), 0);
    assert_int_equal(scored, ids.count);
    assert_int_equal(bytes, n);
    size_t expected = 0;
    for (char *rest = text, *word; (word = strsep(&rest, " \n")) != NULL;)
        expected += *word != 0;
    assert_int_equal(words, expected);
    free(text);
    tokenizer_ids_clear(&ids);
    eval_task_close(&task);
}

static void choices_take_their_answer_in_three_ways(void **state)
{
    (void)state;
    eval_task_t task;
    fail_t fail = {0};
    write_file("choice.jsonl",
        "{\"q\":\"x\",\"a\":\"no\",\"l\":1}\n{\"q\":\"x\",\"a\":\"A\",\"l\":1}\n"
        "{\"q\":\"x \",\"a\":1,\"l\":1}\n");
    assert_int_equal(open_task(&task,
                         "{\"name\":\"n\",\"kind\":\"choice\",\"data\":\"choice.jsonl\",\"prompt\":"
                         "\"{{q}}\",\"choices\":[\"yes\",\"no\"],\"answer\":\"{{a}}\"}",
                         &fail),
        0);
    assert_int_equal(task.items[0].answer, 1);
    assert_int_equal(task.items[1].answer, 0);
    assert_int_equal(task.items[2].answer, 1);
    assert_int_equal(task.items[0].jobs[0].weight, 3);
    assert_true(task.items[2].jobs[0].n_scored >= 1);
    eval_task_close(&task);
}

/* ---- Records --------------------------------------------------------------------------------- */

/* What the task gsm8k finds in an answer, and whether that equals the target. */
static void judge(const char *answer, const char *target, const char *strict, const char *flexible,
    bool strict_correct, bool flexible_correct)
{
    eval_task_t task;
    fail_t fail = {0};
    const eval_overrides_t overrides = {.limit = 1};
    assert_int_equal(eval_task_open(&task, "gsm8k", &overrides, DEMO, tokenizer, &fail), 0);
    tokenizer_ids_t ids = {0};
    assert_int_equal(tokenizer_encode(tokenizer, answer, strlen(answer), true, &ids, &fail), 0);
    double *logprobs = calloc(ids.count + 1, sizeof *logprobs);
    free(task.items[0].target);
    task.items[0].target = strdup(target);
    const fleet_result_t result = {.tokens = ids.ids,
        .logprobs = logprobs,
        .n_tokens = ids.count,
        .text = answer,
        .text_bytes = strlen(answer),
        .finish = ENGINE_STOP};
    json_t *line = eval_record(&task, &task.items[0], &result, &fail);
    assert_non_null(line);
    json_t *extracted = json_object_get(line, "extracted"),
           *correct = json_object_get(line, "correct");
    const char *names[2] = {"strict-match", "flexible-extract"}, *texts[2] = {strict, flexible};
    const bool right[2] = {strict_correct, flexible_correct};
    for (int i = 0; i < 2; i++) {
        const char *found = json_string_value(json_object_get(extracted, names[i]));
        assert_string_equal(found == NULL ? "none" : found, texts[i] == NULL ? "none" : texts[i]);
        assert_int_equal(json_is_true(json_object_get(correct, names[i])), right[i]);
    }
    json_decref(line);
    free(logprobs);
    tokenizer_ids_clear(&ids);
    eval_task_close(&task);
}

static void gsm8k_finds_answers_as_the_harness_does(void **state)
{
    (void)state;
    judge("She has 3.\n#### 1,234", "x\n#### 1234", "1,234", "1,234", true, true);
    judge("So it is $18.", "9 eggs\n#### 18", NULL, "$18.", false, true);
    judge("#### 5 and then #### 6", "#### 5", "5", "6", true, false);
    judge("#### -7", "#### -7", "-7", "-7", true, true);
    judge("none at all", "#### 1", NULL, NULL, false, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_filled_in),
        cmocka_unit_test(missing_fields_are_named),
        cmocka_unit_test(bad_tasks_are_refused_with_their_field),
        cmocka_unit_test(fields_that_nobody_would_read_are_refused),
        cmocka_unit_test(flags_that_a_kind_does_not_read_are_refused),
        cmocka_unit_test(names_that_lead_elsewhere_are_refused),
        cmocka_unit_test(examples_of_choices_have_their_answers_in_a_chat),
        cmocka_unit_test(prompts_have_their_shots),
        cmocka_unit_test(every_task_that_ships_opens),
        cmocka_unit_test(windows_cover_a_text_once),
        cmocka_unit_test(choices_take_their_answer_in_three_ways),
        cmocka_unit_test(gsm8k_finds_answers_as_the_harness_does),
    };
    return cmocka_run_group_tests(tests, open_tools, close_tools);
}
