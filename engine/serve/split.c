#include "engine/serve/split.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"

static const char think[] = "<think>", think_end[] = "</think>";
static const char call_begin[] = "<tool_call>", call_end[] = "</tool_call>";

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static size_t leading_space(const text_buffer_t *text)
{
    size_t n = 0;
    while (n < text->bytes && is_space(text->text[n]))
        n++;
    return n;
}

static void drop(text_buffer_t *text, size_t bytes)
{
    if (bytes == 0)
        return;
    memmove(text->text, text->text + bytes, text->bytes - bytes);
    text->bytes -= bytes;
    text->text[text->bytes] = 0;
}

/* Where `word` stands, or the number of bytes before what may become it. */
static bool find(const text_buffer_t *text, const char *word, size_t *at)
{
    size_t n = strlen(word);
    const char *found = text->bytes == 0 ? NULL : memmem(text->text, text->bytes, word, n);
    if (found != NULL) {
        *at = (size_t)(found - text->text);
        return true;
    }
    size_t tail = size_min(n - 1, text->bytes);
    while (tail > 0 && memcmp(text->text + text->bytes - tail, word, tail) != 0)
        tail--;
    *at = text->bytes - tail;
    return false;
}

static void give_text(split_t *s, split_kind_t kind, size_t bytes, split_fn give, void *context)
{
    if (bytes == 0)
        return;
    give(context, kind, s->held.text, bytes, NULL);
    drop(&s->held, bytes);
}

/* ---- Calls ----------------------------------------------------------------------------------- */

/* {"name", "arguments" as text} of an object with a name and, under one of two keys, arguments. NULL: it is none. */
static json_t *call_of(const json_t *object)
{
    json_t *name = json_object_get(object, "name");
    json_t *arguments = json_object_get(object, "arguments");
    if (arguments == NULL)
        arguments = json_object_get(object, "parameters");
    if (!json_is_string(name) || (arguments != NULL && !json_is_object(arguments)))
        return NULL;
    char *text = arguments == NULL ? strdup("{}") : json_dumps(arguments, JSON_COMPACT);
    json_t *call = text == NULL ? NULL : json_pack("{s:O, s:s}", "name", name, "arguments", text);
    free(text);
    return call;
}

static void give_call(split_t *s, json_t *call, split_fn give, void *context)
{
    if (!s->options.one_call || s->n_calls == 0)
        give(context, SPLIT_CALL, NULL, 0, call);
    s->n_calls++;
    json_decref(call);
}

/* held[0 .. bytes) is <tool_call>...</tool_call>, whose end may be absent. */
static void end_call(split_t *s, size_t bytes, bool closed, split_fn give, void *context)
{
    size_t from = strlen(call_begin), to = closed ? bytes - strlen(call_end) : bytes;
    json_error_t error;
    json_t *object = json_loadb(s->held.text + from, to - from, JSON_REJECT_DUPLICATES, &error);
    json_t *call = call_of(object);
    if (call == NULL) {
        give_text(s, SPLIT_CONTENT, bytes, give, context);
    } else {
        give_call(s, call, give, context);
        drop(&s->held, bytes);
        s->drops_space = true;
    }
    json_decref(object);
    s->state = SPLIT_IN_CONTENT;
}

/* Objects with ; or white space between them. NULL: the text is something else. */
static json_t *read_calls(const text_buffer_t *text)
{
    json_t *calls = json_array();
    size_t at = 0;
    while (at < text->bytes) {
        json_error_t error;
        json_t *object =
            json_loadb(text->text + at, text->bytes - at, JSON_DISABLE_EOF_CHECK, &error);
        json_t *call = object == NULL ? NULL : call_of(object);
        at += object == NULL ? 0 : (size_t)error.position;
        json_decref(object);
        if (call == NULL || json_array_append_new(calls, call) != 0) {
            json_decref(calls);
            return NULL;
        }
        while (at < text->bytes && (is_space(text->text[at]) || text->text[at] == ';'))
            at++;
    }
    return calls;
}

static void end_json(split_t *s, split_fn give, void *context)
{
    json_t *calls = read_calls(&s->held), *call;
    size_t i;
    if (calls == NULL) {
        give_text(s, SPLIT_CONTENT, s->held.bytes, give, context);
        return;
    }
    json_array_foreach (calls, i, call)
        give_call(s, json_incref(call), give, context);
    json_decref(calls);
    drop(&s->held, s->held.bytes);
}

