#include "engine/base/printable.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define ESCAPE_BYTES 8

/* The character at the text's beginning: its number of bytes, or 0 where they are not valid
 * UTF-8. */
static size_t decode(const unsigned char *text, size_t bytes, uint32_t *character)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char first = text[0];
    size_t n = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (n == 0 || n > bytes || first > 0xf4)
        return 0;
    *character = n == 1 ? first : first & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        *character = *character << 6 | (text[i] & 0x3fu);
    }
    bool surrogate = *character >= 0xd800 && *character <= 0xdfff;
    return *character < smallest[n] || *character > 0x10ffff || surrogate ? 0 : n;
}

static bool is_control(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x61c || c == 0x200e || c == 0x200f ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

/* One character, or one invalid byte, as it is to be written. Returns the bytes it takes of the
 * text; *n: bytes written. */
static size_t write_one(char out[ESCAPE_BYTES], size_t *n, const unsigned char *text, size_t bytes)
{
    uint32_t character = 0;
    size_t taken = decode(text, bytes, &character);
    const char *at = taken == 1 ? memchr("\nn\rr\tt", text[0], 6) : NULL;
    int written;
    if (taken > 0 && !is_control(character)) {
        memcpy(out, text, taken);
        *n = taken;
        return taken;
    }
    if (at != NULL)
        written = snprintf(out, ESCAPE_BYTES, "\\%c", at[1]);
    else if (taken > 1)
        written = snprintf(out, ESCAPE_BYTES, "\\u%04x", (unsigned)character & 0xffff);
    else
        written = snprintf(out, ESCAPE_BYTES, "\\x%02x", text[0]);
    *n = (size_t)written;
    return taken > 0 ? taken : 1;
}

size_t printable(char *out, size_t out_bytes, const char *text, size_t bytes)
{
    size_t used = 0, n;
    char one[ESCAPE_BYTES];
    for (size_t at = 0; at < bytes;) {
        at += write_one(one, &n, (const unsigned char *)text + at, bytes - at);
        if (used + n >= out_bytes)
            break;
        memcpy(out + used, one, n);
        used += n;
    }
    out[used] = 0;
    return used;
}

bool is_printable(const char *text, size_t bytes)
{
    uint32_t character = 0;
    for (size_t at = 0, n; at < bytes; at += n) {
        n = decode((const unsigned char *)text + at, bytes - at, &character);
        if (n == 0 || is_control(character))
            return false;
    }
    return true;
}

printable_name_t printable_name(const char *name)
{
    printable_name_t shown;
    printable(shown.text, sizeof shown.text, name, strlen(name));
    return shown;
}
