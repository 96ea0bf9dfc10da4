/* Evaluation without a model: templates, tasks and what is wrong with them, extraction and scores,
 * and a results file under the accidents that it must survive. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "launch/eval_compare.h"
#include "launch/eval_record.h"
#include "launch/eval_results.h"
#include "launch/eval_tally.h"
#include "launch/eval_task.h"
#include "launch/eval_template.h"
#include "launch/mesh.h"

#define DEMO CHOIR_SOURCE_DIR "/configs/demo"

static tokenizer_t *tokenizer;
static char folder[] = "/tmp/choir-test-eval-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[4][256];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static const char *write_file(const char *name, const char *text)
{
    const char *path = path_of(name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fputs(text, file) >= 0, 1);
    assert_int_equal(fclose(file), 0);
    return path;
}

static int open_tools(void **state)
{
    fail_t fail = {0};
    (void)state;
    log_set_level(LOG_ERROR);
    return mkdtemp(folder) == NULL || tokenizer_open(&tokenizer, DEMO, &fail) != 0;
}

static int close_tools(void **state)
{
    char command[300];
    (void)state;
    tokenizer_close(tokenizer);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static json_t *parse(const char *text)
{
    json_t *value = json_loads(text, 0, NULL);
    assert_non_null(value);
    return value;
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
    const fleet_result_t result = {
        .tokens = ids.ids, .logprobs = logprobs, .n_tokens = ids.count, .finish = ENGINE_STOP};
    json_t *line = eval_record(&task, &task.items[0], &result, tokenizer, &fail);
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
    judge("4\nQuestion: 5", "#### 4", NULL, "4", false, true); /* cut at the stop string */
}

static void stop_strings_end_the_output(void **state)
{
    (void)state;
    fail_t fail = {0};
    tokenizer_ids_t ids = {0};
    static const char *const stops[2] = {"zzz", "lo"};
    text_buffer_t text = {0};
    assert_int_equal(tokenizer_encode(tokenizer, "hello lo", 8, true, &ids, &fail), 0);
    const fleet_result_t result = {.tokens = ids.ids, .n_tokens = ids.count};
    assert_int_equal(eval_output_text(&result, tokenizer, stops, 2, &text, &fail), 0);
    assert_string_equal(text.text, "hel");
    text_buffer_clear(&text);
    tokenizer_ids_clear(&ids);
}

/* ---- Scores ---------------------------------------------------------------------------------- */

static double score(json_t *scores, const char *name, const char *key)
{
    return json_number_value(json_object_get(json_object_get(scores, name), key));
}

static void accuracy_has_its_error_and_interval(void **state)
{
    (void)state;
    eval_task_t task = {.kind = EVAL_GENERATE, .n_items = 100, .n_extracts = 1};
    task.extracts[0].name = "exact";
    eval_tally_t tally;
    fail_t fail = {0};
    assert_int_equal(eval_tally_open(&tally, &task, &fail), 0);
    for (int i = 99; i >= 0; i--) {
        json_t *line = json_pack("{s:i,s:{s:b}}", "index", i, "correct", "exact", i % 5 == 0);
        if (i == 7)
            json_object_set_new(line, "error", json_string("too long"));
        eval_tally_add(&tally, line);
        json_decref(line);
    }
    assert_int_equal(tally.n_errors, 1);
    json_t *scores = eval_tally_json(&tally), *again = eval_tally_json(&tally);
    assert_true(json_equal(scores, again));
    assert_true(score(scores, "exact", "score") == 0.2);
    double error = score(scores, "exact", "stderr"); /* sqrt(0.2 * 0.8 / 99) */
    assert_true(error > 0.0402 && error < 0.04021);
    json_t *interval = json_object_get(json_object_get(scores, "exact"), "interval_95");
    double low = json_number_value(json_array_get(interval, 0));
    double high = json_number_value(json_array_get(interval, 1));
    assert_true(low > 0.09 && low < 0.16 && high > 0.24 && high < 0.32);
    json_decref(scores);
    json_decref(again);
    eval_tally_close(&tally);
}

