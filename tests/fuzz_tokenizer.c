/* Fuzz target: tokenizer.json, and encoding and decoding with what it describes.
 *
 * Sources (fuzzing.h): engine/text/[a-z]*.c engine/text/jinja/[a-z]*.c -lpcre2-8 -lutf8proc -lm
 *
 * An input is tokenizer.json, a zero byte, and the text to encode. Without a zero byte the input is
 * encoded with itself. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/text/nfc.h"
#include "engine/text/pretokenize.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"
#include "engine/text/vocabulary.h"
#include "tests/fuzzing.h"

/* Streaming must say the same as decoding at once, in whole characters. */
static void check_stream(const tokenizer_t *tokenizer, const tokenizer_ids_t *ids, bool skip,
    const char *text, size_t bytes)
{
    detokenizer_t detokenizer = {0};
    text_buffer_t out = {0};
    fail_t fail = {0};
    for (size_t i = 0; i < ids->count; i++) {
        size_t before = out.bytes;
        require(detokenizer_push(&detokenizer, tokenizer, ids->ids[i], skip, &out, &fail) == 0);
        require(out.bytes == before ||
                utf8_valid_prefix(out.text + before, out.bytes - before) == out.bytes - before);
    }
    require(detokenizer_flush(&detokenizer, tokenizer, &out, &fail) == 0);
    require(out.bytes == bytes && (bytes == 0 || memcmp(out.text, text, bytes) == 0));
    text_buffer_clear(&out);
    detokenizer_clear(&detokenizer);
}

/* Decoding gives back the text, repaired and normalised: what encoding without added tokens
 * promises. */
static void check_round_trip(
    bool normalizes, const char *text, size_t bytes, const char *decoded, size_t decoded_bytes)
{
    uint8_t *properties;
    text_buffer_t repaired = {0}, normal = {0};
    fail_t fail = {0};
    bool changed = false;
    require(utf8_append_replaced(&repaired, text, bytes, &fail) == 0);
    require(unicode_table_make(&properties, &fail) == 0);
    if (normalizes)
        require(
            nfc_append(properties, repaired.text, repaired.bytes, &normal, &changed, &fail) == 0);
    const text_buffer_t *expected = changed ? &normal : &repaired;
    require(expected->bytes == decoded_bytes);
    require(decoded_bytes == 0 || memcmp(expected->text, decoded, decoded_bytes) == 0);
    text_buffer_clear(&repaired);
    text_buffer_clear(&normal);
    free(properties);
}

static void check_encoding(const tokenizer_t *tokenizer, const json_t *description,
    const char *text, size_t bytes, bool special)
{
    tokenizer_ids_t ids = {0};
    fail_t fail = {0};
    if (tokenizer_encode(tokenizer, text, bytes, special, &ids, &fail) != 0) {
        require(fail.message[0] != 0);
        tokenizer_ids_clear(&ids);
        return;
    }
    char *decoded;
    size_t decoded_bytes;
    require(tokenizer_decode(
                tokenizer, ids.ids, ids.count, !special, &decoded, &decoded_bytes, &fail) == 0);
    require(utf8_valid_prefix(decoded, decoded_bytes) == decoded_bytes);
    check_stream(tokenizer, &ids, !special, decoded, decoded_bytes);
    /* Tokens that are texts have marks for spaces, and lose one at the beginning. */
    const char *kind =
        json_string_value(json_object_get(json_object_get(description, "pre_tokenizer"), "type"));
    bool is_bytes = kind != NULL && strcmp(kind, "Metaspace") != 0;
    if (is_bytes && json_array_size(json_object_get(description, "added_tokens")) == 0)
        check_round_trip(json_is_object(json_object_get(description, "normalizer")), text, bytes,
            decoded, decoded_bytes);
    free(decoded);
    tokenizer_ids_clear(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = size > 0 ? memchr(data, 0, size) : NULL;
    size_t json_bytes = zero != NULL ? (size_t)(zero - data) : size;
    const char *text = (const char *)(zero != NULL ? zero + 1 : data);
    size_t bytes = zero != NULL ? size - json_bytes - 1 : size;
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    int status =
        tokenizer_open_json(&tokenizer, (const char *)data, json_bytes, "tokenizer.json", &fail);
    require(status == fail.status);
    if (status != 0) {
        require(tokenizer == NULL && fail.message[0] != 0 && strchr(fail.message, '\n') == NULL);
        return 0;
    }
    require(tokenizer_size(tokenizer) >= 256);
    json_t *description;
    require(json_text_read((const char *)data, json_bytes, "again", &description, &fail) == 0);
    check_encoding(tokenizer, description, text, bytes, true);
    check_encoding(tokenizer, description, text, bytes, false);
    json_decref(description);
    tokenizer_close(tokenizer);
    return 0;
}

#ifdef CHOIR_FUZZ_MAIN
#define INPUT_BYTES_MAX 16384

/* A character of the alphabet of byte-level BPE for each byte, by trying all. */
static json_t *byte_vocabulary(void)
{
    json_t *vocab = json_object();
    for (uint32_t point = 0; point < 0x200; point++) {
        char text[8] = {0}, raw[8];
        size_t length = utf8_encode(point, text), raw_bytes;
        if (vocabulary_bytes_of(text, length, raw, &raw_bytes))
            json_object_set_new(vocab, text, json_integer((unsigned char)raw[0]));
    }
    return vocab;
}

/* A seed: the tokenizer, which has to be a good one, and a text. */
static void put_seed(text_buffer_t *out, json_t *root, const char *text, size_t bytes)
{
    char *json = json_dumps(root, JSON_COMPACT);
    tokenizer_t *tokenizer;
    fail_t fail = {0};
    require(
        json != NULL && tokenizer_open_json(&tokenizer, json, strlen(json), "seed", &fail) == 0);
    tokenizer_close(tokenizer);
    require(text_buffer_append(out, json, strlen(json) + 1, &fail) == 0);
    require(text_buffer_append(out, text, bytes, &fail) == 0);
    free(json);
    json_decref(root);
}

/* Tokens that are texts. */
static void make_text_seed(text_buffer_t *out, const char *text, size_t bytes)
{
    json_t *vocab = json_object();
    static const char *const more[] = {"h", "e", "he", "_", "_he", "\xE4\xB8\xAD"};
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        json_object_set_new(vocab, name, json_integer(i));
    }
    for (int i = 0; i < 6; i++)
        json_object_set_new(vocab, more[i], json_integer(256 + i));
    put_seed(out,
        json_pack("{s:{s:s,s:[[ss],[ss]],s:b,s:o},s:[{s:i,s:s,s:b}],s:{s:s,s:s,s:b},"
                  "s:{s:s,s:[{s:s,s:{s:s},s:s},{s:s},{s:s},{s:s,s:s,s:i,s:i}]}}",
            "model", "type", "BPE", "merges", "h", "e", "_", "he", "byte_fallback", 1, "vocab",
            vocab, "added_tokens", "id", 262, "content", "<s>", "special", 1, "pre_tokenizer",
            "type", "Metaspace", "replacement", "_", "split", 0, "decoder", "type", "Sequence",
            "decoders", "type", "Replace", "pattern", "String", "_", "content", " ", "type",
            "ByteFallback", "type", "Fuse", "type", "Strip", "content", " ", "start", 1, "stop", 0),
        text, bytes);
}

