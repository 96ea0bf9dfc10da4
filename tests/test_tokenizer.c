/* The tokenizer against Hugging Face's ids (golden files), its streaming, its speed on bad input,
 * and what every malformed file is told. */
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
#include <pthread.h>

#include "engine/base/json.h"
#include "engine/text/nfc.h"
#include "engine/text/pretokenize.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"

#define DEMO CHOIR_SOURCE_DIR "/configs/demo"
#define GOLDEN CHOIR_SOURCE_DIR "/tests/golden/tokenizer/"

static const char *const vocab_files[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};

static tokenizer_t *open_directory(const char *directory)
{
    fail_t fail = {0};
    tokenizer_t *tokenizer;
    if (tokenizer_open(&tokenizer, directory, &fail) != 0)
        fail_msg("%s", fail.message);
    return tokenizer;
}

static char *read_text(const char *directory, const char *name, size_t *bytes)
{
    char path[4200], *text;
    fail_t fail = {0};
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (file_read(path, (size_t)64 << 20, &text, bytes, &fail) != 0)
        fail_msg("%s", fail.message);
    return text;
}

static void write_bytes(const char *directory, const char *name, const char *text, size_t bytes)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* A new directory with the files of the older form, copied from another. */
static void make_vocab_form(char directory[64], const char *from)
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

