/* Streams: what has been told of an answer, as server-sent events. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/serve/server_internal.h"

static void append(text_buffer_t *out, const char *text, size_t bytes)
{
    fail_t fail = {0};
    text_buffer_append(out, text, bytes, &fail); /* a client that gets less sees no [DONE] */
}

static void append_event(text_buffer_t *out, const char *text, size_t bytes)
{
    append(out, "data: ", 6);
    append(out, text, bytes);
    append(out, "\n\n", 2);
}

static void send_event(text_buffer_t *out, json_t *value)
{
    size_t bytes;
    char *text = server_json(value, &bytes);
    if (text == NULL)
        return;
    append_event(out, text, bytes);
    free(text);
}

/* ---- Pieces of an answer --------------------------------------------------------------------- */

typedef struct sending {
    ask_t *ask;
    const api_answer_t *answer;
    size_t number; /* of the part */
    text_buffer_t *out;
} sending_t;

static void send_split(
    void *context, split_kind_t kind, const char *text, size_t bytes, json_t *call)
{
    const sending_t *s = context;
    part_t *part = &s->ask->parts[s->number];
    if (kind == SPLIT_CONTENT)
        send_event(s->out,
            api_piece_json(s->answer, s->number, text, bytes, NULL, &part->n_characters, NULL));
    else if (kind == SPLIT_REASONING)
        send_event(s->out, api_reasoning_json(s->answer, s->number, text, bytes));
    else
        send_event(s->out, api_call_json(s->answer, s->number, call, part->n_calls++));
}

/* Events of text alone differ in their text: the rest is made once. Behind the text stands nothing that is empty, so
 * its place is where two quotes stand together for the last time. */
static bool make_frame(const sending_t *s, part_t *part)
{
    if (part->frame != NULL)
        return true;
    part->frame =
        server_json(api_piece_json(s->answer, s->number, "", 0, NULL, &part->n_characters, NULL),
            &part->frame_bytes);
    size_t at = part->frame_bytes;
    while (at > 1 && (part->frame[at - 1] != '"' || part->frame[at - 2] != '"'))
        at--;
    part->text_at = at > 1 ? at - 2 : 0;
    return part->frame != NULL;
}

static void send_text_alone(const sending_t *s, part_t *part, const char *text, size_t bytes)
{
    fail_t fail = {0};
    text_buffer_t *out = s->out;
    if (!make_frame(s, part))
        return;
    /* A byte has at most six in JSON. */
    size_t most = part->frame_bytes + 6 * bytes + 8, before = out->bytes;
    if (text_buffer_reserve(out, most, &fail) != 0)
        return;
    append(out, "data: ", 6);
    append(out, part->frame, part->text_at);
    json_t *value = json_stringn(text, bytes);
    size_t written = value == NULL ? 0
                                   : json_dumpb(value, out->text + out->bytes,
                                         out->capacity - out->bytes, JSON_ENCODE_ANY);
    json_decref(value);
    out->bytes += written;
    append(out, part->frame + part->text_at + 2, part->frame_bytes - part->text_at - 2);
    append(out, "\n\n", 2);
    if (written == 0)
        out->bytes = before; /* out of memory, or no UTF-8 */
}

static bool is_split(const ask_t *ask)
{
    return ask->split.reasons || ask->split.tools != SPLIT_NO_TOOLS;
}

/* Text as the answer grows by it. tokens: with their log-probabilities, or NULL. Where text is held back until it is
 * certain what it is, tokens come in pieces of their own. */
static void send_text(sending_t *s, const char *text, size_t bytes, const api_tokens_t *tokens)
{
    part_t *part = &s->ask->parts[s->number];
    fail_t fail = {0};
    bool split = is_split(s->ask);
    if (split && bytes > 0)
        split_push(&part->split, text, bytes, send_split, s, &fail);
    if (tokens != NULL)
        send_event(s->out, api_piece_json(s->answer, s->number, text, split ? 0 : bytes, tokens,
                               &part->n_characters, NULL));
    else if (!split)
        send_text_alone(s, part, text, bytes);
}

