#include "engine/eval/eval_compare.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/eval/eval_results.h"

static json_int_t index_of(const json_t *line)
{
    return json_integer_value(json_object_get(line, "index"));
}

size_t eval_first_difference(json_t *a, json_t *b)
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

static int same_line(const json_t *a, const json_t *b, bool *same, fail_t *fail)
{
    char *text_a = eval_line_text(a), *text_b = eval_line_text(b);
    if (text_a == NULL || text_b == NULL)
        fail_set(fail, FAIL_MEMORY, "results: out of memory for a line");
    else
        *same = strcmp(text_a, text_b) == 0;
    free(text_a);
    free(text_b);
    return fail->status;
}

/* Takes the next item of both: which lines are its, NULL where one lacks it. */
static eval_difference_t next_item(
    const eval_lines_t *a, const eval_lines_t *b, size_t *i, size_t *j)
{
    bool more_a = *i < a->count, more_b = *j < b->count;
    json_int_t index_a = more_a ? index_of(a->lines[*i]) : 0;
    json_int_t index_b = more_b ? index_of(b->lines[*j]) : 0;
    bool in_a = more_a && (!more_b || index_a <= index_b);
    bool in_b = more_b && (!more_a || index_b <= index_a);
    return (eval_difference_t){.index = in_a ? index_a : index_b,
        .a = in_a ? a->lines[(*i)++] : NULL,
        .b = in_b ? b->lines[(*j)++] : NULL};
}

static int compare_lines(const eval_lines_t *a, const eval_lines_t *b, eval_difference_fn tell,
    void *context, eval_comparison_t *comparison, fail_t *fail)
{
    for (size_t i = 0, j = 0; (i < a->count || j < b->count) && fail->status == 0;) {
        const eval_difference_t item = next_item(a, b, &i, &j);
        bool same = false;
        if (item.a != NULL && item.b != NULL && same_line(item.a, item.b, &same, fail) != 0)
            break;
        comparison->n_same += same;
        comparison->n_different += !same;
        if (!same)
            tell(context, &item);
    }
    return fail->status;
}

int eval_compare(const char *path_a, const char *path_b, eval_difference_fn tell, void *context,
    eval_comparison_t *comparison, fail_t *fail)
{
    eval_lines_t a = {0}, b = {0};
    *comparison = (eval_comparison_t){0};
    if (eval_lines_read(&a, path_a, fail) == 0 && eval_lines_read(&b, path_b, fail) == 0) {
        eval_lines_sort(&a);
        eval_lines_sort(&b);
        if (a.count + b.count == 0)
            fail_set(fail, FAIL_MODEL, "%s and %s: expected items, found none in either", path_a,
                path_b);
        else
            compare_lines(&a, &b, tell, context, comparison, fail);
    }
    eval_lines_clear(&a);
    eval_lines_clear(&b);
    return fail->status;
}
