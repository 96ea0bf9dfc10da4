/* Steps that reading tokenizer.json and reading vocab.json with merges.txt have in common. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/text/tokenizer_internal.h"

/* Longest token a file may hold, in bytes of its spelling. */
#define TOKEN_BYTES_MAX 8192

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
    if (tokenizer->is_text)
        return vocabulary_add(&tokenizer->vocabulary, file, id, token, bytes, findable, fail);
    if (vocabulary_bytes_of(token, bytes, raw, &raw_bytes))
        return vocabulary_add(&tokenizer->vocabulary, file, id, raw, raw_bytes, findable, fail);
    if (vocabulary_add(&tokenizer->vocabulary, file, id, token, bytes, false, fail) == 0 &&
        findable)
        vocabulary_note_literal(&tokenizer->vocabulary, id, fail);
    return fail->status;
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
    tokenizer->n_vocabulary = (int32_t)json_object_size(vocab);
    return 0;
}

/* A token's spelling as it is held: bytes, or the text itself. */
static bool spelled(
    const tokenizer_t *tokenizer, const char *text, size_t bytes, char *out, size_t *out_bytes)
{
    if (!tokenizer->is_text)
        return vocabulary_bytes_of(text, bytes, out, out_bytes);
    memcpy(out, text, bytes);
    *out_bytes = bytes;
    return true;
}