static void remove_vocab_form(const char *directory)
{
    for (int i = 0; i < 3; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", directory, vocab_files[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(directory), 0);
}

static tokenizer_ids_t encode(
    const tokenizer_t *tokenizer, const char *text, size_t bytes, bool special)
{
    fail_t fail = {0};
    tokenizer_ids_t ids = {0};
    if (tokenizer_encode(tokenizer, text, bytes, special, &ids, &fail) != 0)
        fail_msg("%s", fail.message);
    return ids;
}

/* The text of ids, checked to be the same when streamed, in whole UTF-8 sequences. */
static char *decode(
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
    assert_int_equal(detokenizer_flush(&detokenizer, &stream, &fail), 0);
    assert_int_equal(stream.bytes, *bytes);
    if (stream.bytes > 0)
        assert_memory_equal(stream.text, text, *bytes);
    text_buffer_clear(&stream);
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

static void check_golden(const tokenizer_t *tokenizer, const char *file)
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

static void demo_tokenizer_json_gives_hugging_face_ids(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    check_golden(tokenizer, "demo.jsonl");
    tokenizer_close(tokenizer);
}

static void demo_vocab_and_merges_give_hugging_face_ids(void **state)
{
    (void)state;
    char directory[64];
    make_vocab_form(directory, DEMO);
    tokenizer_t *tokenizer = open_directory(directory);
    check_golden(tokenizer, "demo.jsonl");
    tokenizer_close(tokenizer);
    remove_vocab_form(directory);
}

static void qwen_tokenizer_gives_hugging_face_ids_in_both_forms(void **state)
{
    (void)state;
    const char *qwen = getenv("CHOIR_QWEN_TOKENIZER");
    if (qwen == NULL) {
        print_message(
            "skipped: CHOIR_QWEN_TOKENIZER names no directory with Qwen2.5's tokenizer\n");
        skip();
    }
    tokenizer_t *tokenizer = open_directory(qwen);
    assert_int_equal(tokenizer_size(tokenizer), 151665);
    check_golden(tokenizer, "qwen2.5.jsonl");
    tokenizer_close(tokenizer);
    char directory[64];
    make_vocab_form(directory, qwen);
    tokenizer = open_directory(directory);
    assert_int_equal(tokenizer_size(tokenizer), 151665);
    check_golden(tokenizer, "qwen2.5.jsonl");
    tokenizer_close(tokenizer);
    remove_vocab_form(directory);
}

static void special_tokens_are_found_by_content_and_known_by_id(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    size_t bytes;
    assert_int_equal(tokenizer_size(tokenizer), 2048);
    assert_int_equal(tokenizer_special_id(tokenizer, "<|endoftext|>"), 2045);
    assert_int_equal(tokenizer_special_id(tokenizer, "<|im_end|>"), 2047);
    assert_int_equal(tokenizer_special_id(tokenizer, "the"), -1);
    assert_true(tokenizer_is_special(tokenizer, 2046));
    assert_false(tokenizer_is_special(tokenizer, 5));
    assert_false(tokenizer_is_special(tokenizer, -1));
    assert_false(tokenizer_is_special(tokenizer, 2048));
    assert_memory_equal(tokenizer_bytes(tokenizer, 2046, &bytes), "<|im_start|>", 12);
    assert_int_equal(bytes, 12);
    assert_null(tokenizer_bytes(tokenizer, 2048, &bytes));
    assert_null(tokenizer_bytes(tokenizer, -1, &bytes));
    tokenizer_close(tokenizer);
}

static void special_text_is_ordinary_text_when_not_parsed(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    tokenizer_ids_t parsed = encode(tokenizer, "<|im_end|>", 10, true);
    tokenizer_ids_t plain = encode(tokenizer, "<|im_end|>", 10, false);
    assert_int_equal(parsed.count, 1);
    assert_int_equal(parsed.ids[0], 2047);
    assert_true(plain.count > 1);
    size_t bytes;
    char *text = decode(tokenizer, plain.ids, plain.count, true, &bytes);
    assert_string_equal(text, "<|im_end|>");
    free(text);
    text = decode(tokenizer, parsed.ids, parsed.count, true, &bytes);
    assert_string_equal(text, "");
    free(text);
    tokenizer_ids_clear(&parsed);
    tokenizer_ids_clear(&plain);
    tokenizer_close(tokenizer);
}

static void encoding_appends_to_ids_that_are_there(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    fail_t fail = {0};
    tokenizer_ids_t whole = encode(tokenizer, "one two", 7, true);
    tokenizer_ids_t ids = encode(tokenizer, "one", 3, true);
    assert_int_equal(tokenizer_encode(tokenizer, " two", 4, true, &ids, &fail), 0);
    assert_int_equal(ids.count, whole.count);
    assert_memory_equal(ids.ids, whole.ids, ids.count * sizeof *ids.ids);
    assert_int_equal(tokenizer_encode(tokenizer, NULL, 0, true, &ids, &fail), 0);
    assert_int_equal(ids.count, whole.count);
    tokenizer_ids_clear(&ids);
    tokenizer_ids_clear(&whole);
    tokenizer_close(tokenizer);
}

static void decoding_an_id_that_does_not_exist_is_a_usage_failure(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    const int32_t wrong[] = {2048, -1, INT32_MAX};
    for (int i = 0; i < 3; i++) {
        fail_t fail = {0};
        char *text;
        size_t bytes;
        assert_int_equal(
            tokenizer_decode(tokenizer, &wrong[i], 1, false, &text, &bytes, &fail), FAIL_USAGE);
        assert_null(text);
        assert_non_null(strstr(fail.message, "0 to 2047"));
    }
    tokenizer_close(tokenizer);
}

static void streaming_says_nothing_for_padding_rows_of_the_vocabulary(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    detokenizer_t detokenizer = {0};
    text_buffer_t out = {0};
    fail_t fail = {0};
    assert_int_equal(detokenizer_push(&detokenizer, tokenizer, 2100, false, &out, &fail), 0);
    assert_int_equal(out.bytes, 0);
    assert_int_equal(detokenizer_push(&detokenizer, tokenizer, -1, false, &out, &fail), FAIL_USAGE);
    text_buffer_clear(&out);
    tokenizer_close(tokenizer);
}

/* The id of the token with these bytes. */
static int32_t token_of(const tokenizer_t *tokenizer, const char *text, size_t bytes)
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

/* Pushes single bytes, as tokens of one byte. */
static void check_stream(const tokenizer_t *tokenizer, const char *bytes, const char *const *pieces)
{
    detokenizer_t detokenizer = {0};
    fail_t fail = {0};
    text_buffer_t out = {0};
    size_t n = strlen(bytes);
    for (size_t i = 0; i <= n; i++) {
        out.bytes = 0;
        assert_int_equal(text_buffer_append(&out, "", 0, &fail), 0);
        if (i < n)
            detokenizer_push(
                &detokenizer, tokenizer, token_of(tokenizer, bytes + i, 1), false, &out, &fail);
        else
            detokenizer_flush(&detokenizer, &out, &fail);
        assert_string_equal(out.text, pieces[i]);
    }
    text_buffer_clear(&out);
}

#define REPLACEMENT "\xEF\xBF\xBD"

static void streaming_holds_back_half_a_character(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    check_stream(tokenizer, "a\xC3\xA9z", (const char *const[]){"a", "", "\xC3\xA9", "z", ""});
    check_stream(
        tokenizer, "\xF0\x9F\x98\x80", (const char *const[]){"", "", "", "\xF0\x9F\x98\x80", ""});
    check_stream(tokenizer, "\xF0\x9F\x98", (const char *const[]){"", "", "", REPLACEMENT});
    check_stream(tokenizer, "\xE2\x82\x41", (const char *const[]){"", "", REPLACEMENT "A", ""});
    check_stream(tokenizer, "\xE2\xC3\xA9", (const char *const[]){"", REPLACEMENT, "\xC3\xA9", ""});
    check_stream(tokenizer, "\xED\xA0\x80",
        (const char *const[]){"", REPLACEMENT REPLACEMENT, REPLACEMENT, ""});
    check_stream(tokenizer, "\xC0\xFF", (const char *const[]){REPLACEMENT, REPLACEMENT, ""});
    tokenizer_close(tokenizer);
}

/* Encodes `bytes` bytes of a repeated unit and decodes them again. */
static void check_repeated(const tokenizer_t *tokenizer, const char *unit, size_t bytes)
{
    size_t period = strlen(unit), back_bytes;
    char *text = malloc(bytes);
    assert_non_null(text);
    for (size_t i = 0; i < bytes; i++)
        text[i] = unit[i % period];
    tokenizer_ids_t ids = encode(tokenizer, text, bytes, true);
    fail_t fail = {0};
    char *back;
    assert_int_equal(
        tokenizer_decode(tokenizer, ids.ids, ids.count, false, &back, &back_bytes, &fail), 0);
    assert_int_equal(back_bytes, bytes);
    assert_memory_equal(back, text, bytes);
    free(back);
    free(text);
    tokenizer_ids_clear(&ids);
}

/* The demo's tokenizer.json, to be altered. */
static json_t *demo_json(void)
{
    fail_t fail = {0};
    json_t *root;
    if (json_file_read(DEMO "/tokenizer.json", &root, &fail) != 0)
        fail_msg("%s", fail.message);
    return root;
}

static int open_json(json_t *root, tokenizer_t **tokenizer, fail_t *fail)
{
    char *text = json_dumps(root, JSON_COMPACT);
    assert_non_null(text);
    int status = tokenizer_open_json(tokenizer, text, strlen(text), "tokenizer.json", fail);
    free(text);
    return status;
}

/* Sets root[path] = value, path being keys and indices with slashes between. */
static void json_set_path(json_t *root, const char *path, json_t *value)
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

static void ten_megabytes_of_one_letter_do_not_hang(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    check_repeated(tokenizer, "a", 10000000);
    tokenizer_close(tokenizer);
}

static void long_runs_of_any_kind_stay_within_the_limits_of_matching(void **state)
{
    (void)state;
    static const char *const units[] = {
        " ", "\n", "\t ", "7", "ab", "!", " \n", "\r\n", "a ", "'", "'s", "\xE4\xB8\xAD", "<|im_"};
    tokenizer_t *tokenizer = open_directory(DEMO);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        check_repeated(tokenizer, units[i], 1200000);
    tokenizer_close(tokenizer);
}

static void matching_that_needs_a_large_stack_succeeds(void **state)
{
    (void)state;
    json_t *root = demo_json();
    json_set_path(
        root, "pre_tokenizer/pretokenizers/0/pattern/Regex", json_string("(?:a|b|ab)+(?!a)"));
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    assert_int_equal(open_json(root, &tokenizer, &fail), 0);
    check_repeated(tokenizer, "ab", 200000);
    tokenizer_close(tokenizer);
    json_decref(root);
}

static void a_long_run_of_combining_marks_is_sorted_in_linear_time(void **state)
{
    (void)state;
    fail_t fail = {0};
    uint8_t *properties;
    text_buffer_t out = {0};
    bool changed;
    size_t n = 1000000;
    assert_int_equal(unicode_table_make(&properties, &fail), 0);
    char *text = malloc(1 + 4 * n);
    assert_non_null(text);
    text[0] = 'x';
    for (size_t i = 0; i < n; i++)
        memcpy(text + 1 + 4 * i, "\xCC\x81\xCC\xB4", 4); /* classes 230 and 1 */
    assert_int_equal(nfc_append(properties, text, 1 + 4 * n, &out, &changed, &fail), 0);
    assert_true(changed);
    assert_int_equal(out.bytes, 1 + 4 * n);
    assert_memory_equal(out.text, "x\xCC\xB4\xCC\xB4", 5);
    assert_memory_equal(out.text + 1 + 2 * n - 2, "\xCC\xB4\xCC\x81", 4);
    text_buffer_clear(&out);
    free(text);
    free(properties);
}

static void normalisation_composes_reorders_and_leaves_newer_characters_alone(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"plain", NULL},
        {"caf\xC3\xA9", NULL},
        {"cafe\xCC\x81", "caf\xC3\xA9"},
        {"e\xCC\x81", "\xC3\xA9"},
        {"e\xCC\x81 e\xCC\x81!", "\xC3\xA9 \xC3\xA9!"},
        {"a\xCC\x81\xCC\xA3", "\xE1\xBA\xA1\xCC\x81"},            /* below before above */
        {"\xE2\x84\xA6", "\xCE\xA9"},                             /* Ohm sign */
        {"\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"}, /* Hangul */
        {"\xCD\x84", "\xCC\x88\xCC\x81"},                         /* excluded from composition */
        /* Assigned after the normaliser of `tokenizers` was made: class 0 to it. */
        {"a\xE0\xA3\x93\xCC\xA3", "a\xE0\xA3\x93\xCC\xA3"},
    };
    fail_t fail = {0};
    uint8_t *properties;
    assert_int_equal(unicode_table_make(&properties, &fail), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text_buffer_t out = {0};
        bool changed;
        assert_int_equal(
            nfc_append(properties, cases[i].text, strlen(cases[i].text), &out, &changed, &fail), 0);
        if (cases[i].expected == NULL)
            assert_false(changed);
        else
            assert_string_equal(out.text, cases[i].expected);
        text_buffer_clear(&out);
    }
    free(properties);
}

