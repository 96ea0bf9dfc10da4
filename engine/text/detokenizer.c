#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer_internal.h"
#include "engine/text/unicode.h"

static int append_replacement(text_buffer_t *out, fail_t *fail)
{
    return text_buffer_append(out, "\xEF\xBF\xBD", 3, fail);
}

/* Completes the pending sequence with bytes of `text`; returns how many it used. Afterwards nothing
 * is pending unless the text ran out. */
static size_t complete_pending(
    detokenizer_t *d, const char *text, size_t bytes, text_buffer_t *out, fail_t *fail)
{
    size_t used = 0;
    while (d->n_pending > 0 && used < bytes) {
        size_t length;
        d->pending[d->n_pending] = (unsigned char)text[used];
        utf8_status_t status = utf8_inspect(d->pending, d->n_pending + 1, &length);
        if (status == UTF8_INVALID) { /* this byte begins something else */
            append_replacement(out, fail);
            d->n_pending = 0;
            break;
        }
        used++;
        d->n_pending++;
        if (status == UTF8_WHOLE) {
            text_buffer_append(out, (const char *)d->pending, d->n_pending, fail);
            d->n_pending = 0;
        }
    }
    return used;
}

static int push_bytes(
    detokenizer_t *d, const char *text, size_t bytes, text_buffer_t *out, fail_t *fail)
{
    size_t at = complete_pending(d, text, bytes, out, fail);
    while (at < bytes && fail->status == 0) {
        size_t valid = utf8_valid_prefix(text + at, bytes - at);
        if (valid > 0)
            text_buffer_append(out, text + at, valid, fail);
        at += valid;
        if (at == bytes)
            break;
        size_t length;
        const unsigned char *rest = (const unsigned char *)text + at;
        if (utf8_inspect(rest, bytes - at, &length) == UTF8_INCOMPLETE) {
            d->n_pending = bytes - at;
            memcpy(d->pending, rest, d->n_pending);
            break;
        }
        append_replacement(out, fail);
        at += length;
    }
    return fail->status;
}

/* ---- Tokens that are texts ------------------------------------------------------------------- */

/* The byte that a token stands for by its spelling, "<0x0A>", or -1; a sign is a digit to Rust. */
static int byte_of(const char *text, size_t bytes)
{
    unsigned value;
    char digits[3] = {0};
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    memcpy(digits, text + 3, 2);
    bool ok = (isxdigit((unsigned char)digits[0]) || digits[0] == '+') &&
              isxdigit((unsigned char)digits[1]);
    return ok && sscanf(digits + (digits[0] == '+'), "%x", &value) == 1 ? (int)value : -1;
}

int tokenizer_make_texts(tokenizer_t *tokenizer, fail_t *fail)
{
    const vocabulary_t *vocabulary = &tokenizer->vocabulary;
    text_buffer_t *arena = &tokenizer->texts_arena;
    tokenizer->texts = calloc(vocabulary->size + 1, sizeof *tokenizer->texts);
    if (tokenizer->texts == NULL)
        return fail_set(fail, FAIL_MEMORY, "tokenizer: no memory for %zu texts", vocabulary->size);
    for (size_t id = 0; id < vocabulary->size; id++) {
        const vocabulary_token_t *token = vocabulary_token(vocabulary, (int32_t)id);
        token_text_t *text = &tokenizer->texts[id];
        if (token == NULL)
            continue;
        text->begin = (uint32_t)arena->bytes;
        if (text_replace(arena, vocabulary->arena.text + token->begin, token->bytes,
                &tokenizer->decode_from, &tokenizer->decode_to, fail) != 0)
            return fail->status;
        int byte = byte_of(arena->text + text->begin, arena->bytes - text->begin);
        if (byte >= 0) {
            arena->text[text->begin] = (char)byte;
            arena->bytes = text->begin + 1;
            text->is_byte = true;
        }
        if (arena->bytes > UINT32_MAX)
            return fail_set(fail, FAIL_LIMIT, "tokenizer: texts of more than 4 GiB");
        text->bytes = (uint32_t)arena->bytes - text->begin;
    }
    return 0;
}

