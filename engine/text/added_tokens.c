#include "engine/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/array.h"
#include "engine/base/digest.h"
#include "engine/base/size.h"
#include "engine/text/unicode.h"

void added_tokens_clear(added_tokens_t *added)
{
    for (size_t i = 0; i < added->n_tokens; i++) {
        free(added->tokens[i].content);
        free(added->tokens[i].normal);
    }
    free(added->tokens);
    free(added->slots);
    free(added->original.items);
    free(added->normal.items);
    *added = (added_tokens_t){0};
}

/* ---- By content ------------------------------------------------------------------------------ */

/* The slot of this content, or the empty one where it belongs. */
static uint32_t *find_slot(const added_tokens_t *added, const char *content, size_t bytes)
{
    uint64_t digest = digest_bytes(DIGEST_START, content, bytes);
    size_t mask = added->n_slots - 1;
    for (size_t slot = digest_slot(digest, added->n_slots);; slot = (slot + 1) & mask) {
        uint32_t *found = &added->slots[slot];
        if (*found == 0 || (added->tokens[*found - 1].bytes == bytes &&
                               memcmp(added->tokens[*found - 1].content, content, bytes) == 0))
            return found;
    }
}

added_token_t *added_tokens_by_content(
    const added_tokens_t *added, const char *content, size_t bytes)
{
    if (added->n_slots == 0)
        return NULL;
    uint32_t slot = *find_slot(added, content, bytes);
    return slot == 0 ? NULL : &added->tokens[slot - 1];
}

/* Makes room for one more token. */
static int grow(added_tokens_t *added, fail_t *fail)
{
    if (added->n_tokens < added->capacity)
        return 0;
    size_t capacity = added->capacity;
    if (array_reserve(&added->tokens, &capacity, added->n_tokens + 1, sizeof *added->tokens,
            "added tokens", fail) != 0)
        return fail->status;
    uint32_t *slots = calloc(capacity * 2, sizeof *slots);
    if (slots == NULL)
        return fail_set(fail, FAIL_MEMORY, "tokenizer: no memory for %zu added tokens", capacity);
    free(added->slots);
    added->slots = slots;
    added->n_slots = capacity * 2;
    added->capacity = capacity;
    for (size_t i = 0; i < added->n_tokens; i++)
        *find_slot(added, added->tokens[i].content, added->tokens[i].bytes) = (uint32_t)i + 1;
    return 0;
}

static char *copy_of(const char *text, size_t bytes)
{
    char *copy = malloc(bytes + 1);
    if (copy != NULL) {
        memcpy(copy, text, bytes);
        copy[bytes] = 0;
    }
    return copy;
}

added_token_t *added_tokens_get(added_tokens_t *added, const char *content, size_t bytes,
    const char *normal, size_t normal_bytes, fail_t *fail)
{
    added_token_t *token = added_tokens_by_content(added, content, bytes);
    if (token != NULL)
        return token;
    if (grow(added, fail) != 0)
        return NULL;
    token = &added->tokens[added->n_tokens];
    *token = (added_token_t){.id = -1,
        .content = copy_of(content, bytes),
        .bytes = bytes,
        .normal = copy_of(normal, normal_bytes),
        .normal_bytes = normal_bytes};
    if (token->content == NULL || token->normal == NULL) {
        free(token->content);
        free(token->normal);
        fail_set(fail, FAIL_MEMORY, "tokenizer: no memory for an added token of %zu bytes", bytes);
        return NULL;
    }
    *find_slot(added, content, bytes) = (uint32_t)++added->n_tokens;
    return token;
}

/* ---- Patterns -------------------------------------------------------------------------------- */

