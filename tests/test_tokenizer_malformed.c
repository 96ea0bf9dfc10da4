/* The message for every malformed tokenizer file. */
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
#include "engine/text/nfc.h"
#include "engine/text/pretokenize.h"
#include "tests/tokenizer_fixture.h"

static void check_message(const fail_t *fail, int status, const char *part, const char *what)
{
    if (fail->status != status || strstr(fail->message, part) == NULL)
        fail_msg("%s: expected status %d and \"%s\", found %d and \"%s\"", what, status, part,
            fail->status, fail->message);
    assert_null(strchr(fail->message, '\n'));
}

/* What is put where in a tokenizer.json, and what is said about it. */
typedef struct malformed {
    const char *path, *value;
    int status;
    const char *message;
} malformed_t;

static const malformed_t malformed[] = {
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
    {"normalizer", "{\"type\":\"NFKC\"}", FAIL_MODEL, "expected null, NFC, Prepend, Replace or"},
    {"normalizer", "7", FAIL_MODEL, "expected null, NFC, Prepend, Replace or"},
    {"pre_tokenizer", "null", FAIL_MODEL, "pre_tokenizer"},
    {"pre_tokenizer", "{\"type\":\"Metaspace\"}", FAIL_MODEL, "Metaspace"},
    {"pre_tokenizer/pretokenizers/0/behavior", "\"Removed\"", FAIL_MODEL, "Removed"},
    {"pre_tokenizer/pretokenizers/0/invert", "true", FAIL_MODEL, "invert"},
    {"pre_tokenizer/pretokenizers/0/pattern", "{\"String\":\" \"}", FAIL_MODEL, "String"},
    {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"a(\"", FAIL_FORMAT, "at byte 2"},
    {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"\\\\s*\"", FAIL_MODEL, "match nothing"},
    {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"\"", FAIL_MODEL, "nothing in it"},
    {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"\\\\p{Sc}+\"", FAIL_MODEL, "property"},
    {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"\\\\p{Lu}+\"", FAIL_MODEL, "property"},
    {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"[\\\\p{Lu}\\\\p{Lo}]+\"", FAIL_MODEL,
        "class with \\p{Lu}"},
    {"pre_tokenizer/pretokenizers/0/pattern/Regex", "\"(?i:a)|\\\\p{Ll}+\"", FAIL_MODEL,
        "where case counts"},
    {"pre_tokenizer/pretokenizers/1/add_prefix_space", "true", FAIL_MODEL, "prefix space"},
    {"pre_tokenizer/pretokenizers/1/use_regex", "true", FAIL_MODEL, "and regex"},
    {"post_processor", "{\"type\":\"TemplateProcessing\"}", FAIL_MODEL, "post_processor"},
    {"decoder", "null", FAIL_MODEL, "decoder"},
    {"added_tokens", "{}", FAIL_FORMAT, "added_tokens: expected an array"},
    {"added_tokens/1", "7", FAIL_FORMAT, "added_tokens[1]"},
    {"added_tokens/1/id", "-3", FAIL_FORMAT, "added_tokens[1]: id"},
    {"added_tokens/1/id", "1e3", FAIL_FORMAT, "added_tokens[1]: id"},
    {"added_tokens/1/content", "null", FAIL_FORMAT, "\"content\""},
    {"added_tokens/1/special", "1", FAIL_FORMAT, "special"},
    {"added_tokens/1/single_word", "1", FAIL_FORMAT, "single_word"},
};

