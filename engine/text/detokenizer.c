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

int detokenizer_push(detokenizer_t *detokenizer, const tokenizer_t *tokenizer, int32_t id,
    bool skip_special, text_buffer_t *out, fail_t *fail)
{
    size_t bytes;
    const char *text = tokenizer_bytes(tokenizer, id, &bytes);
    if (id < 0)
        return fail_set(fail, FAIL_USAGE, "token id %d: expected none below 0", id);
    if (text == NULL || (skip_special && tokenizer_is_special(tokenizer, id)))
        return 0;
    return push_bytes(detokenizer, text, bytes, out, fail);
}

int detokenizer_flush(detokenizer_t *detokenizer, text_buffer_t *out, fail_t *fail)
{
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
    if (fail->status != 0 || detokenizer_flush(&detokenizer, &out, fail) != 0) {
        text_buffer_clear(&out);
        return fail->status;
    }
    *text = out.text;
    *bytes = out.bytes;
    return 0;
}
