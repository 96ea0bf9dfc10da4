/* The entry points: everything below leaves an error by longjmp to here. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"
#include "engine/text/unicode.h"

struct jinja_job {
    run_t run;
    dict_t *variables;
};

/* Takes what a run has to say into *fail. */
static int report(run_t *run, const char *name, bool with_line, fail_t *fail)
{
    const char *message = run->error.text != NULL ? run->error.text : "not enough memory";
    if (with_line)
        fail_set(fail, run->status, "%s, line %u: %s", name, run->line, message);
    else if (name != NULL)
        fail_set(fail, run->status, "%s: %s", name, message);
    else
        fail_set(fail, run->status, "%s", message);
    utf8_make_printable(fail->message);
    return fail->status;
}

static void parse(jinja_template_t *made, run_t *run, const char *text, size_t bytes)
{
    tokens_t tokens = {0};
    run->names = made->names = NEW(run, dict_t);
    jinja_lexer_run(run, text, bytes, &tokens);
    jinja_parser_run(run, &tokens, &made->body);
}

int jinja_template_open(
    jinja_template_t **made, const char *text, size_t bytes, const char *name, fail_t *fail)
{
    *made = NULL;
    if (bytes > JINJA_SOURCE_MAX)
        return fail_set(fail, FAIL_FORMAT, "%s: a chat template of %zu bytes, more than %zu", name,
            bytes, JINJA_SOURCE_MAX);
    if (utf8_valid_prefix(text, bytes) < bytes)
        return fail_set(fail, FAIL_FORMAT, "%s: byte %zu of the chat template is not UTF-8", name,
            utf8_valid_prefix(text, bytes) + 1);
    jinja_template_t *opened = calloc(1, sizeof *opened);
    run_t *run = calloc(1, sizeof *run);
    if (opened == NULL || run == NULL || (opened->name = strdup(name)) == NULL) {
        free(run);
        free(opened);
        return fail_set(fail, FAIL_MEMORY, "%s: not enough memory for the chat template", name);
    }
    run->status = FAIL_FORMAT;
    bool done = setjmp(run->escape) == 0;
    if (done)
        parse(opened, run, text, bytes);
    opened->arena = run->arena;
    if (!done) {
        report(run, name, run->line > 0, fail);
        jinja_template_close(opened);
        opened = NULL;
    }
    free(run->error.text);
    free(run);
    *made = opened;
    return fail->status;
}

void jinja_template_close(jinja_template_t *made)
{
    if (made == NULL)
        return;
    jinja_arena_free(&made->arena);
    free(made->name);
    free(made);
}

int jinja_job_open(jinja_job_t **job, fail_t *fail)
{
    *job = calloc(1, sizeof **job);
    if (*job == NULL)
        return fail_set(fail, FAIL_MEMORY, "chat template: not enough memory");
    if (setjmp((*job)->run.escape) == 0) {
        (*job)->variables = NEW(&(*job)->run, dict_t);
        return 0;
    }
    report(&(*job)->run, NULL, false, fail);
    jinja_job_close(*job);
    *job = NULL;
    return fail->status;
}

void jinja_job_close(jinja_job_t *job)
{
    if (job == NULL)
        return;
    jinja_arena_free(&job->run.arena);
    free(job->run.error.text);
    free(job);
}

void jinja_job_set_time(jinja_job_t *job, int64_t seconds)
{
    job->run.has_time = true;
    job->run.time = seconds;
}

const char *jinja_job_error(const jinja_job_t *job, size_t *bytes)
{
    *bytes = job->run.error.bytes;
    return job->run.error.text != NULL ? job->run.error.text : "";
}

int jinja_job_set(jinja_job_t *job, const char *name, const json_t *value, fail_t *fail)
{
    run_t *run = &job->run;
    run->depth = 0;
    run->steps = 0;
    if (setjmp(run->escape) != 0)
        return report(run, name, false, fail);
    jinja_dict_set(run, job->variables, jinja_value_text(run, name), jinja_json_value(run, value));
    return 0;
}

