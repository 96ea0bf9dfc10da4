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

static int store_choice(const arg_t *arg, const char *text, int *value, fail_t *fail)
{
    size_t length = strlen(text);
    int index = 0;
    for (const char *at = arg->value; at != NULL; index++) {
        const char *bar = strchr(at, '|');
        size_t n = bar != NULL ? (size_t)(bar - at) : strlen(at);
        if (n == length && strncmp(at, text, n) == 0) {
            *value = index;
            return 0;
        }
        at = bar != NULL ? bar + 1 : NULL;
    }
    return fail_set(fail, FAIL_USAGE, "%s: expected %s, found %s", arg->name, arg->value, text);
}

static int store_string(const arg_t *arg, const char *text, args_strings_t *strings, fail_t *fail)
{
    if (strings->count == ARGS_MAX_STRINGS)
        return fail_set(fail, FAIL_USAGE, "%s: expected at most %d of them, found more", arg->name,
            ARGS_MAX_STRINGS);
    strings->items[strings->count++] = text;
    return 0;
}

static int store(const arg_t *arg, const char *text, void *values, fail_t *fail)
{
    void *place = (char *)values + arg->offset;
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

static const arg_t *find(const arg_group_t *const *groups, const char *name, size_t length)
{
    for (; *groups != NULL; groups++)
        for (size_t i = 0; i < (*groups)->n_args; i++) {
            const arg_t *arg = &(*groups)->args[i];
            if (strlen(arg->name) == length && strncmp(arg->name, name, length) == 0)
                return arg;
        }
    return NULL;
}

/* As other programs of this kind have them. */
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
static const arg_t *find_flag(
    const arg_group_t *const *groups, const char *word, const char **value)
{
    const char *equals = strchr(word, '=');
    *value = equals != NULL ? equals + 1 : NULL;
    const arg_t *arg = find(groups, word, equals != NULL ? (size_t)(equals - word) : strlen(word));
    for (size_t i = 0; arg == NULL && i < sizeof short_flags / sizeof *short_flags; i++) {
        if (strncmp(word, short_flags[i].letter, 2) != 0)
            continue;
        *value = word[2] == 0 ? NULL : word + 2 + (word[2] == '=');
        return find(groups, short_flags[i].name, strlen(short_flags[i].name));
    }
    return arg;
}

static int store_argument(const arg_group_t *const *groups, const char *word, void *values,
    args_given_t *given, fail_t *fail)
{
    for (; *groups != NULL; groups++)
        for (size_t i = 0; i < (*groups)->n_args; i++) {
            const arg_t *arg = &(*groups)->args[i];
            if (arg->name[0] == '-')
                continue;
            if (args_was_given(given, arg->name))
                return fail_set(fail, FAIL_USAGE,
                    "expected one %s, found a second: \"%.80s\"; a text of several words stands in quotes",
                    arg->name, word);
            if (given->count < ARGS_MAX_GIVEN)
                given->args[given->count++] = arg;
            return store(arg, word, values, fail);
        }
    return fail_set(fail, FAIL_USAGE, "expected a flag, found \"%s\"", word);
}

static int unknown_flag(
    const arg_group_t *const *groups, const char *flag, size_t length, fail_t *fail)
{
    const char *names[MAX_FLAGS];
    size_t n = 0;
    for (; *groups != NULL; groups++)
        for (size_t i = 0; i < (*groups)->n_args && n < MAX_FLAGS; i++)
            if ((*groups)->args[i].name[0] == '-')
                names[n++] = (*groups)->args[i].name;
    char word[LONGEST_WORD + 1];
    snprintf(word, sizeof word, "%.*s", (int)size_min(length, LONGEST_WORD), flag);
    const char *nearest = args_nearest(word, names, n);
    if (nearest != NULL)
        return fail_set(fail, FAIL_USAGE, "unknown flag %s; did you mean %s?", word, nearest);
    return fail_set(fail, FAIL_USAGE, "unknown flag %s", word);
}

int args_parse(const arg_group_t *const *groups, int argc, char **argv, void *values,
    args_given_t *given, fail_t *fail)
{
    bool only_arguments = false;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (!only_arguments && strcmp(word, "--") == 0) {
            only_arguments = true;
            continue;
        }
        if (only_arguments || (word[0] != '-' && word[0] != 0)) {
            if (store_argument(groups, word, values, given, fail) != 0)
                return fail->status;
            continue;
        }
        if (word[0] == 0 || word[1] == 0)
            return fail_set(fail, FAIL_USAGE, "expected a flag, found \"%s\"", word);
        const char *value;
        const arg_t *arg = find_flag(groups, word, &value);
        if (arg == NULL)
            return unknown_flag(groups, word, strcspn(word, "="), fail);
        if (arg->kind == ARG_SWITCH && value != NULL)
            return fail_set(fail, FAIL_USAGE, "%s: expected no value, found %s", arg->name, value);
        if (arg->kind != ARG_SWITCH && value == NULL) {
            if (i + 1 == argc)
                return fail_set(fail, FAIL_USAGE,
                    "%s: expected a value (%s), found the end of the command", arg->name,
                    arg->value);
            value = argv[++i];
        }
        if (store(arg, value, values, fail) != 0)
            return fail->status;
        if (arg->kind == ARG_PAIR) {
            if (i + 1 == argc)
                return fail_set(fail, FAIL_USAGE,
                    "%s: expected two values (%s), found the end of the command", arg->name,
                    arg->value);
            ((const char **)((char *)values + arg->offset))[1] = argv[++i];
        }
        if (given->count < ARGS_MAX_GIVEN)
            given->args[given->count++] = arg;
    }
    return 0;
}

bool args_was_given(const args_given_t *given, const char *name)
{
    for (size_t i = 0; i < given->count; i++)
        if (strcmp(given->args[i]->name, name) == 0)
            return true;
    return false;
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

void args_print_help(const arg_group_t *const *groups, FILE *out)
{
    for (; *groups != NULL; groups++) {
        fprintf(out, "\n%s\n", (*groups)->title);
        for (size_t i = 0; i < (*groups)->n_args; i++) {
            const arg_t *arg = &(*groups)->args[i];
            const char *letter = short_of(arg->name);
            fprintf(out, "  %s%s%s%s%s\n", letter != NULL ? letter : "", letter != NULL ? ", " : "",
                arg->name, arg->value != NULL ? " " : "", arg->value != NULL ? arg->value : "");
            print_wrapped(arg->help, out);
        }
    }
}
