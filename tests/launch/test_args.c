#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launch/args.h"
#include "launch/command.h"

typedef enum number { NUMBER_ONE = 1, NUMBER_TWO = 22, NUMBER_TWOFOLD = -2 } number_t;

typedef struct values {
    bool flag;
    const char *text;
    args_strings_t texts;
    size_t size;
    uint64_t seed;
    double real;
    number_t choice;
} values_t;

static const choice_t numbers[] = {
    {"one", NUMBER_ONE}, {"two", NUMBER_TWO}, {"twofold", NUMBER_TWOFOLD}, {NULL, 0}};

static const arg_t first_args[] = {
    FLAG_SWITCH("--flag", offsetof(values_t, flag), "A switch."),
    FLAG_TEXT("--text", offsetof(values_t, text), "TEXT", "A text."),
    FLAG_TEXTS("--texts", offsetof(values_t, texts), "TEXT", "Many texts."),
};
static const arg_t short_args[] = {
    FLAG_TEXT("WORD", offsetof(values_t, text), NULL, "A word."),
    FLAG_SIZE("--max-tokens", offsetof(values_t, size), "N", 2, 100, "A size."),
    FLAG_SWITCH("--help", offsetof(values_t, flag), "A switch."),
};
static const arg_t second_args[] = {
    FLAG_SIZE("--size", offsetof(values_t, size), "N", 2, 100, "A size."),
    FLAG_SEED("--seed", offsetof(values_t, seed), "N", "A seed."),
    FLAG_REAL("--real", offsetof(values_t, real), "X", 0, 1, "A number."),
    FLAG_CHOICE("--choice", offsetof(values_t, choice), numbers, "One of them."),
};
static const arg_group_t first = ARG_GROUP("First", first_args),
                         second = ARG_GROUP("Second", second_args);
static const arg_group_t short_ones = ARG_GROUP("Short", short_args);
static const arg_part_t parts[] = {{&first, 0}, {&second, 0}, {NULL, 0}};
static const arg_part_t short_parts[] = {{&short_ones, 0}, {&second, 0}, {NULL, 0}};

/* Parses words that are separated by spaces. */
static int parse_parts(
    const arg_part_t *these, const char *line, values_t *values, args_given_t *given, fail_t *fail)
{
    static char words[1024];
    char *argv[256];
    int argc = 0;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " "))
        argv[argc++] = word;
    *fail = (fail_t){0};
    *given = (args_given_t){0};
    return args_parse(these, argc, argv, values, given, fail);
}

static int parse(const char *line, values_t *values, args_given_t *given, fail_t *fail)
{
    return parse_parts(parts, line, values, given, fail);
}

static void letters_are_short_for_the_flags_that_a_table_has(void **state)
{
    (void)state;
    static const char *const lines[] = {"-n 5", "-n5", "-n=5", "--max-tokens 5"};
    args_given_t given;
    fail_t fail;
    for (size_t i = 0; i < 4; i++) {
        values_t values = {0};
        assert_int_equal(parse_parts(short_parts, lines[i], &values, &given, &fail), 0);
        assert_int_equal(values.size, 5);
        assert_true(args_was_given(&given, "--max-tokens"));
    }
    values_t values = {0};
    assert_int_equal(parse_parts(short_parts, "-h", &values, &given, &fail), 0);
    assert_true(values.flag);
    assert_int_equal(parse_parts(short_parts, "-p x", &values, &given, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "unknown flag -p"));
    assert_int_equal(parse_parts(short_parts, "-n", &values, &given, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "--max-tokens"));
}

static void one_word_is_an_argument_where_a_table_has_one(void **state)
{
    (void)state;
    values_t values = {0};
    args_given_t given;
    fail_t fail;
    assert_int_equal(parse_parts(short_parts, "--size 7 Hello -n 5", &values, &given, &fail), 0);
    assert_string_equal(values.text, "Hello");
    assert_true(args_was_given(&given, "WORD"));
    assert_int_equal(parse_parts(short_parts, "-n 5 -- -n", &values, &given, &fail), 0);
    assert_string_equal(values.text, "-n");
    assert_int_equal(parse_parts(short_parts, "a b", &values, &given, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "expected one WORD, found a second: \"b\""));
    assert_int_equal(parse("a", &values, &given, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "expected a flag, found \"a\""));
}

