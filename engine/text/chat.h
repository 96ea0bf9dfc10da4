/* Chat templates: a conversation to the prompt text, as transformers' apply_chat_template renders
 * it.
 *
 * A template is recognised by its text (tokenizer_config.json's chat_template or
 * chat_template.jinja); there is no Jinja interpreter here. White space that Jinja ignores does not
 * matter. Known:
 *
 *   "chatml"        plain ChatML, no default system message: the demo model's
 *   "qwen2"         ChatML with a default system message: Qwen2-Instruct's
 *   "qwen2.5"       Qwen2.5-Instruct's and Qwen2.5-Coder-Instruct's: ChatML with default system
 *                   message, tools, tool calls and tool responses
 *   "qwen2.5-base"  the same with the default system message of the base models
 *   "qwen2.5-math"  the same with the default system message of Qwen2.5-Math
 *
 * Thread safe. */
#ifndef CHOIR_TEXT_CHAT_H
#define CHOIR_TEXT_CHAT_H

#include <stdbool.h>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

typedef enum chat_template {
    CHAT_NONE,
    CHAT_CHATML,
    CHAT_QWEN25,
    CHAT_QWEN25_BASE,
    CHAT_QWEN25_MATH,
    CHAT_QWEN2
} chat_template_t;

/* Which template a model directory has. FAIL_MODEL for one that is not known (the message names the
 * ones that are, and --raw), CHAT_NONE and no failure when the directory has none. */
int chat_template_detect(const char *directory, chat_template_t *chat_template, fail_t *fail);

/* The template with this text; name is what messages call it. */
int chat_template_recognise(
    const char *text, size_t bytes, const char *name, chat_template_t *chat_template, fail_t *fail);

const char *chat_template_name(chat_template_t chat_template);

/* messages: JSON array of {"role", "content", optionally "tool_calls"}; tools: JSON array or NULL.
 * Appends the text, nothing on failure. FAIL_USAGE names the message that is malformed; also for
 * roles, tools and tool calls that the template would leave out without a word. */
int chat_render(chat_template_t chat_template, json_t *messages, json_t *tools,
    bool add_generation_prompt, text_buffer_t *out, fail_t *fail);

#endif
