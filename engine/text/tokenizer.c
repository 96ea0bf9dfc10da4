#include "engine/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/size.h"
#include "engine/text/tokenizer_internal.h"
#include "engine/text/unicode.h"

#define PATH_BYTES 4096
#define TEXT_BYTES_MAX ((size_t)1 << 31)

void tokenizer_close(tokenizer_t *tokenizer)
{
    if (tokenizer == NULL)
        return;
    vocabulary_clear(&tokenizer->vocabulary);
    bpe_clear(&tokenizer->bpe);
    added_tokens_clear(&tokenizer->added);
    pretokenizer_close(tokenizer->pretokenizer);
    normalizer_clear(&tokenizer->normalizer);
    text_buffer_clear(&tokenizer->metaspace.mark);
    text_buffer_clear(&tokenizer->decode_from);
    text_buffer_clear(&tokenizer->decode_to);
    text_buffer_clear(&tokenizer->texts_arena);
    free(tokenizer->texts);
    tokenizer_ids_clear(&tokenizer->prefix);
    tokenizer_ids_clear(&tokenizer->suffix);
    free(tokenizer->properties);
    free(tokenizer);
}

static int tokenizer_make(tokenizer_t **tokenizer, fail_t *fail)
{
    *tokenizer = calloc(1, sizeof **tokenizer);
    if (*tokenizer == NULL)
        return fail_set(fail, FAIL_MEMORY, "tokenizer: no memory");
    (*tokenizer)->last_added_id = -1;
    return unicode_table_make(&(*tokenizer)->properties, fail);
}

/* Gives up a tokenizer that could not be read. */
static int tokenizer_finish(tokenizer_t **tokenizer, fail_t *fail)
{
    if (fail->status != 0) {
        utf8_make_printable(fail->message);
        tokenizer_close(*tokenizer);
        *tokenizer = NULL;
    }
    return fail->status;
}

int tokenizer_open_json(
    tokenizer_t **tokenizer, const char *text, size_t bytes, const char *name, fail_t *fail)
{
    json_t *root = NULL;
    if (tokenizer_make(tokenizer, fail) == 0 &&
        json_text_read(text, bytes, name, &root, fail) == 0 &&
        tokenizer_read_json(*tokenizer, root, name, fail) == 0 &&
        tokenizer_read_json_added(*tokenizer, root, name, fail) == 0)
        tokenizer_finish_added(*tokenizer, name, fail);
    json_decref(root);
    return tokenizer_finish(tokenizer, fail);
}

int tokenizer_open(tokenizer_t **tokenizer, const char *directory, fail_t *fail)
{
    *tokenizer = NULL;
    char path[PATH_BYTES];
    int length = snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    if (length < 0 || (size_t)length >= sizeof path)
        return fail_set(
            fail, FAIL_FILE, "%.64s...: path longer than %d bytes", directory, PATH_BYTES);
    json_t *root = NULL;
    if (tokenizer_make(tokenizer, fail) == 0) {
        if (access(path, F_OK) != 0)
            tokenizer_read_vocab(*tokenizer, directory, fail);
        else if (json_file_read(path, &root, fail) == 0)
            tokenizer_read_json(*tokenizer, root, path, fail);
    }
    if (fail->status == 0)
        tokenizer_read_directory_added(*tokenizer, root, directory, fail);
    json_decref(root);
    return tokenizer_finish(tokenizer, fail);
}

size_t tokenizer_size(const tokenizer_t *tokenizer)
{
    return tokenizer->vocabulary.size;
}

int32_t tokenizer_special_id(const tokenizer_t *tokenizer, const char *content)
{
    const added_token_t *token =
        added_tokens_by_content(&tokenizer->added, content, strlen(content));
    return token != NULL ? token->id : -1;
}

/* A token's bytes for a message; nothing where there are some that do not print. */
static const char *printable(char text[41], const char *bytes, size_t n)
{
    n = bytes != NULL ? size_min(n, 40) : 0;
    for (size_t i = 0; i < n; i++)
        if (bytes[i] < 0x20 || bytes[i] > 0x7e)
            n = 0;
    memcpy(text, n > 0 ? bytes : "", n);
    text[n] = 0;
    return text;
}

