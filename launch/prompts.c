#include "launch/prompts.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/array.h"
#include "engine/base/input.h"
#include "engine/base/lines.h"
#include "engine/base/size.h"
#include "engine/model/config.h"
#include "launch/request_fields.h"

/* ---- Reading --------------------------------------------------------------------------------- */

int prompts_read_stdin(size_t max_bytes, char **text, size_t *bytes, fail_t *fail)
{
    if (input_read_all(STDIN_FILENO, "standard input", max_bytes, text, bytes, fail) == 0)
        text_drop_bom(*text, bytes);
    return fail->status;
}

int prompts_parse_ids(const char *text, const char *name, tokenizer_ids_t *ids, fail_t *fail)
{
    for (const char *at = text;;) {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        end += strspn(end, " \t\r\n");
        if (end == at || errno != 0 || id < 0 || id > INT32_MAX || (*end != ',' && *end != 0))
            return fail_set(
                fail, FAIL_USAGE, "%s: expected token ids as in 1,2,3, found \"%.40s\"", name, at);
        if (tokenizer_ids_append(ids, (int32_t)id, fail) != 0)
            return fail->status;
        if (*end == 0)
            return 0;
        at = end + 1;
    }
}

static int json_ids(json_t *array, const char *name, tokenizer_ids_t *ids, fail_t *fail)
{
    size_t i;
    json_t *id;
    json_array_foreach (array, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return fail_set(fail, FAIL_FORMAT,
                "%s: prompt_ids: expected token ids, found something else at index %zu", name, i);
        if (tokenizer_ids_append(ids, (int32_t)json_integer_value(id), fail) != 0)
            return fail->status;
    }
    return 0;
}

/* ---- Encoding -------------------------------------------------------------------------------- */

static int encode_conversation(
    const prompts_t *prompts, const chat_input_t *input, tokenizer_ids_t *ids, fail_t *fail)
{
    text_buffer_t text = {0};
    if (chat_render(prompts->chat, input, &text, fail) == 0)
        tokenizer_encode(prompts->tokenizer, text.text, text.bytes, true, ids, fail);
    text_buffer_clear(&text);
    return fail->status;
}

/* A user's message after an optional system message. */
static int encode_chat(const prompts_t *prompts, const char *system, const char *text, size_t bytes,
    tokenizer_ids_t *ids, fail_t *fail)
{
    json_t *messages = json_array();
    if (system != NULL)
        json_array_append_new(messages, chat_message("system", system, strlen(system)));
    if (json_array_append_new(messages, chat_message("user", text, bytes)) != 0 ||
        json_array_size(messages) != (system != NULL) + 1u)
        fail_set(fail, FAIL_USAGE, "prompt: with --chat, expected UTF-8 text, found other bytes");
    else
        encode_conversation(prompts, &(chat_input_t){.messages = messages}, ids, fail);
    json_decref(messages);
    return fail->status;
}

static int encode_text(const prompts_t *prompts, const prompt_flags_t *flags, const char *text,
    size_t bytes, tokenizer_ids_t *ids, fail_t *fail)
{
    if (flags->chat)
        return encode_chat(prompts, flags->system, text, bytes, ids, fail);
    return tokenizer_encode_whole(prompts->tokenizer, text, bytes, ids, fail);
}

static int check_line(json_t *object, const char *name, fail_t *fail)
{
    static const char *const sources[] = {"prompt", "messages", "prompt_ids"};
    const char *keys[6 + REQUEST_FIELDS] = {sources[0], sources[1], sources[2]};
    request_fields_t unused = {.sampling = {.top_p = 1, .repetition_penalty = 1}};
    size_t n_sources = 0;
    for (size_t i = 0; i < 3; i++)
        n_sources += json_object_get(object, sources[i]) != NULL;
    if (n_sources != 1)
        return fail_set(fail, FAIL_FORMAT,
            "%s: expected an object with either prompt (text), messages (array) or prompt_ids (array)",
            name);
    /* What a chat template takes besides. */
    if (json_object_get(object, "messages") != NULL) {
        keys[3] = "tools";
        keys[4] = "documents";
        keys[5] = "chat_template_kwargs";
    }
    memcpy(keys + 6, request_field_names, sizeof request_field_names);
    if (json_check_keys(object, name, keys, 6 + REQUEST_FIELDS, fail) != 0)
        return fail->status;
    return request_fields_read(object, name, &unused, fail);
}

/* One line of --prompts. */
static int encode_line(prompts_t *prompts, const prompt_flags_t *flags, const char *directory,
    json_t *object, const char *name, tokenizer_ids_t *ids, fail_t *fail)
{
    json_t *prompt = json_object_get(object, "prompt");
    json_t *messages = json_object_get(object, "messages");
    json_t *prompt_ids = json_object_get(object, "prompt_ids");
    if (check_line(object, name, fail) != 0)
        return fail->status;
    if (json_is_string(prompt))
        return encode_text(
            prompts, flags, json_string_value(prompt), json_string_length(prompt), ids, fail);
    if (json_is_array(prompt_ids))
        return json_ids(prompt_ids, name, ids, fail);
    if (!json_is_array(messages))
        return fail_set(fail, FAIL_FORMAT,
            "%s: expected a text as prompt, or an array as messages or prompt_ids", name);
    if (prompts->chat == NULL &&
        chat_require(&prompts->chat, directory, &flags->template, fail) != 0)
        return fail->status;
    const chat_input_t input = chat_input_of(object);
    fail_t malformed = {0};
    if (encode_conversation(prompts, &input, ids, &malformed) != 0)
        fail_set(fail, malformed.status, "%s: %s", name, malformed.message);
    return fail->status;
}