/* Of tokens that are texts. */
static const malformed_t malformed_text[] = {
    {"model/type", "\"Unigram\"", FAIL_MODEL, "expected type BPE, found \"Unigram\""},
    {"model/byte_fallback", "false", FAIL_MODEL, "byte_fallback: expected true, as pre_tokenizer"},
    {"model/vocab", "{\"a\":0,\"<0x00>\":1}", FAIL_MODEL, "as <0x00>, none for byte 0x01"},
    {"normalizer", "{\"type\":\"Lowercase\"}", FAIL_MODEL,
        "normalizer: expected null, NFC, Prepend, Replace or a Sequence of these, found"},
    {"normalizer/normalizers/0", "{\"type\":\"Precompiled\"}", FAIL_MODEL, "Precompiled"},
    {"normalizer/normalizers/0/prepend", "\"\"", FAIL_MODEL, "Prepend with a text \"prepend\""},
    {"normalizer/normalizers/1/pattern", "{\"Regex\":\" \"}", FAIL_MODEL, "Replace with a pattern"},
    {"normalizer/normalizers/1/content", "3", FAIL_MODEL, "Replace with a pattern"},
    {"pre_tokenizer", "{\"type\":\"Whitespace\"}", FAIL_MODEL,
        "pre_tokenizer: expected a Sequence of Split and ByteLevel, Metaspace or null, found"},
    {"pre_tokenizer", "{\"type\":\"Metaspace\"}", FAIL_MODEL, "a text \"replacement\""},
    {"pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"__\"}", FAIL_MODEL,
        "a replacement of one character"},
    {"pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}",
        FAIL_MODEL, "prepend_scheme never, first or always"},
    {"pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"split\":3}", FAIL_FORMAT,
        "split"},
    {"decoder", "null", FAIL_MODEL, "decoder: expected a Sequence of Replace, ByteFallback, Fuse"},
    {"decoder/decoders/1", "{\"type\":\"WordPiece\"}", FAIL_MODEL,
        "found {\"type\":\"WordPiece\"}"},
    {"decoder/decoders/3/stop", "1", FAIL_MODEL, "Strip of spaces at the start"},
    {"decoder/decoders/3/content", "\"x\"", FAIL_MODEL, "Strip of spaces at the start"},
    {"decoder/decoders/0/pattern", "3", FAIL_MODEL, "decoder: expected Replace with a pattern"},
    {"post_processor", "{\"type\":\"BertProcessing\"}", FAIL_MODEL,
        "post_processor: expected null, ByteLevel, one TemplateProcessing or a Sequence of these, found"},
    {"post_processor", "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"RobertaProcessing\"}]}",
        FAIL_MODEL, "found {\"type\":\"RobertaProcessing\"}"},
};

static json_t *mistral_json(void)
{
    fail_t fail = {0};
    json_t *root;
    if (json_file_read(GOLDEN "mistral-small/tokenizer.json", &root, &fail) != 0)
        fail_msg("%s", fail.message);
    return root;
}

static void check_malformed(json_t *root, const malformed_t *m)
{
    json_t *value = json_loads(m->value, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    json_set_path(root, m->path, value);
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    open_json(root, &tokenizer, &fail);
    check_message(&fail, m->status, m->message, m->path);
    assert_null(tokenizer);
    json_decref(root);
}

static void malformed_tokenizer_json_is_told_what_is_wrong(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++)
        check_malformed(demo_json(), &malformed[i]);
    for (size_t i = 0; i < sizeof malformed_text / sizeof malformed_text[0]; i++)
        check_malformed(mistral_json(), &malformed_text[i]);
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
    check_vocab_form(2, "{\"added_tokens_decoder\":[]}", FAIL_FORMAT, "added_tokens_decoder");
    check_vocab_form(2, "{\"bos_token\":7}", FAIL_FORMAT, "bos_token: expected a token");
    check_vocab_form(2, "{\"add_prefix_space\":true}", FAIL_MODEL, "add_prefix_space");
    check_vocab_form(2,
        "{\"clean_up_tokenization_spaces\":true,"
        "\"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output\":true}",
        FAIL_MODEL, "corrupt_output: true is not supported");
    check_vocab_form(2, "{\"added_tokens_decoder\":{\"x\":{}}}", FAIL_FORMAT, "found \"x\"");
    check_vocab_form(
        2, "{\"added_tokens_decoder\":{\"99999999999999999999\":{}}}", FAIL_FORMAT, "found \"9");
    check_vocab_form(2, "{\"added_tokens_decoder\":{\"9\":7}}", FAIL_FORMAT, "added token 9");
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
        cmocka_unit_test(malformed_tokenizer_json_is_told_what_is_wrong),
        cmocka_unit_test(text_that_is_no_tokenizer_json_is_told_so),
        cmocka_unit_test(a_truncated_tokenizer_json_is_refused_wherever_it_ends),
        cmocka_unit_test(malformed_vocab_merges_and_config_are_told_what_is_wrong),
        cmocka_unit_test(a_directory_without_any_form_is_named),
        cmocka_unit_test(only_expressions_that_mean_the_same_to_both_engines_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
