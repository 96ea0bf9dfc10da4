#include "launch/args.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"

#define LONGEST_WORD 63
#define MAX_FLAGS 128
#define HELP_WIDTH 80
#define HELP_INDENT 6
#define CHOICES_BYTES 128

/* ---- Suggestions ----------------------------------------------------------------------------- */

/* Levenshtein distance. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[LONGEST_WORD + 1];
    size_t length_a = size_min(strlen(a), LONGEST_WORD),
           length_b = size_min(strlen(b), LONGEST_WORD);
    for (size_t j = 0; j <= length_b; j++)
        row[j] = j;
    for (size_t i = 1; i <= length_a; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= length_b; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = size_min(replaced, 1 + size_min(row[j], row[j - 1]));
        }
    }
    return row[length_b];
}

const char *args_nearest(const char *word, const char *const *candidates, size_t n_candidates)
{
    const char *nearest = NULL;
    size_t best = strlen(word) / 3 + 1; /* further away is another word */
    for (size_t i = 0; i < n_candidates; i++) {
        size_t distance = edit_distance(word, candidates[i]);
        /* A shortened flag counts as near. */
        if (strlen(word) > 3 && strncmp(word, candidates[i], strlen(word)) == 0)
            distance = 1;
        if (distance < best || (distance == best && nearest == NULL)) {
            best = distance;
            nearest = candidates[i];
        }
    }
    return nearest;
}

/* ---- Values ---------------------------------------------------------------------------------- */

static int store_size(const arg_t *arg, const char *text, size_t *value, fail_t *fail)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (end == text || *end != 0 || strchr(text, '-') != NULL || errno != 0 ||
        (double)number < arg->min || (double)number > arg->max)
        return fail_set(fail, FAIL_USAGE, "%s: expected an integer from %.0f to %.0f, found %s",
            arg->name, arg->min, arg->max, text);
    *value = (size_t)number;
    return 0;
}

static int store_seed(const arg_t *arg, const char *text, uint64_t *value, fail_t *fail)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (end == text || *end != 0 || strchr(text, '-') != NULL || errno != 0)
        return fail_set(fail, FAIL_USAGE, "%s: expected an integer from 0 to 2^64 - 1, found %s",
            arg->name, text);
    *value = number;
    return 0;
}

static int store_real(const arg_t *arg, const char *text, double *value, fail_t *fail)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end != 0 || !(number >= arg->min && number <= arg->max))
        return fail_set(fail, FAIL_USAGE, "%s: expected a number from %g to %g, found %s",
            arg->name, arg->min, arg->max, text);
    *value = number;
    return 0;
}

static int store_choice(const arg_t *arg, const char *text, void *place, fail_t *fail)
{
    int value;
    char names[CHOICES_BYTES];
    if (choice_find(arg->choices, text, &value)) {
        memcpy(place, &value, sizeof value);
        return 0;
    }
    choice_list(arg->choices, names, sizeof names);
    return fail_set(fail, FAIL_USAGE, "%s: expected %s, found %s", arg->name, names, text);
}

static int store_string(const arg_t *arg, const char *text, args_strings_t *strings, fail_t *fail)
{
    if (strings->count == ARGS_MAX_STRINGS)
        return fail_set(fail, FAIL_USAGE, "%s: expected at most %d of them, found more", arg->name,
            ARGS_MAX_STRINGS);
    strings->items[strings->count++] = text;
    return 0;
}

/* A flag, and where its value goes. */
typedef struct flag {
    const arg_t *arg;
    void *place;
} flag_t;

static int store(const flag_t *flag, const char *text, fail_t *fail)
{
    const arg_t *arg = flag->arg;
    void *place = flag->place;
    switch (arg->kind) {
    case ARG_SWITCH:
        *(bool *)place = true;
        return 0;
    case ARG_STRING:
    case ARG_PAIR: /* the first one */
        *(const char **)place = text;
        return 0;
    case ARG_STRINGS:
        return store_string(arg, text, place, fail);
    case ARG_SIZE:
        return store_size(arg, text, place, fail);
    case ARG_SEED:
        return store_seed(arg, text, place, fail);
    case ARG_REAL:
        return store_real(arg, text, place, fail);
    default:
        return store_choice(arg, text, place, fail);
    }
}

/* ---- Parsing --------------------------------------------------------------------------------- */

