#include "tests/tokenizer_fixture.h"

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
#include "engine/text/unicode.h"

const char *const vocab_files[3] = {"vocab.json", "merges.txt", "tokenizer_config.json"};

tokenizer_t *open_directory(const char *directory)
{
    fail_t fail = {0};
    tokenizer_t *tokenizer;
    if (tokenizer_open(&tokenizer, directory, &fail) != 0)
        fail_msg("%s", fail.message);
    return tokenizer;
}

char *read_text(const char *directory, const char *name, size_t *bytes)
{
    char path[4200], *text;
    fail_t fail = {0};
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (file_read(path, (size_t)64 << 20, &text, bytes, &fail) != 0)
        fail_msg("%s", fail.message);
    return text;
}

void write_bytes(const char *directory, const char *name, const char *text, size_t bytes)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* A new directory with the files of the older form, copied from another. */
void make_vocab_form(char directory[64], const char *from)
{
    strcpy(directory, P_tmpdir "/choir-tokenizer-XXXXXX");
    assert_non_null(mkdtemp(directory));
    for (int i = 0; i < 3; i++) {
        size_t bytes;
        char *text = read_text(from, vocab_files[i], &bytes);
        write_bytes(directory, vocab_files[i], text, bytes);
        free(text);
    }
}

void remove_vocab_form(const char *directory)
{
    for (int i = 0; i < 3; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", directory, vocab_files[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(directory), 0);
}

tokenizer_ids_t encode(const tokenizer_t *tokenizer, const char *text, size_t bytes, bool special)
{
    fail_t fail = {0};
    tokenizer_ids_t ids = {0};
    if (tokenizer_encode(tokenizer, text, bytes, special, &ids, &fail) != 0)
        fail_msg("%s", fail.message);
    return ids;
}

/* The text of ids, checked to be the same when streamed, in whole UTF-8 sequences. */
char *decode(
    const tokenizer_t *tokenizer, const int32_t *ids, size_t count, bool skip, size_t *bytes)
{
    fail_t fail = {0};
    char *text;
    if (tokenizer_decode(tokenizer, ids, count, skip, &text, bytes, &fail) != 0)
        fail_msg("%s", fail.message);
    detokenizer_t detokenizer = {0};
    text_buffer_t stream = {0};
    for (size_t i = 0; i < count; i++) {
        size_t before = stream.bytes;
        assert_int_equal(
            detokenizer_push(&detokenizer, tokenizer, ids[i], skip, &stream, &fail), 0);
        if (stream.bytes > before)
            assert_int_equal(utf8_valid_prefix(stream.text + before, stream.bytes - before),
                stream.bytes - before);
    }
    assert_int_equal(detokenizer_flush(&detokenizer, tokenizer, &stream, &fail), 0);
    assert_int_equal(stream.bytes, *bytes);
    if (stream.bytes > 0)
        assert_memory_equal(stream.text, text, *bytes);
    text_buffer_clear(&stream);
    detokenizer_clear(&detokenizer);
    return text;
}

static tokenizer_ids_t ids_of_json(const json_t *array)
{
    tokenizer_ids_t ids = {.count = json_array_size(array)};
    ids.ids = calloc(ids.count + 1, sizeof *ids.ids);
    assert_non_null(ids.ids);
    for (size_t i = 0; i < ids.count; i++)
        ids.ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return ids;
}

static char *bytes_of_hex(const char *hex, size_t *bytes)
{
    *bytes = strlen(hex) / 2;
    char *out = malloc(*bytes + 1);
    assert_non_null(out);
    for (size_t i = 0; i < *bytes; i++) {
        unsigned value = 0;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &value), 1);
        out[i] = (char)value;
    }
    return out;
}

static void check_golden_ids(const tokenizer_t *tokenizer, const json_t *line, size_t number)
{
    size_t bytes;
    char *text = bytes_of_hex(json_string_value(json_object_get(line, "hex")), &bytes);
    tokenizer_ids_t expected = ids_of_json(json_object_get(line, "ids"));
    tokenizer_ids_t found =
        encode(tokenizer, text, bytes, json_is_true(json_object_get(line, "special")));
    if (found.count != expected.count ||
        (found.count > 0 && memcmp(found.ids, expected.ids, found.count * sizeof(int32_t)) != 0))
        fail_msg("golden line %zu: other ids than Hugging Face's", number);
    tokenizer_ids_clear(&found);
    tokenizer_ids_clear(&expected);
    free(text);
}

static void check_golden_text(const tokenizer_t *tokenizer, const json_t *line, size_t number)
{
    tokenizer_ids_t ids = ids_of_json(json_object_get(line, "decode"));
    const json_t *expected = json_object_get(line, "text");
    size_t bytes;
    char *text =
        decode(tokenizer, ids.ids, ids.count, json_is_true(json_object_get(line, "skip")), &bytes);
    if (bytes != json_string_length(expected) ||
        memcmp(text, json_string_value(expected), bytes) != 0)
        fail_msg("golden line %zu: other text than Hugging Face's", number);
    free(text);
    tokenizer_ids_clear(&ids);
}

void check_golden(const tokenizer_t *tokenizer, const char *file)
{
    size_t bytes, number = 0;
    char *text = read_text(GOLDEN, file, &bytes);
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        number++;
        json_t *object = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
        assert_non_null(object);
        if (json_object_get(object, "hex") != NULL)
            check_golden_ids(tokenizer, object, number);
        else
            check_golden_text(tokenizer, object, number);
        json_decref(object);
    }
    assert_true(number > 200);
    free(text);
}

/* The id of the token with these bytes. */
int32_t token_of(const tokenizer_t *tokenizer, const char *text, size_t bytes)
{
    for (int32_t id = 0; id < (int32_t)tokenizer_size(tokenizer); id++) {
        size_t n;
        const char *token = tokenizer_bytes(tokenizer, id, &n);
        if (token != NULL && n == bytes && memcmp(token, text, n) == 0)
            return id;
    }
    fail_msg("no such token");
    return -1;
}

/* The demo's tokenizer.json, to be altered. */
json_t *demo_json(void)
{
    fail_t fail = {0};
    json_t *root;
    if (json_file_read(DEMO "/tokenizer.json", &root, &fail) != 0)
        fail_msg("%s", fail.message);
    return root;
}

int open_json(json_t *root, tokenizer_t **tokenizer, fail_t *fail)
{
    char *text = json_dumps(root, JSON_COMPACT);
    assert_non_null(text);
    int status = tokenizer_open_json(tokenizer, text, strlen(text), "tokenizer.json", fail);
    free(text);
    return status;
}

/* Sets root[path] = value, path being keys and indices with slashes between. */
void json_set_path(json_t *root, const char *path, json_t *value)
{
    char copy[128], *key = copy, *slash;
    snprintf(copy, sizeof copy, "%s", path);
    for (; (slash = strchr(key, '/')) != NULL; key = slash + 1) {
        *slash = 0;
        root = json_is_array(root) ? json_array_get(root, (size_t)atoi(key))
                                   : json_object_get(root, key);
        assert_non_null(root);
    }
    if (json_is_array(root))
        assert_int_equal(json_array_set_new(root, (size_t)atoi(key), value), 0);
    else
        assert_int_equal(json_object_set_new(root, key, value), 0);
}
