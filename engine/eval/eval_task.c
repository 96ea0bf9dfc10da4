#include "engine/eval/eval_task.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/base/json.h"
#include "engine/base/printable.h"
#include "engine/eval/eval_task_internal.h"
#include "engine/eval/eval_template.h"

#define TASKS "configs/tasks"
#define MAX_NAME_BYTES 100
#define MAX_DATA_BYTES ((size_t)4 << 30)

/* ---- Finding the file ------------------------------------------------------------------------ */

static bool try_path(const char *base, const char *relative, const char *name, char *path)
{
    int length = snprintf(path, 4096, "%s/%s" TASKS "/%s.json", base, relative, name);
    return length > 0 && length < 4096 && access(path, R_OK) == 0;
}

/* As the demo model is found: in $CHOIR_HOME, beside the program, in the source tree. */
static bool find_named(const char *name, char *path)
{
    char program[PATH_MAX];
    const char *home = getenv("CHOIR_HOME");
    if (home != NULL && try_path(home, "", name, path))
        return true;
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = 0;
    char *slash = strrchr(program, '/');
    if (slash != NULL) {
        *slash = 0;
        if (try_path(program, "../", name, path) ||
            try_path(program, "../share/choir/", name, path))
            return true;
    }
    return try_path(CHOIR_SOURCE_DIR, "", name, path);
}

static int find_task(const char *given, char *path, fail_t *fail)
{
    if (strchr(given, '/') == NULL && strchr(given, '.') == NULL && find_named(given, path))
        return 0;
    if (strlen(given) < 4096 && access(given, R_OK) == 0) {
        strcpy(path, given);
        return 0;
    }
    return fail_set(fail, FAIL_USAGE,
        "--task: unknown task \"%.200s\": neither a file nor the name of one in " TASKS, given);
}

/* A path of the task file, relative to its own folder. */
static int resolve(const eval_task_t *task, const char *relative, char *path, fail_t *fail)
{
    const char *slash = strrchr(task->path, '/');
    size_t folder = relative[0] == '/' || slash == NULL ? 0 : (size_t)(slash - task->path) + 1;
    if (folder + strlen(relative) >= 4096)
        return fail_set(fail, FAIL_FORMAT, "%s: path too long: %.100s", task->path, relative);
    memcpy(path, task->path, folder);
    strcpy(path + folder, relative);
    return 0;
}

/* ---- Fields ---------------------------------------------------------------------------------- */

/* Which kinds have a field, as bits. */
enum {
    OF_GENERATE = 1 << EVAL_GENERATE,
    OF_CHOICE = 1 << EVAL_CHOICE,
    OF_PERPLEXITY = 1 << EVAL_PERPLEXITY,
    OF_PROMPTS = OF_GENERATE | OF_CHOICE,
    OF_ALL = OF_PROMPTS | OF_PERPLEXITY
};

static const struct {
    const char *name;
    int kinds;
} known_fields[] = {{"name", OF_ALL}, {"about", OF_ALL}, {"licence", OF_ALL}, {"kind", OF_ALL},
    {"data", OF_ALL}, {"id", OF_ALL}, {"chat", OF_PROMPTS}, {"system", OF_PROMPTS},
    {"prompt", OF_PROMPTS}, {"target", OF_GENERATE}, {"shots", OF_PROMPTS},
    {"max_tokens", OF_GENERATE}, {"stop", OF_GENERATE}, {"extract", OF_GENERATE},
    {"ignore", OF_GENERATE}, {"ignore_case", OF_GENERATE}, {"choices", OF_CHOICE},
    {"answer", OF_CHOICE}, {"before_choice", OF_CHOICE}, {"text", OF_PERPLEXITY},
    {"window", OF_PERPLEXITY}, {"stride", OF_PERPLEXITY}, {"prefix", OF_PERPLEXITY}};

static const char *const kind_names[] = {"generate", "choice", "perplexity"};

static int check_fields(const eval_task_t *task, fail_t *fail)
{
    const char *keys[sizeof known_fields / sizeof *known_fields];
    size_t n = 0;
    char name[4400];
    for (size_t i = 0; i < sizeof known_fields / sizeof *known_fields; i++)
        if ((known_fields[i].kinds & 1 << task->kind) != 0)
            keys[n++] = known_fields[i].name;
    snprintf(name, sizeof name, "%s: kind %s", task->path, kind_names[task->kind]);
    return json_check_keys(task->root, name, keys, n, fail);
}