/* Keeps of a line what is said of its answer. */
static void keep_fields(prompts_t *prompts, json_t *object)
{
    static const char *const encoded[] = {
        "prompt", "messages", "prompt_ids", "tools", "documents", "chat_template_kwargs"};
    for (size_t i = 0; i < sizeof encoded / sizeof *encoded; i++)
        json_object_del(object, encoded[i]);
    prompts->fields[prompts->count - 1] = json_incref(object);
}

static tokenizer_ids_t *next_item(prompts_t *prompts, fail_t *fail)
{
    size_t n = prompts->count;
    if (array_extend(&prompts->items, n, sizeof *prompts->items, "prompts", fail) != 0 ||
        array_extend(&prompts->fields, n, sizeof *prompts->fields, "prompts", fail) != 0)
        return NULL;
    prompts->fields[n] = NULL;
    prompts->items[n] = (tokenizer_ids_t){0};
    return &prompts->items[prompts->count++];
}

static bool is_blank(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (strchr(" \t\r", text[i]) == NULL || text[i] == 0)
            return false;
    return true;
}

static int encode_lines(prompts_t *prompts, const prompt_flags_t *flags, const char *directory,
    lines_t *lines, fail_t *fail)
{
    char *text;
    size_t bytes;
    while (lines_next(lines, &text, &bytes, fail) > 0 && fail->status == 0) {
        char name[FAIL_MESSAGE_BYTES / 2];
        snprintf(name, sizeof name, "%s: line %zu", flags->prompts, lines->number);
        json_t *object = NULL;
        if (!is_blank(text, bytes) && json_line_read(text, bytes, name, &object, fail) == 0) {
            tokenizer_ids_t *ids = next_item(prompts, fail);
            if (ids != NULL && encode_line(prompts, flags, directory, object, name, ids, fail) == 0)
                keep_fields(prompts, object);
        }
        json_decref(object);
    }
    if (prompts->count == 0)
        fail_set(fail, FAIL_FORMAT, "%s: expected a JSON object on each line, found none",
            flags->prompts);
    return fail->status;
}

