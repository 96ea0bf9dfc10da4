#include "engine/text/unicode.h"

#include <stdlib.h>
#include <string.h>

int unicode_table_make(uint8_t **table, fail_t *fail)
{
    *table = calloc(UNICODE_SIZE, 1);
    if (*table == NULL)
        return fail_set(fail, FAIL_MEMORY, "tokenizer: no memory for character properties");
    for (size_t i = 0; i < unicode_n_ranges; i++) {
        const unicode_range_t *range = &unicode_ranges[i];
        memset(*table + range->first, range->flags, range->last - range->first + 1);
    }
    for (size_t i = 0; i < unicode_n_cases; i++) {
        const unicode_range_t *range = &unicode_cases[i];
        bool by_turns = range->flags == (UNICODE_UPPER | UNICODE_LOWER);
        for (uint32_t c = range->first; c <= range->last; c++)
            (*table)[c] |= !by_turns                     ? range->flags
                           : (c - range->first) % 2 == 0 ? UNICODE_UPPER
                                                         : UNICODE_LOWER;
    }
    return 0;
}

size_t utf8_encode(uint32_t code_point, char *text)
{
    if (code_point < 0x80) {
        text[0] = (char)code_point;
        return 1;
    }
    size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = length - 1; i > 0; i--) {
        text[i] = (char)(0x80 | (code_point & 0x3F));
        code_point >>= 6;
    }
    text[0] = (char)(lead[length] | code_point);
    return length;
}

/* What the second byte may be after a lead byte; only there do overlong forms, surrogates and code
 * points past the last one show. */
static bool second_byte_ok(unsigned char lead, unsigned char second)
{
    unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    return second >= low && second <= high;
}

utf8_status_t utf8_inspect(const unsigned char *text, size_t bytes, size_t *length)
{
    unsigned char lead = text[0];
    *length = 1;
    if (lead < 0x80)
        return UTF8_WHOLE;
    if (lead < 0xC2 || lead > 0xF4)
        return UTF8_INVALID;
    size_t need = utf8_length(lead);
    for (size_t i = 1; i < need; i++) {
        if (i == bytes)
            return UTF8_INCOMPLETE;
        bool ok = i == 1 ? second_byte_ok(lead, text[1]) : (text[i] & 0xC0) == 0x80;
        if (!ok)
            return UTF8_INVALID;
        *length = i + 1;
    }
    return UTF8_WHOLE;
}

size_t utf8_ascii_prefix(const char *text, size_t bytes)
{
    size_t at = 0;
    uint64_t word;
    for (; bytes - at >= sizeof word; at += sizeof word) {
        memcpy(&word, text + at, sizeof word);
        if ((word & UINT64_C(0x8080808080808080)) != 0)
            break;
    }
    while (at < bytes && (unsigned char)text[at] < 0x80)
        at++;
    return at;
}

size_t utf8_valid_prefix(const char *text, size_t bytes)
{
    size_t at = utf8_ascii_prefix(text, bytes);
    while (at < bytes) {
        size_t length;
        if (utf8_inspect((const unsigned char *)text + at, bytes - at, &length) != UTF8_WHOLE)
            break;
        at += length;
        if (length == 1)
            at += utf8_ascii_prefix(text + at, bytes - at);
    }
    return at;
}

int utf8_append_replaced(text_buffer_t *out, const char *text, size_t bytes, fail_t *fail)
{
    size_t at = 0;
    while (at < bytes) {
        size_t valid = utf8_valid_prefix(text + at, bytes - at);
        if (valid > 0 && text_buffer_append(out, text + at, valid, fail) != 0)
            return fail->status;
        at += valid;
        if (at == bytes)
            break;
        size_t length;
        utf8_inspect((const unsigned char *)text + at, bytes - at, &length);
        if (text_buffer_append(out, "\xEF\xBF\xBD", 3, fail) != 0)
            return fail->status;
        at += length;
    }
    return fail->status;
}

void utf8_make_printable(char *text)
{
    size_t bytes = strlen(text);
    for (size_t i = 0, length; i < bytes; i += length) {
        if (utf8_inspect((const unsigned char *)text + i, bytes - i, &length) != UTF8_WHOLE)
            memset(text + i, '?', length);
        else if ((unsigned char)text[i] < 0x20 || text[i] == 0x7F)
            text[i] = ' ';
    }
}