/* A field that needs another one. */
static int check_pair(
    const eval_task_t *task, const char *key, bool useful, const char *needed, fail_t *fail)
{
    if (json_object_get(task->root, key) != NULL && !useful)
        fail_set(fail, FAIL_FORMAT, "%s: field \"%s\": needs %s", task->path, key, needed);
    return fail->status;
}

/* The name is part of a folder's name. */
static int check_name(const eval_task_t *task, fail_t *fail)
{
    size_t n = strlen(task->name);
    if (n == 0 || n > MAX_NAME_BYTES || strchr(task->name, '/') != NULL || task->name[0] == '.' ||
        !is_printable(task->name, n))
        return fail_set(fail, FAIL_FORMAT,
            "%s: field \"name\": expected 1 to %d bytes without a slash, a dot at the beginning or control characters, found \"%.80s\"",
            task->path, MAX_NAME_BYTES, task->name);
    return 0;
}

/* Required when the default is NULL and needed. */
static int get_text(const eval_task_t *task, const char *key, bool needed, fail_t *fail)
{
    const char *value = NULL;
    json_opt_string(task->root, task->path, key, &value, fail);
    if (fail->status == 0 && value == NULL && needed)
        return fail_set(
            fail, FAIL_FORMAT, "%s: field \"%s\": expected a text, found none", task->path, key);
    if (value != NULL) {
        char name[4400];
        snprintf(name, sizeof name, "%s: field \"%s\"", task->path, key);
        template_check(value, name, fail);
    }
    return fail->status;
}

static int read_kind(eval_task_t *task, fail_t *fail)
{
    const char *kind = "";
    if (!json_is_object(task->root))
        return fail_set(fail, FAIL_FORMAT, "%s: expected an object", task->path);
    json_opt_string(task->root, task->path, "kind", &kind, fail);
    for (int i = 0; i < 3 && fail->status == 0; i++)
        if (strcmp(kind, kind_names[i]) == 0) {
            task->kind = (eval_kind_t)i;
            return 0;
        }
    return fail_set(fail, FAIL_FORMAT,
        "%s: field \"kind\": expected generate, choice or perplexity, found \"%s\"", task->path,
        kind);
}

static int read_stops(eval_task_t *task, fail_t *fail)
{
    json_t *array = json_object_get(task->root, "stop"), *stop;
    size_t i;
    if (array != NULL && (!json_is_array(array) || json_array_size(array) > EVAL_MAX_STOPS))
        return fail_set(fail, FAIL_FORMAT,
            "%s: field \"stop\": expected an array of at most %d texts", task->path,
            EVAL_MAX_STOPS);
    json_array_foreach (array, i, stop) {
        if (!json_is_string(stop) || json_string_length(stop) == 0 ||
            strlen(json_string_value(stop)) != json_string_length(stop))
            return fail_set(fail, FAIL_FORMAT,
                "%s: field \"stop\": expected texts, found something else at index %zu", task->path,
                i);
        task->stops[task->n_stops++] = json_string_value(stop);
    }
    return 0;
}

static int read_extract(eval_task_t *task, json_t *object, fail_t *fail)
{
    static const char *const keys[] = {"name", "pattern", "take"};
    eval_extract_t *extract = &task->extracts[task->n_extracts++];
    const char *pattern = NULL, *take = "first";
    char where[4400];
    extract->name = NULL;
    snprintf(where, sizeof where, "%s: field \"extract\"", task->path);
    json_check_keys(object, where, keys, 3, fail);
    json_opt_string(object, task->path, "name", &extract->name, fail);
    json_opt_string(object, task->path, "pattern", &pattern, fail);
    json_opt_string(object, task->path, "take", &take, fail);
    if (fail->status != 0)
        return fail->status;
    bool last = strcmp(take, "last") == 0;
    if (extract->name == NULL || (!last && strcmp(take, "first") != 0))
        return fail_set(fail, FAIL_FORMAT,
            "%s: field \"extract\": expected objects with a name, a pattern, and take: first or last",
            task->path);
    if (extract->name[0] == 0 || !is_printable(extract->name, strlen(extract->name)))
        return fail_set(fail, FAIL_FORMAT,
            "%s: name: expected a text without control characters, found \"%.80s\"", where,
            extract->name);
    for (size_t i = 0; i + 1 < task->n_extracts; i++)
        if (strcmp(task->extracts[i].name, extract->name) == 0)
            return fail_set(fail, FAIL_FORMAT,
                "%s: expected a name for each rule, found \"%.80s\" twice", where, extract->name);
    extract->last = last;
    if (pattern == NULL)
        return 0;
    char name[4400];
    snprintf(name, sizeof name, "%s: extract \"%.100s\"", task->path, extract->name);
    return pattern_open(&extract->pattern, pattern, name, fail);
}

