#include "launch/hub_cache.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/input.h"
#include "engine/base/json.h"

#define NAME_BYTES 256
#define FOLDER_PREFIX "models--"

/* A model of the hub. */
typedef struct hub_model {
    char name[NAME_BYTES];     /* "Org/Name" */
    char revision[NAME_BYTES]; /* a branch, tag or commit */
} hub_model_t;

/* False when it does not fit. */
static bool join(char *path, size_t bytes, const char *directory, const char *name)
{
    int length = snprintf(path, bytes, "%s/%s", directory, name);
    return length > 0 && (size_t)length < bytes;
}

static int too_long(const char *path, fail_t *fail)
{
    return fail_set(fail, FAIL_FILE, "%.80s...: path longer than %d bytes", path, PATH_MAX);
}

/* ---- Names ----------------------------------------------------------------------------------- */

/* A part of a name: letters, digits, "-", "_" and ".". */
static size_t part_bytes(const char *text)
{
    size_t n = 0;
    while (isalnum((unsigned char)text[n]) || (text[n] != 0 && strchr("-_.", text[n]) != NULL))
        n++;
    return text[0] == '.' ? 0 : n;
}

static bool parse_name(const char *given, hub_model_t *model)
{
    size_t org = part_bytes(given);
    if (org == 0 || given[org] != '/')
        return false;
    size_t name = part_bytes(given + org + 1), whole = org + 1 + name;
    const char *revision = "main";
    if (name == 0 || whole >= sizeof model->name)
        return false;
    if (given[whole] == '@' && given[whole + 1] != 0)
        revision = given + whole + 1;
    else if (given[whole] != 0)
        return false;
    if (strlen(revision) >= sizeof model->revision || strstr(revision, "..") != NULL)
        return false;
    snprintf(model->name, sizeof model->name, "%.*s", (int)whole, given);
    snprintf(model->revision, sizeof model->revision, "%s", revision);
    return true;
}

bool hub_is_name(const char *given)
{
    hub_model_t model;
    return parse_name(given, &model);
}

/* The name of a cache's folder: "models--Org--Name". */
static void model_of_folder(const char *folder, hub_model_t *model)
{
    const char *name = folder + strlen(FOLDER_PREFIX), *dashes = strstr(name, "--");
    snprintf(model->revision, sizeof model->revision, "main");
    if (dashes != NULL)
        snprintf(
            model->name, sizeof model->name, "%.*s/%s", (int)(dashes - name), name, dashes + 2);
    else
        snprintf(model->name, sizeof model->name, "%s", name);
}

/* The command that downloads a model. */
static const char *download_command(const hub_model_t *model, char command[3 * NAME_BYTES])
{
    bool main_revision = strcmp(model->revision, "main") == 0;
    snprintf(command, 3 * NAME_BYTES, "hf download %s%s%s", model->name,
        main_revision ? "" : " --revision ", main_revision ? "" : model->revision);
    return command;
}

/* ---- The cache ------------------------------------------------------------------------------- */

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != 0 ? value : NULL;
}

/* "~" at the start is the home directory, as for the hub's tools. */
static bool put_expanded(char *path, size_t bytes, const char *text, const char *below)
{
    const char *home = variable("HOME");
    bool tilde = text[0] == '~' && (text[1] == '/' || text[1] == 0) && home != NULL;
    int length = snprintf(path, bytes, "%s%s%s", tilde ? home : "", tilde ? text + 1 : text, below);
    return length > 0 && (size_t)length < bytes;
}

static int find_cache(char *path, size_t bytes, fail_t *fail)
{
    const char *cache = variable("HF_HUB_CACHE");
    if (cache == NULL)
        cache = variable("HUGGINGFACE_HUB_CACHE");
    const char *home = variable("HF_HOME"), *user_cache = variable("XDG_CACHE_HOME");
    bool fits = cache != NULL        ? put_expanded(path, bytes, cache, "")
                : home != NULL       ? put_expanded(path, bytes, home, "/hub")
                : user_cache != NULL ? put_expanded(path, bytes, user_cache, "/huggingface/hub")
                                     : put_expanded(path, bytes, "~", "/.cache/huggingface/hub");
    return fits ? 0 : too_long(path, fail);
}

/* The commit that a ref names. False when there is none. */
static bool read_ref(const char *folder, const char *revision, char commit[NAME_BYTES])
{
    char path[PATH_MAX];
    char *text;
    size_t bytes;
    fail_t ignored = {0};
    int length = snprintf(path, sizeof path, "%s/refs/%s", folder, revision);
    if (length < 0 || (size_t)length >= sizeof path ||
        file_read(path, NAME_BYTES - 1, &text, &bytes, &ignored) != 0)
        return false;
    text[strcspn(text, " \t\r\n")] = 0;
    snprintf(commit, NAME_BYTES, "%s", text);
    free(text);
    return commit[0] != 0 && strchr(commit, '/') == NULL && commit[0] != '.';
}