/* Appends text without the spaces that go from the beginning of all. */
static int say(detokenizer_t *d, const tokenizer_t *tokenizer, const char *text, size_t bytes,
    text_buffer_t *out, fail_t *fail)
{
    while (!d->began && bytes > 0) {
        d->began = d->n_stripped == tokenizer->strip || text[0] != ' ';
        if (d->began)
            break;
        d->n_stripped++;
        text++;
        bytes--;
    }
    return text_buffer_append(out, text, bytes, fail);
}

/* The end of bytes that follow each other: their text, or U+FFFD for each of them. */
static int end_run(detokenizer_t *d, const tokenizer_t *tokenizer, text_buffer_t *out, fail_t *fail)
{
    size_t n = d->run.bytes;
    bool valid = n == 0 || utf8_valid_prefix(d->run.text, n) == n;
    d->run.bytes = 0;
    if (valid)
        return say(d, tokenizer, d->run.text, n, out, fail);
    d->began = true;
    for (size_t i = 0; i < n && fail->status == 0; i++)
        append_replacement(out, fail);
    return fail->status;
}

static int push_text(detokenizer_t *d, const tokenizer_t *tokenizer, int32_t id, const char *text,
    size_t bytes, text_buffer_t *out, fail_t *fail)
{
    if (tokenizer->texts[id].is_byte)
        return text_buffer_append(&d->run, text, bytes, fail);
    if (d->run.bytes > 0 && end_run(d, tokenizer, out, fail) != 0)
        return fail->status;
    return say(d, tokenizer, text, bytes, out, fail);
}

/* ---- Either kind ----------------------------------------------------------------------------- */

void detokenizer_clear(detokenizer_t *detokenizer)
{
    text_buffer_clear(&detokenizer->run);
    *detokenizer = (detokenizer_t){0};
}

int detokenizer_push(detokenizer_t *detokenizer, const tokenizer_t *tokenizer, int32_t id,
    bool skip_special, text_buffer_t *out, fail_t *fail)
{
    size_t bytes;
    const char *text = tokenizer_bytes(tokenizer, id, &bytes);
    if (id < 0)
        return fail_set(fail, FAIL_USAGE, "token id %d: expected none below 0", id);
    if (text == NULL || (skip_special && tokenizer_is_special(tokenizer, id)))
        return 0;
    if (tokenizer->is_text)
        return push_text(detokenizer, tokenizer, id, text, bytes, out, fail);
    return push_bytes(detokenizer, text, bytes, out, fail);
}

int detokenizer_flush(
    detokenizer_t *detokenizer, const tokenizer_t *tokenizer, text_buffer_t *out, fail_t *fail)
{
    if (detokenizer->run.bytes > 0)
        return end_run(detokenizer, tokenizer, out, fail);
    if (detokenizer->n_pending == 0)
        return 0;
    detokenizer->n_pending = 0;
    return append_replacement(out, fail);
}

int tokenizer_decode(const tokenizer_t *tokenizer, const int32_t *ids, size_t count,
    bool skip_special, char **text, size_t *bytes, fail_t *fail)
{
    detokenizer_t detokenizer = {0};
    text_buffer_t out = {0};
    *text = NULL;
    *bytes = 0;
    text_buffer_append(&out, "", 0, fail);
    for (size_t i = 0; i < count && fail->status == 0; i++) {
        if (vocabulary_token(&tokenizer->vocabulary, ids[i]) == NULL)
            fail_set(fail, FAIL_USAGE, "token %zu: there is no id %d (ids go from 0 to %zu)", i,
                ids[i], tokenizer_size(tokenizer) - 1);
        else
            detokenizer_push(&detokenizer, tokenizer, ids[i], skip_special, &out, fail);
    }
    if (fail->status == 0)
        detokenizer_flush(&detokenizer, tokenizer, &out, fail);
    detokenizer_clear(&detokenizer);
    if (fail->status != 0) {
        text_buffer_clear(&out);
        return fail->status;
    }
    *text = out.text;
    *bytes = out.bytes;
    return 0;
}