int jinja_job_set_text(
    jinja_job_t *job, const char *json, size_t bytes, const char *name, fail_t *fail)
{
    run_t *run = &job->run;
    run->depth = 0;
    run->steps = 0;
    if (setjmp(run->escape) != 0)
        return report(run, name, false, fail);
    if (utf8_valid_prefix(json, bytes) < bytes)
        jinja_fail(
            run, "malformed JSON: byte %zu is not UTF-8", utf8_valid_prefix(json, bytes) + 1);
    value_t object = jinja_json_read(run, json, bytes);
    if (object.kind != DICT)
        jinja_fail(run, "expected a JSON object, found %s", jinja_type_name(object));
    for (size_t i = 0; i < object.dict->count; i++)
        jinja_dict_set(
            run, job->variables, object.dict->entries[i].key, object.dict->entries[i].value);
    return 0;
}

bool jinja_job_has(jinja_job_t *job, const char *name)
{
    job->run.steps = 0; /* so that looking cannot be one too many */
    const value_t *value = jinja_dict_text(&job->run, job->variables, name);
    return value != NULL && value->kind != NONE;
}

/* ---- what apply_chat_template does before it renders ----------------------------------------- */

/* Reasoning goes by three names; a template reads one of them. */
static value_t with_reasoning(run_t *run, value_t message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    value_t *reasoning = NULL;
    for (int i = 0; i < 3 && reasoning == NULL; i++)
        reasoning = jinja_dict_text(run, message.dict, names[i]);
    if (reasoning == NULL)
        return message;
    value_t result = jinja_value_dict(run), kept = *reasoning;
    jinja_dict_set(run, result.dict, jinja_value_text(run, "thinking"), kept);
    for (size_t i = 0; i < message.dict->count; i++)
        jinja_dict_set(
            run, result.dict, message.dict->entries[i].key, message.dict->entries[i].value);
    jinja_dict_set(run, result.dict, jinja_value_text(run, "reasoning_content"), kept);
    return result;
}

static value_t without_null(run_t *run, value_t message)
{
    value_t result = jinja_value_dict(run);
    for (size_t i = 0; i < message.dict->count; i++)
        if (message.dict->entries[i].value.kind != NONE)
            jinja_dict_set(
                run, result.dict, message.dict->entries[i].key, message.dict->entries[i].value);
    return result;
}

static void prepare_messages(run_t *run, dict_t *variables)
{
    value_t *given = jinja_dict_text(run, variables, "messages");
    if (given == NULL || given->kind != SEQUENCE)
        jinja_fail(run, "messages: expected an array%s%s", given != NULL ? ", found " : "",
            given != NULL ? jinja_type_name(*given) : "");
    const sequence_t *messages = given->sequence;
    if (messages->count == 0)
        jinja_fail(run, "Cannot apply chat template to an empty conversation. Provide at least one "
                        "message.");
    value_t list = jinja_value_sequence(run, LIST, messages->count);
    for (size_t i = 0; i < messages->count; i++) {
        if (messages->items[i].kind != DICT)
            jinja_fail(run, "messages[%zu]: expected an object, found %s", i,
                jinja_type_name(messages->items[i]));
        jinja_sequence_add(run, list, with_reasoning(run, without_null(run, messages->items[i])));
    }
    jinja_dict_set(run, variables, jinja_value_text(run, "messages"), list);
}

/* null, or an array of objects. */
static void prepare_objects(run_t *run, dict_t *variables, const char *name)
{
    value_t *given = jinja_dict_text(run, variables, name);
    if (given == NULL) {
        jinja_dict_set(run, variables, jinja_value_text(run, name), jinja_value_none());
        return;
    }
    if (given->kind != NONE && given->kind != SEQUENCE)
        jinja_fail(
            run, "%s: expected an array of objects, found %s", name, jinja_type_name(*given));
    for (size_t i = 0; given->kind == SEQUENCE && i < given->sequence->count; i++)
        if (given->sequence->items[i].kind != DICT)
            jinja_fail(run, "%s[%zu]: expected an object, found %s", name, i,
                jinja_type_name(given->sequence->items[i]));
}