static void every_kind_of_value_is_stored(void **state)
{
    (void)state;
    values_t values = {.size = 50};
    args_given_t given;
    fail_t fail;
    assert_int_equal(parse("--flag --text=a=b --texts x --texts -y --size 7 --seed "
                           "18446744073709551615 --real 0.25 --choice two",
                         &values, &given, &fail),
        0);
    assert_true(values.flag);
    assert_string_equal(values.text, "a=b");
    assert_int_equal(values.texts.count, 2);
    assert_string_equal(values.texts.items[1], "-y");
    assert_int_equal(values.size, 7);
    assert_true(values.seed == UINT64_MAX);
    assert_true(values.real == 0.25);
    assert_int_equal(values.choice, NUMBER_TWO);
    assert_true(args_was_given(&given, "--size"));
    assert_false(args_was_given(&given, "--sizes"));
}

static void what_is_not_given_keeps_its_default(void **state)
{
    (void)state;
    values_t values = {.size = 50, .real = 0.5};
    args_given_t given;
    fail_t fail;
    assert_int_equal(parse("--flag", &values, &given, &fail), 0);
    assert_int_equal(values.size, 50);
    assert_false(args_was_given(&given, "--size"));
}

static void wrong_words_are_refused_and_named(void **state)
{
    (void)state;
    static const struct {
        const char *line, *words[3];
    } cases[] = {
        {"--size 1", {"--size", "2 to 100", "found 1"}},
        {"--size 101", {"--size", "2 to 100", "found 101"}},
        {"--size -5", {"--size", "2 to 100", "found -5"}},
        {"--size 7x", {"--size", "integer", "7x"}},
        {"--size 99999999999999999999999", {"--size", "2 to 100", "9999"}},
        {"--size", {"--size", "a value (N)", "end"}},
        {"--seed -1", {"--seed", "2^64", "-1"}},
        {"--real 1.5", {"--real", "0 to 1", "1.5"}},
        {"--real nan", {"--real", "0 to 1", "nan"}},
        {"--real x", {"--real", "number", "x"}},
        {"--choice", {"--choice", "a value (one|two|twofold)", "end"}},
        {"--choice tw", {"--choice", "one|two|twofold", "tw"}},
        {"--flag=1", {"--flag", "no value", "1"}},
        {"--sise 3", {"--sise", "did you mean --size", ""}},
        {"--choi one", {"--choi", "did you mean --choice", ""}},
        {"--zzzzzz", {"unknown flag --zzzzzz", "", ""}},
        {"word", {"expected a flag", "word", ""}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        values_t values = {0};
        args_given_t given;
        fail_t fail;
        assert_int_equal(parse(cases[i].line, &values, &given, &fail), FAIL_USAGE);
        for (size_t w = 0; w < 3; w++)
            if (strstr(fail.message, cases[i].words[w]) == NULL)
                fail_msg(
                    "%s: \"%s\" is not in \"%s\"", cases[i].line, cases[i].words[w], fail.message);
    }
}

static void a_far_word_suggests_nothing(void **state)
{
    (void)state;
    values_t values = {0};
    args_given_t given;
    fail_t fail;
    parse("--zzzzzz", &values, &given, &fail);
    assert_null(strstr(fail.message, "mean"));
}

static void too_many_repeats_are_refused(void **state)
{
    (void)state;
    char line[1024] = "";
    values_t values = {0};
    args_given_t given;
    fail_t fail;
    for (int i = 0; i <= ARGS_MAX_STRINGS; i++)
        strcat(line, "--texts x ");
    assert_int_equal(parse(line, &values, &given, &fail), FAIL_USAGE);
}

static void a_group_stores_where_its_part_says(void **state)
{
    (void)state;
    struct {
        values_t one, other;
    } values = {.one.size = 5};
    const arg_part_t both[] = {{&first, 0}, {&second, sizeof(values_t)}, {NULL, 0}};
    char *argv[] = {"--flag", "--size", "7"};
    args_given_t given = {0};
    fail_t fail = {0};
    assert_int_equal(args_parse(both, 3, argv, &values, &given, &fail), 0);
    assert_true(values.one.flag && values.one.size == 5);
    assert_true(!values.other.flag && values.other.size == 7);
}

static void help_names_every_flag_and_fits_a_terminal(void **state)
{
    (void)state;
    for (const command_t *const *command = commands; *command != NULL; command++) {
        char *text = NULL;
        size_t bytes;
        FILE *out = open_memstream(&text, &bytes);
        args_print_help((*command)->parts, out);
        fclose(out);
        for (const arg_part_t *part = (*command)->parts; part->group != NULL; part++)
            for (size_t i = 0; i < part->group->n_args; i++)
                assert_non_null(strstr(text, part->group->args[i].name));
        for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
            assert_true(strlen(line) <= 80);
        free(text);
    }
}

static size_t bytes_of(arg_kind_t kind)
{
    static const size_t bytes[] = {[ARG_SWITCH] = sizeof(bool),
        [ARG_STRING] = sizeof(char *),
        [ARG_STRINGS] = sizeof(args_strings_t),
        [ARG_PAIR] = 2 * sizeof(char *),
        [ARG_SIZE] = sizeof(size_t),
        [ARG_SEED] = sizeof(uint64_t),
        [ARG_REAL] = sizeof(double),
        [ARG_CHOICE] = sizeof(int)};
    return bytes[kind];
}

/* The tables are data; this is what a compiler would check if they were code. */
static void a_command_has_every_flag_once_and_room_for_it(void **state)
{
    (void)state;
    for (const command_t *const *at = commands; *at != NULL; at++) {
        const command_t *command = *at;
        const arg_t *seen[128];
        size_t n = 0, begins[128];
        assert_true(command->flags_bytes <= COMMAND_FLAGS_BYTES);
        for (const arg_part_t *part = command->parts; part->group != NULL; part++)
            for (size_t i = 0; i < part->group->n_args; i++) {
                const arg_t *arg = &part->group->args[i];
                size_t begin = part->base + arg->offset, end = begin + bytes_of(arg->kind);
                assert_true(end <= command->flags_bytes);
                assert_int_equal(arg->kind == ARG_CHOICE, arg->choices != NULL);
                assert_int_equal(
                    arg->kind == ARG_SWITCH || arg->kind == ARG_CHOICE || arg->name[0] != '-',
                    arg->value == NULL);
                for (size_t j = 0; j < n; j++) {
                    assert_string_not_equal(arg->name, seen[j]->name);
                    /* An argument may be another word for a flag. */
                    bool same = begin == begins[j] && arg->kind == seen[j]->kind &&
                                (arg->name[0] != '-' || seen[j]->name[0] != '-');
                    assert_true(
                        same || end <= begins[j] || begin >= begins[j] + bytes_of(seen[j]->kind));
                }
                begins[n] = begin;
                seen[n++] = arg;
            }
        assert_true(n < ARGS_MAX_GIVEN);
    }
}

static void a_misspelt_command_is_recognised(void **state)
{
    (void)state;
    fail_t fail = {0};
    assert_int_equal(command_unknown("genrate", &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "did you mean generate"));
    fail = (fail_t){0};
    command_unknown("xyzzy", &fail);
    assert_null(strstr(fail.message, "mean"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(letters_are_short_for_the_flags_that_a_table_has),
        cmocka_unit_test(one_word_is_an_argument_where_a_table_has_one),
        cmocka_unit_test(every_kind_of_value_is_stored),
        cmocka_unit_test(what_is_not_given_keeps_its_default),
        cmocka_unit_test(wrong_words_are_refused_and_named),
        cmocka_unit_test(a_far_word_suggests_nothing),
        cmocka_unit_test(too_many_repeats_are_refused),
        cmocka_unit_test(help_names_every_flag_and_fits_a_terminal),
        cmocka_unit_test(a_group_stores_where_its_part_says),
        cmocka_unit_test(a_command_has_every_flag_once_and_room_for_it),
        cmocka_unit_test(a_misspelt_command_is_recognised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
