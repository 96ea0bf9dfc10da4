/* Values of an enum and the words that stand for them in flags, JSON and messages. Pure functions. */
#ifndef CHOIR_BASE_CHOICE_H
#define CHOIR_BASE_CHOICE_H

#include <stdbool.h>
#include <stddef.h>

/* A table of them ends with a NULL name. */
typedef struct choice {
    const char *name;
    int value;
} choice_t;

/* The name of a value, which the table has to have. */
const char *choice_name(const choice_t *choices, int value);
/* False when the table has no such name. */
bool choice_find(const choice_t *choices, const char *name, int *value);
/* Writes "one|two|three". */
void choice_list(const choice_t *choices, char *text, size_t bytes);

#endif
