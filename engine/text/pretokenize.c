#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/text/pretokenize.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/unicode.h"

const char pretokenizer_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{"
                                  "N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                                  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

struct pretokenizer {
    pcre2_code *code;
};

struct pretokenize_scratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
};

int pretokenizer_open(pretokenizer_t **pretokenizer, const char *pattern, size_t bytes,
    const char *file, fail_t *fail)
{
    *pretokenizer = NULL;
    const char *why;
    if (!pretokenize_pattern_supported(pattern, bytes, &why))
        return fail_set(fail, FAIL_MODEL,
            "%s: pre_tokenizer: regular expression with %s, which is not supported", file, why);
    pretokenizer_t *new = calloc(1, sizeof *new);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (new == NULL || context == NULL) {
        free(new);
        pcre2_compile_context_free(context);
        return fail_set(fail, FAIL_MEMORY, "%s: no memory for the regular expression", file);
    }
    int code;
    PCRE2_SIZE at;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    new->code = pcre2_compile((PCRE2_SPTR)pattern, bytes,
        PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &code, &at, context);
    pcre2_compile_context_free(context);
    uint32_t matches_empty = 0;
    if (new->code == NULL) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(code, message, sizeof message);
        fail_set(fail, FAIL_FORMAT, "%s: pre_tokenizer: regular expression: %s at byte %zu", file,
            (const char *)message, (size_t)at);
    } else if (pcre2_pattern_info(new->code, PCRE2_INFO_MATCHEMPTY, &matches_empty) != 0 ||
               matches_empty != 0) {
        fail_set(fail, FAIL_MODEL,
            "%s: pre_tokenizer: regular expression that can match nothing, which is not supported",
            file);
    }
    if (fail->status != 0) {
        pretokenizer_close(new);
        return fail->status;
    }
    /* Where the system forbids it, matching falls back to the interpreter by itself. */
    pcre2_jit_compile(new->code, PCRE2_JIT_COMPLETE);
    *pretokenizer = new;
    return 0;
}

void pretokenizer_close(pretokenizer_t *pretokenizer)
{
    if (pretokenizer == NULL)
        return;
    pcre2_code_free(pretokenizer->code);
    free(pretokenizer);
}

int pretokenize_scratch_open(
    pretokenize_scratch_t **scratch, const pretokenizer_t *pretokenizer, fail_t *fail)
{
    *scratch = calloc(1, sizeof **scratch);
    if (*scratch == NULL)
        return fail_set(fail, FAIL_MEMORY, "tokenizer: no memory for matching");
    pretokenize_scratch_t *new = *scratch;
    new->match = pcre2_match_data_create_from_pattern(pretokenizer->code, NULL);
    new->context = pcre2_match_context_create(NULL);
    if (new->match == NULL || new->context == NULL) {
        pretokenize_scratch_close(new);
        *scratch = NULL;
        return fail_set(fail, FAIL_MEMORY, "tokenizer: no memory for matching");
    }
    /* A long run of spaces takes as many steps as it is long, and that is no reason to give up. */
    pcre2_set_match_limit(new->context, UINT32_MAX);
    pcre2_set_heap_limit(new->context, UINT32_MAX);
    pcre2_set_depth_limit(new->context, UINT32_MAX);
    return 0;
}

void pretokenize_scratch_close(pretokenize_scratch_t *scratch)
{
    if (scratch == NULL)
        return;
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    free(scratch);
}

int pretokenize_next(const pretokenizer_t *pretokenizer, pretokenize_scratch_t *scratch,
    const char *shadow, size_t bytes, size_t from, size_t *begin, size_t *end, fail_t *fail)
{
    int code = pcre2_match(pretokenizer->code, (PCRE2_SPTR)shadow, bytes, from, PCRE2_NO_UTF_CHECK,
        scratch->match, scratch->context);
    /* Compiled matching has a small stack; the interpreter keeps what it may come back to on the
     * heap. */
    if (code == PCRE2_ERROR_JIT_STACKLIMIT)
        code = pcre2_match(pretokenizer->code, (PCRE2_SPTR)shadow, bytes, from,
            PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scratch->match, scratch->context);
    if (code == PCRE2_ERROR_NOMATCH) {
        *begin = *end = bytes;
        return 0;
    }
    if (code < 0) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(code, message, sizeof message);
        return fail_set(fail, code == PCRE2_ERROR_NOMEMORY ? FAIL_MEMORY : FAIL_LIMIT,
            "tokenizer: splitting %zu bytes of text failed at byte %zu: %s", bytes, from,
            (const char *)message);
    }
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(scratch->match);
    *begin = span[0];
    *end = span[1];
    return 0;
}

/* Stand-ins by class and UTF-8 length. They have been in Unicode since long before any PCRE2, and
 * have no case relation to ASCII. No space has four bytes. */
static const char *const stand_ins[7][5] = {
    [UNICODE_OTHER] = {NULL, NULL, "\xC2\xA7", "\xE2\x80\x94", "\xF0\x9D\x84\x9E"},
    [UNICODE_LETTER] = {NULL, NULL, "\xC6\xBB", "\xE4\xB8\x80", "\xF0\xA0\x80\x80"},
    [UNICODE_NUMBER] = {NULL, NULL, "\xC2\xB2", "\xE2\x85\xA0", "\xF0\x9D\x9F\x8E"},
    [UNICODE_MARK] = {NULL, NULL, "\xCC\x81", "\xE2\x83\x90", "\xF0\x9D\x85\xA7"},
    [UNICODE_SPACE] = {NULL, NULL, "\xC2\xA0", "\xE2\x80\x83", NULL},
    [5] = {NULL, NULL, "\xC3\x86", "\xE1\xB8\x80", "\xF0\x90\x90\x80"}, /* upper case */
    [6] = {NULL, NULL, "\xC3\xA6", "\xE1\xB8\x81", "\xF0\x90\x90\xA8"}, /* lower case */
};

static size_t kind_of(uint8_t properties)
{
    return (properties & UNICODE_UPPER) != 0   ? 5
           : (properties & UNICODE_LOWER) != 0 ? 6
                                               : properties & UNICODE_CLASS;
}

void pretokenize_shadow(const uint8_t *properties, const char *text, size_t bytes, char *shadow)
{
    for (size_t i = 0, length; i < bytes; i += length) {
        if ((unsigned char)text[i] < 0x80) {
            shadow[i] = text[i];
            length = 1;
            continue;
        }
        uint32_t point = utf8_decode(text + i, &length);
        const char *stand_in = stand_ins[kind_of(properties[point])][length];
        /* The long s and the Kelvin sign are letters that match s and k where case is ignored. */
        if (point == 0x17F || point == 0x212A || stand_in == NULL)
            stand_in = text + i;
        memcpy(shadow + i, stand_in, length);
    }
}
