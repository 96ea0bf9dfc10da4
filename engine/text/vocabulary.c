#include "engine/text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/array.h"
#include "engine/base/digest.h"
#include "engine/base/size.h"
#include "engine/text/unicode.h"

void vocabulary_clear(vocabulary_t *vocabulary)
{
    text_buffer_clear(&vocabulary->arena);
    free(vocabulary->tokens);
    free(vocabulary->slots);
    free(vocabulary->literals);
    *vocabulary = (vocabulary_t){0};
}

/* The byte that a character of the alphabet stands for, or -1. Printable characters of Latin-1
 * stand for themselves; U+0100 and following stand for the 68 others in ascending order. */
static int alphabet_byte(uint32_t point)
{
    if ((point >= 0x21 && point <= 0x7E) || (point >= 0xA1 && point <= 0xFF && point != 0xAD))
        return (int)point;
    if (point < 0x100 || point >= 0x100 + 68)
        return -1;
    uint32_t rank = point - 0x100;
    if (rank <= 0x20) /* 00 to 20 */
        return (int)rank;
    if (rank <= 0x20 + 0x22) /* 7F to A0 */
        return (int)(rank - 0x21 + 0x7F);
    return 0xAD;
}

bool vocabulary_bytes_of(const char *text, size_t bytes, char *out, size_t *out_bytes)
{
    size_t n = 0;
    for (size_t i = 0, length; i < bytes; i += length) {
        int byte = alphabet_byte(utf8_decode(text + i, &length));
        if (byte < 0)
            return false;
        out[n++] = (char)byte;
    }
    *out_bytes = n;
    return true;
}

static const char *token_text(const vocabulary_t *vocabulary, int32_t id)
{
    return vocabulary->arena.text + vocabulary->tokens[id].begin;
}

/* The slot that holds these bytes, or the empty one where they belong. */
static size_t find_slot(const vocabulary_t *vocabulary, const char *text, size_t bytes)
{
    uint64_t digest = digest_bytes(DIGEST_START, text, bytes);
    size_t mask = vocabulary->n_slots - 1;
    for (size_t slot = digest_slot(digest, vocabulary->n_slots);; slot = (slot + 1) & mask) {
        int32_t id = vocabulary->slots[slot];
        if (id < 0 || (vocabulary->tokens[id].bytes == bytes &&
                          memcmp(token_text(vocabulary, id), text, bytes) == 0))
            return slot;
    }
}

int32_t vocabulary_find(const vocabulary_t *vocabulary, const char *text, size_t bytes)
{
    if (vocabulary->n_slots == 0)
        return -1;
    return vocabulary->slots[find_slot(vocabulary, text, bytes)];
}

int vocabulary_note_literal(vocabulary_t *vocabulary, int32_t id, fail_t *fail)
{
    if (array_reserve(&vocabulary->literals, &vocabulary->literals_capacity,
            vocabulary->n_literals + 1, sizeof *vocabulary->literals, "tokenizer: tokens",
            fail) != 0)
        return fail->status;
    vocabulary->literals[vocabulary->n_literals++] = id;
    return 0;
}

int32_t vocabulary_find_literal(const vocabulary_t *vocabulary, const char *text, size_t bytes)
{
    for (size_t i = 0; i < vocabulary->n_literals; i++) {
        int32_t id = vocabulary->literals[i];
        if (vocabulary->tokens[id].bytes == bytes &&
            memcmp(token_text(vocabulary, id), text, bytes) == 0)
            return id;
    }
    return -1;
}

static int grow_slots(vocabulary_t *vocabulary, fail_t *fail)
{
    if ((vocabulary->n_hashed + 1) * 2 <= vocabulary->n_slots)
        return 0;
    size_t n_slots = size_max(vocabulary->n_slots * 2, 1024);
    int32_t *slots = malloc(n_slots * sizeof *slots);
    if (slots == NULL)
        return fail_set(fail, FAIL_MEMORY, "tokenizer: no memory for %zu tokens", n_slots / 2);
    for (size_t i = 0; i < n_slots; i++)
        slots[i] = -1;
    int32_t *old = vocabulary->slots;
    size_t n_old = vocabulary->n_slots;
    vocabulary->slots = slots;
    vocabulary->n_slots = n_slots;
    for (size_t i = 0; i < n_old; i++)
        if (old[i] >= 0)
            slots[find_slot(vocabulary, token_text(vocabulary, old[i]),
                vocabulary->tokens[old[i]].bytes)] = old[i];
    free(old);
    return 0;
}

static int grow_tokens(vocabulary_t *vocabulary, size_t size, fail_t *fail)
{
    size_t before = vocabulary->capacity;
    if (array_reserve(&vocabulary->tokens, &vocabulary->capacity, size, sizeof *vocabulary->tokens,
            "tokenizer: tokens", fail) != 0)
        return fail->status;
    memset(vocabulary->tokens + before, 0,
        (vocabulary->capacity - before) * sizeof *vocabulary->tokens);
    return 0;
}

int vocabulary_add(vocabulary_t *vocabulary, const char *file, int32_t id, const char *text,
    size_t bytes, bool findable, fail_t *fail)
{
    if (id < 0 || id > VOCABULARY_ID_MAX)
        return fail_set(fail, FAIL_FORMAT, "%s: token %.*s: expected an id from 0 to %d, found %d",
            file, (int)size_min(bytes, 64), text, VOCABULARY_ID_MAX, id);
    if (vocabulary->arena.bytes + bytes > UINT32_MAX)
        return fail_set(fail, FAIL_FORMAT, "%s: tokens of more than 4 GiB", file);
    if (grow_tokens(vocabulary, (size_t)id + 1, fail) != 0 || grow_slots(vocabulary, fail) != 0)
        return fail->status;
    vocabulary_token_t *token = &vocabulary->tokens[id];
    if (token->present)
        return fail_set(fail, FAIL_FORMAT, "%s: two tokens have the id %d", file, id);
    uint32_t begin = (uint32_t)vocabulary->arena.bytes;
    if (text_buffer_append(&vocabulary->arena, text, bytes, fail) != 0)
        return fail->status;
    *token = (vocabulary_token_t){.begin = begin, .bytes = (uint32_t)bytes, .present = true};
    vocabulary->size = size_max(vocabulary->size, (size_t)id + 1);
    if (findable) {
        vocabulary->slots[find_slot(vocabulary, text, bytes)] = id;
        vocabulary->n_hashed++;
    }
    return 0;
}