/* The lines of a file or stream, read one by one. */
static int read_lines(prompts_t *prompts, const prompt_flags_t *flags, const char *directory,
    size_t max_bytes, fail_t *fail)
{
    bool is_stdin = strcmp(flags->prompts, "-") == 0;
    int file = STDIN_FILENO;
    lines_t lines;
    if (!is_stdin && input_open_stream(flags->prompts, &file, fail) != 0)
        return fail->status;
    lines_open(&lines, file, is_stdin ? "standard input" : flags->prompts, max_bytes);
    encode_lines(prompts, flags, directory, &lines, fail);
    lines_close(&lines);
    if (!is_stdin)
        close(file);
    return fail->status;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static int check_flags(const prompt_flags_t *flags, const args_given_t *given, fail_t *fail)
{
    int sources = (flags->prompt != NULL) + (flags->prompt_file != NULL) +
                  (flags->prompts != NULL) + (flags->ids != NULL);
    if (args_was_given(given, "TEXT") && args_was_given(given, "--prompt"))
        return fail_set(fail, FAIL_USAGE,
            "expected one prompt, found two: an argument and --prompt \"%.80s\"", flags->prompt);
    if (sources > 1)
        return fail_set(fail, FAIL_USAGE,
            "expected one of a prompt as argument, --prompt, --prompt-file, --prompts and --ids, found %d",
            sources);
    if (flags->chat && flags->raw)
        return fail_set(fail, FAIL_USAGE, "expected --chat or --raw, found both");
    if (flags->chat && flags->ids != NULL)
        return fail_set(fail, FAIL_USAGE, "--ids: a chat template needs text; use --prompt");
    if (flags->system != NULL && !flags->chat)
        return fail_set(fail, FAIL_USAGE, "--system: needs --chat");
    if (sources == 0 && isatty(STDIN_FILENO))
        return fail_set(fail, FAIL_USAGE,
            "expected a prompt: an argument, --prompt TEXT, --prompt-file FILE, --prompts FILE.jsonl, --ids 1,2,3 or text on standard input");
    return 0;
}

static bool has_tokenizer(const char *directory)
{
    static const char *const files[] = {"tokenizer.json", "vocab.json"};
    for (size_t i = 0; i < 2; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        if (access(path, F_OK) == 0)
            return true;
    }
    return false;
}

static int read_source(
    const prompt_flags_t *flags, size_t max_bytes, char **text, size_t *bytes, fail_t *fail)
{
    const char *path = flags->prompt_file;
    if (path == NULL || strcmp(path, "-") == 0)
        return prompts_read_stdin(max_bytes, text, bytes, fail);
    if (input_read_stream(path, max_bytes, text, bytes, fail) == 0)
        text_drop_bom(*text, bytes);
    return fail->status;
}

static int read_prompts(
    prompts_t *prompts, const prompt_flags_t *flags, const char *directory, fail_t *fail)
{
    char *text = NULL;
    size_t bytes;
    tokenizer_ids_t *ids = NULL;
    config_t config;
    if (flags->prompts == NULL && (ids = next_item(prompts, fail)) == NULL)
        return fail->status;
    if (flags->ids != NULL)
        return prompts_parse_ids(flags->ids, "--ids", ids, fail);
    if (flags->prompt != NULL)
        return encode_text(prompts, flags, flags->prompt, strlen(flags->prompt), ids, fail);
    if (config_load(&config, directory, fail) != 0)
        return fail->status;
    size_t max_bytes = request_line_bytes(config.max_position_embeddings);
    if (flags->prompts != NULL)
        return read_lines(prompts, flags, directory, max_bytes, fail);
    if (read_source(flags, max_bytes, &text, &bytes, fail) == 0)
        encode_text(prompts, flags, text, bytes, ids, fail);
    free(text);
    return fail->status;
}

/* A tokenizer may have more tokens than the model; one that is used is named. */
static int check_ids(const prompts_t *prompts, const char *directory, fail_t *fail)
{
    config_t config;
    if (prompts->tokenizer == NULL || config_load(&config, directory, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < prompts->count; i++)
        for (size_t j = 0; j < prompts->items[i].count; j++) {
            int32_t id = prompts->items[i].ids[j];
            size_t bytes = 0;
            const char *text = tokenizer_bytes(prompts->tokenizer, id, &bytes);
            if (text != NULL && (size_t)id >= config.vocab_size)
                return fail_set(fail, FAIL_MODEL,
                    "prompt %zu: the tokenizer has the token %d (%.*s), but the model a vocabulary of %zu: expected ids below that",
                    i + 1, id, (int)size_min(bytes, 64), text, config.vocab_size);
        }
    return 0;
}

int prompts_open(prompts_t *prompts, const prompt_flags_t *flags, const args_given_t *given,
    const char *directory, fail_t *fail)
{
    *prompts = (prompts_t){0};
    if (check_flags(flags, given, fail) == 0 && (flags->ids == NULL || has_tokenizer(directory)))
        tokenizer_open(&prompts->tokenizer, directory, fail);
    if (fail->status == 0 && flags->chat)
        chat_require(&prompts->chat, directory, &flags->template, fail);
    if (fail->status == 0)
        read_prompts(prompts, flags, directory, fail);
    if (fail->status == 0)
        check_ids(prompts, directory, fail);
    for (size_t i = 0; i < prompts->count && fail->status == 0; i++)
        if (prompts->items[i].count == 0)
            fail_set(fail, FAIL_USAGE, "prompt %zu: expected text, found none", i + 1);
    if (fail->status != 0)
        prompts_close(prompts);
    return fail->status;
}

void prompts_close(prompts_t *prompts)
{
    for (size_t i = 0; i < prompts->count; i++) {
        tokenizer_ids_clear(&prompts->items[i]);
        json_decref(prompts->fields[i]);
    }
    free(prompts->items);
    free(prompts->fields);
    tokenizer_close(prompts->tokenizer);
    chat_close(prompts->chat);
    *prompts = (prompts_t){0};
}

#define AT(member) offsetof(prompt_flags_t, member)

static const arg_t prompt_args[] = {
    FLAG_TEXT(
        "TEXT", AT(prompt), NULL, "The prompt, as an argument; after -- it may begin with a dash."),
    FLAG_TEXT("--prompt", AT(prompt), "TEXT",
        "The prompt. Without it and the flags below it is read from standard input."),
    FLAG_TEXT("--prompt-file", AT(prompt_file), "FILE",
        "The prompt is the text of a file (- for standard input)."),
    FLAG_TEXT("--prompts", AT(prompts), "FILE.jsonl",
        "Many prompts in one batch, a JSON object a line: {\"prompt\": TEXT}, {\"messages\": [{\"role\": ..., \"content\": ...}, ...], \"tools\": [...], \"documents\": [...], \"chat_template_kwargs\": {...}} or {\"prompt_ids\": [1, 2]}. A line may also have these settings, in place of the flags: max_tokens, stop, temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed, ignore_eos. Answers come in the order of the lines."),
    FLAG_TEXT("--ids", AT(ids), "1,2,3",
        "The prompt as token ids. Needs no tokenizer files; without them the answer is ids too."),
    FLAG_SWITCH(
        "--chat", AT(chat), "The prompt is a user's message, put into the model's chat template."),
    FLAG_SWITCH("--raw", AT(raw),
        "The prompt goes to the model unchanged, without a chat template (default)."),
    FLAG_TEXT("--system", AT(system), "TEXT", "System message before the user's; with --chat."),
};
const arg_group_t flags_prompt = ARG_GROUP("Prompt", prompt_args);
