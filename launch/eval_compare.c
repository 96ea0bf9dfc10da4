#include "launch/eval_compare.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/printable.h"
#include "launch/eval_results.h"
#include "launch/output.h"

static json_int_t index_of(const json_t *line)
{
    return json_integer_value(json_object_get(line, "index"));
}

static int out_of_memory(fail_t *fail)
{
    return fail_set(fail, FAIL_MEMORY, "results: out of memory for a line");
}

/* The first place at which two arrays of tokens or their log-probabilities differ; their length
 * when none does. */
static size_t first_difference(json_t *a, json_t *b)
{
    json_t *tokens_a = json_object_get(a, "tokens"), *tokens_b = json_object_get(b, "tokens");
    json_t *logprobs_a = json_object_get(a, "logprobs"),
           *logprobs_b = json_object_get(b, "logprobs");
    size_t i = 0, n = json_array_size(tokens_a) > json_array_size(tokens_b)
                          ? json_array_size(tokens_a)
                          : json_array_size(tokens_b);
    while (i < n && json_equal(json_array_get(tokens_a, i), json_array_get(tokens_b, i)) &&
           json_equal(json_array_get(logprobs_a, i), json_array_get(logprobs_b, i)))
        i++;
    return i;
}

static void print_place(const char *side, json_t *object, size_t place)
{
    json_t *token = json_array_get(json_object_get(object, "tokens"), place);
    json_t *logprob = json_array_get(json_object_get(object, "logprobs"), place);
    if (token == NULL)
        printf("    %s: ended\n", side);
    else
        printf("    %s: token %lld, log-probability %.17g\n", side,
            (long long)json_integer_value(token), json_number_value(logprob));
}

/* Tells where the tokens of two lines, or of one choice of theirs, part. */
static bool print_tokens(const char *what, json_t *a, json_t *b)
{
    size_t n = json_array_size(json_object_get(a, "tokens")), place = first_difference(a, b);
    if (place >= n && place >= json_array_size(json_object_get(b, "tokens")))
        return false;
    printf("  %stoken %zu is the first that differs\n", what, place);
    print_place("A", a, place);
    print_place("B", b, place);
    return true;
}

static void print_fields(json_t *a, json_t *b)
{
    const char *key;
    json_t *value;
    json_object_foreach (a, key, value) {
        if (strcmp(key, "timings") != 0 && !json_equal(value, json_object_get(b, key)))
            printf("  %s differs\n", printable_name(key).text);
    }
    json_object_foreach (b, key, value) {
        if (strcmp(key, "timings") != 0 && json_object_get(a, key) == NULL)
            printf("  %s is only in B\n", printable_name(key).text);
    }
}

static void print_difference(json_t *a, json_t *b)
{
    json_t *choices = json_object_get(a, "choices"), *others = json_object_get(b, "choices");
    const char *id = json_string_value(json_object_get(a, "id"));
    printf("item %lld (%s)\n", (long long)index_of(a), printable_name(id == NULL ? "?" : id).text);
    bool told = print_tokens("", a, b);
    for (size_t i = 0; i < json_array_size(choices); i++) {
        char what[64];
        snprintf(what, sizeof what, "choice %zu: ", i);
        told = print_tokens(what, json_array_get(choices, i), json_array_get(others, i)) || told;
    }
    (void)told;
    print_fields(a, b);
}

static int same_line(const json_t *a, const json_t *b, bool *same, fail_t *fail)
{
    char *text_a = eval_line_text(a), *text_b = eval_line_text(b);
    if (text_a == NULL || text_b == NULL)
        out_of_memory(fail);
    else
        *same = strcmp(text_a, text_b) == 0;
    free(text_a);
    free(text_b);
    return fail->status;
}

static int compare_lines(
    const eval_lines_t *a, const eval_lines_t *b, size_t *n_different, fail_t *fail)
{
    size_t i = 0, j = 0, n_same = 0;
    while ((i < a->count || j < b->count) && fail->status == 0) {
        bool only_a =
            j == b->count || (i < a->count && index_of(a->lines[i]) < index_of(b->lines[j]));
        bool only_b =
            i == a->count || (j < b->count && index_of(b->lines[j]) < index_of(a->lines[i]));
        bool same = false;
        if (only_a || only_b) {
            const json_t *line = only_a ? a->lines[i] : b->lines[j];
            printf("item %lld is only in %s\n", (long long)index_of(line), only_a ? "A" : "B");
        } else if (same_line(a->lines[i], b->lines[j], &same, fail) == 0 && !same) {
            print_difference(a->lines[i], b->lines[j]);
        }
        n_same += same;
        *n_different += !same;
        i += !only_b;
        j += !only_a;
    }
    printf("%zu items are the same, %zu differ\n", n_same, *n_different);
    return fail->status;
}

int eval_compare(const char *path_a, const char *path_b, size_t *n_different, fail_t *fail)
{
    eval_lines_t a = {0}, b = {0};
    *n_different = 0;
    if (eval_lines_read(&a, path_a, fail) == 0 && eval_lines_read(&b, path_b, fail) == 0) {
        eval_lines_sort(&a);
        eval_lines_sort(&b);
        if (a.count + b.count == 0)
            fail_set(fail, FAIL_MODEL, "%s and %s: expected items, found none in either", path_a,
                path_b);
        else
            compare_lines(&a, &b, n_different, fail);
    }
    eval_lines_clear(&a);
    eval_lines_clear(&b);
    return fail->status;
}

int eval_canonical(const char *path, fail_t *fail)
{
    eval_lines_t lines;
    output_t output = {0};
    if (eval_lines_read(&lines, path, fail) != 0)
        return fail->status;
    eval_lines_sort(&lines);
    for (size_t i = 0; i < lines.count && fail->status == 0; i++) {
        char *text = eval_line_text(lines.lines[i]);
        if (text == NULL) {
            out_of_memory(fail);
        } else {
            size_t bytes = strlen(text);
            text[bytes] = '\n'; /* in place of the final zero */
            output_write(&output, text, bytes + 1, fail);
        }
        free(text);
    }
    eval_lines_clear(&lines);
    return fail->status;
}
