#include "launch/eval_print.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/printable.h"
#include "engine/eval/eval_compare.h"
#include "engine/eval/eval_results.h"
#include "launch/output.h"

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
static void print_tokens(const char *what, json_t *a, json_t *b)
{
    size_t n = json_array_size(json_object_get(a, "tokens")), place = eval_first_difference(a, b);
    if (place >= n && place >= json_array_size(json_object_get(b, "tokens")))
        return;
    printf("  %stoken %zu is the first that differs\n", what, place);
    print_place("A", a, place);
    print_place("B", b, place);
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

static void print_difference(void *context, const eval_difference_t *difference)
{
    json_t *a = difference->a, *b = difference->b;
    (void)context;
    if (a == NULL || b == NULL) {
        printf("item %lld is only in %s\n", (long long)difference->index, a != NULL ? "A" : "B");
        return;
    }
    json_t *choices = json_object_get(a, "choices"), *others = json_object_get(b, "choices");
    const char *id = json_string_value(json_object_get(a, "id"));
    printf("item %lld (%s)\n", (long long)difference->index,
        printable_name(id == NULL ? "?" : id).text);
    print_tokens("", a, b);
    for (size_t i = 0; i < json_array_size(choices); i++) {
        char what[64];
        snprintf(what, sizeof what, "choice %zu: ", i);
        print_tokens(what, json_array_get(choices, i), json_array_get(others, i));
    }
    print_fields(a, b);
}

int eval_print_comparison(const char *a, const char *b, size_t *n_different, fail_t *fail)
{
    eval_comparison_t comparison;
    if (eval_compare(a, b, print_difference, NULL, &comparison, fail) == 0)
        printf("%zu items are the same, %zu differ\n", comparison.n_same, comparison.n_different);
    *n_different = comparison.n_different;
    return fail->status;
}

int eval_print_canonical(const char *path, fail_t *fail)
{
    eval_lines_t lines;
    output_t output = {0};
    if (eval_lines_read(&lines, path, fail) != 0)
        return fail->status;
    eval_lines_sort(&lines);
    for (size_t i = 0; i < lines.count && fail->status == 0; i++) {
        char *text = eval_line_text(lines.lines[i]);
        if (text == NULL) {
            fail_set(fail, FAIL_MEMORY, "results: out of memory for a line");
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