/* behind: the text, and the choice */
static void send_token(sending_t *s, const told_t *told, const char *behind)
{
    part_t *part = &s->ask->parts[told->part];
    sampler_choice_t choice;
    part->n_tokens++;
    part->n_text += told->bytes;
    if (told->has_choice) {
        memcpy(&choice, behind + told->bytes, sizeof choice);
        const api_tokens_t tokens = {&choice.token, &choice.logprob, &choice, 1};
        send_text(s, behind, told->bytes, &tokens);
    } else {
        send_text(s, behind, told->bytes, NULL);
    }
}

/* What the result has beyond the tokens told, and why the answer has ended. */
static void send_end(sending_t *s)
{
    part_t *part = &s->ask->parts[s->number];
    const fleet_result_t *result = &part->result;
    size_t first = size_min(part->n_tokens, result->n_tokens);
    size_t told = size_min(part->n_text, result->text_bytes);
    const api_tokens_t rest = {result->tokens + first, result->logprobs + first,
        result->choices == NULL ? NULL : result->choices + first, result->n_tokens - first};
    bool logprobs = s->ask->request.logprobs && rest.n > 0;
    if (logprobs || result->text_bytes > told)
        send_text(s, result->text + told, result->text_bytes - told, logprobs ? &rest : NULL);
    if (is_split(s->ask))
        split_end(&part->split, send_split, s);
    json_t *end = api_piece_json(s->answer, s->number, "", 0, NULL, &part->n_characters,
        api_finish_name(result->finish, part->n_calls > 0));
    if (s->ask->request.want_digest) {
        char digest[17];
        snprintf(digest, sizeof digest, "%016llx", (unsigned long long)result->digest);
        json_object_set_new(json_array_get(json_object_get(end, "choices"), 0), "logits_digest",
            json_string(digest));
    }
    send_event(s->out, end);
}

/* ---- Whole streams --------------------------------------------------------------------------- */

static void send_usage(const ask_t *ask, const api_answer_t *answer, text_buffer_t *out)
{
    size_t n_prompt = 0, n_completion = 0;
    for (size_t i = 0; i < ask->request.n_prompts; i++)
        n_prompt += ask->prompts[i].count;
    for (size_t i = 0; i < ask->n_answers; i++)
        n_completion += ask->parts[i].result.n_tokens;
    send_event(out, api_usage_piece_json(answer, n_prompt, n_completion));
}

static void send_first(ask_t *ask, const api_answer_t *answer, size_t i, text_buffer_t *out)
{
    api_choice_t choice = ask_choice(ask, i);
    choice.result = NULL;
    json_t *first = api_first_json(answer, &choice, &ask->parts[i].n_characters);
    if (first != NULL)
        send_event(out, first);
}

void ask_stream(ask_t *ask, bool finished, text_buffer_t *out, bool *ended)
{
    const api_answer_t answer = ask_head(ask);
    for (size_t i = 0; i < ask->n_answers && !ask->begun && ask->error.status == 0; i++)
        send_first(ask, &answer, i, out);
    ask->begun = true;
    for (size_t at = 0; at < ask->taken.bytes;) {
        told_t told;
        memcpy(&told, ask->taken.text + at, sizeof told);
        at += sizeof told;
        sending_t sending = {ask, &answer, told.part, out};
        if (told.ends)
            send_end(&sending);
        else
            send_token(&sending, &told, ask->taken.text + at);
        at += told.bytes + (told.has_choice ? sizeof(sampler_choice_t) : 0);
    }
    *ended = finished;
    if (!finished)
        return;
    if (ask->error.status != 0) {
        send_event(out, api_error_json(&ask->error));
        return;
    }
    if (ask->request.include_usage)
        send_usage(ask, &answer, out);
    append(out, "data: [DONE]\n\n", 14);
}