/* ---- States: each returns whether there is more to do with what is held ------------------------ */

static bool go_on_at_start(split_t *s, bool ended)
{
    if (s->options.begins_reasoning) {
        s->state = SPLIT_IN_REASONING;
        s->drops_space = true;
        return true;
    }
    size_t space = leading_space(&s->held), left = s->held.bytes - space;
    size_t n = size_min(left, strlen(think));
    bool may_think = s->options.reasons && memcmp(s->held.text + space, think, n) == 0;
    if (may_think && n < strlen(think) && !ended)
        return false;
    if (may_think && n == strlen(think)) {
        drop(&s->held, space + n);
        s->state = SPLIT_IN_REASONING;
        s->drops_space = true;
        return true;
    }
    if (s->options.tools == SPLIT_LLAMA && left == 0 && !ended)
        return false;
    bool is_json = s->options.tools == SPLIT_LLAMA && left > 0 && s->held.text[space] == '{';
    s->state = is_json ? SPLIT_IN_JSON : SPLIT_IN_CONTENT;
    if (is_json)
        drop(&s->held, space);
    return true;
}

static bool go_on_reasoning(split_t *s, bool ended, split_fn give, void *context)
{
    size_t at;
    bool found = find(&s->held, think_end, &at);
    give_text(s, SPLIT_REASONING, ended && !found ? s->held.bytes : at, give, context);
    if (!found)
        return false;
    drop(&s->held, strlen(think_end));
    s->state = SPLIT_AT_START; /* of the rest, which is a JSON text or is not */
    s->options.reasons = s->options.begins_reasoning = false;
    s->drops_space = true;
    return true;
}

/* White space before a call belongs to it. */
static bool go_on_content(split_t *s, bool ended, split_fn give, void *context)
{
    size_t at = s->held.bytes;
    bool found = s->options.tools == SPLIT_HERMES && find(&s->held, call_begin, &at);
    size_t end = at;
    while (s->options.tools == SPLIT_HERMES && end > 0 && is_space(s->held.text[end - 1]))
        end--;
    if (!found && ended) {
        /* Behind calls alone, white space says nothing. */
        bool nothing = s->n_calls > 0 && leading_space(&s->held) == s->held.bytes;
        give_text(s, SPLIT_CONTENT, nothing ? 0 : s->held.bytes, give, context);
        return false;
    }
    give_text(s, SPLIT_CONTENT, end, give, context);
    if (!found)
        return false;
    drop(&s->held, at - end);
    s->state = SPLIT_IN_CALL;
    return true;
}

static bool go_on_call(split_t *s, bool ended, split_fn give, void *context)
{
    size_t at;
    if (find(&s->held, call_end, &at)) {
        end_call(s, at + strlen(call_end), true, give, context);
        return true;
    }
    if (ended)
        end_call(s, s->held.bytes, false, give, context);
    return false;
}

static bool go_on(split_t *s, bool ended, split_fn give, void *context)
{
    if (s->drops_space) {
        drop(&s->held, leading_space(&s->held));
        s->drops_space = s->held.bytes == 0;
    }
    if (s->held.bytes == 0)
        return false;
    switch (s->state) {
    case SPLIT_AT_START:
        return go_on_at_start(s, ended);
    case SPLIT_IN_REASONING:
        return go_on_reasoning(s, ended, give, context);
    case SPLIT_IN_CONTENT:
        return go_on_content(s, ended, give, context);
    case SPLIT_IN_CALL:
        return go_on_call(s, ended, give, context);
    default:
        if (ended)
            end_json(s, give, context);
        return false;
    }
}

int split_push(
    split_t *s, const char *text, size_t bytes, split_fn give, void *context, fail_t *fail)
{
    if (text_buffer_append(&s->held, text, bytes, fail) != 0)
        return fail->status;
    while (go_on(s, false, give, context))
        continue;
    return 0;
}

void split_end(split_t *s, split_fn give, void *context)
{
    while (go_on(s, true, give, context))
        continue;
}

void split_clear(split_t *s)
{
    text_buffer_clear(&s->held);
}
