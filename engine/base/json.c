#include "engine/base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/input.h"

int file_read(const char *path, size_t max_bytes, char **text, size_t *bytes, fail_t *fail)
{
    struct stat info;
    int fd;
    *text = NULL;
    *bytes = 0;
    if (input_open(path, &fd, &info, fail) != 0)
        return fail->status;
    size_t size = (size_t)info.st_size;
    FILE *file = fdopen(fd, "rb");
    char *buffer = NULL;
    if (file == NULL) {
        fail_set(fail, FAIL_FILE, "%s: cannot open: %s", path, strerror(errno));
    } else if (size > max_bytes) {
        fail_set(
            fail, FAIL_FORMAT, "%s: expected at most %zu bytes, found %zu", path, max_bytes, size);
    } else if ((buffer = malloc(size + 1)) == NULL) {
        fail_set(fail, FAIL_MEMORY, "%s: no memory for its %zu bytes", path, size);
    } else if (fread(buffer, 1, size, file) != size) {
        fail_set(fail, FAIL_FILE, "%s: expected %zu bytes, reading them failed", path, size);
    } else {
        buffer[size] = 0;
        *text = buffer;
        *bytes = size;
    }
    if (file != NULL)
        fclose(file);
    else
        close(fd);
    if (*text == NULL)
        free(buffer);
    return fail->status;
}

static size_t bom_bytes(const char *text, size_t bytes)
{
    return bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
}

void text_drop_bom(char *text, size_t *bytes)
{
    size_t bom = bom_bytes(text, *bytes);
    if (bom == 0)
        return;
    *bytes -= bom;
    memmove(text, text + bom, *bytes + 1);
}

int text_file_read(const char *path, size_t max_bytes, char **text, size_t *bytes, fail_t *fail)
{
    if (file_read(path, max_bytes, text, bytes, fail) == 0)
        text_drop_bom(*text, bytes);
    return fail->status;
}

int json_text_read(const char *text, size_t bytes, const char *name, json_t **root, fail_t *fail)
{
    json_error_t error;
    size_t bom = bom_bytes(text, bytes);
    *root = json_loadb(text + bom, bytes - bom, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (*root == NULL)
        return fail_set(fail, FAIL_FORMAT, "%s: not valid JSON: %s (line %d, column %d)", name,
            error.text, error.line, error.column);
    return 0;
}

int json_line_read(const char *text, size_t bytes, const char *name, json_t **root, fail_t *fail)
{
    json_error_t error;
    *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (*root == NULL)
        return fail_set(fail, FAIL_FORMAT, "%s: not valid JSON: %s (column %d)", name, error.text,
            error.column);
    return 0;
}

typedef int (*parse_fn)(
    const char *text, size_t bytes, const char *name, json_t **root, fail_t *fail);

static int read_and_parse(const char *path, parse_fn parse, json_t **root, fail_t *fail)
{
    char *text;
    size_t bytes;
    *root = NULL;
    if (file_read(path, (size_t)256 << 20, &text, &bytes, fail) != 0)
        return fail->status;
    parse(text, bytes, path, root, fail);
    free(text);
    return fail->status;
}

int json_file_read(const char *path, json_t **root, fail_t *fail)
{
    return read_and_parse(path, json_text_read, root, fail);
}

/* ---- As Python reads it ---------------------------------------------------------------------- */

/* Python's json takes these words for numbers, which JSON has not. */
static const char *const python_numbers[] = {"NaN", "Infinity", "-Infinity"};

/* The length of such a word at the beginning of the text; 0: none. */
static size_t python_number(const char *text, size_t bytes)
{
    for (size_t i = 0; i < sizeof python_numbers / sizeof *python_numbers; i++) {
        size_t n = strlen(python_numbers[i]);
        if (bytes >= n && memcmp(text, python_numbers[i], n) == 0)
            return n;
    }
    return 0;
}

/* Copies JSON, the words above put into quotes. quoted: [3 * bytes] written. Its length. */
static size_t quote_python_numbers(const char *text, size_t bytes, char *quoted)
{
    size_t n = 0;
    bool in_string = false;
    for (size_t i = 0; i < bytes;) {
        size_t word = in_string ? 0 : python_number(text + i, bytes - i);
        if (word > 0) {
            quoted[n++] = '"';
            memcpy(quoted + n, text + i, word);
            n += word;
            quoted[n++] = '"';
            i += word;
            continue;
        }
        if (text[i] == '"')
            in_string = !in_string;
        else if (in_string && text[i] == '\\' && i + 1 < bytes)
            quoted[n++] = text[i++];
        quoted[n++] = text[i++];
    }
    return n;
}

int json_python_text_read(
    const char *text, size_t bytes, const char *name, json_t **root, fail_t *fail)
{
    json_error_t error;
    size_t bom = bom_bytes(text, bytes);
    text += bom;
    bytes -= bom;
    *root = json_loadb(text, bytes, JSON_ALLOW_NUL, &error);
    /* Rare: where JSON proper has failed. */
    char *quoted = *root == NULL ? malloc(3 * bytes + 1) : NULL;
    if (quoted != NULL)
        *root =
            json_loadb(quoted, quote_python_numbers(text, bytes, quoted), JSON_ALLOW_NUL, &error);
    free(quoted);
    if (*root == NULL)
        return fail_set(fail, FAIL_FORMAT, "%s: not valid JSON: %s (line %d, column %d)", name,
            error.text, error.line, error.column);
    return 0;
}

int json_python_file_read(const char *path, json_t **root, fail_t *fail)
{
    return read_and_parse(path, json_python_text_read, root, fail);
}

/* ---- Members --------------------------------------------------------------------------------- */

static const char *type_name(const json_t *value)
{
    if (value == NULL)
        return "nothing";
    for (size_t i = 0; i < sizeof python_numbers / sizeof *python_numbers; i++)
        if (json_is_string(value) && strcmp(json_string_value(value), python_numbers[i]) == 0)
            return python_numbers[i];
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_NULL:
        return "null";
    default:
        return "a boolean";
    }
}

