/* Command-line flags from tables: one table says how a flag is parsed, checked and explained.
 *
 * "--flag VALUE" and "--flag=VALUE"; a switch takes no value. -h, -m, -p and -n are short for
 * --help,
 * --model, --prompt and --max-tokens wherever a table has those: "-n 5", "-n5" and "-n=5". An entry
 * whose name has no dashes is an argument: it takes the one word that is neither a flag nor a
 * flag's value, or that follows "--". Values are stored into the command's struct; strings are
 * borrowed from argv. A group of flags that several commands have stores into a struct of its own,
 * and a command says where in its struct that lies (arg_part_t). */
#ifndef CHOIR_LAUNCH_ARGS_H
#define CHOIR_LAUNCH_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/choice.h"
#include "engine/base/status.h"

#define ARGS_MAX_STRINGS 64
#define ARGS_MAX_GIVEN 64

typedef struct args_strings {
    size_t count;
    const char *items[ARGS_MAX_STRINGS];
} args_strings_t;

typedef enum arg_kind {
    ARG_SWITCH,  /* bool */
    ARG_STRING,  /* const char * */
    ARG_STRINGS, /* args_strings_t: the flag may be given several times */
    ARG_PAIR,    /* const char *[2]: two values */
    ARG_SIZE,    /* size_t from min to max */
    ARG_SEED,    /* uint64_t, all of them */
    ARG_REAL,    /* double from min to max */
    ARG_CHOICE   /* an enum: one of `choices` */
} arg_kind_t;

typedef struct arg {
    const char *name; /* "--max-tokens", or an argument's name in help */
    arg_kind_t kind;
    size_t offset;
    const char *value;       /* what help calls the value */
    const choice_t *choices; /* of ARG_CHOICE */
    double min, max;
    const char *help;
} arg_t;

#define FLAG_SWITCH(name, offset, help)                                                            \
    {                                                                                              \
        name, ARG_SWITCH, offset, NULL, NULL, 0, 0, help                                           \
    }
#define FLAG_TEXT(name, offset, value, help)                                                       \
    {                                                                                              \
        name, ARG_STRING, offset, value, NULL, 0, 0, help                                          \
    }
#define FLAG_TEXTS(name, offset, value, help)                                                      \
    {                                                                                              \
        name, ARG_STRINGS, offset, value, NULL, 0, 0, help                                         \
    }
#define FLAG_PAIR(name, offset, value, help)                                                       \
    {                                                                                              \
        name, ARG_PAIR, offset, value, NULL, 0, 0, help                                            \
    }
#define FLAG_SIZE(name, offset, value, min, max, help)                                             \
    {                                                                                              \
        name, ARG_SIZE, offset, value, NULL, min, max, help                                        \
    }
#define FLAG_SEED(name, offset, value, help)                                                       \
    {                                                                                              \
        name, ARG_SEED, offset, value, NULL, 0, 0, help                                            \
    }
#define FLAG_REAL(name, offset, value, min, max, help)                                             \
    {                                                                                              \
        name, ARG_REAL, offset, value, NULL, min, max, help                                        \
    }
#define FLAG_CHOICE(name, offset, choices, help)                                                   \
    {                                                                                              \
        name, ARG_CHOICE, offset, NULL, choices, 0, 0, help                                        \
    }

/* Flags that belong together, under one heading of help; NULL: under that of the group before. */
typedef struct arg_group {
    const char *title;
    const arg_t *args;
    size_t n_args;
} arg_group_t;

#define ARG_GROUP(title, args)                                                                     \
    {                                                                                              \
        title, args, sizeof(args) / sizeof *(args)                                                 \
    }

/* A group of a command. Lists of them end with a NULL group. */
typedef struct arg_part {
    const arg_group_t *group;
    size_t base; /* of the group's struct in the command's */
} arg_part_t;

/* Which flags were given: pointers into the tables. */
typedef struct args_given {
    const arg_t *args[ARGS_MAX_GIVEN];
    size_t count;
} args_given_t;

/* Parses argv[0 .. argc) into `values`, which holds the defaults. FAIL_USAGE names the flag, what
 * was expected and what was found, or the flag that was probably meant. */
int args_parse(const arg_part_t *parts, int argc, char **argv, void *values, args_given_t *given,
    fail_t *fail);

bool args_was_given(const args_given_t *given, const char *name);

/* Flags that a command does not read beside others: a flag that would change nothing is an
 * error. Lists of flags have a space before and after each. */
typedef struct arg_rule {
    const char *why;     /* "with --check" */
    const char *with;    /* the rule holds where one of these was given; NULL: whatever was */
    const char *without; /* and none of these; NULL: whatever was */
    bool reads;          /* whether `flags` are all that is read then, or all that is not */
    const char *flags;
    bool (*holds)(const void *values); /* and this is true; NULL: always */
    size_t base;                       /* of what `holds` takes in the command's struct */
} arg_rule_t;

/* rules: ends with a NULL why; NULL: none. FAIL_USAGE names the first flag of `given` that the
 * command would not read, and why. */
int args_check_rules(
    const arg_rule_t *rules, const void *values, const args_given_t *given, fail_t *fail);

/* One paragraph a flag, wrapped for a terminal. */
void args_print_help(const arg_part_t *parts, FILE *out);

/* The candidate nearest to a misspelt word, or NULL when none is near. */
const char *args_nearest(const char *word, const char *const *candidates, size_t n_candidates);

#endif
