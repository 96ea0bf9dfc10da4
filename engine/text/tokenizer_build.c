/* Steps that reading tokenizer.json and reading vocab.json with merges.txt have in common. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/text/nfc.h"
#include "engine/text/tokenizer_internal.h"

/* Longest token a file may hold, in bytes of its spelling. */
#define TOKEN_BYTES_MAX 8192
/* They are searched one by one. */
#define ADDED_TOKENS_MAX 16384

/* How much of a token a message quotes. */
static int quoted(size_t bytes)
{
    return (int)size_min(bytes, 64);
}

/* Adds a token given in the spelling of tokenizer files. A token that is not spelled in the
 * alphabet cannot come from merges; it stands for itself. */
static int add_spelled(tokenizer_t *tokenizer, const char *file, int32_t id, const char *token,
    size_t bytes, bool findable, fail_t *fail)
{
    char raw[TOKEN_BYTES_MAX];
    size_t raw_bytes;
    if (bytes == 0)
        return fail_set(fail, FAIL_FORMAT, "%s: the token with id %d is empty", file, id);
    if (bytes > sizeof raw)
        return fail_set(fail, FAIL_FORMAT,
            "%s: token %.*s...: expected at most %zu bytes, found %zu", file, quoted(bytes), token,
            sizeof raw, bytes);
    if (vocabulary_bytes_of(token, bytes, raw, &raw_bytes))
        return vocabulary_add(&tokenizer->vocabulary, file, id, raw, raw_bytes, findable, fail);
    return vocabulary_add(&tokenizer->vocabulary, file, id, token, bytes, false, fail);
}

int tokenizer_add_vocab(tokenizer_t *tokenizer, json_t *vocab, const char *file, fail_t *fail)
{
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return fail_set(
            fail, FAIL_FORMAT, "%s: vocab: expected an object of tokens and their ids", file);
    const char *token;
    size_t bytes;
    json_t *value;
    json_object_keylen_foreach(vocab, token, bytes, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id > VOCABULARY_ID_MAX)
            return fail_set(fail, FAIL_FORMAT, "%s: vocab: token %.*s: expected an id from 0 to %d",
                file, quoted(bytes), token, VOCABULARY_ID_MAX);
        if (add_spelled(tokenizer, file, (int32_t)id, token, bytes, true, fail) != 0)
            return fail->status;
    }
    return 0;
}

int tokenizer_add_merge(tokenizer_t *tokenizer, const char *left, size_t left_bytes,
    const char *right, size_t right_bytes, uint32_t rank, const char *file, fail_t *fail)
{
    const vocabulary_t *vocabulary = &tokenizer->vocabulary;
    char raw[2 * TOKEN_BYTES_MAX];
    size_t l = 0, r = 0;
    if (left_bytes > TOKEN_BYTES_MAX || right_bytes > TOKEN_BYTES_MAX ||
        !vocabulary_bytes_of(left, left_bytes, raw, &l) ||
        !vocabulary_bytes_of(right, right_bytes, raw + l, &r))
        return fail_set(fail, FAIL_FORMAT,
            "%s: merge %u (%.*s %.*s): expected two tokens in the alphabet of byte-level BPE", file,
            rank, quoted(left_bytes), left, quoted(right_bytes), right);
    int32_t left_id = vocabulary_find(vocabulary, raw, l);
    int32_t right_id = vocabulary_find(vocabulary, raw + l, r);
    int32_t merged_id = vocabulary_find(vocabulary, raw, l + r);
    if (left_id < 0 || right_id < 0 || merged_id < 0)
        return fail_set(fail, FAIL_FORMAT, "%s: merge %u (%.*s %.*s): %s is not in the vocabulary",
            file, rank, quoted(left_bytes), left, quoted(right_bytes), right,
            left_id < 0    ? "the first"
            : right_id < 0 ? "the second"
                           : "their union");
    bpe_add(&tokenizer->bpe, left_id, right_id, rank, merged_id);
    return 0;
}

/* The id must be free, or be this very token's in the vocabulary. A free one says the token's
 * pattern when decoded, which is its normalised content where it is normalised; so does
 * `tokenizers`. */
