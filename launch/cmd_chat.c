#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/log.h"
#include "engine/base/out_file.h"
#include "launch/answer_json.h"
#include "launch/chat_commands.h"
#include "launch/command.h"
#include "launch/history.h"
#include "launch/mesh.h"
#include "launch/model_dir.h"
#include "launch/output.h"
#include "launch/prompts.h"
#include "launch/request_fields.h"
#include "launch/signals.h"
#include "launch/terminal.h"

#define MODEL_DIR_BYTES 4096
#define SAVED_PATH_BYTES 4096

typedef struct chat_flags {
    common_flags_t common;
    run_flags_t run;
    answer_flags_t answer; /* /set changes them */
    chat_choice_t template;
    const char *system;
    bool raw, no_history;
} chat_flags_t;

/* The conversation, on the coordinator. */
typedef struct talk {
    mesh_t *mesh;
    chat_flags_t *flags;
    args_given_t *given;
    terminal_t terminal;
    history_t history;
    tokenizer_t *tokenizer;
    chat_t *chat; /* NULL with --raw */
    json_t *messages;
    text_buffer_t raw; /* --raw: the text so far */
    char *system;
    output_t output;
    uint64_t n_turns;
    char saved[SAVED_PATH_BYTES]; /* the file of the last /save */
} talk_t;

/* Messages to the user go to standard error, so that standard output has answers only. To a
 * terminal all goes to one stream, since mpirun forwards the two in any order. */
static void say(talk_t *talk, const char *text)
{
    fail_t ignored = {0};
    if (talk->terminal.shown)
        output_write(&talk->output, text, strlen(text), &ignored);
    else
        fputs(text, stderr);
}

/* Unrequested messages: only on a terminal, and not with --quiet. */
static void tell(talk_t *talk, const char *text)
{
    if (talk->terminal.interactive && !talk->flags->common.quiet)
        say(talk, text);
}

/* ---- The conversation ------------------------------------------------------------------------ */

static int reset(talk_t *talk, fail_t *fail)
{
    const char *system = talk->system;
    json_t *messages = json_array();
    json_t *message = system != NULL ? chat_message("system", system, strlen(system)) : NULL;
    if (messages == NULL || (system != NULL && json_array_append_new(messages, message) != 0)) {
        json_decref(messages);
        return fail_set(fail, FAIL_USAGE, "system message: expected UTF-8 text, found other bytes");
    }
    json_decref(talk->messages);
    talk->messages = messages;
    talk->raw.bytes = 0;
    return 0;
}

/* Adds a message. False when it is not text. */
static bool add_turn(talk_t *talk, const char *role, const char *text, size_t bytes, fail_t *fail)
{
    if (talk->chat == NULL)
        return text_buffer_append(&talk->raw, text, bytes, fail) == 0;
    return json_array_append_new(talk->messages, chat_message(role, text, bytes)) == 0;
}

/* Removes the last turn. */
static void drop_turn(talk_t *talk, size_t raw_bytes)
{
    talk->raw.bytes = raw_bytes;
    if (json_array_size(talk->messages) > 0 && talk->chat != NULL)
        json_array_remove(talk->messages, json_array_size(talk->messages) - 1);
}

/* The whole conversation as token ids. */
static int encode(const talk_t *talk, tokenizer_ids_t *ids, fail_t *fail)
{
    if (talk->chat == NULL)
        return tokenizer_encode(talk->tokenizer, talk->raw.text, talk->raw.bytes, true, ids, fail);
    text_buffer_t text = {0};
    if (chat_render(talk->chat, &(chat_input_t){.messages = talk->messages}, &text, fail) == 0)
        tokenizer_encode(talk->tokenizer, text.text, text.bytes, true, ids, fail);
    text_buffer_clear(&text);
    return fail->status;
}

/* ---- Answering ------------------------------------------------------------------------------- */

/* How the next answer is drawn. */
static int read_fields(const talk_t *talk, request_fields_t *fields, fail_t *fail)
{
    return request_fields_of_flags(&talk->flags->answer, talk->given,
        &mesh_info(talk->mesh).config->generation, talk->n_turns, fields, fail);
}

static int submit(talk_t *talk, const tokenizer_ids_t *prompt, uint64_t *job, fail_t *fail)
{
    int32_t stop_ids[CONFIG_MAX_STOP_IDS + 1], chat_end = chat_end_id(talk->chat, talk->tokenizer);
    request_fields_t fields;
    if (read_fields(talk, &fields, fail) != 0)
        return fail->status;
    request_t request =
        request_of_fields(&fields, prompt, mesh_engine(talk->mesh), chat_end, stop_ids);
    request.streams = true;
    if (fleet_check(talk->mesh->fleet, &request, fail) != 0)
        return fail->status;
    return fleet_submit(talk->mesh->fleet, &request, job, fail);
}

