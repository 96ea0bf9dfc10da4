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

#include "launch/chat_commands.h"
#include "launch/history.h"

/* ---- Commands -------------------------------------------------------------------------------- */

static void parses(const char *line, chat_command_t expected, const char *expected_argument)
{
    char text[256], *argument;
    size_t n;
    snprintf(text, sizeof text, "%s", line);
    assert_int_equal(chat_command_parse(text, strlen(text), &argument, &n), expected);
    assert_string_equal(argument, expected_argument);
    assert_int_equal(n, strlen(expected_argument));
}

static void a_slash_and_a_word_is_a_command(void **state)
{
    (void)state;
    parses("/help", COMMAND_HELP, "");
    parses("/quit ", COMMAND_QUIT, "");
    parses("/exit", COMMAND_QUIT, "");
    parses("/set  top_p\t0.5 ", COMMAND_SET, "top_p\t0.5");
    parses("/system You are\na pirate.\n", COMMAND_SYSTEM, "You are\na pirate.");
    parses("/save a file.json", COMMAND_SAVE, "a file.json");
    parses("/reset", COMMAND_RESET, "");
    parses("/nonsense with words", COMMAND_UNKNOWN, "with words");
    parses("/Help", COMMAND_UNKNOWN, "");
}

static void everything_else_is_a_text(void **state)
{
    (void)state;
    parses("Hello /help", COMMAND_TEXT, "Hello /help");
    parses(" /help", COMMAND_TEXT, " /help");
    parses("/usr/bin is what?", COMMAND_TEXT, "/usr/bin is what?");
    parses("/* a comment */", COMMAND_TEXT, "/* a comment */");
    parses("/", COMMAND_TEXT, "/");
    parses("//help", COMMAND_TEXT, "/help");
    parses("", COMMAND_TEXT, "");
}

static void an_unknown_command_offers_the_nearest(void **state)
{
    (void)state;
    fail_t fail = {0};
    assert_int_equal(chat_command_unknown("/sistem be brief", &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "unknown command /sistem, did you mean /system; /help"));
    fail = (fail_t){0};
    chat_command_unknown("/nonsense", &fail);
    assert_null(strstr(fail.message, "did you mean"));
}

/* ---- Settings -------------------------------------------------------------------------------- */

static int set(answer_flags_t *flags, args_given_t *given, const char *argument, fail_t *fail)
{
    *fail = (fail_t){0};
    return chat_settings_set(flags, given, argument, fail);
}

static void settings_are_stored_as_their_flags_would_be(void **state)
{
    (void)state;
    answer_flags_t flags = ANSWER_DEFAULTS;
    args_given_t given = {0};
    fail_t fail;
    assert_int_equal(set(&flags, &given, "temperature 0.7", &fail), 0);
    assert_int_equal(set(&flags, &given, "top_p=0.5", &fail), 0);
    assert_int_equal(set(&flags, &given, "min-p = 0.1", &fail), 0);
    assert_int_equal(set(&flags, &given, "top_k 40", &fail), 0);
    assert_int_equal(set(&flags, &given, "seed 18446744073709551615", &fail), 0);
    assert_int_equal(set(&flags, &given, "max_tokens 7", &fail), 0);
    assert_int_equal(set(&flags, &given, "repetition_penalty 1.5", &fail), 0);
    assert_true(flags.temperature == 0.7 && flags.top_p == 0.5 && flags.min_p == 0.1);
    assert_true(flags.top_k == 40 && flags.seed == UINT64_MAX && flags.max_tokens == 7);
    assert_true(flags.repetition_penalty == 1.5);
    assert_true(args_was_given(&given, "--temperature"));
}

static void a_setting_may_be_set_any_number_of_times(void **state)
{
    (void)state;
    answer_flags_t flags = ANSWER_DEFAULTS;
    args_given_t given = {0};
    fail_t fail;
    for (int i = 0; i < 2 * ARGS_MAX_GIVEN; i++)
        assert_int_equal(set(&flags, &given, "temperature 1", &fail), 0);
    assert_int_equal(given.count, 1);
    assert_int_equal(set(&flags, &given, "top_k 3", &fail), 0);
    assert_true(args_was_given(&given, "--top-k"));
}

