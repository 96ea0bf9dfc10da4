#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "launch/answer.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/output.h"
#include "launch/prompts.h"
#include "launch/session.h"
#include "launch/signals.h"
#include "launch/terminal.h"

#define MODEL_DIR_BYTES 4096

/* The conversation, on the coordinator. */
typedef struct talk {
    session_t *session;
    const options_t *options;
    terminal_t terminal;
    tokenizer_t *tokenizer;
    chat_template_t chat_template; /* CHAT_NONE with --raw */
    json_t *messages;
    text_buffer_t raw; /* --raw: everything said so far */
    output_t output;
    uint64_t n_turns;
} talk_t;

/* What is said to a person goes to standard error, so that standard output holds answers only; but
 * to a terminal all goes one way, since mpirun forwards the two in any order. */
static void tell(talk_t *talk, const char *text)
{
    fail_t ignored = {0};
    if (talk->terminal.shown)
        output_write(&talk->output, text, strlen(text), &ignored);
    else if (talk->terminal.interactive)
        fputs(text, stderr);
}

/* ---- The conversation --------------------------------------------------------------------------
 */

static int reset(talk_t *talk, fail_t *fail)
{
    json_decref(talk->messages);
    talk->messages = json_array();
    talk->raw.bytes = 0;
    const char *system = talk->options->system;
    json_t *message = system != NULL ? prompts_message("system", system, strlen(system)) : NULL;
    if (talk->messages == NULL ||
        (system != NULL && json_array_append_new(talk->messages, message) != 0))
        fail_set(fail, FAIL_USAGE, "--system: expected UTF-8 text, found other bytes");
    return fail->status;
}

/* Adds what a side said. False when it is not text. */
static bool add_turn(talk_t *talk, const char *role, const char *text, size_t bytes, fail_t *fail)
{
    if (talk->chat_template == CHAT_NONE)
        return text_buffer_append(&talk->raw, text, bytes, fail) == 0;
    return json_array_append_new(talk->messages, prompts_message(role, text, bytes)) == 0;
}

/* Takes the last turn back. */
static void drop_turn(talk_t *talk, size_t raw_bytes)
{
    talk->raw.bytes = raw_bytes;
    if (json_array_size(talk->messages) > 0 && talk->chat_template != CHAT_NONE)
        json_array_remove(talk->messages, json_array_size(talk->messages) - 1);
}

/* The whole conversation as token ids. */
static int encode(const talk_t *talk, tokenizer_ids_t *ids, fail_t *fail)
{
    if (talk->chat_template == CHAT_NONE)
        return tokenizer_encode(talk->tokenizer, talk->raw.text, talk->raw.bytes, true, ids, fail);
    text_buffer_t text = {0};
    if (chat_render(talk->chat_template, talk->messages, NULL, true, &text, fail) == 0)
        tokenizer_encode(talk->tokenizer, text.text, text.bytes, true, ids, fail);
    text_buffer_clear(&text);
    return fail->status;
}

/* ---- Answering ---------------------------------------------------------------------------------
 */

static int submit(talk_t *talk, answer_t *answer, uint64_t *handle, fail_t *fail)
{
    int32_t stop_ids[CONFIG_MAX_STOP_IDS + 1], chat_end = -1;
    if (talk->chat_template != CHAT_NONE)
        chat_end = tokenizer_special_id(talk->tokenizer, "<|im_end|>");
    engine_request_t request = {.prompt_ids = answer->prompt_ids.ids,
        .n_prompt = answer->prompt_ids.count,
        .max_tokens = talk->options->max_tokens,
        .stop_ids = stop_ids,
        .n_stop_ids = session_stop_ids(talk->session, chat_end, stop_ids),
        .sampling = session_sampling(talk->session, talk->n_turns)};
    return engine_submit(talk->session->engine, &request, handle, fail);
}

static int take_events(
    talk_t *talk, answer_t *answer, const engine_event_t *events, size_t n_events, fail_t *fail)
{
    for (size_t i = 0; i < n_events && fail->status == 0; i++) {
        bool stopped = false;
        if (events[i].has_token)
            answer_push(answer, &events[i].choice, &stopped, fail);
        if (stopped && events[i].finish == ENGINE_RUNNING)
            engine_cancel(talk->session->engine, events[i].request);
        if (stopped || events[i].finish == ENGINE_STOP)
            answer_end(answer, ANSWER_STOP, fail);
        else if (events[i].finish != ENGINE_RUNNING)
            answer_end(answer, ANSWER_LENGTH, fail);
    }
    return fail->status;
}

static void show(talk_t *talk, answer_t *answer, fail_t *fail)
{
    size_t bytes;
    const char *text = answer_take(answer, &bytes);
    output_write(&talk->output, text, bytes, fail);
}

static void tell_limit(talk_t *talk, const answer_t *answer)
{
    char limit[160], text[256];
    size_t max_tokens = talk->options->max_tokens;
    answer_describe_limit(
        answer, max_tokens, engine_info(talk->session->engine).max_context, limit, sizeof limit);
    snprintf(text, sizeof text, "(cut off: %s%s)\n", limit,
        answer->n_ids >= max_tokens ? "" : "; /reset begins anew");
    tell(talk, text);
}