typedef struct worker {
    const tokenizer_t *tokenizer;
    const char *text;
    size_t bytes;
    tokenizer_ids_t ids;
    int status;
} worker_t;

static void *work(void *context)
{
    worker_t *worker = context;
    fail_t fail = {0};
    for (int i = 0; i < 20 && fail.status == 0; i++) {
        worker->ids.count = 0;
        tokenizer_encode(worker->tokenizer, worker->text, worker->bytes, true, &worker->ids, &fail);
    }
    worker->status = fail.status;
    return NULL;
}

static void threads_share_one_tokenizer(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(DEMO);
    size_t bytes;
    char *text = read_text(GOLDEN, "chat.jsonl", &bytes);
    tokenizer_ids_t expected = encode(tokenizer, text, bytes, true);
    worker_t workers[2];
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        workers[i] = (worker_t){.tokenizer = tokenizer, .text = text, .bytes = bytes};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].status, 0);
        assert_int_equal(workers[i].ids.count, expected.count);
        assert_memory_equal(
            workers[i].ids.ids, expected.ids, expected.count * sizeof *expected.ids);
        tokenizer_ids_clear(&workers[i].ids);
    }
    tokenizer_ids_clear(&expected);
    free(text);
    tokenizer_close(tokenizer);
}

/* A tokenizer with some added tokens more, given as JSON. */
static tokenizer_t *open_with_added(const char *tokens)
{
    json_t *root = demo_json(), *more = json_loads(tokens, 0, NULL);
    assert_non_null(more);
    json_array_extend(json_object_get(root, "added_tokens"), more);
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    if (open_json(root, &tokenizer, &fail) != 0)
        fail_msg("%s", fail.message);
    json_decref(more);
    json_decref(root);
    return tokenizer;
}