int tokenizer_add_merge(tokenizer_t *tokenizer, const char *left, size_t left_bytes,
    const char *right, size_t right_bytes, uint32_t rank, const char *file, fail_t *fail)
{
    const vocabulary_t *vocabulary = &tokenizer->vocabulary;
    char raw[2 * TOKEN_BYTES_MAX];
    size_t l = 0, r = 0;
    if (left_bytes > TOKEN_BYTES_MAX || right_bytes > TOKEN_BYTES_MAX ||
        !spelled(tokenizer, left, left_bytes, raw, &l) ||
        !spelled(tokenizer, right, right_bytes, raw + l, &r))
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

/* ---- Added tokens ---------------------------------------------------------------------------- */

int tokenizer_read_added(
    added_spec_t *spec, json_t *object, const char *file, const char *what, fail_t *fail)
{
    json_t *content = json_object_get(object, "content");
    *spec = (added_spec_t){.id = -1};
    if (!json_is_string(content))
        return fail_set(
            fail, FAIL_FORMAT, "%s: %s: expected an object with a string \"content\"", file, what);
    spec->content = json_string_value(content);
    spec->bytes = json_string_length(content);
    char name[512];
    snprintf(name, sizeof name, "%s: %s (%.*s)", file, what, quoted(spec->bytes), spec->content);
    spec->says_normalized = json_is_boolean(json_object_get(object, "normalized"));
    json_opt_bool(object, name, "special", &spec->flags.special, fail);
    json_opt_bool(object, name, "normalized", &spec->flags.normalized, fail);
    json_opt_bool(object, name, "lstrip", &spec->flags.left_strip, fail);
    json_opt_bool(object, name, "rstrip", &spec->flags.right_strip, fail);
    json_opt_bool(object, name, "single_word", &spec->flags.single_word, fail);
    return fail->status;
}

/* `tokenizers` normalises what is not special where the file does not say. */
static added_flags_t flags_of(const added_spec_t *spec)
{
    added_flags_t flags = spec->flags;
    if (!spec->says_normalized)
        flags.normalized = !flags.special;
    return flags;
}

static bool same_flags(added_flags_t a, added_flags_t b)
{
    return a.special == b.special && a.normalized == b.normalized && a.left_strip == b.left_strip &&
           a.right_strip == b.right_strip && a.single_word == b.single_word;
}

static added_token_t *get_token(tokenizer_t *tokenizer, const added_spec_t *spec, fail_t *fail)
{
    added_token_t *token = added_tokens_by_content(&tokenizer->added, spec->content, spec->bytes);
    if (token != NULL)
        return token;
    text_buffer_t normal = {0};
    bool changed = false;
    normalizer_apply(&tokenizer->normalizer, tokenizer->properties, spec->content, spec->bytes,
        &normal, &changed, fail);
    if (fail->status == 0)
        token = added_tokens_get(&tokenizer->added, spec->content, spec->bytes,
            changed ? normal.text : spec->content, changed ? normal.bytes : spec->bytes, fail);
    text_buffer_clear(&normal);
    return token;
}

/* The id of a token in the vocabulary, or -1. */
static int32_t known_id(const tokenizer_t *tokenizer, const added_spec_t *spec)
{
    char raw[TOKEN_BYTES_MAX];
    size_t raw_bytes = 0;
    if (spec->bytes <= sizeof raw &&
        spelled(tokenizer, spec->content, spec->bytes, raw, &raw_bytes))
        return vocabulary_find(&tokenizer->vocabulary, raw, raw_bytes);
    return vocabulary_find_literal(&tokenizer->vocabulary, spec->content, spec->bytes);
}

/* The vocabulary's id, or the first behind the vocabulary and the tokens that were added. */
static void give_id(tokenizer_t *tokenizer, added_token_t *token, const added_spec_t *spec)
{
    token->id = known_id(tokenizer, spec);
    if (token->id < 0) {
        token->is_new = true;
        token->id = tokenizer->last_added_id >= tokenizer->n_vocabulary
                        ? tokenizer->last_added_id + 1
                        : tokenizer->n_vocabulary;
    }
    if (token->id > tokenizer->last_added_id)
        tokenizer->last_added_id = token->id;
}

static void search_for(added_token_t *token, added_flags_t flags)
{
    token->is_in_normal = token->is_in_normal || flags.normalized;
    token->is_in_original = token->is_in_original || !flags.normalized;
}

int tokenizer_add_tokens(
    tokenizer_t *tokenizer, const added_spec_t *specs, size_t n, const char *file, fail_t *fail)
{
    for (size_t i = 0; i < n; i++) {
        added_flags_t flags = flags_of(&specs[i]);
        if (specs[i].bytes == 0 || !flags.special)
            continue;
        added_token_t *token = get_token(tokenizer, &specs[i], fail);
        if (token == NULL)
            return fail->status;
        if (!token->special)
            search_for(token, flags);
        token->special = true;
    }
    for (size_t i = 0; i < n; i++) {
        added_flags_t flags = flags_of(&specs[i]);
        added_token_t *token = specs[i].bytes == 0 ? NULL : get_token(tokenizer, &specs[i], fail);
        if (fail->status != 0)
            return fail->status;
        if (token == NULL || (token->id >= 0 && same_flags(token->flags, flags)))
            continue;
        if (token->id < 0)
            give_id(tokenizer, token, &specs[i]);
        if (token->id > VOCABULARY_ID_MAX)
            return fail_set(fail, FAIL_FORMAT, "%s: added token %.*s: expected at most %d ids",
                file, quoted(specs[i].bytes), specs[i].content, VOCABULARY_ID_MAX);
        token->flags = flags;
        if (!token->special)
            search_for(token, flags);
    }
    return 0;
}

int tokenizer_finish_added(tokenizer_t *tokenizer, const char *file, fail_t *fail)
{
    added_tokens_t *added = &tokenizer->added;
    for (size_t i = 0; i < added->n_tokens; i++) {
        /* A new token is decoded to its normalised content where it is normalised. */
        const added_token_t *token = &added->tokens[i];
        bool normal = token->flags.normalized;
        if (token->is_new &&
            add_spelled(tokenizer, file, token->id, normal ? token->normal : token->content,
                normal ? token->normal_bytes : token->bytes, false, fail) != 0)
            return fail->status;
        /* Its content makes it special, so that one which is decoded to another is not left out. */
        bool other = token->is_new && normal &&
                     (token->normal_bytes != token->bytes ||
                         memcmp(token->normal, token->content, token->bytes) != 0);
        tokenizer->vocabulary.tokens[token->id].special = token->special && !other;
    }
    if (added_tokens_finish(added, fail) == 0 && tokenizer->is_text)
        tokenizer_make_texts(tokenizer, fail);
    return fail->status;
}