static void tell_limit(talk_t *talk, const fleet_result_t *result, size_t n_prompt)
{
    char limit[160], text[256];
    size_t max_tokens = talk->flags->answer.max_tokens;
    answer_describe_limit(
        result, n_prompt, max_tokens, mesh_info(talk->mesh).max_context, limit, sizeof limit);
    snprintf(text, sizeof text, "(cut off: %s%s)\n", limit,
        result->n_tokens >= max_tokens ? "" : "; /reset begins anew");
    tell(talk, text);
}

/* Shows the answer as it grows; the one answer that is under way. */
static size_t show_events(talk_t *talk, fail_t *fail)
{
    size_t n_events, n_shown = 0;
    const fleet_event_t *events = fleet_events(talk->mesh->fleet, &n_events);
    for (size_t i = 0; i < n_events && fail->status == 0; i++) {
        output_write(&talk->output, events[i].text, events[i].text_bytes, fail);
        n_shown += events[i].text_bytes;
    }
    return n_shown;
}

/* Steps until the answer has ended, or the user interrupts. *result: the answer's result, or NULL;
 * borrowed until the next step. */
static int stream(talk_t *talk, uint64_t job, const fleet_result_t **result, fail_t *fail)
{
    size_t n_results = 0, n_shown = 0;
    *result = NULL;
    terminal_interrupted(&talk->terminal); /* an earlier Ctrl-C was for something else */
    while (n_results == 0 && fail->status == 0 && !talk->output.closed) {
        if (fleet_step(talk->mesh->fleet, result, &n_results, fail) < 0)
            break;
        n_shown += show_events(talk, fail);
        if (n_results == 0 && terminal_interrupted(&talk->terminal))
            fleet_cancel(talk->mesh->fleet, job, fail);
    }
    if (n_results == 0)
        *result = NULL;
    else
        output_write(
            &talk->output, (*result)->text + n_shown, (*result)->text_bytes - n_shown, fail);
    fail_t written = {0};
    output_write(&talk->output, "\n", 1, &written);
    return fail->status;
}

/* One turn of the user and the model. On an error it is reported, and the conversation does not
 * change. */
static int turn(talk_t *talk, const char *line, size_t bytes, fail_t *fail)
{
    size_t raw_bytes = talk->raw.bytes;
    tokenizer_ids_t prompt = {0};
    const fleet_result_t *result;
    uint64_t job;
    fail_t refused = {0};
    if (!add_turn(talk, "user", line, bytes, fail)) {
        log_write(LOG_ERROR, "expected UTF-8 text, found other bytes; not sent");
        return fail->status;
    }
    if (encode(talk, &prompt, &refused) != 0 || submit(talk, &prompt, &job, &refused) != 0) {
        drop_turn(talk, raw_bytes);
        log_write(LOG_ERROR, "%s; not sent. /reset starts over", refused.message);
    } else {
        talk->n_turns++;
        stream(talk, job, &result, fail);
        if (result != NULL && result->finish == ENGINE_LENGTH)
            tell_limit(talk, result, prompt.count);
        if (result != NULL && fail->status == 0)
            add_turn(talk, "assistant", result->text, result->text_bytes, fail);
    }
    tokenizer_ids_clear(&prompt);
    return fail->status;
}

/* ---- Commands -------------------------------------------------------------------------------- */

/* A new system message, and a new conversation. NULL: prints the current one. */
static int set_system(talk_t *talk, const char *text, fail_t *fail)
{
    if (talk->chat == NULL)
        return fail_set(fail, FAIL_USAGE, "/system: needs a chat template; --raw has none");
    if (text[0] == 0) {
        say(talk,
            talk->system != NULL ? talk->system : "(no system message; /system TEXT sets one)");
        say(talk, "\n");
        return 0;
    }
    char *copy = strdup(text), *before = talk->system;
    if (copy == NULL)
        return fail_set(fail, FAIL_MEMORY, "/system: out of memory");
    talk->system = copy;
    if (reset(talk, fail) != 0) {
        talk->system = before;
        free(copy);
        return fail->status;
    }
    free(before);
    tell(talk, "(system message set; new conversation)\n");
    return 0;
}