/* text must give the ids of the parts; a part "#N" stands for id N. */
static void check_parts(const tokenizer_t *tokenizer, const char *text, const char *const *parts)
{
    tokenizer_ids_t found = encode(tokenizer, text, strlen(text), true), expected = {0};
    fail_t fail = {0};
    for (; *parts != NULL; parts++) {
        size_t capacity = expected.count + strlen(*parts);
        expected.ids = realloc(expected.ids, capacity * sizeof *expected.ids);
        assert_non_null(expected.ids);
        expected.capacity = capacity;
        if (**parts == '#')
            expected.ids[expected.count++] = atoi(*parts + 1);
        else
            assert_int_equal(
                tokenizer_encode(tokenizer, *parts, strlen(*parts), true, &expected, &fail), 0);
    }
    assert_int_equal(found.count, expected.count);
    assert_memory_equal(found.ids, expected.ids, found.count * sizeof *found.ids);
    tokenizer_ids_clear(&found);
    tokenizer_ids_clear(&expected);
}

static void added_tokens_take_the_white_space_their_flags_say(void **state)
{
    (void)state;
    tokenizer_t *tokenizer =
        open_with_added("[{\"id\":2048,\"content\":\"<l>\",\"lstrip\":true,\"normalized\":false},"
                        "{\"id\":2049,\"content\":\"<r>\",\"rstrip\":true,\"normalized\":false},"
                        "{\"id\":2050,\"content\":\"<l>x\",\"normalized\":false}]");
    check_parts(
        tokenizer, "a \t\xE3\x80\x80<l> b", (const char *const[]){"a", "#2048", " b", NULL});
    check_parts(tokenizer, "a <r> \n b", (const char *const[]){"a ", "#2049", "b", NULL});
    check_parts(tokenizer, "<r>  <l>", (const char *const[]){"#2049", "#2048", NULL});
    check_parts(tokenizer, "a <l>x", (const char *const[]){"a ", "#2050", NULL});
    check_parts(tokenizer, "<l", (const char *const[]){"<l", NULL});
    assert_false(tokenizer_is_special(tokenizer, 2048));
    tokenizer_close(tokenizer);
}