static void perplexity_is_a_ratio_of_sums(void **state)
{
    (void)state;
    eval_task_t task = {.kind = EVAL_PERPLEXITY, .n_items = 2};
    eval_tally_t tally;
    fail_t fail = {0};
    assert_int_equal(eval_tally_open(&tally, &task, &fail), 0);
    static const double logprobs[2] = {-2, -4};
    for (int i = 0; i < 2; i++) {
        json_t *line = json_pack("{s:i,s:f,s:i,s:i,s:i}", "index", i, "logprob", logprobs[i],
            "scored_tokens", 1 + i, "words", 1, "bytes", 6);
        eval_tally_add(&tally, line);
        json_decref(line);
    }
    json_t *scores = eval_tally_json(&tally);
    /* exp(6 / 3), exp(6 / 2), exp(6 / 12) */
    assert_true(score(scores, "token_perplexity", "score") > 7.38905 &&
                score(scores, "token_perplexity", "score") < 7.38906);
    assert_true(score(scores, "word_perplexity", "score") > 20.0855 &&
                score(scores, "word_perplexity", "score") < 20.0856);
    assert_true(score(scores, "byte_perplexity", "score") > 1.64872 &&
                score(scores, "byte_perplexity", "score") < 1.64873);
    json_decref(scores);
    eval_tally_close(&tally);
}

/* ---- Results --------------------------------------------------------------------------------- */

static json_t *line_at(int index)
{
    return json_pack("{s:i,s:s,s:[i,i],s:[f,f],s:{s:i}}", "index", index, "id", "x", "tokens", 5, 6,
        "logprobs", -0.5, -1.0 / 3, "timings", "total_us", 17 + index);
}

static void append_line(eval_results_t *results, int index, fail_t *fail)
{
    json_t *line = line_at(index);
    eval_results_append(results, line, fail);
    json_decref(line);
}

/* Opens a folder with settings {"a": a}; the number of lines that are there. */
static size_t open_results(eval_results_t *results, const char *name, int a, fail_t *fail)
{
    eval_lines_t lines;
    json_t *settings = json_pack("{s:i,s:s}", "a", a, "b", "same");
    eval_results_open(results, path_of(name), settings, &lines, fail);
    size_t n = lines.count;
    eval_lines_clear(&lines);
    json_decref(settings);
    return n;
}

static void a_torn_last_line_is_dropped_wherever_it_is_torn(void **state)
{
    (void)state;
    eval_results_t results;
    fail_t fail = {0};
    assert_int_equal(open_results(&results, "torn", 1, &fail), 0);
    for (int i = 2; i >= 0; i--)
        append_line(&results, i, &fail);
    eval_results_close(&results);
    assert_int_equal(fail.status, 0);
    struct stat whole;
    char path[300];
    snprintf(path, sizeof path, "%s/results.jsonl", path_of("torn"));
    assert_int_equal(stat(path, &whole), 0);
    char *text = calloc(1, (size_t)whole.st_size + 1);
    FILE *file = fopen(path, "r");
    assert_int_equal(fread(text, 1, (size_t)whole.st_size, file), whole.st_size);
    fclose(file);
    off_t line = whole.st_size / 3;
    for (off_t cut = whole.st_size - 1; cut >= whole.st_size - line; cut--) {
        file = fopen(path, "w");
        fwrite(text, 1, (size_t)cut, file);
        fclose(file);
        assert_int_equal(open_results(&results, "torn", 1, &fail), 2);
        assert_int_equal(fail.status, 0);
        append_line(&results, 0, &fail);
        eval_results_close(&results);
        struct stat again;
        assert_int_equal(stat(path, &again), 0);
        assert_int_equal(again.st_size, whole.st_size);
    }
    /* Torn by a machine that failed: a whole line that was never filled. */
    file = fopen(path, "w");
    fwrite(text, 1, (size_t)line, file);
    fputs("\0\0\0\n", file);
    fputc('\n', file);
    fclose(file);
    assert_int_equal(open_results(&results, "torn", 1, &fail), 1);
    eval_results_close(&results);
    /* In the middle it is no accident of ours. */
    file = fopen(path, "w");
    fprintf(file, "{\"index\": 0}\n{\"ind\n{\"index\": 1}\n");
    fclose(file);
    open_results(&results, "torn", 1, &fail);
    assert_int_equal(fail.status, FAIL_FORMAT);
    assert_non_null(strstr(fail.message, "line 2"));
    free(text);
}

static void other_settings_are_refused_by_name(void **state)
{
    (void)state;
    eval_results_t results;
    fail_t fail = {0};
    open_results(&results, "settings", 1, &fail);
    append_line(&results, 0, &fail);
    eval_results_close(&results);
    assert_int_equal(open_results(&results, "settings", 1, &fail), 1);
    eval_results_close(&results);
    assert_int_equal(fail.status, 0);
    open_results(&results, "settings", 2, &fail);
    assert_int_equal(fail.status, FAIL_USAGE);
    assert_non_null(strstr(fail.message, "a is 1 there and 2 here"));
    fail = (fail_t){0};
    unlink(path_of("settings/run.json"));
    open_results(&results, "settings", 1, &fail);
    assert_int_equal(fail.status, FAIL_USAGE);
    assert_non_null(strstr(fail.message, "run.json"));
}

