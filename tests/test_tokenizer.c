/* The tokenizer against Hugging Face's ids (golden files), special tokens, and threads that share
 * it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>

#include "tests/tokenizer_fixture.h"

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

#define MISTRAL CHOIR_SOURCE_DIR "/tests/golden/tokenizer/mistral-small"

/* Tokens that are texts: marked spaces, characters that fall back to bytes. */
static void tokens_that_are_texts_give_hugging_face_ids(void **state)
{
    (void)state;
    tokenizer_t *tokenizer = open_directory(MISTRAL);
    check_golden(tokenizer, "mistral-small.jsonl");
    tokenizer_ids_t ids = {0};
    fail_t fail = {0};
    assert_int_equal(tokenizer_encode_whole(tokenizer, "x=y", 3, &ids, &fail), 0);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.ids[0], tokenizer_special_id(tokenizer, "<s>"));
    /* The token has its space for those who ask, and the text of an answer has none. */
    assert_int_equal(ids.ids[1], token_of(tokenizer, " x=y", 4));
    size_t bytes;
    char *text = decode(tokenizer, ids.ids + 1, 1, true, &bytes);
    assert_string_equal(text, "x=y");
    free(text);
    tokenizer_ids_clear(&ids);
    tokenizer_close(tokenizer);
}

#define LLAMA3 CHOIR_SOURCE_DIR "/tests/golden/tokenizer/llama3-small"

/* Words that the merges do not lead to, digits in threes, BOS by a TemplateProcessing inside of a
 * Sequence, and no token that only Qwen2's class adds. */
static void llama3_tokenizer_gives_hugging_face_ids(void **state)
{
    (void)state;
    static const int32_t expected[] = {587, 580, 220, 582, 19};
    tokenizer_t *tokenizer = open_directory(LLAMA3);
    assert_int_equal(tokenizer_size(tokenizer), 599);
    assert_int_equal(tokenizer_special_id(tokenizer, "<|endoftext|>"), -1);
    check_golden(tokenizer, "llama3-small.jsonl");
    tokenizer_ids_t ids = {0};
    fail_t fail = {0};
    assert_int_equal(tokenizer_encode_whole(tokenizer, "Hello 1234", 10, &ids, &fail), 0);
    assert_int_equal(ids.count, 5);
    assert_memory_equal(ids.ids, expected, sizeof expected);
    ids.count = 0;
    /* What a chat template wrote has the BOS that the template says, and no other. */
    assert_int_equal(
        tokenizer_encode(tokenizer, "<|begin_of_text|>Hello 1234", 27, true, &ids, &fail), 0);
    assert_int_equal(ids.count, 5);
    assert_memory_equal(ids.ids, expected, sizeof expected);
    tokenizer_ids_clear(&ids);
    tokenizer_close(tokenizer);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_tokenizer_json_gives_hugging_face_ids),
        cmocka_unit_test(demo_vocab_and_merges_give_hugging_face_ids),
        cmocka_unit_test(qwen_tokenizer_gives_hugging_face_ids_in_both_forms),
        cmocka_unit_test(llama3_tokenizer_gives_hugging_face_ids),
        cmocka_unit_test(tokens_that_are_texts_give_hugging_face_ids),
        cmocka_unit_test(special_tokens_are_found_by_content_and_known_by_id),
        cmocka_unit_test(special_text_is_ordinary_text_when_not_parsed),
        cmocka_unit_test(encoding_appends_to_ids_that_are_there),
        cmocka_unit_test(decoding_an_id_that_does_not_exist_is_a_usage_failure),
        cmocka_unit_test(threads_share_one_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