static void normalized_added_tokens_are_found_in_normalised_text(void **state)
{
    (void)state;
    tokenizer_t *tokenizer =
        open_with_added("[{\"id\":2048,\"content\":\"<e\xCC\x81>\",\"normalized\":true},"
                        "{\"id\":2049,\"content\":\"<o\xCC\x81>\",\"normalized\":false}]");
    check_parts(tokenizer, "a<\xC3\xA9>", (const char *const[]){"a", "#2048", NULL});
    check_parts(tokenizer, "a<e\xCC\x81>", (const char *const[]){"a", "#2048", NULL});
    check_parts(tokenizer, "a<o\xCC\x81>", (const char *const[]){"a", "#2049", NULL});
    check_parts(tokenizer, "a<\xC3\xB3>", (const char *const[]){"a<\xC3\xB3>", NULL});
    tokenizer_close(tokenizer);
}

static void merges_may_be_strings_and_words_may_ignore_them(void **state)
{
    (void)state;
    json_t *root = demo_json(), *model = json_object_get(root, "model"), *strings = json_array();
    size_t i;
    json_t *merge;
    json_array_foreach(json_object_get(model, "merges"), i, merge) json_array_append_new(
        strings, json_sprintf("%s %s", json_string_value(json_array_get(merge, 0)),
                     json_string_value(json_array_get(merge, 1))));
    json_object_set_new(model, "merges", strings);
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    assert_int_equal(open_json(root, &tokenizer, &fail), 0);
    check_golden(tokenizer, "demo.jsonl");
    int32_t word = token_of(tokenizer, " the", 4);
    tokenizer_close(tokenizer);
    json_array_clear(strings);
    json_object_set_new(model, "ignore_merges", json_true());
    assert_int_equal(open_json(root, &tokenizer, &fail), 0);
    tokenizer_ids_t ids = encode(tokenizer, " the thx", 8, true);
    assert_int_equal(ids.ids[0], word);
    assert_int_equal(ids.count, 5);
    tokenizer_ids_clear(&ids);
    tokenizer_close(tokenizer);
    json_decref(root);
}

static void check_message(const fail_t *fail, int status, const char *part, const char *what)
{
    if (fail->status != status || strstr(fail->message, part) == NULL)
        fail_msg("%s: expected status %d and \"%s\", found %d and \"%s\"", what, status, part,
            fail->status, fail->message);
    assert_null(strchr(fail->message, '\n'));
}

