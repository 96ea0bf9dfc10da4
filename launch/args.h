/* Command-line flags from tables: one table says how a flag is parsed, checked and explained.
 *
 * "--flag VALUE" and "--flag=VALUE"; a switch takes no value. -h, -m, -p and -n are short for
 * --help,
 * --model, --prompt and --max-tokens wherever a table has those: "-n 5", "-n5" and "-n=5". An entry
 * whose name has no dashes is an argument: it takes the one word that is neither a flag nor a
 * flag's value, or that follows "--". Values are stored into the caller's struct at the offset the
 * table gives; strings are borrowed from argv. */
#ifndef CHOIR_LAUNCH_ARGS_H
#define CHOIR_LAUNCH_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

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
    ARG_CHOICE   /* int: index into the names of `choices` */
} arg_kind_t;

typedef struct arg {
    const char *name; /* "--max-tokens", or what help calls an argument */
    arg_kind_t kind;
    size_t offset;
    const char *value; /* what help calls the value; the choices as "a|b|c" for ARG_CHOICE */
    double min, max;
    const char *help;
} arg_t;

/* Flags that belong together, under one heading of help. */
typedef struct arg_group {
    const char *title;
    const arg_t *args;
    size_t n_args;
} arg_group_t;

/* Which flags were given: pointers into the tables. */
typedef struct args_given {
    const arg_t *args[ARGS_MAX_GIVEN];
    size_t count;
} args_given_t;

/* Parses argv[0 .. argc) into `values`, which holds the defaults. groups: ends with NULL.
 * FAIL_USAGE names the flag, what was expected and what was found, or the flag that was probably
 * meant. */
int args_parse(const arg_group_t *const *groups, int argc, char **argv, void *values,
    args_given_t *given, fail_t *fail);

bool args_was_given(const args_given_t *given, const char *name);

/* One paragraph a flag, wrapped for a terminal. */
void args_print_help(const arg_group_t *const *groups, FILE *out);

/* The candidate nearest to a misspelt word, or NULL when none is near. */
const char *args_nearest(const char *word, const char *const *candidates, size_t n_candidates);

#endif
