#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/text/pattern.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

struct pattern {
    pcre2_code *code;
    pcre2_match_data *match;
    uint32_t n_groups;
};

int pattern_open(pattern_t **out, const char *text, const char *name, fail_t *fail)
{
    *out = NULL;
    pattern_t *pattern = calloc(1, sizeof *pattern);
    if (pattern == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", name);
    int code;
    PCRE2_SIZE at;
    pattern->code = pcre2_compile(
        (PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (pattern->code == NULL) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(code, message, sizeof message);
        fail_set(fail, FAIL_FORMAT, "%s: regular expression \"%.200s\": %s at byte %zu", name, text,
            (const char *)message, (size_t)at);
    } else {
        pattern->match = pcre2_match_data_create_from_pattern(pattern->code, NULL);
        pcre2_pattern_info(pattern->code, PCRE2_INFO_CAPTURECOUNT, &pattern->n_groups);
        if (pattern->match == NULL)
            fail_set(fail, FAIL_MEMORY, "%s: out of memory", name);
    }
    if (fail->status != 0)
        pattern_close(pattern);
    else
        *out = pattern;
    return fail->status;
}

void pattern_close(pattern_t *pattern)
{
    if (pattern == NULL)
        return;
    pcre2_match_data_free(pattern->match);
    pcre2_code_free(pattern->code);
    free(pattern);
}

bool pattern_find(pattern_t *pattern, const char *text, size_t bytes, size_t from,
    pattern_span_t *whole, pattern_span_t *found)
{
    if (from > bytes ||
        pcre2_match(pattern->code, (PCRE2_SPTR)text, bytes, from, 0, pattern->match, NULL) < 0)
        return false;
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(pattern->match);
    /* \K can put the beginning behind the end. */
    *whole = (pattern_span_t){ends[0] < ends[1] ? ends[0] : ends[1], ends[1]};
    *found = pattern->n_groups == 0 ? *whole : (pattern_span_t){ends[1], ends[1]};
    for (uint32_t g = 1; g <= pattern->n_groups; g++)
        if (ends[2 * g] != PCRE2_UNSET && ends[2 * g + 1] > ends[2 * g]) {
            *found = (pattern_span_t){ends[2 * g], ends[2 * g + 1]};
            break;
        }
    return true;
}

/* Where to look on behind a match: one character further when it was empty. */
static size_t next_start(const char *text, size_t bytes, const pattern_span_t *whole)
{
    size_t next = whole->end;
    if (whole->end > whole->begin || next >= bytes)
        return whole->end > whole->begin ? next : bytes + 1;
    for (next++; next < bytes && ((unsigned char)text[next] & 0xc0) == 0x80;)
        next++;
    return next;
}

void pattern_remove(pattern_t *pattern, text_buffer_t *text)
{
    pattern_span_t whole, found;
    size_t kept = 0, from = 0, copied = 0;
    /* Matches are found in the text as it was; what is kept moves to its front afterwards. */
    char *original = text->bytes == 0 ? NULL : malloc(text->bytes);
    if (original == NULL)
        return;
    memcpy(original, text->text, text->bytes);
    while (pattern_find(pattern, original, text->bytes, from, &whole, &found)) {
        memcpy(text->text + kept, original + copied, whole.begin - copied);
        kept += whole.begin - copied;
        copied = whole.end;
        from = next_start(original, text->bytes, &whole);
    }
    memcpy(text->text + kept, original + copied, text->bytes - copied);
    text->bytes = kept + text->bytes - copied;
    text->text[text->bytes] = 0;
    free(original);
}