static flag_t flag_at(const arg_part_t *part, size_t i, void *values)
{
    const arg_t *arg = &part->group->args[i];
    return (flag_t){arg, (char *)values + part->base + arg->offset};
}

/* No arg where there is no such flag. */
static flag_t find(const arg_part_t *part, const char *name, size_t length, void *values)
{
    for (; part->group != NULL; part++)
        for (size_t i = 0; i < part->group->n_args; i++) {
            const char *other = part->group->args[i].name;
            if (strlen(other) == length && strncmp(other, name, length) == 0)
                return flag_at(part, i, values);
        }
    return (flag_t){0};
}

/* The short forms of similar programs. */
static const struct {
    const char *letter, *name;
} short_flags[] = {{"-h", "--help"}, {"-m", "--model"}, {"-p", "--prompt"}, {"-n", "--max-tokens"}};

/* The short form of a flag, or NULL. */
static const char *short_of(const char *name)
{
    for (size_t i = 0; i < sizeof short_flags / sizeof *short_flags; i++)
        if (strcmp(short_flags[i].name, name) == 0)
            return short_flags[i].letter;
    return NULL;
}

/* The flag that a word begins with. *value: what follows it in the same word, or NULL. */
static flag_t find_flag(const arg_part_t *parts, const char *word, const char **value, void *values)
{
    const char *equals = strchr(word, '=');
    size_t length = equals != NULL ? (size_t)(equals - word) : strlen(word);
    *value = equals != NULL ? equals + 1 : NULL;
    flag_t flag = find(parts, word, length, values);
    for (size_t i = 0; flag.arg == NULL && i < sizeof short_flags / sizeof *short_flags; i++) {
        if (strncmp(word, short_flags[i].letter, 2) != 0)
            continue;
        *value = word[2] == 0 ? NULL : word + 2 + (word[2] == '=');
        return find(parts, short_flags[i].name, strlen(short_flags[i].name), values);
    }
    return flag;
}

static void note_given(args_given_t *given, const arg_t *arg)
{
    if (given->count < ARGS_MAX_GIVEN)
        given->args[given->count++] = arg;
}

static int store_argument(
    const arg_part_t *part, const char *word, void *values, args_given_t *given, fail_t *fail)
{
    for (; part->group != NULL; part++)
        for (size_t i = 0; i < part->group->n_args; i++) {
            const flag_t flag = flag_at(part, i, values);
            if (flag.arg->name[0] == '-')
                continue;
            if (args_was_given(given, flag.arg->name))
                return fail_set(fail, FAIL_USAGE,
                    "expected one %s, found a second: \"%.80s\"; put a text of several words in quotes",
                    flag.arg->name, word);
            note_given(given, flag.arg);
            return store(&flag, word, fail);
        }
    return fail_set(fail, FAIL_USAGE, "expected a flag, found \"%s\"", word);
}

static int unknown_flag(const arg_part_t *part, const char *flag, size_t length, fail_t *fail)
{
    const char *names[MAX_FLAGS];
    size_t n = 0;
    for (; part->group != NULL; part++)
        for (size_t i = 0; i < part->group->n_args && n < MAX_FLAGS; i++)
            if (part->group->args[i].name[0] == '-')
                names[n++] = part->group->args[i].name;
    char word[LONGEST_WORD + 1];
    snprintf(word, sizeof word, "%.*s", (int)size_min(length, LONGEST_WORD), flag);
    const char *nearest = args_nearest(word, names, n);
    if (nearest != NULL)
        return fail_set(fail, FAIL_USAGE, "unknown flag %s; did you mean %s?", word, nearest);
    return fail_set(fail, FAIL_USAGE, "unknown flag %s", word);
}

/* What help calls the value; "" where there is none. */
static const char *value_name(const arg_t *arg, char choices[CHOICES_BYTES])
{
    if (arg->kind != ARG_CHOICE)
        return arg->value != NULL ? arg->value : "";
    choice_list(arg->choices, choices, CHOICES_BYTES);
    return choices;
}

static int no_value(const arg_t *arg, fail_t *fail)
{
    char choices[CHOICES_BYTES];
    return fail_set(fail, FAIL_USAGE, "%s: expected %s (%s), found the end of the command",
        arg->name, arg->kind == ARG_PAIR ? "two values" : "a value", value_name(arg, choices));
}