static void malformed_tokenizer_json_is_told_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *path, *value;
        int status;
        const char *message;
    } cases[] = {
        {"model", "3", FAIL_FORMAT, "model: expected an object"},
        {"model/type", "\"Unigram\"", FAIL_MODEL, "expected type BPE, found \"Unigram\""},
        {"model/dropout", "0.1", FAIL_MODEL, "dropout"},
        {"model/continuing_subword_prefix", "\"##\"", FAIL_MODEL, "continuing_subword_prefix"},
        {"model/end_of_word_suffix", "\"</w>\"", FAIL_MODEL, "end_of_word_suffix"},
        {"model/ignore_merges", "1", FAIL_FORMAT, "ignore_merges"},
        {"model/vocab", "[]", FAIL_FORMAT, "vocab"},
        {"model/vocab", "{}", FAIL_FORMAT, "vocab"},
        {"model/vocab", "{\"a\":0}", FAIL_MODEL, "none for byte 0x00"},
        {"model/vocab/zz", "-1", FAIL_FORMAT, "token zz"},
        {"model/vocab/zz", "\"7\"", FAIL_FORMAT, "token zz"},
        {"model/vocab/zz", "7.5", FAIL_FORMAT, "token zz"},
        {"model/vocab/zz", "99999999999", FAIL_FORMAT, "token zz"},
        {"model/vocab/zz", "7", FAIL_FORMAT, "two tokens have the id 7"},
        {"model/vocab/", "5000", FAIL_FORMAT, "id 5000 is empty"},
        {"model/merges", "{}", FAIL_FORMAT, "merges: expected an array"},
        {"model/merges/3", "[\"a\"]", FAIL_FORMAT, "merge 3"},
        {"model/merges/3", "[\"a\",\"b\",\"c\"]", FAIL_FORMAT, "merge 3"},
        {"model/merges/3", "[\"a\",1]", FAIL_FORMAT, "merge 3"},
        {"model/merges/3", "\"ab\"", FAIL_FORMAT, "merge 3"},
        {"model/merges/3", "[\"nope\",\"a\"]", FAIL_FORMAT, "the first is not in the vocabulary"},
        {"model/merges/3", "[\"a\",\"nope\"]", FAIL_FORMAT, "the second is not in"},
        {"model/merges/3", "\"~ ~\"", FAIL_FORMAT, "their union is not in"},
        {"model/merges/3", "[\"a\",\"\xE4\xB8\xAD\"]", FAIL_FORMAT, "alphabet"},
        {"normalizer", "{\"type\":\"NFKC\"}", FAIL_MODEL, "expected null or NFC"},
        {"normalizer", "7", FAIL_MODEL, "expected null or NFC"},
        {"pre_tokenizer", "null", FAIL_MODEL, "pre_tokenizer"},
        {"pre_tokenizer", "{\"type\":\"Metaspace\"}", FAIL_MODEL, "Metaspace"},
        {"pre_tokenizer/pretokenizers/0/behavior", "\"Removed\"", FAIL_MODEL, "Removed"},
        {"pre_tokenizer/pretokenizers/0/invert", "true", FAIL_MODEL, "invert"},
        {"pre_tokenizer/pretokenizers/0/pattern", "{\"String\":\" \"}", FAIL_MODEL, "String"},
        {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"a(\"", FAIL_FORMAT, "at byte 2"},
        {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"\\\\s*\"", FAIL_MODEL, "match nothing"},
        {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"\"", FAIL_MODEL, "nothing in it"},
        {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"\\\\p{Lu}+\"", FAIL_MODEL, "property"},
        {"pre_tokenizer/pretokenizers/1/add_prefix_space", "true", FAIL_MODEL, "prefix space"},
        {"pre_tokenizer/pretokenizers/1/use_regex", "true", FAIL_MODEL, "and regex"},
        {"post_processor", "{\"type\":\"TemplateProcessing\"}", FAIL_MODEL, "post_processor"},
        {"decoder", "null", FAIL_MODEL, "decoder"},
        {"added_tokens", "{}", FAIL_FORMAT, "added_tokens: expected an array"},
        {"added_tokens/1", "7", FAIL_FORMAT, "added_tokens[1]"},
        {"added_tokens/1/id", "-3", FAIL_FORMAT, "added_tokens[1]: id"},
        {"added_tokens/1/id", "1e3", FAIL_FORMAT, "added_tokens[1]: id"},
        {"added_tokens/1/id", "5", FAIL_FORMAT, "two tokens have the id 5"},
        {"added_tokens/1/content", "\"\"", FAIL_FORMAT, "not empty"},
        {"added_tokens/1/content", "null", FAIL_FORMAT, "\"content\""},
        {"added_tokens/1/content", "\"<|endoftext|>\"", FAIL_FORMAT, "another id too"},
        {"added_tokens/1/content", "\"a\"", FAIL_FORMAT, "expected its id in the vocabulary"},
        {"added_tokens/1/special", "1", FAIL_FORMAT, "special"},
        {"added_tokens/1/single_word", "true", FAIL_MODEL, "single_word"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *root = demo_json(), *value = json_loads(cases[i].value, JSON_DECODE_ANY, NULL);
        assert_non_null(value);
        json_set_path(root, cases[i].path, value);
        tokenizer_t *tokenizer;
        fail_t fail = {0};
        open_json(root, &tokenizer, &fail);
        check_message(&fail, cases[i].status, cases[i].message, cases[i].path);
        assert_null(tokenizer);
        json_decref(root);
    }
}

