/* Scores of an evaluation, and a results file under the accidents that it must survive. */
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
#include "engine/eval/eval_compare.h"
#include "engine/eval/eval_results.h"
#include "engine/eval/eval_tally.h"
#include "tests/eval_fixture.h"

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

static void count(void *context, const eval_difference_t *difference)
{
    assert_true(difference->a != NULL || difference->b != NULL);
    ++*(size_t *)context;
}

/* *n: how many items differ: reported one by one, and the total. */
static int compare(const char *a, const char *b, size_t *n, fail_t *fail)
{
    eval_comparison_t comparison;
    *n = 0;
    eval_compare(path_of(a), path_of(b), count, n, &comparison, fail);
    assert_int_equal(comparison.n_different, *n);
    return fail->status;
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
    assert_int_equal(compare("a.jsonl", "b.jsonl", &n, &fail), 0);
    assert_int_equal(n, 0);
    assert_int_equal(compare("a.jsonl", "c.jsonl", &n, &fail), 0);
    assert_int_equal(n, 3);
    assert_int_equal(compare("a.jsonl", "none", &n, &fail), FAIL_FILE);
}

static int begin(void **state)
{
    log_set_level(LOG_ERROR);
    return open_folder(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accuracy_has_its_error_and_interval),
        cmocka_unit_test(perplexity_is_a_ratio_of_sums),
        cmocka_unit_test(a_torn_last_line_is_dropped_wherever_it_is_torn),
        cmocka_unit_test(other_settings_are_refused_by_name),
        cmocka_unit_test(one_run_at_a_time),
        cmocka_unit_test(a_full_disk_leaves_whole_lines),
        cmocka_unit_test(comparing_counts_what_differs),
    };
    return cmocka_run_group_tests(tests, begin, close_folder);
}