static int claim_id(
    tokenizer_t *tokenizer, const added_token_t *token, const char *name, fail_t *fail)
{
    char raw[TOKEN_BYTES_MAX];
    size_t raw_bytes = 0;
    int32_t known = -1;
    if (token->bytes <= sizeof raw &&
        vocabulary_bytes_of(token->content, token->bytes, raw, &raw_bytes))
        known = vocabulary_find(&tokenizer->vocabulary, raw, raw_bytes);
    if (known >= 0 && known != token->id)
        return fail_set(fail, FAIL_FORMAT, "%s: expected its id in the vocabulary, %d, found %d",
            name, known, token->id);
    size_t bytes;
    const char *present = tokenizer_bytes(tokenizer, token->id, &bytes);
    if (known >= 0 || (present != NULL && bytes == token->pattern_bytes &&
                          memcmp(present, token->pattern, bytes) == 0))
        return 0;
    return add_spelled(
        tokenizer, name, token->id, token->pattern, token->pattern_bytes, false, fail);
}

static int read_flags(json_t *object, const char *name, added_token_t *token, fail_t *fail)
{
    bool single_word = false;
    token->special = false;
    /* `tokenizers` normalises what is not special where the file does not say. */
    if (json_opt_bool(object, name, "special", &token->special, fail) != 0)
        return fail->status;
    token->normalized = !token->special;
    json_opt_bool(object, name, "normalized", &token->normalized, fail);
    json_opt_bool(object, name, "lstrip", &token->left_strip, fail);
    json_opt_bool(object, name, "rstrip", &token->right_strip, fail);
    json_opt_bool(object, name, "single_word", &single_word, fail);
    if (fail->status == 0 && single_word)
        fail_set(fail, FAIL_MODEL, "%s: single_word: true is not supported", name);
    return fail->status;
}

/* The pattern of a token in normalised text is its normalised content. */
static int make_pattern(const tokenizer_t *tokenizer, added_token_t *token, fail_t *fail)
{
    text_buffer_t normal = {0};
    bool changed = false;
    if (token->normalized && tokenizer->normalizes)
        nfc_append(tokenizer->properties, token->content, token->bytes, &normal, &changed, fail);
    if (!changed)
        text_buffer_append(&normal, token->content, token->bytes, fail);
    token->pattern = normal.text;
    token->pattern_bytes = normal.bytes;
    return fail->status;
}

int tokenizer_add_added(
    tokenizer_t *tokenizer, json_t *object, int32_t id, const char *file, fail_t *fail)
{
    json_t *content = json_object_get(object, "content");
    if (!json_is_string(content))
        return fail_set(fail, FAIL_FORMAT,
            "%s: added token %d: expected an object with a string \"content\"", file, id);
    const char *text = json_string_value(content);
    size_t bytes = json_string_length(content);
    char name[512];
    snprintf(name, sizeof name, "%s: added token %d (%.*s)", file, id, quoted(bytes), text);
    if (bytes == 0)
        return fail_set(fail, FAIL_FORMAT, "%s: expected a content that is not empty", name);
    if (tokenizer->added.n_tokens == ADDED_TOKENS_MAX)
        return fail_set(
            fail, FAIL_MODEL, "%s: expected at most %d added tokens", name, ADDED_TOKENS_MAX);
    if (added_tokens_by_content(&tokenizer->added, text, bytes) != NULL)
        return fail_set(fail, FAIL_FORMAT, "%s: the same content has another id too", name);
    added_token_t token = {.id = id, .bytes = bytes};
    token.content = malloc(bytes + 1);
    if (token.content == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: no memory", name);
    memcpy(token.content, text, bytes + 1);
    if (read_flags(object, name, &token, fail) != 0 || make_pattern(tokenizer, &token, fail) != 0 ||
        claim_id(tokenizer, &token, name, fail) != 0) {
        free(token.content);
        free(token.pattern);
        return fail->status;
    }
    return added_tokens_add(&tokenizer->added, &token, fail);
}