static void text_that_is_no_tokenizer_json_is_told_so(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "not valid JSON"},
        {"{", "not valid JSON"},
        {"[]", "expected a JSON object"},
        {"{\"a\":1,\"a\":2}", "not valid JSON: duplicate"},
        {"{\"a\":\"\xFF\"}", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tokenizer_t *tokenizer;
        fail_t fail = {0};
        tokenizer_open_json(
            &tokenizer, cases[i].text, strlen(cases[i].text), "tokenizer.json", &fail);
        check_message(&fail, FAIL_FORMAT, cases[i].message, cases[i].text);
        assert_null(tokenizer);
    }
}

static void a_truncated_tokenizer_json_is_refused_wherever_it_ends(void **state)
{
    (void)state;
    size_t bytes;
    char *text = read_text(DEMO, "tokenizer.json", &bytes);
    while (bytes > 0 && text[bytes - 1] != '}')
        bytes--;
    for (size_t n = 0; n < bytes; n += 1 + bytes / 97) {
        tokenizer_t *tokenizer;
        fail_t fail = {0};
        tokenizer_open_json(&tokenizer, text, n, "tokenizer.json", &fail);
        check_message(&fail, FAIL_FORMAT, "not valid JSON", "truncated");
    }
    free(text);
}

/* Replaces one of the three files and opens. text NULL: removes it. */
static void check_vocab_form(int which, const char *text, int status, const char *message)
{
    char directory[64], path[4200];
    make_vocab_form(directory, DEMO);
    if (text != NULL) {
        write_bytes(directory, vocab_files[which], text, strlen(text));
    } else {
        snprintf(path, sizeof path, "%s/%s", directory, vocab_files[which]);
        assert_int_equal(unlink(path), 0);
    }
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    tokenizer_open(&tokenizer, directory, &fail);
    check_message(&fail, status, message, vocab_files[which]);
    assert_non_null(strstr(fail.message, directory));
    assert_null(tokenizer);
    remove_vocab_form(directory);
}

static void malformed_vocab_merges_and_config_are_told_what_is_wrong(void **state)
{
    (void)state;
    check_vocab_form(0, NULL, FAIL_FILE, "no tokenizer.json and no vocab.json");
    check_vocab_form(1, NULL, FAIL_FILE, "there is no merges.txt");
    check_vocab_form(2, NULL, FAIL_FILE, "there is no tokenizer_config.json");
    check_vocab_form(0, "[]", FAIL_FORMAT, "vocab.json: vocab: expected an object");
    check_vocab_form(0, "{\"a\":", FAIL_FORMAT, "vocab.json: not valid JSON");
    check_vocab_form(0, "{\"a\":1}", FAIL_MODEL, "none for byte 0x00");
    check_vocab_form(1, "#version: 0.2\nh e\nhe\n", FAIL_FORMAT, "merges.txt: line 3");
    check_vocab_form(1, "h e e\n", FAIL_FORMAT, "merges.txt: line 1");
    check_vocab_form(1, "h \n", FAIL_FORMAT, "merges.txt: merge 0");
    check_vocab_form(1, "h e\nqzqz e\n", FAIL_FORMAT, "merges.txt: merge 1 (qzqz e)");
    check_vocab_form(1, "h \xFF\n", FAIL_FORMAT, "merges.txt: not valid UTF-8 at byte 2");
    check_vocab_form(2, "7", FAIL_FORMAT, "tokenizer_config.json: ");
    check_vocab_form(2, "[]", FAIL_FORMAT, "tokenizer_config.json: expected a JSON object");
    check_vocab_form(2, "{}", FAIL_FORMAT, "added_tokens_decoder");
    check_vocab_form(
        2, "{\"tokenizer_class\":\"LlamaTokenizer\"}", FAIL_MODEL, "found LlamaTokenizer");
    check_vocab_form(2, "{\"add_prefix_space\":true}", FAIL_MODEL, "add_prefix_space");
    check_vocab_form(2, "{\"added_tokens_decoder\":{\"x\":{}}}", FAIL_FORMAT, "found \"x\"");
    check_vocab_form(
        2, "{\"added_tokens_decoder\":{\"99999999999999999999\":{}}}", FAIL_FORMAT, "found \"9");
    check_vocab_form(2, "{\"added_tokens_decoder\":{\"9\":7}}", FAIL_FORMAT, "added token 9");
    check_vocab_form(2, "{\"added_tokens_decoder\":{\"9\":{\"content\":\"<x>\"}}}", FAIL_FORMAT,
        "two tokens have the id 9");
}

