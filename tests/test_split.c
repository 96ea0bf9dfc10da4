/* Reasoning, content and calls of tools in an answer's text, however it is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/serve/split.h"

/* Everything given, as one text: R, C and T before what is reasoning, content, a call. */
typedef struct found {
    char text[4096];
    int last;
} found_t;

static void give(void *context, split_kind_t kind, const char *text, size_t bytes, json_t *call)
{
    found_t *found = context;
    size_t used = strlen(found->text);
    if (kind == SPLIT_CALL)
        snprintf(found->text + used, sizeof found->text - used, "[T %s %s]",
            json_string_value(json_object_get(call, "name")),
            json_string_value(json_object_get(call, "arguments")));
    else
        snprintf(found->text + used, sizeof found->text - used, "%s%.*s",
            found->last == (int)kind ? ""
            : kind == SPLIT_CONTENT  ? "[C]"
                                     : "[R]",
            (int)bytes, text);
    found->last = (int)kind;
}

/* In pieces of every size. */
static void expect(split_options_t options, const char *text, const char *expected)
{
    size_t bytes = strlen(text);
    for (size_t step = 1; step <= bytes; step++) {
        found_t found = {.last = -1};
        split_t split = {.options = options};
        fail_t fail = {0};
        for (size_t at = 0; at < bytes; at += step)
            split_push(
                &split, text + at, step < bytes - at ? step : bytes - at, give, &found, &fail);
        split_end(&split, give, &found);
        split_clear(&split);
        if (strcmp(found.text, expected) != 0)
            fail_msg(
                "%s in pieces of %zu: \"%s\", expected \"%s\"", text, step, found.text, expected);
    }
}

static void plain_text_stays_as_it_is(void **state)
{
    (void)state;
    expect((split_options_t){0}, " a <think>b</think> <tool_call>{}</tool_call>\n",
        "[C] a <think>b</think> <tool_call>{}</tool_call>\n");
    expect((split_options_t){.reasons = true}, "a </think> b", "[C]a </think> b");
    expect((split_options_t){.reasons = true}, "<thin", "[C]<thin");
}

static void reasoning_ends_at_its_tag(void **state)
{
    (void)state;
    const split_options_t thinks = {.reasons = true},
                          begun = {.reasons = true, .begins_reasoning = true};
    expect(thinks, "\n<think>\nso < what\n</think>\n\nyes", "[R]so < what\n[C]yes");
    expect(thinks, "<think>never ends", "[R]never ends");
    expect(thinks, "<think></think>x", "[C]x");
    expect(begun, "so</think>yes </think>", "[R]so[C]yes </think>");
    expect(begun, "so</thin", "[R]so</thin");
}

static void hermes_calls_are_found_anywhere(void **state)
{
    (void)state;
    const split_options_t hermes = {.tools = SPLIT_HERMES},
                          both = {.reasons = true, .tools = SPLIT_HERMES};
    expect(hermes,
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"</x>\"]}}\n</tool_call>",
        "[T f {\"a\":[1,\"</x>\"]}]");
    expect(hermes,
        "Let me see. \n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call>\n",
        "[C]Let me see.[T f {}][T g {}]");
    expect((split_options_t){.tools = SPLIT_HERMES, .one_call = true},
        "<tool_call>{\"name\": \"f\"}</tool_call><tool_call>{\"name\": \"g\"}</tool_call>",
        "[T f {}]");
    expect(both, "<think>hm</think>\n<tool_call>{\"name\": \"f\"}", "[R]hm[T f {}]");
    expect(hermes, "a <tool_cal b \n", "[C]a <tool_cal b \n");
}

static void what_is_no_call_stays_content(void **state)
{
    (void)state;
    const split_options_t hermes = {.tools = SPLIT_HERMES}, llama = {.tools = SPLIT_LLAMA};
    expect(hermes, "<tool_call>{\"name\": 1}</tool_call>!",
        "[C]<tool_call>{\"name\": 1}</tool_call>!");
    expect(hermes, "<tool_call>{\"name\": \"f\", ", "[C]<tool_call>{\"name\": \"f\", ");
    expect(llama, "{\"answer\": 4}", "[C]{\"answer\": 4}");
    expect(llama, "{\"name\": \"f\", \"parameters\": [1]}",
        "[C]{\"name\": \"f\", \"parameters\": [1]}");
    expect(llama, "{\"name\": \"f\"} and more", "[C]{\"name\": \"f\"} and more");
    expect(llama, "The answer is {\"name\": \"f\"}", "[C]The answer is {\"name\": \"f\"}");
}

static void llama_calls_are_whole_answers(void **state)
{
    (void)state;
    const split_options_t llama = {.tools = SPLIT_LLAMA};
    expect(llama, "\n{\"name\": \"f\", \"parameters\": {\"x\": \"y\"}}", "[T f {\"x\":\"y\"}]");
    expect(llama, "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}\n",
        "[T f {}][T g {}]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_text_stays_as_it_is),
        cmocka_unit_test(reasoning_ends_at_its_tag),
        cmocka_unit_test(hermes_calls_are_found_anywhere),
        cmocka_unit_test(what_is_no_call_stays_content),
        cmocka_unit_test(llama_calls_are_whole_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