/* The conversation in the form that --prompts reads: one line. */
static char *conversation_json(const talk_t *talk, size_t *bytes)
{
    json_t *object = talk->chat == NULL
                         ? json_pack("{s:s%}", "prompt", talk->raw.bytes > 0 ? talk->raw.text : "",
                               talk->raw.bytes)
                         : json_pack("{s:O}", "messages", talk->messages);
    char *text = object == NULL ? NULL : json_dumps(object, JSON_COMPACT);
    if (text != NULL) {
        *bytes = strlen(text) + 1;
        text[*bytes - 1] = '\n'; /* in place of the final zero */
    }
    json_decref(object);
    return text;
}

/* Files of other programs are never replaced; a file that this session saved is, with a message. */
static int save(talk_t *talk, const char *path, fail_t *fail)
{
    char note[SAVED_PATH_BYTES + 64];
    struct stat status;
    size_t bytes;
    bool again = strcmp(path, talk->saved) == 0;
    if (path[0] == 0)
        return fail_set(fail, FAIL_USAGE, "/save: expected a file's name, found none");
    if (strlen(path) >= SAVED_PATH_BYTES)
        return fail_set(fail, FAIL_USAGE, "/save: expected a name of at most %d bytes, found %zu",
            SAVED_PATH_BYTES - 1, strlen(path));
    if (!again && stat(path, &status) == 0 && S_ISREG(status.st_mode))
        return fail_set(fail, FAIL_FILE, "%s: exists already and is not replaced", path);
    char *text = conversation_json(talk, &bytes);
    if (text == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "/save: out of memory, or a conversation that is no UTF-8");
    if (out_file_write(path, text, bytes, fail) == 0) {
        snprintf(talk->saved, sizeof talk->saved, "%s", path);
        snprintf(note, sizeof note, "(%s %s)\n", again ? "saved again to" : "saved to", path);
        tell(talk, note);
    }
    free(text);
    return fail->status;
}

static int set_setting(talk_t *talk, const char *argument, fail_t *fail)
{
    text_buffer_t list = {0};
    if (argument[0] != 0)
        return chat_settings_set(&talk->flags->answer, talk->given, argument, fail);
    request_fields_t fields;
    if (read_fields(talk, &fields, fail) == 0 &&
        chat_settings_list(&talk->flags->answer, &fields.sampling, &list, fail) == 0)
        say(talk, list.text);
    text_buffer_clear(&list);
    return fail->status;
}

/* Errors are reported; only the end of output ends a session. */
static void obey(talk_t *talk, chat_command_t command, const char *line, const char *argument)
{
    fail_t refused = {0};
    switch (command) {
    case COMMAND_HELP:
        say(talk, chat_command_help(talk->terminal.editor != NULL));
        break;
    case COMMAND_RESET:
        if (reset(talk, &refused) == 0)
            tell(talk, "(new conversation)\n");
        break;
    case COMMAND_SYSTEM:
        set_system(talk, argument, &refused);
        break;
    case COMMAND_SAVE:
        save(talk, argument, &refused);
        break;
    case COMMAND_SET:
        set_setting(talk, argument, &refused);
        break;
    default:
        chat_command_unknown(line, &refused);
    }
    if (refused.status != 0)
        log_write(LOG_ERROR, "%s", refused.message);
}

/* ---- The session ----------------------------------------------------------------------------- */

/* False when the user leaves. */
static bool take_line(talk_t *talk, char *line, size_t bytes, fail_t *fail)
{
    char *argument;
    size_t n_argument;
    if (talk->terminal.editor != NULL && history_add(&talk->history, line, bytes))
        line_editor_remember(talk->terminal.editor, line);
    chat_command_t command = chat_command_parse(line, bytes, &argument, &n_argument);
    if (command == COMMAND_QUIT)
        return false;
    if (command != COMMAND_TEXT)
        obey(talk, command, line, argument);
    else if (n_argument > 0)
        turn(talk, argument, n_argument, fail);
    return fail->status == 0 && !talk->output.closed;
}

static void remember(void *context, const char *text)
{
    line_editor_remember(context, text);
}

static void greet(talk_t *talk)
{
    terminal_open(&talk->terminal);
    signals_note_sigint();
    if (talk->terminal.editor != NULL && !talk->flags->no_history)
        history_open(&talk->history, remember, talk->terminal.editor);
    tell(talk, "Type a message; /help lists commands, /quit leaves.\n");
}

