/* What the text of a chat's answer is made of: reasoning, content, and calls of tools.
 *
 * Two forms of calls, by what the model's template writes:
 *   Hermes, ChatML (Qwen)   <tool_call>{"name": ..., "arguments": {...}}</tool_call>, anywhere
 *   Llama 3                 the whole answer is {"name": ..., "parameters": {...}}, or several with ; between
 * What looks like a call and is none stays content, as it was written. Reasoning is what stands before </think>,
 * where the answer, or the prompt at its end, begins with <think>.
 *
 * Text comes in pieces and goes out as soon as it is certain what it is: what comes out does not depend on how
 * the text was cut. Zero-initialise but for the options; owns what it holds back. */
#ifndef CHOIR_SERVE_SPLIT_H
#define CHOIR_SERVE_SPLIT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/text/text_buffer.h"

typedef enum split_tools { SPLIT_NO_TOOLS, SPLIT_HERMES, SPLIT_LLAMA } split_tools_t;

typedef struct split_options {
    bool reasons;          /* there may be reasoning */
    bool begins_reasoning; /* the prompt has begun it */
    split_tools_t tools;
    bool one_call; /* later ones are left out (parallel_tool_calls false) */
} split_options_t;

typedef enum split_kind { SPLIT_CONTENT, SPLIT_REASONING, SPLIT_CALL } split_kind_t;

/* A piece that is certain. text: [bytes] of content and reasoning. call: {"name": TEXT, "arguments": TEXT of JSON},
 * borrowed. */
typedef void (*split_fn)(
    void *context, split_kind_t kind, const char *text, size_t bytes, json_t *call);

typedef enum split_state {
    SPLIT_AT_START,
    SPLIT_IN_REASONING,
    SPLIT_IN_CONTENT,
    SPLIT_IN_CALL,
    SPLIT_IN_JSON /* Llama: all that is left */
} split_state_t;

typedef struct split {
    split_options_t options;
    split_state_t state;
    bool drops_space;
    size_t n_calls;
    text_buffer_t held;
} split_t;

/* FAIL_MEMORY. */
int split_push(
    split_t *split, const char *text, size_t bytes, split_fn give, void *context, fail_t *fail);
/* The text has ended. */
void split_end(split_t *split, split_fn give, void *context);
void split_clear(split_t *split);

#endif