static void make_seed(text_buffer_t *out, bool added, const char *text, size_t bytes)
{
    json_t *vocab = byte_vocabulary();
    static const char *const more[] = {
        "he", "el", "ell", "hell", "in", "ing", "\xC4\xA0t", "\xC4\xA0th"};
    for (int i = 0; i < 8; i++)
        json_object_set_new(vocab, more[i], json_integer(256 + i));
    json_t *root =
        json_pack("{s:{s:s},s:{s:s,s:[{s:s,s:{s:s},s:s},{s:s,s:b,s:b}]},s:{s:s},s:{s:s,s:o,"
                  "s:[[ss],[ss],[ss],s,[ss],s,[ss],[ss]]}}",
            "normalizer", "type", "NFC", "pre_tokenizer", "type", "Sequence", "pretokenizers",
            "type", "Split", "pattern", "Regex", pretokenizer_qwen2, "behavior", "Isolated", "type",
            "ByteLevel", "add_prefix_space", 0, "use_regex", 0, "decoder", "type", "ByteLevel",
            "model", "type", "BPE", "vocab", vocab, "merges", "h", "e", "e", "l", "el", "l",
            "h ell", "i", "n", "in g", "\xC4\xA0", "t", "\xC4\xA0t", "h");
    if (added)
        json_object_set_new(root, "added_tokens",
            json_pack("[{s:i,s:s,s:b},{s:i,s:s,s:b,s:b},{s:i,s:s,s:b}]", "id", 264, "content",
                "<s>", "special", 1, "id", 265, "content", "<l>", "lstrip", 1, "normalized", 0,
                "id", 266, "content", "e\xCC\x81", "rstrip", 1));
    put_seed(out, root, text, bytes);
}

enum { N_SEEDS = 3 };

static void run_round(void *context, unsigned long i, uint64_t *state)
{
    const fuzz_words_t put = {
        .bytes = "0123456789{}[],:\"\\x-.eE \n\x80\xff<ls>'\xCC\x81\xE3\xF0\x9F"};
    uint8_t data[INPUT_BYTES_MAX];
    const text_buffer_t *seed = (const text_buffer_t *)context + i % N_SEEDS;
    size_t json_bytes = strlen(seed->text) + 1;
    memcpy(data, seed->text, seed->bytes);
    /* Half of the rounds leave the tokenizer whole and change the text; many bytes of it are
     * vocabulary, so the others mostly change what comes before and behind it. */
    size_t from = i / N_SEEDS % 2 == 0 ? json_bytes : 0;
    if (from == 0 && fuzz_random(state) % 4 != 0)
        from = json_bytes - 400;
    fuzz_input(data, fuzz_mutate(data, from, seed->bytes, sizeof data, &put, state));
}

int main(int argc, char **argv)
{
    static const char text[] =
        "hello <s> thing  \n\n<l>e\xCC\x81 'S 12\xE4\xB8\xAD\xCC\xB4\xCC\x81";
    text_buffer_t seeds[N_SEEDS] = {{0}};
    make_seed(&seeds[0], false, text, sizeof text - 1);
    make_seed(&seeds[1], true, text, sizeof text - 1);
    make_text_seed(&seeds[2], text, sizeof text - 1);
    int failed = fuzz_main(argc, argv, 20000, run_round, seeds);
    for (int i = 0; i < N_SEEDS; i++)
        text_buffer_clear(&seeds[i]);
    return failed;
}

#endif