/* The snapshot of a model in its folder of a cache. */
static int find_snapshot(
    const char *folder, const hub_model_t *model, char *path, size_t path_bytes, fail_t *fail)
{
    char commit[NAME_BYTES], command[3 * NAME_BYTES];
    bool known = read_ref(folder, model->revision, commit);
    if (!known) /* a commit is its own name */
        snprintf(commit, sizeof commit, "%s", model->revision);
    int length = snprintf(path, path_bytes, "%s/snapshots/%s", folder, commit);
    if (length < 0 || (size_t)length >= path_bytes)
        return too_long(folder, fail);
    if (input_is_directory(path))
        return 0;
    if (known)
        return fail_set(fail, FAIL_FILE,
            "%s: the hub's cache has no snapshot of %s: refs/%s names commit %.40s, which is not in snapshots; to download it: %s",
            folder, model->name, model->revision, commit, download_command(model, command));
    return fail_set(fail, FAIL_FILE,
        "%s: the hub's cache has no snapshot of %s, revision %s; to download it: %s", folder,
        model->name, model->revision, download_command(model, command));
}

int hub_find(const char *name, char *path, size_t path_bytes, fail_t *fail)
{
    hub_model_t model;
    char cache[PATH_MAX], folder[PATH_MAX + 2 * NAME_BYTES], command[3 * NAME_BYTES];
    if (!parse_name(name, &model))
        return fail_set(
            fail, FAIL_USAGE, "--model: expected a directory or Org/Name, found %.80s", name);
    if (find_cache(cache, sizeof cache, fail) != 0)
        return fail->status;
    const char *slash = strchr(model.name, '/');
    snprintf(folder, sizeof folder, "%s/" FOLDER_PREFIX "%.*s--%s", cache,
        (int)(slash - model.name), model.name, slash + 1);
    if (!input_is_directory(folder))
        return fail_set(fail, FAIL_FILE,
            "%s: no such directory here, and no such model in the hub's cache %s; to download it: %s",
            name, cache, download_command(&model, command));
    return find_snapshot(folder, &model, path, path_bytes, fail);
}

/* ---- Directories that are given -------------------------------------------------------------- */

/* Files that a run may read; targets of other links are not needed. */
static bool is_model_file(const char *name)
{
    static const char *const endings[] = {".json", ".txt", ".jinja", ".safetensors"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t length = strlen(name), ending = strlen(endings[i]);
        if (length > ending && strcmp(name + length - ending, endings[i]) == 0)
            return true;
    }
    return false;
}

/* " X", where X is the model whose snapshot a directory is; else "". */
static const char *snapshot_model(const char *directory, char name[NAME_BYTES + 1])
{
    char resolved[PATH_MAX];
    hub_model_t model;
    name[0] = 0;
    char *folder =
        realpath(directory, resolved) != NULL ? strstr(resolved, "/" FOLDER_PREFIX) : NULL;
    if (folder != NULL) {
        folder[1 + strcspn(folder + 1, "/")] = 0;
        model_of_folder(folder + 1, &model);
        snprintf(name, NAME_BYTES + 1, " %s", model.name);
    }
    return name;
}

static int check_links(const char *directory, fail_t *fail)
{
    char name[NAME_BYTES + 1];
    DIR *entries = opendir(directory);
    if (entries == NULL)
        return 0; /* its reader reports the reason */
    for (const struct dirent *entry = readdir(entries); entry != NULL && fail->status == 0;
         entry = readdir(entries)) {
        char path[PATH_MAX], target[PATH_MAX];
        if (!is_model_file(entry->d_name) || !join(path, sizeof path, directory, entry->d_name) ||
            access(path, F_OK) == 0)
            continue;
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length > 0)
            fail_set(fail, FAIL_FILE,
                "%s: a link to %.*s, which is not there: the download was interrupted, or its blobs were removed; to complete it: hf download%s",
                path, (int)length, target, snapshot_model(directory, name));
    }
    closedir(entries);
    return fail->status;
}

/* The folder of a model that a directory is, or is the snapshots of: NULL when it is neither. */
static const char *cache_folder(char *resolved)
{
    char *last = strrchr(resolved, '/');
    if (last != NULL && strcmp(last, "/snapshots") == 0) {
        *last = 0;
        last = strrchr(resolved, '/');
    }
    bool is_folder = last != NULL && strncmp(last + 1, FOLDER_PREFIX, strlen(FOLDER_PREFIX)) == 0;
    return is_folder ? resolved : NULL;
}

int hub_check_directory(char *path, size_t path_bytes, fail_t *fail)
{
    char resolved[PATH_MAX], config[PATH_MAX];
    if (!input_is_directory(path))
        return 0;
    bool has_config = join(config, sizeof config, path, "config.json") && access(config, F_OK) == 0;
    const char *folder =
        !has_config && realpath(path, resolved) != NULL ? cache_folder(resolved) : NULL;
    if (folder != NULL) {
        hub_model_t model;
        model_of_folder(strrchr(folder, '/') + 1, &model);
        if (find_snapshot(folder, &model, path, path_bytes, fail) != 0)
            return fail->status;
    }
    return check_links(path, fail);
}