static int read_patterns(eval_task_t *task, fail_t *fail)
{
    json_t *extracts = json_object_get(task->root, "extract"), *value;
    json_t *ignored = json_object_get(task->root, "ignore");
    size_t i;
    if (json_array_size(extracts) > EVAL_MAX_PATTERNS ||
        json_array_size(ignored) > EVAL_MAX_PATTERNS || (extracts && !json_is_array(extracts)) ||
        (ignored && !json_is_array(ignored)))
        return fail_set(fail, FAIL_FORMAT,
            "%s: fields \"extract\" and \"ignore\": expected arrays of at most %d", task->path,
            EVAL_MAX_PATTERNS);
    json_array_foreach (extracts, i, value) {
        if (read_extract(task, value, fail) != 0)
            return fail->status;
    }
    if (task->n_extracts == 0)
        task->extracts[task->n_extracts++] = (eval_extract_t){.name = "exact"};
    char name[4400];
    snprintf(name, sizeof name, "%s: field \"ignore\"", task->path);
    json_array_foreach (ignored, i, value) {
        if (!json_is_string(value))
            return fail_set(fail, FAIL_FORMAT, "%s: expected texts", name);
        if (pattern_open(&task->ignored[task->n_ignored++], json_string_value(value), name, fail))
            return fail->status;
    }
    return json_opt_bool(task->root, task->path, "ignore_case", &task->ignore_case, fail);
}

static int check_shots(const eval_task_t *task, json_t *shots, fail_t *fail)
{
    static const char *const keys[] = {"data", "count", "between", "before_target"};
    const char *ignored;
    char where[4400];
    snprintf(where, sizeof where, "%s: field \"shots\"", task->path);
    if (!json_is_object(shots))
        return fail_set(fail, FAIL_FORMAT, "%s: expected an object", where);
    /* In a chat, examples are turns with nothing between them. */
    json_opt_string(shots, where, "between", &ignored, fail);
    json_opt_string(shots, where, "before_target", &ignored, fail);
    return json_check_keys(shots, where, keys, task->chat ? 2 : 4, fail);
}

static int read_shots(eval_task_t *task, const eval_overrides_t *overrides, fail_t *fail)
{
    json_t *shots = json_object_get(task->root, "shots");
    const char *data = NULL;
    if (shots != NULL && check_shots(task, shots, fail) == 0) {
        json_opt_string(shots, task->path, "data", &data, fail);
        json_opt_size(shots, task->path, "count", 0, 1000, &task->n_shots, fail);
    }
    if (overrides->has_shots)
        task->n_shots = overrides->shots;
    if (fail->status != 0 || task->n_shots == 0)
        return fail->status;
    if (data == NULL)
        return fail_set(fail, FAIL_FORMAT,
            "%s: field \"shots\": expected data, a file of examples, found none", task->path);
    return resolve(task, data, task->shots_path, fail);
}

static int check_overrides(const eval_task_t *task, const eval_overrides_t *overrides, fail_t *fail)
{
    const char *flag = overrides->has_max_tokens && task->kind != EVAL_GENERATE ? "--max-tokens"
                       : overrides->has_shots && task->kind == EVAL_PERPLEXITY  ? "--shots"
                                                                                : NULL;
    if (flag != NULL)
        fail_set(fail, FAIL_USAGE, "%s: task %s is of kind %s, which has none", flag, task->name,
            kind_names[task->kind]);
    return fail->status;
}