static void bad_settings_change_nothing(void **state)
{
    (void)state;
    answer_flags_t flags = ANSWER_DEFAULTS, before = flags;
    args_given_t given = {0};
    fail_t fail;
    static const char *const bad[][2] = {
        {"top_p 1.5", "--top-p: expected a number from 0 to 1, found 1.5"},
        {"top_p", "/set top_p: expected a value, found none"},
        {"temprature 1", "did you mean temperature"},
        {"model x", "unknown setting model"},
        {"stop x", "unknown setting stop"},
        {"--top-p 1", "unknown setting"},
        {"seed -1", "--seed: expected an integer"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(set(&flags, &given, bad[i][0], &fail), FAIL_USAGE);
        assert_non_null(strstr(fail.message, bad[i][1]));
    }
    assert_memory_equal(&flags, &before, sizeof flags);
    assert_int_equal(given.count, 0);
}

static void the_list_shows_what_holds(void **state)
{
    (void)state;
    answer_flags_t flags = ANSWER_DEFAULTS;
    sampler_params_t sampling = {.temperature = 0.7, .top_k = 20, .top_p = 0.9, .seed = 5};
    text_buffer_t list = {0};
    fail_t fail = {0};
    assert_int_equal(chat_settings_list(&flags, &sampling, &list, &fail), 0);
    static const char *const lines[] = {"temperature         0.7\n", "top_k               20\n",
        "top_p               0.9\n", "seed                5\n", "max_tokens          512\n"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_non_null(strstr(list.text, lines[i]));
    text_buffer_clear(&list);
}

/* ---- History --------------------------------------------------------------------------------- */

static char folder[64], file[128];
static size_t n_taken;
static char last_taken[8192];

static void take(void *context, const char *text)
{
    (void)context;
    n_taken++;
    snprintf(last_taken, sizeof last_taken, "%s", text);
}

static void reopen(history_t *history)
{
    n_taken = 0;
    last_taken[0] = 0;
    history_open(history, take, NULL);
}

static int new_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/choir-history-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/choir/history", folder);
    return setenv("XDG_STATE_HOME", folder, 1);
}

static int drop_folder(void **state)
{
    char path[128];
    (void)state;
    unlink(file);
    snprintf(path, sizeof path, "%s/choir", folder);
    rmdir(path);
    return rmdir(folder);
}

static bool add(const history_t *history, const char *text)
{
    return history_add(history, text, strlen(text));
}

static void texts_of_a_session_are_there_in_the_next(void **state)
{
    (void)state;
    history_t history;
    struct stat status;
    reopen(&history);
    assert_int_equal(n_taken, 0);
    assert_true(add(&history, "one"));
    assert_true(add(&history, "two\nlines, \"\xc3\xa9\" and \\"));
    assert_false(add(&history, ""));
    assert_false(add(&history, " a space before it"));
    assert_false(add(&history, "\xff"));
    reopen(&history);
    assert_int_equal(n_taken, 2);
    assert_string_equal(last_taken, "two\nlines, \"\xc3\xa9\" and \\");
    assert_int_equal(stat(file, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
}

static void long_texts_are_not_kept(void **state)
{
    (void)state;
    history_t history;
    char *text = malloc(HISTORY_MAX_TEXT_BYTES + 1);
    memset(text, 'x', HISTORY_MAX_TEXT_BYTES + 1);
    reopen(&history);
    assert_false(history_add(&history, text, HISTORY_MAX_TEXT_BYTES + 1));
    assert_true(history_add(&history, text, HISTORY_MAX_TEXT_BYTES));
    reopen(&history);
    assert_int_equal(n_taken, 1);
    free(text);
}

static void a_long_file_is_cut_to_its_last_texts(void **state)
{
    (void)state;
    history_t history;
    char text[32];
    reopen(&history);
    for (int i = 0; i < 2 * HISTORY_MAX_TEXTS + 5; i++) {
        snprintf(text, sizeof text, "text %d", i);
        add(&history, text);
    }
    reopen(&history);
    assert_int_equal(n_taken, HISTORY_MAX_TEXTS);
    assert_string_equal(last_taken, text);
    struct stat status;
    assert_int_equal(stat(file, &status), 0);
    assert_in_range(status.st_size, 0, HISTORY_MAX_TEXTS * 14);
    assert_int_equal(status.st_mode & 0777, 0600);
    reopen(&history);
    assert_int_equal(n_taken, HISTORY_MAX_TEXTS);
}

static void lines_that_are_no_texts_are_passed_over(void **state)
{
    (void)state;
    history_t history;
    reopen(&history);
    FILE *out = fopen(file, "w");
    assert_non_null(out);
    fputs("\"one\"\nnonsense\n{\"a\": 1}\n\n\"two\"\n\"half of", out);
    fclose(out);
    reopen(&history);
    assert_int_equal(n_taken, 2);
    assert_string_equal(last_taken, "two");
}

static void where_no_file_can_be_there_is_no_history(void **state)
{
    (void)state;
    history_t history;
    setenv("XDG_STATE_HOME", "/dev/null", 1);
    reopen(&history);
    assert_int_equal(n_taken, 0);
    assert_true(add(&history, "goes on in the session"));
    /* A FIFO is no file, and must not be waited for. */
    setenv("XDG_STATE_HOME", folder, 1);
    reopen(&history);
    unlink(file);
    assert_int_equal(mkfifo(file, 0600), 0);
    reopen(&history);
    assert_true(add(&history, "goes on in the session"));
}

#define history_test(name) cmocka_unit_test_setup_teardown(name, new_folder, drop_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slash_and_a_word_is_a_command),
        cmocka_unit_test(everything_else_is_a_text),
        cmocka_unit_test(an_unknown_command_offers_the_nearest),
        cmocka_unit_test(settings_are_stored_as_their_flags_would_be),
        cmocka_unit_test(a_setting_may_be_set_any_number_of_times),
        cmocka_unit_test(bad_settings_change_nothing),
        cmocka_unit_test(the_list_shows_what_holds),
        history_test(texts_of_a_session_are_there_in_the_next),
        history_test(long_texts_are_not_kept),
        history_test(a_long_file_is_cut_to_its_last_texts),
        history_test(lines_that_are_no_texts_are_passed_over),
        history_test(where_no_file_can_be_there_is_no_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
