/* A text is normalised window by window. A window is a run of triggers (characters that NFC may
 * change, reorder or compose backwards) and the one character before it, when that can compose or
 * decompose; everything outside of windows stays as it is. Unicode guarantees that a starter which
 * is not a trigger begins afresh, so windows do not interact. */
#include "engine/text/nfc.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/size.h"
#include "engine/text/unicode.h"

#define NFC_GROWTH                                                                                 \
    2 /* decomposed code points per byte of text, at most: 4 from a character of 2 bytes */
#define NFC_SHORT_RUN 24 /* combining characters that insertion sort still handles well */

typedef struct nfc_scratch {
    utf8proc_int32_t *points; /* a window's code points, decomposed */
    utf8proc_int32_t *sorted; /* space for sorting */
    size_t capacity;
} nfc_scratch_t;

static int scratch_reserve(nfc_scratch_t *scratch, size_t n, fail_t *fail)
{
    if (n <= scratch->capacity)
        return 0;
    free(scratch->points);
    free(scratch->sorted);
    scratch->capacity = size_max(n, 256);
    scratch->points = calloc(scratch->capacity, sizeof *scratch->points);
    scratch->sorted = calloc(scratch->capacity, sizeof *scratch->sorted);
    if (scratch->points == NULL || scratch->sorted == NULL)
        return fail_set(fail, FAIL_MEMORY, "normalisation: no memory for %zu characters", n);
    return 0;
}

static int combining_class(utf8proc_int32_t point)
{
    return utf8proc_get_property(point)->combining_class;
}

/* Stable order by combining class. Counting keeps a text of nothing but combining marks linear. */
static void sort_run(utf8proc_int32_t *points, utf8proc_int32_t *sorted, size_t n)
{
    if (n <= NFC_SHORT_RUN) {
        for (size_t i = 1; i < n; i++) {
            utf8proc_int32_t point = points[i];
            size_t j = i;
            for (; j > 0 && combining_class(points[j - 1]) > combining_class(point); j--)
                points[j] = points[j - 1];
            points[j] = point;
        }
        return;
    }
    size_t begin[257] = {0};
    for (size_t i = 0; i < n; i++)
        begin[(combining_class(points[i]) & 255) + 1]++;
    for (size_t c = 1; c < 257; c++)
        begin[c] += begin[c - 1];
    for (size_t i = 0; i < n; i++)
        sorted[begin[combining_class(points[i]) & 255]++] = points[i];
    memcpy(points, sorted, n * sizeof *points);
}

static void order_canonically(nfc_scratch_t *scratch, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && combining_class(scratch->points[end]) != 0)
            end++;
        sort_run(scratch->points + i, scratch->sorted, end - i);
        i = end + 1;
    }
}

static int append_window(
    nfc_scratch_t *scratch, const char *text, size_t bytes, text_buffer_t *out, fail_t *fail)
{
    /* Room for every decomposition, so utf8proc never finds its buffer too small. */
    if (scratch_reserve(scratch, bytes * NFC_GROWTH, fail) != 0)
        return fail->status;
    size_t n = 0;
    for (size_t i = 0, length; i < bytes; i += length) {
        int boundary = 0;
        utf8proc_ssize_t count =
            utf8proc_decompose_char((utf8proc_int32_t)utf8_decode(text + i, &length),
                scratch->points + n, (utf8proc_ssize_t)(scratch->capacity - n),
                UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
        if (count < 0)
            return fail_set(fail, FAIL_INTERNAL, "normalisation: %s", utf8proc_errmsg(count));
        n += (size_t)count;
    }
    order_canonically(scratch, n);
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(
        scratch->points, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (composed < 0)
        return fail_set(fail, FAIL_INTERNAL, "normalisation: %s", utf8proc_errmsg(composed));
    if (text_buffer_reserve(out, (size_t)composed * 4, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < (size_t)composed; i++)
        out->bytes += utf8_encode((uint32_t)scratch->points[i], out->text + out->bytes);
    out->text[out->bytes] = 0;
    return 0;
}

/* The next window at or after *at: [*begin, *end). False when there is none. */
static bool next_window(const uint8_t *properties, const char *text, size_t bytes, size_t at,
    size_t *begin, size_t *end)
{
    size_t previous = at; /* where the character before `at` starts, if it may compose */
    bool previous_first = false;
    while (at < bytes) {
        size_t length;
        uint8_t flags = properties[utf8_decode(text + at, &length)];
        if (flags & UNICODE_NFC_TRIGGER)
            break;
        previous = at;
        previous_first = (flags & UNICODE_NFC_FIRST) != 0;
        at += length;
    }
    if (at == bytes)
        return false;
    *begin = previous_first ? previous : at;
    while (at < bytes) {
        size_t length;
        if (!(properties[utf8_decode(text + at, &length)] & UNICODE_NFC_TRIGGER))
            break;
        at += length;
    }
    *end = at;
    return true;
}

int nfc_append(const uint8_t *properties, const char *text, size_t bytes, text_buffer_t *out,
    bool *changed, fail_t *fail)
{
    *changed = false;
    size_t ascii = utf8_ascii_prefix(text, bytes);
    if (ascii == bytes)
        return 0;
    nfc_scratch_t scratch = {0};
    size_t copied = 0, begin, end;
    /* One character back, since an ASCII letter may be what a mark composes with. */
    size_t at = ascii > 0 ? ascii - 1 : 0;
    while (fail->status == 0 && next_window(properties, text, bytes, at, &begin, &end)) {
        *changed = true;
        if (text_buffer_append(out, text + copied, begin - copied, fail) == 0)
            append_window(&scratch, text + begin, end - begin, out, fail);
        copied = at = end;
    }
    if (*changed && fail->status == 0)
        text_buffer_append(out, text + copied, bytes - copied, fail);
    free(scratch.points);
    free(scratch.sorted);
    return fail->status;
}
