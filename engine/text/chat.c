#include "engine/text/chat.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/array.h"
#include "engine/base/input.h"
#include "engine/base/json.h"
#include "engine/text/chat_internal.h"

#define TEMPLATE_BYTES_MAX ((size_t)4 << 20)

int chat_add_template(chat_t *chat, const char *name, const char *origin, const char *text,
    size_t bytes, fail_t *fail)
{
    if (array_extend(&chat->templates, chat->n_templates, sizeof *chat->templates, origin, fail) !=
        0)
        return fail->status;
    chat_template_t *added = &chat->templates[chat->n_templates++];
    *added = (chat_template_t){
        .name = strdup(name), .origin = strdup(origin), .text = malloc(bytes + 1), .bytes = bytes};
    if (added->name == NULL || added->origin == NULL || added->text == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", origin);
    memcpy(added->text, text, bytes);
    added->text[bytes] = 0;
    return 0;
}

/* The last one of a name counts, as in a dict; NULL: none. */
static chat_template_t *find_template(const chat_t *chat, const char *name)
{
    for (size_t i = chat->n_templates; i-- > 0;)
        if (strcmp(chat->templates[i].name, name) == 0)
            return &chat->templates[i];
    return NULL;
}

static void clear_templates(chat_t *chat)
{
    for (size_t i = 0; i < chat->n_templates; i++) {
        free(chat->templates[i].name);
        free(chat->templates[i].origin);
        free(chat->templates[i].text);
        jinja_template_close(chat->templates[i].made);
    }
    free(chat->templates);
    chat->templates = NULL;
    chat->n_templates = 0;
}

/* The one template that the user names takes the place of all. */
static int take_given(chat_t *chat, const char *given, fail_t *fail)
{
    chat_template_t *named = find_template(chat, given);
    char *text = NULL, *origin = NULL;
    size_t bytes = 0;
    if (named != NULL) {
        text = named->text;
        bytes = named->bytes;
        origin = named->origin;
        named->text = named->origin = NULL;
    } else if (access(given, F_OK) != 0) {
        return fail_set(
            fail, FAIL_FILE, "%s: no file, and the model has no chat template of this name", given);
    } else if (input_read_stream(given, TEMPLATE_BYTES_MAX, &text, &bytes, fail) != 0) {
        return fail->status;
    } else {
        text_drop_bom(text, &bytes);
    }
    clear_templates(chat);
    chat_add_template(chat, "default", origin != NULL ? origin : given, text, bytes, fail);
    free(text);
    free(origin);
    return fail->status;
}

/* Parsed when it is used first, so that one which is never used may be anything. */
static int parse(chat_template_t *used, fail_t *fail)
{
    if (used->made == NULL)
        jinja_template_open(&used->made, used->text, used->bytes, used->origin, fail);
    return fail->status;
}

static int read_choice(chat_t *chat, const chat_choice_t *choice, fail_t *fail)
{
    if (choice->given != NULL && take_given(chat, choice->given, fail) != 0)
        return fail->status;
    chat_template_t *usual = find_template(chat, "default");
    if (usual != NULL && parse(usual, fail) != 0)
        return fail->status;
    if (choice->variables == NULL)
        return 0;
    jinja_job_t *probe;
    if (jinja_job_open(&probe, fail) == 0)
        jinja_job_set_text(
            probe, choice->variables, strlen(choice->variables), "--template-vars", fail);
    jinja_job_close(probe);
    chat->variables = strdup(choice->variables);
    if (chat->variables == NULL)
        fail_set(fail, FAIL_MEMORY, "--template-vars: out of memory");
    return fail->status;
}

int chat_open(chat_t **chat, const char *directory, const chat_choice_t *choice, fail_t *fail)
{
    static const chat_choice_t none = {0};
    chat_t *opened = calloc(1, sizeof *opened);
    *chat = NULL;
    if (opened == NULL || (opened->special_tokens = json_object()) == NULL) {
        free(opened);
        return fail_set(fail, FAIL_MEMORY, "chat template: out of memory");
    }
    if (directory == NULL || chat_read_directory(opened, directory, fail) == 0)
        read_choice(opened, choice != NULL ? choice : &none, fail);
    if (fail->status != 0 || opened->n_templates == 0) {
        chat_close(opened);
        opened = NULL;
    }
    *chat = opened;
    return fail->status;
}

void chat_close(chat_t *chat)
{
    if (chat == NULL)
        return;
    clear_templates(chat);
    json_decref(chat->special_tokens);
    free(chat->variables);
    free(chat);
}

int32_t chat_end_id(const chat_t *chat, const tokenizer_t *tokenizer)
{
    const chat_template_t *usual = chat != NULL ? find_template(chat, "default") : NULL;
    if (usual == NULL || tokenizer == NULL || strstr(usual->text, "<|im_end|>") == NULL)
        return -1;
    return tokenizer_special_id(tokenizer, "<|im_end|>");
}

bool chat_templates_have(const chat_t *chat, const char *text)
{
    const chat_template_t *usual = chat != NULL ? find_template(chat, "default") : NULL;
    const chat_template_t *tools = chat != NULL ? find_template(chat, "tool_use") : NULL;
    return (usual != NULL && strstr(usual->text, text) != NULL) ||
           (tools != NULL && strstr(tools->text, text) != NULL);
}

static int choose(chat_t *chat, bool with_tools, chat_template_t **chosen, fail_t *fail)
{
    *chosen = with_tools ? find_template(chat, "tool_use") : NULL;
    if (*chosen == NULL)
        *chosen = find_template(chat, "default");
    if (*chosen == NULL)
        return fail_set(fail, FAIL_MODEL,
            "%s: the model has several chat templates and none named \"default\"; --chat-template takes one by its name",
            chat->templates[0].origin);
    return parse(*chosen, fail);
}

/* Opens a job that knows the user's variables. */
static int begin(const chat_t *chat, jinja_job_t **job, fail_t *fail)
{
    if (jinja_job_open(job, fail) != 0)
        return fail->status;
    if (chat->variables != NULL)
        jinja_job_set_text(*job, chat->variables, strlen(chat->variables), "--template-vars", fail);
    return fail->status;
}

static int render(const chat_t *chat, jinja_job_t *job, const chat_template_t *chosen,
    text_buffer_t *out, fail_t *fail)
{
    if (jinja_job_prepare_chat(job, chat->special_tokens, fail) == 0)
        jinja_job_render(job, chosen->made, out, fail);
    return fail->status;
}

static int set_unless_absent(jinja_job_t *job, const char *name, const json_t *value, fail_t *fail)
{
    return value != NULL ? jinja_job_set(job, name, value, fail) : 0;
}

static int set_input(jinja_job_t *job, const chat_input_t *input, fail_t *fail)
{
    const char *name;
    json_t *value;
    json_object_foreach ((json_t *)input->variables, name, value)
        if (fail->status == 0)
            jinja_job_set(job, name, value, fail);
    if (fail->status == 0 && set_unless_absent(job, "messages", input->messages, fail) == 0 &&
        set_unless_absent(job, "tools", input->tools, fail) == 0 &&
        set_unless_absent(job, "documents", input->documents, fail) == 0 &&
        input->no_generation_prompt)
        jinja_job_set(job, "add_generation_prompt", json_false(), fail);
    return fail->status;
}

int chat_render(chat_t *chat, const chat_input_t *input, text_buffer_t *out, fail_t *fail)
{
    jinja_job_t *job = NULL;
    json_t *joined = NULL;
    chat_template_t *chosen = NULL;
    chat_input_t shown = *input;
    bool with_tools = input->tools != NULL && !json_is_null(input->tools);
    if (input->variables != NULL && !json_is_object(input->variables) &&
        !json_is_null(input->variables))
        return fail_set(fail, FAIL_USAGE, "chat_template_kwargs: expected an object");
    if (choose(chat, with_tools, &chosen, fail) == 0 &&
        chat_join_parts(chat, chosen, input->messages, &joined, fail) == 0) {
        if (joined != NULL)
            shown.messages = joined;
        if (begin(chat, &job, fail) == 0 && set_input(job, &shown, fail) == 0)
            render(chat, job, chosen, out, fail);
    }
    json_decref(joined);
    jinja_job_close(job);
    return fail->status;
}

int chat_render_text(chat_t *chat, const char *json, size_t bytes, text_buffer_t *out,
    text_buffer_t *error, fail_t *fail)
{
    jinja_job_t *job = NULL;
    chat_template_t *chosen;
    if (begin(chat, &job, fail) == 0 && jinja_job_set_text(job, json, bytes, "line", fail) == 0 &&
        choose(chat, jinja_job_has(job, "tools"), &chosen, fail) == 0)
        render(chat, job, chosen, out, fail);
    if (fail->status != 0 && error != NULL) {
        size_t length = 0;
        fail_t ignored = {0};
        const char *message = job != NULL ? jinja_job_error(job, &length) : "";
        if (length > 0)
            text_buffer_append(error, message, length, &ignored);
        else
            text_buffer_append(error, fail->message, strlen(fail->message), &ignored);
    }
    jinja_job_close(job);
    return fail->status;
}