/* Steps until the answer has ended, or the person has heard enough. */
static int stream(talk_t *talk, answer_t *answer, uint64_t handle, fail_t *fail)
{
    terminal_interrupted(&talk->terminal); /* what was typed before is about something else */
    while (answer->end == ANSWER_GROWS && fail->status == 0 && !talk->output.closed) {
        const engine_event_t *events;
        size_t n_events;
        if (engine_step(talk->session->engine, &events, &n_events, fail) < 0)
            break;
        take_events(talk, answer, events, n_events, fail);
        show(talk, answer, fail);
        if (answer->end == ANSWER_GROWS && terminal_interrupted(&talk->terminal)) {
            engine_cancel(talk->session->engine, handle);
            answer_end(answer, ANSWER_INTERRUPTED, fail);
            show(talk, answer, fail);
        }
    }
    fail_t written = {0};
    output_write(&talk->output, "\n", 1, &written);
    if (answer->end == ANSWER_LENGTH)
        tell_limit(talk, answer);
    return fail->status;
}

/* One turn of the person and the model's. What cannot be said is told, and the conversation stays
 * as it was. */
static int turn(talk_t *talk, const char *line, size_t bytes, fail_t *fail)
{
    size_t raw_bytes = talk->raw.bytes;
    answer_t answer = {.tokenizer = talk->tokenizer, .stops = &talk->options->stop};
    uint64_t handle;
    fail_t refused = {0};
    if (!add_turn(talk, "user", line, bytes, fail)) {
        log_write(LOG_ERROR, "expected UTF-8 text, found other bytes; not sent");
        return fail->status;
    }
    if (encode(talk, &answer.prompt_ids, &refused) != 0 ||
        submit(talk, &answer, &handle, &refused) != 0) {
        drop_turn(talk, raw_bytes);
        log_write(LOG_ERROR, "%s; not sent. /reset begins anew", refused.message);
    } else {
        talk->n_turns++;
        stream(talk, &answer, handle, fail);
        if (fail->status == 0)
            add_turn(talk, "assistant", answer.text.text == NULL ? "" : answer.text.text,
                answer.text.bytes, fail);
    }
    answer_clear(&answer);
    return fail->status;
}

/* ---- The session -------------------------------------------------------------------------------
 */

static void tell_help(talk_t *talk)
{
    tell(talk, "  /reset   forget the conversation\n"
               "  /quit    leave (as Ctrl-D does)\n"
               "  Ctrl-C   end the answer\n");
}

/* False when the person leaves. */
static bool take_line(talk_t *talk, const char *line, size_t bytes, fail_t *fail)
{
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0)
        return false;
    if (strcmp(line, "/reset") == 0) {
        reset(talk, fail);
        tell(talk, "(new conversation)\n");
    } else if (strcmp(line, "/help") == 0) {
        tell_help(talk);
    } else if (line[0] == '/' && strchr(line, ' ') == NULL) {
        tell(talk, "unknown command; /help lists them\n");
    } else if (bytes > 0) {
        turn(talk, line, bytes, fail);
    }
    return fail->status == 0 && !talk->output.closed;
}

/* The coordinator's part. */
static int converse(talk_t *talk, fail_t *fail)
{
    terminal_open(&talk->terminal);
    signals_note_sigint();
    tell(talk, "Type a message; /help lists commands, /quit leaves.\n");
    bool goes_on = reset(talk, fail) == 0;
    while (goes_on) {
        char *line;
        size_t bytes;
        tell(talk, "> ");
        terminal_event_t event = terminal_read_line(&talk->terminal, &line, &bytes, fail);
        if (event == TERMINAL_LINE)
            goes_on = take_line(talk, line, bytes, fail);
        else if (event == TERMINAL_INTERRUPT)
            tell(talk, "\n(/quit or Ctrl-D leaves)\n");
        else
            goes_on = false;
        free(line);
        if (event == TERMINAL_END)
            tell(talk, "\n");
    }
    if (signals_ended())
        fail_set(fail, FAIL_INTERRUPTED, "interrupted");
    terminal_close(&talk->terminal);
    return fail->status;
}

static int open_talk(talk_t *talk, const char *directory, fail_t *fail)
{
    if (talk->options->raw && talk->options->system != NULL)
        return fail_set(fail, FAIL_USAGE, "--system: needs a chat template; --raw has none");
    if (prompts_open_tokenizer(&talk->tokenizer, directory, fail) == 0 && !talk->options->raw)
        prompts_require_template(&talk->chat_template, directory, fail);
    return fail->status;
}

int cmd_chat(invocation_t *invocation, fail_t *fail)
{
    char directory[MODEL_DIR_BYTES];
    session_t session = {0};
    talk_t talk = {.session = &session, .options = &invocation->options};
    model_dir_find(invocation->options.model, directory, sizeof directory, fail);
    if (comm_agree(invocation->comm, fail) != 0)
        return fail->status;
    if (comm_rank(invocation->comm) == 0)
        open_talk(&talk, directory, fail);
    comm_bcast(invocation->comm, fail, sizeof *fail);
    if (fail->status == 0) {
        if (session_open(&session, invocation, directory, 1, 0, fail) == 0) {
            if (session.coordinates)
                converse(&talk, fail);
            else
                engine_serve(session.engine, fail);
        }
        session_close(&session, fail);
    }
    json_decref(talk.messages);
    text_buffer_clear(&talk.raw);
    tokenizer_close(talk.tokenizer);
    return fail->status;
}