/* The coordinator's part. */
static int converse(talk_t *talk, fail_t *fail)
{
    const char *prompt = talk->flags->common.quiet ? "" : "> ";
    greet(talk);
    bool goes_on = reset(talk, fail) == 0;
    while (goes_on) {
        char *line;
        size_t bytes;
        if (talk->terminal.editor == NULL)
            tell(talk, prompt);
        switch (terminal_read_line(&talk->terminal, prompt, &line, &bytes, fail)) {
        case TERMINAL_LINE:
            goes_on = take_line(talk, line, bytes, fail);
            break;
        case TERMINAL_CUT:
            log_write(LOG_ERROR,
                "the terminal passes on %d bytes of a line, and this one may have been longer; not sent. A pipe or a file has no such limit",
                TERMINAL_LONGEST_LINE);
            break;
        case TERMINAL_INTERRUPT:
            tell(talk, talk->terminal.editor != NULL ? "" : "\n");
            tell(talk, "(/quit or Ctrl-D leaves)\n");
            break;
        default:
            tell(talk, "\n");
            goes_on = false;
        }
        free(line);
    }
    if (signals_ended())
        fail_set(fail, FAIL_INTERRUPTED, "interrupted");
    terminal_close(&talk->terminal);
    return fail->status;
}

static int check_flags(const invocation_t *invocation, fail_t *fail)
{
    const chat_flags_t *flags = invocation->flags;
    if (flags->raw && flags->system != NULL)
        return fail_set(fail, FAIL_USAGE, "--system: needs a chat template; --raw has none");
    return request_flags_check(&flags->answer, fail);
}

static int open_talk(talk_t *talk, const char *directory, fail_t *fail)
{
    const char *system = talk->flags->system;
    talk->system = system != NULL ? strdup(system) : NULL;
    if (system != NULL && talk->system == NULL)
        return fail_set(fail, FAIL_MEMORY, "--system: out of memory");
    if (tokenizer_open(&talk->tokenizer, directory, fail) == 0 && !talk->flags->raw)
        chat_require(&talk->chat, directory, &talk->flags->template, fail);
    return fail->status;
}

static int cmd_chat(invocation_t *invocation, fail_t *fail)
{
    chat_flags_t *flags = invocation->flags;
    char directory[MODEL_DIR_BYTES];
    mesh_t mesh = {0};
    talk_t talk = {.mesh = &mesh, .flags = flags, .given = &invocation->given};
    if (check_flags(invocation, fail) == 0)
        model_dir_find(flags->common.model, directory, sizeof directory, fail);
    if (comm_agree(invocation->comm, fail) != 0)
        return fail->status;
    if (comm_rank(invocation->comm) == 0)
        open_talk(&talk, directory, fail);
    comm_bcast(invocation->comm, fail, sizeof *fail);
    if (fail->status == 0) {
        const mesh_options_t options = {
            .directory = directory, .tokenizer = talk.tokenizer, .n_sequences = 1};
        if (mesh_open(&mesh, invocation, &flags->run, &options, fail) == 0) {
            mesh_warn_sampling(&mesh, flags->answer.sample);
            if (mesh.coordinates)
                converse(&talk, fail);
            else
                fleet_serve(mesh.fleet, fail);
        }
        mesh_close_and_tell(&mesh, fail);
    }
    json_decref(talk.messages);
    free(talk.system);
    text_buffer_clear(&talk.raw);
    tokenizer_close(talk.tokenizer);
    chat_close(talk.chat);
    return fail->status;
}

#define AT(member) offsetof(chat_flags_t, member)

static const arg_t conversation_args[] = {
    FLAG_TEXT("--system", AT(system), "TEXT", "System message of the conversation."),
    FLAG_SWITCH(
        "--raw", AT(raw), "No chat template: your text and the model's are one continuous text."),
    FLAG_SWITCH("--no-history", AT(no_history),
        "Do not read or keep your texts in ~/.local/state/choir/history."),
};
static const arg_group_t own = ARG_GROUP("Conversation", conversation_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&own, 0},
    {&flags_template, AT(template)},
    {&flags_answer, AT(answer)},
    PARTS_NUMERICS_AND_RANKS(AT(run)),
    {&flags_batch, AT(run)},
    PARTS_END,
};

static const arg_rule_t rules[] = {
    {.why = "with --raw", .with = " --raw ", .flags = " --chat-template --template-vars "},
    RULE_NO_DRAFTS(AT(run)),
    RULE_NO_AMX(AT(run)),
    RULE_OWN_DOT(AT(run)),
    RULES_END,
};

static const chat_flags_t defaults = {
    .common = COMMON_DEFAULTS, .run = RUN_DEFAULTS, .answer = ANSWER_DEFAULTS};

const command_t command_chat = {"chat", "choir chat [--model DIR] [flags]", "talk with a model",
    parts, &defaults, sizeof defaults, rules, cmd_chat};
