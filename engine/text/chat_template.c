/* Where a model directory keeps its chat templates and special tokens. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/text/chat_internal.h"

#define PATH_BYTES 4096
#define TEMPLATE_BYTES_MAX ((size_t)4 << 20)
#define NAMED_MAX 64

static int read_file(chat_t *chat, const char *name, const char *path, fail_t *fail)
{
    char *text;
    size_t bytes;
    if (text_file_read(path, TEMPLATE_BYTES_MAX, &text, &bytes, fail) != 0)
        return fail->status;
    chat_add_template(chat, name, path, text, bytes, fail);
    free(text);
    return fail->status;
}

static int is_template(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 6 && strcmp(entry->d_name + n - 6, ".jinja") == 0;
}

/* additional_chat_templates/NAME.jinja, in the order of their names. */
static int read_additional(chat_t *chat, const char *directory, fail_t *fail)
{
    char path[PATH_BYTES], name[256];
    struct dirent **entries;
    snprintf(path, sizeof path, "%s/additional_chat_templates", directory);
    int n = access(path, F_OK) == 0 ? scandir(path, &entries, is_template, alphasort) : 0;
    for (int i = 0; i < n; i++) {
        const char *file = entries[i]->d_name;
        snprintf(name, sizeof name, "%.*s", (int)(strlen(file) - 6), file);
        snprintf(path, sizeof path, "%s/additional_chat_templates/%s", directory, file);
        if (fail->status == 0 && i < NAMED_MAX)
            read_file(chat, name, path, fail);
        free(entries[i]);
    }
    if (n > 0)
        free(entries);
    return fail->status;
}

/* chat_template: a text, or an array of named ones. */
static int read_member(chat_t *chat, const json_t *config, const char *path, fail_t *fail)
{
    const json_t *member = json_object_get(config, "chat_template");
    if (member == NULL || json_is_null(member))
        return 0;
    if (json_is_string(member))
        return chat_add_template(
            chat, "default", path, json_string_value(member), json_string_length(member), fail);
    for (size_t i = 0; i < json_array_size(member); i++) {
        const json_t *entry = json_array_get(member, i);
        const json_t *text = json_object_get(entry, "template");
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name == NULL || !json_is_string(text))
            return fail_set(fail, FAIL_FORMAT,
                "%s: chat_template[%zu]: expected an object with the strings \"name\" and \"template\"",
                path, i);
        if (chat_add_template(
                chat, name, path, json_string_value(text), json_string_length(text), fail) != 0)
            return fail->status;
    }
    if (!json_is_array(member) || json_array_size(member) == 0)
        return fail_set(fail, FAIL_FORMAT,
            "%s: chat_template: expected a string or an array of named templates", path);
    return 0;
}

/* A special token is a string, or an object with its content. */
static void read_special_tokens(chat_t *chat, const json_t *config)
{
    static const char *const names[] = {
        "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *token = json_object_get(config, names[i]);
        if (json_is_object(token))
            token = json_object_get(token, "content");
        if (json_is_string(token) && json_object_get(chat->special_tokens, names[i]) == NULL)
            json_object_set(chat->special_tokens, names[i], token);
    }
}

int chat_read_directory(chat_t *chat, const char *directory, fail_t *fail)
{
    char path[PATH_BYTES];
    json_t *config = NULL;
    snprintf(path, sizeof path, "%s/chat_template.jinja", directory);
    if (access(path, F_OK) == 0 && read_file(chat, "default", path, fail) != 0)
        return fail->status;
    if (read_additional(chat, directory, fail) != 0)
        return fail->status;
    snprintf(path, sizeof path, "%s/tokenizer_config.json", directory);
    if (access(path, F_OK) == 0 && json_file_read(path, &config, fail) == 0) {
        read_special_tokens(chat, config);
        if (chat->n_templates == 0)
            read_member(chat, config, path, fail);
        json_decref(config);
    }
    snprintf(path, sizeof path, "%s/special_tokens_map.json", directory);
    if (fail->status == 0 && access(path, F_OK) == 0 && json_file_read(path, &config, fail) == 0) {
        read_special_tokens(chat, config);
        json_decref(config);
    }
    return fail->status;
}
