/* UTF-8, and the character properties that tokenization depends on.
 *
 * The properties are those of the Unicode versions that Hugging Face `tokenizers` uses, measured
 * from it (unicode_data.c): PCRE2 and utf8proc carry other versions, depending on the machine, and
 * a letter that one of them does not know yet would change ids. Everything here is immutable and
 * thread safe. */
#ifndef CHOIR_TEXT_UNICODE_H
#define CHOIR_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/text_buffer.h"

#define UNICODE_SIZE 0x110000u

/* Low three bits of a property byte: classes of the pre-tokenizer's regular expression. */
enum { UNICODE_OTHER, UNICODE_LETTER, UNICODE_NUMBER, UNICODE_MARK, UNICODE_SPACE };
#define UNICODE_CLASS 7u
/* NFC may change this character, or reorder or compose it with the one before it. */
#define UNICODE_NFC_TRIGGER 8u
/* Not a trigger, but has a decomposition or may compose with a trigger after it. Characters with
 * neither flag never take part in normalisation, even where a newer library would use them. */
#define UNICODE_NFC_FIRST 16u
/* Of words, for added tokens with single_word. */
#define UNICODE_WORD 32u
/* Letters: upper or title case (Lu, Lt), lower case (Ll); neither of Lm and Lo. Both flags in a range
 * of unicode_cases: upper and lower case by turns. */
#define UNICODE_UPPER 64u
#define UNICODE_LOWER 128u

typedef struct unicode_range {
    uint32_t first, last;
    uint8_t flags;
} unicode_range_t;
extern const unicode_range_t unicode_ranges[], unicode_cases[];
extern const size_t unicode_n_ranges, unicode_n_cases;

/* A table of UNICODE_SIZE property bytes (pages without any stay untouched); the caller frees it.
 */
int unicode_table_make(uint8_t **table, fail_t *fail);

/* Bytes of a whole, valid sequence that starts with this byte. */
static inline size_t utf8_length(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* Decodes the sequence at text, which must be whole and valid. */
static inline uint32_t utf8_decode(const char *text, size_t *length)
{
    const unsigned char *s = (const unsigned char *)text;
    *length = utf8_length(s[0]);
    switch (*length) {
    case 1:
        return s[0];
    case 2:
        return (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    case 3:
        return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    default:
        return (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
    }
}

/* Writes a code point (at most UNICODE_SIZE - 1, no surrogate); returns the number of bytes, 1
 * to 4. */
size_t utf8_encode(uint32_t code_point, char *text);

typedef enum utf8_status {
    UTF8_WHOLE,     /* a valid sequence */
    UTF8_INVALID,   /* bytes that Python's "replace" turns into one U+FFFD */
    UTF8_INCOMPLETE /* the beginning of a valid sequence, truncated by the end of the text */
} utf8_status_t;

/* Classifies the start of text (bytes >= 1) and returns how many bytes that covers. */
utf8_status_t utf8_inspect(const unsigned char *text, size_t bytes, size_t *length);

/* The length of the longest prefix without a byte outside of ASCII. */
size_t utf8_ascii_prefix(const char *text, size_t bytes);

/* The length of the longest valid prefix. */
size_t utf8_valid_prefix(const char *text, size_t bytes);

/* Appends text, with U+FFFD in place of invalid sequences as Python's bytes.decode("utf-8",
 * "replace"). */
int utf8_append_replaced(text_buffer_t *out, const char *text, size_t bytes, fail_t *fail);

/* For messages that quote a file or a user: control characters become spaces, bytes that are no
 * UTF-8 (as where a quotation was truncated) become question marks. */
void utf8_make_printable(char *text);

#endif