int json_opt_size(json_t *object, const char *name, const char *key, size_t min, size_t max,
    size_t *value, fail_t *fail)
{
    json_t *member = json_object_get(object, key);
    if (member == NULL || json_is_null(member))
        return 0;
    if (!json_is_integer(member))
        return fail_set(fail, FAIL_FORMAT, "%s: %s: expected an integer, found %s", name, key,
            type_name(member));
    json_int_t number = json_integer_value(member);
    if (number < 0 || (unsigned long long)number < min || (unsigned long long)number > max)
        return fail_set(fail, FAIL_FORMAT, "%s: %s: expected %zu to %zu, found %lld", name, key,
            min, max, (long long)number);
    *value = (size_t)number;
    return 0;
}

int json_get_size(json_t *object, const char *name, const char *key, size_t min, size_t max,
    size_t *value, fail_t *fail)
{
    json_t *member = json_object_get(object, key);
    if (member == NULL || json_is_null(member))
        return fail_set(fail, FAIL_FORMAT, "%s: %s: expected an integer, found %s", name, key,
            type_name(member));
    return json_opt_size(object, name, key, min, max, value, fail);
}

int json_opt_double(json_t *object, const char *name, const char *key, double min, double max,
    double *value, fail_t *fail)
{
    json_t *member = json_object_get(object, key);
    if (member == NULL || json_is_null(member))
        return 0;
    if (!json_is_number(member))
        return fail_set(
            fail, FAIL_FORMAT, "%s: %s: expected a number, found %s", name, key, type_name(member));
    double number = json_number_value(member);
    if (!(number >= min && number <= max))
        return fail_set(
            fail, FAIL_FORMAT, "%s: %s: expected %g to %g, found %g", name, key, min, max, number);
    *value = number;
    return 0;
}

int json_opt_bool(json_t *object, const char *name, const char *key, bool *value, fail_t *fail)
{
    json_t *member = json_object_get(object, key);
    if (member == NULL || json_is_null(member))
        return 0;
    if (!json_is_boolean(member))
        return fail_set(fail, FAIL_FORMAT, "%s: %s: expected true or false, found %s", name, key,
            type_name(member));
    *value = json_is_true(member);
    return 0;
}

int json_opt_string(
    json_t *object, const char *name, const char *key, const char **value, fail_t *fail)
{
    json_t *member = json_object_get(object, key);
    if (member == NULL || json_is_null(member))
        return 0;
    if (!json_is_string(member))
        return fail_set(
            fail, FAIL_FORMAT, "%s: %s: expected a string, found %s", name, key, type_name(member));
    if (strlen(json_string_value(member)) != json_string_length(member))
        return fail_set(
            fail, FAIL_FORMAT, "%s: %s: expected a text without the character U+0000", name, key);
    *value = json_string_value(member);
    return 0;
}

static bool is_one_of(const char *key, const char *const *keys, size_t n_keys)
{
    for (size_t i = 0; i < n_keys; i++)
        if (keys[i] != NULL && strcmp(keys[i], key) == 0)
            return true;
    return false;
}

int json_check_keys(
    json_t *object, const char *name, const char *const *keys, size_t n_keys, fail_t *fail)
{
    const char *key;
    json_t *value;
    json_object_foreach (object, key, value) {
        if (is_one_of(key, keys, n_keys))
            continue;
        char allowed[FAIL_MESSAGE_BYTES / 2] = "";
        size_t used = 0;
        for (size_t i = 0; i < n_keys && used < sizeof allowed; i++)
            if (keys[i] != NULL)
                used += (size_t)snprintf(
                    allowed + used, sizeof allowed - used, "%s%s", used > 0 ? ", " : "", keys[i]);
        return fail_set(
            fail, FAIL_FORMAT, "%s: unknown field \"%.60s\"; allowed are %s", name, key, allowed);
    }
    return 0;
}

json_t *json_from_ids(const int32_t *ids, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return array;
}

json_t *json_from_double(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *json_from_doubles(const double *values, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_from_double(values[i]));
    return array;
}