int tokenizer_check_same(
    const tokenizer_t *t, const tokenizer_t *other, const char *what, fail_t *fail)
{
    char texts[2][41];
    int32_t n = (int32_t)size_max(tokenizer_size(t), tokenizer_size(other));
    for (int32_t id = 0; id < n; id++) {
        size_t n_mine = 0, n_others = 0;
        const char *mine = tokenizer_bytes(t, id, &n_mine);
        const char *others = tokenizer_bytes(other, id, &n_others);
        bool both = mine != NULL && others != NULL;
        if (both ? n_mine == n_others && memcmp(mine, others, n_mine) == 0 : mine == others)
            continue;
        return fail_set(fail, FAIL_MODEL,
            "%s: expected a model with the same tokens, found another token of id %d: \"%s\" of %zu bytes instead of \"%s\" of %zu",
            what, id, printable(texts[0], others, n_others), n_others,
            printable(texts[1], mine, n_mine), n_mine);
    }
    return 0;
}

bool tokenizer_is_special(const tokenizer_t *tokenizer, int32_t id)
{
    const vocabulary_token_t *token = vocabulary_token(&tokenizer->vocabulary, id);
    return token != NULL && token->special;
}

const char *tokenizer_bytes(const tokenizer_t *tokenizer, int32_t id, size_t *bytes)
{
    const vocabulary_token_t *token = vocabulary_token(&tokenizer->vocabulary, id);
    if (token == NULL)
        return NULL;
    if (tokenizer->is_text) {
        *bytes = tokenizer->texts[id].bytes;
        return tokenizer->texts_arena.text + tokenizer->texts[id].begin;
    }
    *bytes = token->bytes;
    return tokenizer->vocabulary.arena.text + token->begin;
}

/* The working memory of one call of tokenizer_encode. */
typedef struct encoder {
    const tokenizer_t *tokenizer;
    bool specials;
    bool at_start; /* of the whole text is the text that is encoded now */
    text_buffer_t normalized, shadow, marked;
    pretokenize_scratch_t *matching;
    bpe_scratch_t merging;
    tokenizer_ids_t *ids;
    fail_t *fail;
} encoder_t;

static int encode_word(encoder_t *e, const char *word, size_t bytes)
{
    const tokenizer_t *tokenizer = e->tokenizer;
    if (tokenizer->ignores_merges) {
        int32_t id = vocabulary_find(&tokenizer->vocabulary, word, bytes);
        if (id >= 0) {
            if (tokenizer_ids_reserve(e->ids, 1, e->fail) == 0)
                e->ids->ids[e->ids->count++] = id;
            return e->fail->status;
        }
    }
    return bpe_append(&tokenizer->bpe, word, bytes, &e->merging, e->ids, e->fail);
}

/* Text without added tokens where tokens are texts. */
static int encode_texts(encoder_t *e, const char *text, size_t bytes)
{
    const metaspace_t *m = &e->tokenizer->metaspace;
    static const text_buffer_t space = {.text = " ", .bytes = 1};
    text_buffer_t *marked = &e->marked;
    if (!m->replaces)
        return encode_word(e, text, bytes);
    bool begins = text[0] == ' ' ||
                  (bytes >= m->mark.bytes && memcmp(text, m->mark.text, m->mark.bytes) == 0);
    bool prepends =
        !begins && (m->scheme == METASPACE_ALWAYS || (m->scheme == METASPACE_FIRST && e->at_start));
    marked->bytes = 0;
    if (text_buffer_append(marked, m->mark.text, prepends ? m->mark.bytes : 0, e->fail) != 0 ||
        text_replace(marked, text, bytes, &space, &m->mark, e->fail) != 0)
        return e->fail->status;
    const char *word = marked->text, *end = word + marked->bytes;
    while (word < end) {
        const char *next = NULL;
        if (m->splits)
            next = memmem(word + 1, (size_t)(end - word) - 1, m->mark.text, m->mark.bytes);
        next = next == NULL ? end : next;
        if (encode_word(e, word, (size_t)(next - word)) != 0)
            return e->fail->status;
        word = next;
    }
    return 0;
}