/* Takes argv[*i], a flag, and its values behind it. */
static int take_flag(const arg_part_t *parts, int argc, char **argv, int *i, void *values,
    args_given_t *given, fail_t *fail)
{
    const char *word = argv[*i], *value;
    const flag_t flag = find_flag(parts, word, &value, values);
    if (flag.arg == NULL)
        return unknown_flag(parts, word, strcspn(word, "="), fail);
    if (flag.arg->kind == ARG_SWITCH && value != NULL)
        return fail_set(fail, FAIL_USAGE, "%s: expected no value, found %s", flag.arg->name, value);
    if (flag.arg->kind != ARG_SWITCH && value == NULL) {
        if (*i + 1 == argc)
            return no_value(flag.arg, fail);
        value = argv[++*i];
    }
    if (store(&flag, value, fail) != 0)
        return fail->status;
    if (flag.arg->kind == ARG_PAIR) {
        if (*i + 1 == argc)
            return no_value(flag.arg, fail);
        ((const char **)flag.place)[1] = argv[++*i];
    }
    note_given(given, flag.arg);
    return 0;
}

int args_parse(
    const arg_part_t *parts, int argc, char **argv, void *values, args_given_t *given, fail_t *fail)
{
    bool only_arguments = false;
    for (int i = 0; i < argc && fail->status == 0; i++) {
        const char *word = argv[i];
        if (!only_arguments && strcmp(word, "--") == 0)
            only_arguments = true;
        else if (only_arguments || (word[0] != '-' && word[0] != 0))
            store_argument(parts, word, values, given, fail);
        else if (word[0] == 0 || word[1] == 0)
            fail_set(fail, FAIL_USAGE, "expected a flag, found \"%s\"", word);
        else
            take_flag(parts, argc, argv, &i, values, given, fail);
    }
    return fail->status;
}

bool args_was_given(const args_given_t *given, const char *name)
{
    for (size_t i = 0; i < given->count; i++)
        if (strcmp(given->args[i]->name, name) == 0)
            return true;
    return false;
}

/* ---- Rules ----------------------------------------------------------------------------------- */

static const char everywhere[] = " --quiet --verbose --trace --watchdog-seconds --help ";

static bool is_in(const char *flags, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = strstr(flags, name); at != NULL; at = strstr(at + 1, name))
        if (at[-1] == ' ' && at[length] == ' ')
            return true;
    return false;
}

static bool any_given(const char *flags, const args_given_t *given)
{
    for (size_t i = 0; i < given->count; i++)
        if (is_in(flags, given->args[i]->name))
            return true;
    return false;
}

int args_check_rules(
    const arg_rule_t *rule, const void *values, const args_given_t *given, fail_t *fail)
{
    for (; rule != NULL && rule->why != NULL; rule++) {
        if ((rule->with != NULL && !any_given(rule->with, given)) ||
            (rule->without != NULL && any_given(rule->without, given)) ||
            (rule->holds != NULL && !rule->holds((const char *)values + rule->base)))
            continue;
        for (size_t i = 0; i < given->count; i++) {
            const char *name = given->args[i]->name;
            if (!is_in(everywhere, name) && is_in(rule->flags, name) != rule->reads)
                return fail_set(fail, FAIL_USAGE, "%s: has no effect %s", name, rule->why);
        }
    }
    return 0;
}

/* ---- Help ------------------------------------------------------------------------------------ */

static void print_wrapped(const char *text, FILE *out)
{
    size_t column = 0;
    while (*text != 0) {
        size_t word = strcspn(text, " ");
        if (column > 0 && column + 1 + word > HELP_WIDTH - HELP_INDENT) {
            fputc('\n', out);
            column = 0;
        }
        if (column == 0)
            fprintf(out, "%*s", HELP_INDENT, "");
        else
            fputc(' ', out);
        fprintf(out, "%.*s", (int)word, text);
        column += word + (column > 0);
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

void args_print_help(const arg_part_t *part, FILE *out)
{
    for (; part->group != NULL; part++) {
        if (part->group->title != NULL)
            fprintf(out, "\n%s\n", part->group->title);
        for (size_t i = 0; i < part->group->n_args; i++) {
            const arg_t *arg = &part->group->args[i];
            char choices[CHOICES_BYTES];
            const char *letter = short_of(arg->name), *value = value_name(arg, choices);
            fprintf(out, "  %s%s%s%s%s\n", letter != NULL ? letter : "", letter != NULL ? ", " : "",
                arg->name, value[0] != 0 ? " " : "", value);
            print_wrapped(arg->help, out);
        }
    }
}