static void one_run_at_a_time(void **state)
{
    (void)state;
    eval_results_t first, second;
    fail_t fail = {0};
    open_results(&first, "locked", 1, &fail);
    assert_int_equal(fail.status, 0);
    open_results(&second, "locked", 1, &fail);
    assert_int_equal(fail.status, FAIL_FILE);
    assert_non_null(strstr(fail.message, "another run"));
    eval_results_close(&first);
}

/* Room for two lines and a part of the third. */
static void a_full_disk_leaves_whole_lines(void **state)
{
    (void)state;
    eval_results_t results;
    fail_t fail = {0};
    struct rlimit before, small;
    struct stat info;
    open_results(&results, "full", 1, &fail);
    append_line(&results, 0, &fail);
    assert_int_equal(fstat(results.file, &info), 0);
    off_t line = info.st_size;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = (rlim_t)(2 * line + line / 2);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    append_line(&results, 1, &fail);
    assert_int_equal(fail.status, 0);
    append_line(&results, 2, &fail);
    assert_int_equal(fail.status, FAIL_FILE);
    assert_non_null(strstr(fail.message, "cannot append"));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(fstat(results.file, &info), 0);
    assert_int_equal(info.st_size, 2 * line);
    eval_results_close(&results);
    fail = (fail_t){0};
    assert_int_equal(open_results(&results, "full", 1, &fail), 2);
    eval_results_close(&results);
}

static void comparing_counts_what_differs(void **state)
{
    (void)state;
    static const char a[] = "{\"index\":1,\"id\":\"x\",\"tokens\":[5,6],\"logprobs\":[-1.0,-2.0],"
                            "\"timings\":{\"t\":1}}\n"
                            "{\"index\":0,\"id\":\"y\"}\n";
    static const char b[] = "{\"index\":0,\"id\":\"y\",\"timings\":{\"t\":9}}\n"
                            "{\"index\":1,\"id\":\"x\",\"tokens\":[5,6],\"logprobs\":[-1.0,-2.0],"
                            "\"timings\":{\"t\":2}}\n";
    static const char c[] = "{\"index\":1,\"id\":\"x\",\"tokens\":[5,7],\"logprobs\":[-1.0,-2.5]}\n"
                            "{\"index\":2,\"id\":\"z\"}\n";
    size_t n;
    fail_t fail = {0};
    write_file("a.jsonl", a);
    write_file("b.jsonl", b);
    write_file("c.jsonl", c);
    assert_int_equal(eval_compare(path_of("a.jsonl"), path_of("b.jsonl"), &n, &fail), 0);
    assert_int_equal(n, 0);
    assert_int_equal(eval_compare(path_of("a.jsonl"), path_of("c.jsonl"), &n, &fail), 0);
    assert_int_equal(n, 3);
    assert_int_equal(eval_compare(path_of("a.jsonl"), path_of("none"), &n, &fail), FAIL_FILE);
}

/* ---- Meshes ---------------------------------------------------------------------------------- */

static void meshes_are_parsed(void **state)
{
    (void)state;
    size_t n;
    fail_t fail = {0};
    assert_int_equal(mesh_parse(NULL, 6, &n, &fail), 0);
    assert_int_equal(n, 1);
    assert_int_equal(mesh_parse("3x2", 6, &n, &fail), 0);
    assert_int_equal(n, 3);
    static const char *const bad[] = {
        "", "x", "2x", "x2", "2x2x", "-2x-3", "2*3", "0x6", "6x0", "2x2", " "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fail = (fail_t){0};
        assert_int_equal(mesh_parse(bad[i], 6, &n, &fail), FAIL_USAGE);
    }
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
        cmocka_unit_test(stop_strings_end_the_output),
        cmocka_unit_test(accuracy_has_its_error_and_interval),
        cmocka_unit_test(perplexity_is_a_ratio_of_sums),
        cmocka_unit_test(a_torn_last_line_is_dropped_wherever_it_is_torn),
        cmocka_unit_test(other_settings_are_refused_by_name),
        cmocka_unit_test(one_run_at_a_time),
        cmocka_unit_test(a_full_disk_leaves_whole_lines),
        cmocka_unit_test(comparing_counts_what_differs),
        cmocka_unit_test(meshes_are_parsed),
    };
    return cmocka_run_group_tests(tests, open_tools, close_tools);
}
