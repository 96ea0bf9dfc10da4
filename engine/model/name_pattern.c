#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/model/name_pattern.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT_BYTES 1024

struct name_pattern {
    const char *text; /* of the document */
    pcre2_code *code; /* NULL: a word */
    pcre2_match_data *match;
};

static int compile(struct name_pattern *pattern, const char *text, const char *what, fail_t *fail)
{
    int code;
    PCRE2_SIZE at;
    pattern->code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED,
        PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code, &at, NULL);
    if (pattern->code == NULL) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(code, message, sizeof message);
        return fail_set(fail, FAIL_FORMAT, "%s: regular expression \"%.200s\": %s", what,
            pattern->text, (const char *)message);
    }
    pattern->match = pcre2_match_data_create_from_pattern(pattern->code, NULL);
    return pattern->match == NULL ? fail_set(fail, FAIL_MEMORY, "%s: out of memory", what) : 0;
}

static int open_one(struct name_pattern *pattern, name_rule_t rule, const json_t *value,
    const char *what, fail_t *fail)
{
    static const char boundary[] = "(?:(?<=\\.)|(?=\\.|$))", prefix[] = "re:";
    char text[MAX_TEXT_BYTES + sizeof boundary + 8];
    if (!json_is_string(value) || json_string_length(value) > MAX_TEXT_BYTES)
        return fail_set(fail, FAIL_FORMAT,
            "%s: expected names of at most %d bytes, found something else", what, MAX_TEXT_BYTES);
    pattern->text = json_string_value(value);
    if (rule == NAMES_TRANSFORMERS) {
        snprintf(text, sizeof text, "(?:%s)%s", pattern->text, boundary);
        return compile(pattern, text, what, fail);
    }
    if (strncmp(pattern->text, prefix, sizeof prefix - 1) == 0)
        return compile(pattern, pattern->text + sizeof prefix - 1, what, fail);
    return 0;
}

int name_patterns_open(
    name_patterns_t *patterns, name_rule_t rule, const json_t *list, const char *what, fail_t *fail)
{
    *patterns = (name_patterns_t){.rule = rule};
    if (list == NULL || json_is_null(list))
        return 0;
    if (!json_is_array(list))
        return fail_set(
            fail, FAIL_FORMAT, "%s: expected an array of names, found something else", what);
    patterns->of = calloc(json_array_size(list) + 1, sizeof *patterns->of);
    if (patterns->of == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", what);
    for (size_t i = 0; i < json_array_size(list) && fail->status == 0; i++)
        open_one(&patterns->of[patterns->n++], rule, json_array_get(list, i), what, fail);
    if (fail->status != 0)
        name_patterns_close(patterns);
    return fail->status;
}

void name_patterns_close(name_patterns_t *patterns)
{
    for (size_t i = 0; i < patterns->n; i++) {
        pcre2_match_data_free(patterns->of[i].match);
        pcre2_code_free(patterns->of[i].code);
    }
    free(patterns->of);
    *patterns = (name_patterns_t){0};
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return m <= n && strcmp(name + n - m, end) == 0;
}

static int match_one(
    const name_patterns_t *patterns, const struct name_pattern *one, const char *name)
{
    bool matches = one->code != NULL && pcre2_match(one->code, (PCRE2_SPTR)name, strlen(name), 0, 0,
                                            one->match, NULL) >= 0;
    if (patterns->rule == NAMES_TRANSFORMERS)
        return matches || ends_with(name, one->text) ? 3 : 0;
    if (one->code != NULL)
        return matches ? 2 : 0;
    if (strcmp(one->text, name) == 0)
        return 3;
    return strcmp(one->text, "Linear") == 0 || strcmp(one->text, "Module") == 0;
}

int name_patterns_match(const name_patterns_t *patterns, const char *name)
{
    int best = 0;
    for (size_t i = 0; i < patterns->n; i++) {
        int match = match_one(patterns, &patterns->of[i], name);
        best = match > best ? match : best;
    }
    return best;
}