/* Text without added tokens: its matches are words, and so is what lies between two matches. */
static int encode_words(encoder_t *e, const char *text, size_t bytes)
{
    if (e->tokenizer->is_text)
        return encode_texts(e, text, bytes);
    const char *shadow = text;
    if (utf8_ascii_prefix(text, bytes) < bytes) {
        e->shadow.bytes = 0;
        if (text_buffer_reserve(&e->shadow, bytes, e->fail) != 0)
            return e->fail->status;
        pretokenize_shadow(e->tokenizer->properties, text, bytes, e->shadow.text);
        shadow = e->shadow.text;
    }
    size_t at = 0;
    while (at < bytes) {
        size_t begin, end;
        if (pretokenize_next(e->tokenizer->pretokenizer, e->matching, shadow, bytes, at, &begin,
                &end, e->fail) != 0)
            return e->fail->status;
        if (begin > at && encode_word(e, text + at, begin - at) != 0)
            return e->fail->status;
        if (end > begin && encode_word(e, text + begin, end - begin) != 0)
            return e->fail->status;
        at = end;
    }
    return 0;
}

typedef int (*encode_fn)(encoder_t *e, const char *text, size_t bytes);

/* Hands the text between added tokens to `between`. */
static int encode_added(
    encoder_t *e, const char *text, size_t bytes, bool normalized, encode_fn between)
{
    const tokenizer_t *tokenizer = e->tokenizer;
    size_t at = 0, from = 0;
    bool at_start = e->at_start;
    added_match_t match;
    while (added_tokens_find(&tokenizer->added, tokenizer->properties, text, bytes, from, at,
        normalized, e->specials, &match)) {
        if (match.begin > at && between(e, text + at, match.begin - at) != 0)
            return e->fail->status;
        if (tokenizer_ids_reserve(e->ids, 1, e->fail) != 0)
            return e->fail->status;
        e->ids->ids[e->ids->count++] = match.token->id;
        at = match.end;
        from = match.resume;
        e->at_start = at_start && at == 0;
    }
    if (at < bytes)
        between(e, text + at, bytes - at);
    e->at_start = at_start;
    return e->fail->status;
}

/* Text without tokens that are looked for in the original. */
static int encode_original(encoder_t *e, const char *text, size_t bytes)
{
    bool changed;
    if (normalizer_apply(&e->tokenizer->normalizer, e->tokenizer->properties, text, bytes,
            &e->normalized, &changed, e->fail) != 0)
        return e->fail->status;
    if (changed) {
        text = e->normalized.text;
        bytes = e->normalized.bytes;
    }
    return encode_added(e, text, bytes, true, encode_words);
}

int tokenizer_encode(const tokenizer_t *tokenizer, const char *text, size_t bytes,
    bool parse_special, tokenizer_ids_t *ids, fail_t *fail)
{
    if (bytes >= TEXT_BYTES_MAX)
        return fail_set(fail, FAIL_LIMIT, "tokenizer: text of %zu bytes, expected fewer than %zu",
            bytes, TEXT_BYTES_MAX);
    size_t count_before = ids->count;
    encoder_t e = {.tokenizer = tokenizer,
        .specials = parse_special && !tokenizer->splits_specials,
        .at_start = true,
        .ids = ids,
        .fail = fail};
    text_buffer_t replaced = {0};
    if (utf8_valid_prefix(text, bytes) < bytes) {
        utf8_append_replaced(&replaced, text, bytes, fail);
        text = replaced.text;
        bytes = replaced.bytes;
    }
    if (fail->status == 0 && (tokenizer->is_text || pretokenize_scratch_open(&e.matching,
                                                        tokenizer->pretokenizer, fail) == 0))
        encode_added(&e, text, bytes, false, encode_original);
    pretokenize_scratch_close(e.matching);
    bpe_scratch_clear(&e.merging);
    text_buffer_clear(&e.normalized);
    text_buffer_clear(&e.shadow);
    text_buffer_clear(&e.marked);
    text_buffer_clear(&replaced);
    if (fail->status != 0)
        ids->count = count_before;
    return fail->status;
}

static int append_ids(tokenizer_ids_t *ids, const tokenizer_ids_t *more, fail_t *fail)
{
    if (more->count == 0 || tokenizer_ids_reserve(ids, more->count, fail) != 0)
        return fail->status;
    memcpy(ids->ids + ids->count, more->ids, more->count * sizeof *ids->ids);
    ids->count += more->count;
    return 0;
}

int tokenizer_encode_whole(const tokenizer_t *tokenizer, const char *text, size_t bytes,
    tokenizer_ids_t *ids, fail_t *fail)
{
    size_t count_before = ids->count;
    if (append_ids(ids, &tokenizer->prefix, fail) == 0 &&
        tokenizer_encode(tokenizer, text, bytes, true, ids, fail) == 0)
        append_ids(ids, &tokenizer->suffix, fail);
    if (fail->status != 0)
        ids->count = count_before;
    return fail->status;
}