static int read_fields(eval_task_t *task, const eval_overrides_t *overrides, fail_t *fail)
{
    const char *data = NULL, *before = NULL;
    bool generate, choice, perplexity;
    if (read_kind(task, fail) != 0 || check_fields(task, fail) != 0)
        return fail->status;
    generate = task->kind == EVAL_GENERATE;
    choice = task->kind == EVAL_CHOICE;
    perplexity = task->kind == EVAL_PERPLEXITY;
    get_text(task, "name", true, fail);
    get_text(task, "prompt", generate || choice, fail);
    get_text(task, "target", generate, fail);
    get_text(task, "answer", choice, fail);
    get_text(task, "id", false, fail);
    get_text(task, "system", false, fail);
    get_text(task, "text", false, fail);
    get_text(task, "prefix", false, fail);
    json_opt_string(task->root, task->path, "before_choice", &before, fail);
    json_opt_string(task->root, task->path, "name", &task->name, fail);
    json_opt_string(task->root, task->path, "data", &data, fail);
    json_opt_bool(task->root, task->path, "chat", &task->chat, fail);
    if (fail->status != 0 || check_name(task, fail) != 0)
        return fail->status;
    check_pair(task, "system", task->chat, "\"chat\": true", fail);
    check_pair(task, "id", !perplexity || json_object_get(task->root, "text") != NULL,
        "\"text\"; windows of one text are counted", fail);
    check_overrides(task, overrides, fail);
    task->max_tokens = 256;
    json_opt_size(task->root, task->path, "max_tokens", 1, UINT32_MAX, &task->max_tokens, fail);
    if (overrides->has_max_tokens)
        task->max_tokens = overrides->max_tokens;
    task->window = 512;
    json_opt_size(task->root, task->path, "window", 2, UINT32_MAX, &task->window, fail);
    task->stride = task->window;
    json_opt_size(task->root, task->path, "stride", 1, task->window, &task->stride, fail);
    if (fail->status != 0)
        return fail->status;
    if (overrides->data != NULL)
        snprintf(task->data_path, sizeof task->data_path, "%s", overrides->data);
    else if (data != NULL)
        resolve(task, data, task->data_path, fail);
    else
        fail_set(fail, FAIL_FORMAT, "%s: field \"data\": expected a file, found none (or --data)",
            task->path);
    if (!perplexity)
        read_shots(task, overrides, fail);
    read_stops(task, fail);
    return read_patterns(task, fail);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static int read_task_file(eval_task_t *task, fail_t *fail)
{
    char *text;
    size_t bytes;
    if (text_file_read(task->path, (size_t)16 << 20, &text, &bytes, fail) != 0)
        return fail->status;
    task->task_digest = XXH3_64bits(text, bytes);
    json_text_read(text, bytes, task->path, &task->root, fail);
    free(text);
    return fail->status;
}

static int read_items(eval_task_t *task, size_t limit, const tokenizer_t *tokenizer, fail_t *fail)
{
    char *data = NULL, *shots = NULL;
    size_t data_bytes = 0, shots_bytes = 0;
    if (text_file_read(task->data_path, MAX_DATA_BYTES, &data, &data_bytes, fail) == 0)
        task->data_digest = XXH3_64bits(data, data_bytes);
    if (fail->status == 0 && task->n_shots > 0 &&
        text_file_read(task->shots_path, MAX_DATA_BYTES, &shots, &shots_bytes, fail) == 0)
        task->shots_digest = XXH3_64bits(shots, shots_bytes);
    if (fail->status == 0)
        eval_items_read(task, (eval_text_t){data, data_bytes}, (eval_text_t){shots, shots_bytes},
            limit, tokenizer, fail);
    free(data);
    free(shots);
    return fail->status;
}

int eval_task_open(eval_task_t *task, const char *given, const eval_overrides_t *overrides,
    const char *directory, const tokenizer_t *tokenizer, fail_t *fail)
{
    *task = (eval_task_t){0};
    if (find_task(given, task->path, fail) == 0 && read_task_file(task, fail) == 0 &&
        read_fields(task, overrides, fail) == 0 && task->chat)
        chat_require(&task->template, directory, &overrides->chat, fail);
    if (fail->status == 0)
        read_items(task, overrides->limit, tokenizer, fail);
    if (fail->status != 0)
        eval_task_close(task);
    return fail->status;
}

void eval_task_close(eval_task_t *task)
{
    for (size_t i = 0; i < task->n_items; i++)
        eval_item_clear(&task->items[i]);
    free(task->items);
    for (size_t i = 0; i < task->n_extracts; i++)
        pattern_close(task->extracts[i].pattern);
    for (size_t i = 0; i < task->n_ignored; i++)
        pattern_close(task->ignored[i]);
    json_decref(task->root);
    chat_close(task->template);
    *task = (eval_task_t){0};
}
