/* Added tokens of model directories whose files say different things, against what transformers
 * makes of them (tests/oracle/tokenizer_directories.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "tests/tokenizer_fixture.h"

static const char *const files[] = {"config.json", "tokenizer.json", "vocab.json", "merges.txt",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
#define N_FILES (sizeof files / sizeof *files)

/* root[path] = value, making objects on the way; a key of plus signs appends to an array. */
static void change(json_t *root, const char *path, json_t *value)
{
    size_t length = strcspn(path, "/");
    char key[64];
    snprintf(key, sizeof key, "%.*s", (int)length, path);
    if (json_is_array(root)) {
        json_array_append(root, value);
    } else if (path[length] != 0) {
        if (json_object_get(root, key) == NULL)
            json_object_set_new(root, key, json_object());
        change(json_object_get(root, key), path + length + 1, value);
    } else if (json_is_true(json_object_get(value, "delete"))) {
        json_object_del(root, key);
    } else {
        json_object_set(root, key, value);
    }
}

/* The directory whose files a line changes. */
static const char *base_of(json_t *line)
{
    const char *base = json_string_value(json_object_get(line, "base"));
    return base == NULL                        ? DEMO
           : strcmp(base, "llama3-small") == 0 ? GOLDEN "llama3-small"
                                               : GOLDEN "mistral-small";
}

static void write_changed(
    const char *base, const char *directory, const char *name, json_t *changes)
{
    char path[4200];
    const char *key;
    json_t *root = NULL, *value;
    fail_t fail = {0};
    snprintf(path, sizeof path, "%s/%s", base, name);
    if (access(path, F_OK) == 0)
        assert_int_equal(json_file_read(path, &root, &fail), 0);
    json_object_foreach (changes, key, value) {
        if (*key == 0) {
            json_decref(root);
            root = json_incref(value);
        } else {
            change(root, key, value);
        }
    }
    char *text = json_dumps(root, JSON_COMPACT);
    write_bytes(directory, name, text, strlen(text));
    free(text);
    json_decref(root);
}

static bool is_removed(json_t *removed, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach (removed, i, item)
        if (strcmp(json_string_value(item), name) == 0)
            return true;
    return false;
}

static void make_directory(const char *directory, json_t *line)
{
    const char *base = base_of(line);
    char path[4200];
    for (size_t i = 0; i < N_FILES; i++) {
        json_t *changes = json_object_get(json_object_get(line, "files"), files[i]);
        size_t bytes;
        if (is_removed(json_object_get(line, "remove"), files[i]))
            continue;
        if (changes != NULL) {
            write_changed(base, directory, files[i], changes);
            continue;
        }
        snprintf(path, sizeof path, "%s/%s", base, files[i]);
        if (access(path, F_OK) == 0) {
            char *text = read_text(base, files[i], &bytes);
            write_bytes(directory, files[i], text, bytes);
            free(text);
        }
    }
}

static void expect_ids(
    const char *name, const char *text, const tokenizer_ids_t *found, json_t *ids)
{
    bool same = found->count == json_array_size(ids);
    for (size_t i = 0; i < found->count && same; i++)
        same = found->ids[i] == json_integer_value(json_array_get(ids, i));
    if (!same)
        fail_msg("%s: other ids for \"%s\"", name, text);
}

static void check_case(const tokenizer_t *tokenizer, const char *name, json_t *expected)
{
    fail_t fail = {0};
    json_t *text = json_array_get(expected, 0);
    size_t bytes = json_string_length(text);
    tokenizer_ids_t ids = encode(tokenizer, json_string_value(text), bytes, true), whole = {0};
    expect_ids(name, json_string_value(text), &ids, json_array_get(expected, 1));
    assert_int_equal(
        tokenizer_encode_whole(tokenizer, json_string_value(text), bytes, &whole, &fail), 0);
    expect_ids(name, json_string_value(text), &whole, json_array_get(expected, 2));
    char *back = decode(tokenizer, ids.ids, ids.count, true, &bytes);
    if (strcmp(back, json_string_value(json_array_get(expected, 3))) != 0)
        fail_msg("%s: other text for the ids of \"%s\"", name, json_string_value(text));
    free(back);
    tokenizer_ids_clear(&ids);
    tokenizer_ids_clear(&whole);
}

static void check_line(json_t *line)
{
    char directory[] = "/tmp/choir_tokenizer_XXXXXX", path[4200];
    const char *name = json_string_value(json_object_get(line, "name"));
    size_t i;
    json_t *expected;
    assert_non_null(mkdtemp(directory));
    make_directory(directory, line);
    tokenizer_t *tokenizer = open_directory(directory);
    json_array_foreach (json_object_get(line, "cases"), i, expected)
        check_case(tokenizer, name, expected);
    tokenizer_close(tokenizer);
    for (i = 0; i < N_FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        unlink(path);
    }
    rmdir(directory);
}

static void added_tokens_are_merged_from_all_files_as_transformers_does(void **state)
{
    (void)state;
    size_t bytes, n = 0;
    char *text = read_text(GOLDEN, "directories.jsonl", &bytes);
    log_set_level(LOG_ERROR);
    for (char *at = text; *at != 0; n++) {
        size_t length = strcspn(at, "\n");
        json_t *line = json_loadb(at, length, 0, NULL);
        assert_non_null(line);
        check_line(line);
        json_decref(line);
        at += length + (at[length] == '\n');
    }
    assert_true(n > 90);
    free(text);
}

/* 20,000 tokens, each twice: "<0>" to "<19999>". */
static void many_added_tokens_and_the_same_one_twice_are_taken(void **state)
{
    (void)state;
    json_t *root = demo_json(), *added = json_object_get(root, "added_tokens");
    for (int i = 0; i < 40000; i++)
        json_array_append_new(added, json_pack("{s:i,s:o,s:b}", "id", 2048 + i / 2, "content",
                                         json_sprintf("<%d>", i / 2), "normalized", 0));
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    if (open_json(root, &tokenizer, &fail) != 0)
        fail_msg("%s", fail.message);
    assert_int_equal(tokenizer_special_id(tokenizer, "<19999>"), 2048 + 19999);
    tokenizer_ids_t ids = encode(tokenizer, "<1><19999><123", 14, true);
    assert_int_equal(ids.ids[0], 2049);
    assert_int_equal(ids.ids[1], 2048 + 19999);
    assert_int_equal(ids.ids[2], token_of(tokenizer, "<", 1));
    tokenizer_ids_clear(&ids);
    tokenizer_close(tokenizer);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(added_tokens_are_merged_from_all_files_as_transformers_does),
        cmocka_unit_test(many_added_tokens_and_the_same_one_twice_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
