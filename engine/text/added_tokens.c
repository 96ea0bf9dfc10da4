#include "engine/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/text/unicode.h"

void added_tokens_clear(added_tokens_t *added)
{
    for (size_t i = 0; i < added->n_tokens; i++) {
        free(added->tokens[i].content);
        free(added->tokens[i].pattern);
    }
    free(added->tokens);
    *added = (added_tokens_t){0};
}

int added_tokens_add(added_tokens_t *added, const added_token_t *token, fail_t *fail)
{
    if (added->n_tokens == added->capacity) {
        size_t capacity = size_max(added->capacity * 2, 32);
        added_token_t *tokens = realloc(added->tokens, capacity * sizeof *tokens);
        if (tokens == NULL) {
            free(token->content);
            free(token->pattern);
            return fail_set(
                fail, FAIL_MEMORY, "tokenizer: no memory for %zu added tokens", capacity);
        }
        added->tokens = tokens;
        added->capacity = capacity;
    }
    added->tokens[added->n_tokens++] = *token;
    added->any_normalized |= token->normalized;
    return 0;
}

static int compare_tokens(const void *left, const void *right)
{
    const added_token_t *a = left, *b = right;
    unsigned char first_a = (unsigned char)a->pattern[0], first_b = (unsigned char)b->pattern[0];
    if (first_a != first_b)
        return first_a < first_b ? -1 : 1;
    if (a->pattern_bytes != b->pattern_bytes)
        return a->pattern_bytes > b->pattern_bytes ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

void added_tokens_finish(added_tokens_t *added)
{
    if (added->n_tokens > 0)
        qsort(added->tokens, added->n_tokens, sizeof *added->tokens, compare_tokens);
    uint32_t i = 0;
    for (unsigned byte = 0; byte < 257; byte++) {
        while (i < added->n_tokens && (unsigned char)added->tokens[i].pattern[0] < byte)
            i++;
        added->first[byte] = i;
    }
}

/* The longest token that starts here. */
static const added_token_t *token_at(
    const added_tokens_t *added, const char *text, size_t bytes, bool normalized)
{
    unsigned char first = (unsigned char)text[0];
    for (uint32_t i = added->first[first]; i < added->first[first + 1]; i++) {
        const added_token_t *token = &added->tokens[i];
        if (token->normalized == normalized && token->pattern_bytes <= bytes &&
            memcmp(token->pattern, text, token->pattern_bytes) == 0)
            return token;
    }
    return NULL;
}

static bool is_space(const uint8_t *properties, const char *text, size_t *length)
{
    return (properties[utf8_decode(text, length)] & UNICODE_CLASS) == UNICODE_SPACE;
}

/* Where the white space that ends at `at` begins, not before `floor`. */
static size_t strip_left(const uint8_t *properties, const char *text, size_t floor, size_t at)
{
    while (at > floor) {
        size_t begin = at - 1, length;
        while (begin > floor && ((unsigned char)text[begin] & 0xC0) == 0x80)
            begin--;
        if (!is_space(properties, text + begin, &length))
            break;
        at = begin;
    }
    return at;
}

static size_t strip_right(const uint8_t *properties, const char *text, size_t bytes, size_t at)
{
    size_t length;
    while (at < bytes && is_space(properties, text + at, &length))
        at += length;
    return at;
}

bool added_tokens_find(const added_tokens_t *added, const uint8_t *properties, const char *text,
    size_t bytes, size_t from, size_t floor, bool normalized, bool specials, added_match_t *match)
{
    if (added->n_tokens == 0 || (normalized && !added->any_normalized))
        return false;
    size_t at = from;
    while (at < bytes) {
        unsigned char first = (unsigned char)text[at];
        if (added->first[first] == added->first[first + 1]) {
            at++;
            continue;
        }
        const added_token_t *token = token_at(added, text + at, bytes - at, normalized);
        if (token == NULL) {
            at++;
            continue;
        }
        size_t end = at + token->pattern_bytes;
        if (token->special && !specials) {
            at = end; /* it still hides what lies within it */
            continue;
        }
        *match = (added_match_t){at, end, end, token};
        if (token->left_strip)
            match->begin = strip_left(properties, text, floor < at ? floor : at, at);
        if (token->right_strip)
            match->end = strip_right(properties, text, bytes, end);
        return true;
    }
    return false;
}

const added_token_t *added_tokens_by_content(
    const added_tokens_t *added, const char *content, size_t bytes)
{
    for (size_t i = 0; i < added->n_tokens; i++)
        if (added->tokens[i].bytes == bytes &&
            memcmp(added->tokens[i].content, content, bytes) == 0)
            return &added->tokens[i];
    return NULL;
}