int jinja_job_prepare_chat(jinja_job_t *job, const json_t *defaults, fail_t *fail)
{
    run_t *run = &job->run;
    const char *key;
    json_t *value;
    run->depth = 0;
    run->steps = 0;
    if (setjmp(run->escape) != 0)
        return report(run, NULL, false, fail);
    prepare_messages(run, job->variables);
    prepare_objects(run, job->variables, "tools");
    prepare_objects(run, job->variables, "documents");
    if (jinja_dict_text(run, job->variables, "add_generation_prompt") == NULL)
        jinja_dict_set(run, job->variables, jinja_value_text(run, "add_generation_prompt"),
            jinja_value_bool(true));
    json_object_foreach ((json_t *)defaults, key, value)
        if (jinja_dict_text(run, job->variables, key) == NULL)
            jinja_dict_set(
                run, job->variables, jinja_value_text(run, key), jinja_json_value(run, value));
    return 0;
}

/* ---- rendering ------------------------------------------------------------------------------- */

static const string_t *known_name(run_t *run, const jinja_template_t *made, const char *name)
{
    value_t *known = jinja_dict_text(run, made->names, name);
    return known != NULL ? known->string : jinja_value_text(run, name).string;
}

static void render(jinja_job_t *job, const jinja_template_t *made, buffer_t *out)
{
    run_t *run = &job->run;
    run->globals = NEW(run, dict_t);
    jinja_builtins_define(run);
    for (size_t i = 0; i < job->variables->count; i++)
        jinja_dict_set(
            run, run->globals, job->variables->entries[i].key, job->variables->entries[i].value);
    run->loop_name = known_name(run, made, "loop");
    run->caller_name = known_name(run, made, "caller");
    run->kwargs_name = known_name(run, made, "kwargs");
    run->varargs_name = known_name(run, made, "varargs");
    run->out = out;
    jinja_eval_body(run, &made->body, jinja_scope_new(run, NULL));
}

int jinja_job_render(
    jinja_job_t *job, const jinja_template_t *made, text_buffer_t *out, fail_t *fail)
{
    run_t *run = &job->run;
    run->depth = 0;
    run->steps = 0;
    if (setjmp(run->escape) != 0)
        return report(run, "chat template", false, fail);
    buffer_t *text = NEW(run, buffer_t);
    render(job, made, text);
    return text_buffer_append(out, text->text != NULL ? text->text : "", text->bytes, fail);
}

int jinja_quote(const char *text, size_t bytes, text_buffer_t *out, fail_t *fail)
{
    static const char hex[] = "0123456789abcdef";
    size_t plain = 0;
    text_buffer_append(out, "\"", 1, fail);
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        bool surrogate = c == 0xED && bytes - i >= 3 && (unsigned char)text[i + 1] >= 0xA0;
        if (c >= 0x20 && c != '"' && c != '\\' && !surrogate)
            continue;
        text_buffer_append(out, text + plain, i - plain, fail);
        unsigned point =
            surrogate ? 0xD000u | (text[i + 1] & 0x3Fu) << 6 | (text[i + 2] & 0x3Fu) : c;
        char escape[6] = {'\\', 'u', hex[point >> 12], hex[point >> 8 & 15], hex[point >> 4 & 15],
            hex[point & 15]};
        if (c == '\n' || c == '"' || c == '\\')
            text_buffer_append(out, c == '\n' ? "\\n" : c == '"' ? "\\\"" : "\\\\", 2, fail);
        else
            text_buffer_append(out, escape, 6, fail);
        i += surrogate ? 2 : 0;
        plain = i + 1;
    }
    text_buffer_append(out, text + plain, bytes - plain, fail);
    return text_buffer_append(out, "\"", 1, fail);
}