/* By bytes. Of equal ones, which only normalising makes, the first counts. */
static int compare_patterns(const void *left, const void *right)
{
    const added_pattern_t *a = left, *b = right;
    int order = memcmp(a->text, b->text, size_min(a->bytes, b->bytes));
    if (order != 0)
        return order;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

static int make_patterns(
    const added_tokens_t *added, bool normal, added_patterns_t *patterns, fail_t *fail)
{
    patterns->items = malloc((added->n_tokens + 1) * sizeof *patterns->items);
    if (patterns->items == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "tokenizer: no memory for %zu added tokens", added->n_tokens);
    for (uint32_t i = 0; i < added->n_tokens; i++) {
        const added_token_t *token = &added->tokens[i];
        if (normal && token->is_in_normal)
            patterns->items[patterns->count++] =
                (added_pattern_t){token->normal, token->normal_bytes, i};
        else if (!normal && token->is_in_original)
            patterns->items[patterns->count++] = (added_pattern_t){token->content, token->bytes, i};
    }
    qsort(patterns->items, patterns->count, sizeof *patterns->items, compare_patterns);
    uint32_t i = 0;
    for (unsigned byte = 0; byte < 257; byte++) {
        while (i < patterns->count && (unsigned char)patterns->items[i].text[0] < byte)
            i++;
        patterns->first[byte] = i;
    }
    return 0;
}

int added_tokens_finish(added_tokens_t *added, fail_t *fail)
{
    if (make_patterns(added, false, &added->original, fail) == 0)
        make_patterns(added, true, &added->normal, fail);
    return fail->status;
}

/* The first of items[low] .. items[high] whose byte at `depth` is at least `byte`; all of them are
 * longer than that and begin alike. */
static uint32_t lower_bound(
    const added_pattern_t *items, uint32_t low, uint32_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((unsigned char)items[middle].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest pattern that the text begins with, or NULL. */
static const added_pattern_t *pattern_at(
    const added_patterns_t *patterns, const char *text, size_t bytes)
{
    unsigned byte = (unsigned char)text[0];
    uint32_t low = patterns->first[byte], high = patterns->first[byte + 1];
    const added_pattern_t *longest = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (patterns->items[low].bytes == depth)
            longest = &patterns->items[low];
        while (low < high && patterns->items[low].bytes == depth)
            low++;
        if (depth == bytes)
            break;
        byte = (unsigned char)text[depth];
        low = lower_bound(patterns->items, low, high, depth, byte);
        high = lower_bound(patterns->items, low, high, depth, byte + 1);
    }
    return longest;
}

/* ---- Searching ------------------------------------------------------------------------------- */

static bool is_space(const uint8_t *properties, const char *text, size_t *length)
{
    return (properties[utf8_decode(text, length)] & UNICODE_CLASS) == UNICODE_SPACE;
}

/* Where the character that ends at `at` begins, not before `floor`. */
static size_t character_before(const char *text, size_t floor, size_t at)
{
    at--;
    while (at > floor && ((unsigned char)text[at] & 0xC0) == 0x80)
        at--;
    return at;
}

/* Where the white space that ends at `at` begins, not before `floor`. */
static size_t strip_left(const uint8_t *properties, const char *text, size_t floor, size_t at)
{
    while (at > floor) {
        size_t begin = character_before(text, floor, at), length;
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

/* Whether text[begin, end) has no character of a word beside it. */
static bool stands_alone(
    const uint8_t *properties, const char *text, size_t bytes, size_t begin, size_t end)
{
    size_t length;
    if (begin > 0 &&
        properties[utf8_decode(text + character_before(text, 0, begin), &length)] & UNICODE_WORD)
        return false;
    return end == bytes || !(properties[utf8_decode(text + end, &length)] & UNICODE_WORD);
}

bool added_tokens_find(const added_tokens_t *added, const uint8_t *properties, const char *text,
    size_t bytes, size_t from, size_t floor, bool normalized, bool specials, added_match_t *match)
{
    const added_patterns_t *patterns = normalized ? &added->normal : &added->original;
    if (patterns->count == 0)
        return false;
    size_t at = from;
    while (at < bytes) {
        unsigned char first = (unsigned char)text[at];
        const added_pattern_t *pattern = patterns->first[first] < patterns->first[first + 1]
                                             ? pattern_at(patterns, text + at, bytes - at)
                                             : NULL;
        if (pattern == NULL) {
            at++;
            continue;
        }
        const added_token_t *token = &added->tokens[pattern->token];
        size_t end = at + pattern->bytes;
        if ((token->special && !specials) ||
            (token->flags.single_word && !stands_alone(properties, text, bytes, at, end))) {
            at = end; /* it still hides what lies within it */
            continue;
        }
        *match = (added_match_t){at, end, end, token};
        if (token->flags.left_strip)
            match->begin = strip_left(properties, text, floor < at ? floor : at, at);
        if (token->flags.right_strip)
            match->end = strip_right(properties, text, bytes, end);
        return true;
    }
    return false;
}
