/* Names of modules as quantization_config gives them: words and regular expressions of Python's `re`, matched from a
 * name's start.
 *
 * Owns the compiled expressions. Immutable after opening; one thread at a time. */
#ifndef CHOIR_MODEL_NAME_PATTERN_H
#define CHOIR_MODEL_NAME_PATTERN_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

/* How a list is read. */
typedef enum name_rule {
    NAMES_TRANSFORMERS, /* a word or expression up to a dot or the end, or the end of a name: should_convert_module */
    NAMES_COMPRESSED_TENSORS /* a whole name, a class ("Linear"), or "re:" and an expression */
} name_rule_t;

typedef struct name_patterns {
    name_rule_t rule;
    size_t n;
    struct name_pattern *of; /* [n] */
} name_patterns_t;

/* list: an array of texts, or NULL. what: for messages, "config.json: quantization_config: ignore". On failure nothing
 * is kept. */
int name_patterns_open(name_patterns_t *patterns, name_rule_t rule, const json_t *list,
    const char *what, fail_t *fail);
void name_patterns_close(name_patterns_t *patterns);

/* How well a linear layer's name matches: 0 not, 1 by its class, 2 by an expression, 3 as a whole or otherwise. */
int name_patterns_match(const name_patterns_t *patterns, const char *name);

#endif