static void a_directory_without_any_form_is_named(void **state)
{
    (void)state;
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    tokenizer_open(&tokenizer, "/nonexistent/model", &fail);
    check_message(&fail, FAIL_FILE, "/nonexistent/model: expected tokenizer.json, or", "directory");
}

static void only_expressions_that_mean_the_same_to_both_engines_are_taken(void **state)
{
    (void)state;
    static const char *const taken[] = {"\\s+", "a|b", "[^\\s\\p{L}]", "(?i:'s|'t)", "\\p{N}{1,3}",
        "a*?b++", "(?:a)(?=b)(?!c)", "[a-z\\-\\]]", "x{2}y{2,}", " ?\\P{L}", "\\.\\*"};
    static const char *const refused[] = {"", "\\w", "\\d+", "^a", "a$", ".", "\\p{Lu}", "\\p{L",
        "\\pL", "[[:alpha:]]", "[a&&b]", "[]a]", "(?<=a)b", "(?m)a", "(*UCP)a", "a{,3}", "a{2}+",
        "a{2}?", "a**", "a\\", "[a", "\xC3\xA9", "(?i:ss)", "(?i:aFI)", "a{", "}", "]", "\\x41",
        "\\b", "\\h", "[\\d]"};
    const char *why;
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        if (!pretokenize_pattern_supported(taken[i], strlen(taken[i]), &why))
            fail_msg("%s: refused for %s", taken[i], why);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        if (pretokenize_pattern_supported(refused[i], strlen(refused[i]), &why))
            fail_msg("%s: taken", refused[i]);
        assert_non_null(why);
    }
    assert_true(
        pretokenize_pattern_supported(pretokenizer_qwen2, strlen(pretokenizer_qwen2), &why));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_tokenizer_json_gives_hugging_face_ids),
        cmocka_unit_test(demo_vocab_and_merges_give_hugging_face_ids),
        cmocka_unit_test(qwen_tokenizer_gives_hugging_face_ids_in_both_forms),
        cmocka_unit_test(special_tokens_are_found_by_content_and_known_by_id),
        cmocka_unit_test(special_text_is_ordinary_text_when_not_parsed),
        cmocka_unit_test(encoding_appends_to_ids_that_are_there),
        cmocka_unit_test(decoding_an_id_that_does_not_exist_is_a_usage_failure),
        cmocka_unit_test(streaming_says_nothing_for_padding_rows_of_the_vocabulary),
        cmocka_unit_test(streaming_holds_back_half_a_character),
        cmocka_unit_test(ten_megabytes_of_one_letter_do_not_hang),
        cmocka_unit_test(long_runs_of_any_kind_stay_within_the_limits_of_matching),
        cmocka_unit_test(matching_that_needs_a_large_stack_succeeds),
        cmocka_unit_test(a_long_run_of_combining_marks_is_sorted_in_linear_time),
        cmocka_unit_test(normalisation_composes_reorders_and_leaves_newer_characters_alone),
        cmocka_unit_test(threads_share_one_tokenizer),
        cmocka_unit_test(added_tokens_take_the_white_space_their_flags_say),
        cmocka_unit_test(normalized_added_tokens_are_found_in_normalised_text),
        cmocka_unit_test(merges_may_be_strings_and_words_may_ignore_them),
        cmocka_unit_test(malformed_tokenizer_json_is_told_what_is_wrong),
        cmocka_unit_test(text_that_is_no_tokenizer_json_is_told_so),
        cmocka_unit_test(a_truncated_tokenizer_json_is_refused_wherever_it_ends),
        cmocka_unit_test(malformed_vocab_merges_and_config_are_told_what_is_wrong),
        cmocka_unit_test(a_directory_without_any_form_is_named),
        cmocka_unit_test(only_expressions_that_mean_the_same_to_both_engines_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
