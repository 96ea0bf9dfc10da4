/* Which regular expressions mean the same to PCRE2 and to Oniguruma (as `tokenizers` sets it up)
 * and look at nothing but ASCII characters and the classes of unicode.h:
 *
 *   literals of ASCII, | and groups ( (?: (?i: (?= (?!
 *   \r \n \t \s \S and backslash before punctuation
 *   \p{L} \p{N} \p{M} \p{Ll}, in [...] \p{Lu} together with \p{Lt}, \p{Lm} with \p{Lo}; \P of
 *   the first three
 *   [...] of these, ranges of ASCII, ^ at its start
 *   * + ? with ? or + behind them, {n} {n,} {n,m} without
 *
 * Not the same: anchors and dot (line modes), \h \w \d \b (other tables), nested classes and &&,
 * {,n}, {n}? and {n,m}+, letter pairs such as "ss" where case is ignored, which Oniguruma also
 * finds in one character, and classes of one case there. */
#include <ctype.h>
#include <string.h>

#include "engine/text/pretokenize.h"

typedef struct scanner {
    const char *at, *end;
    const char *why;
    char previous_literal; /* a letter that the next one may stand right behind, or 0 */
    bool ignores_case;
    unsigned kinds; /* of letters in the class that is scanned */
} scanner_t;

static bool refuse(scanner_t *s, const char *why)
{
    s->why = why;
    return false;
}

static bool starts_with(const scanner_t *s, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(s->end - s->at) >= n && memcmp(s->at, text, n) == 0;
}

/* Kinds of letters that a stand-in tells apart only from the other pair. */
enum { KIND_LU = 1, KIND_LT = 2, KIND_LM = 4, KIND_LO = 8 };

/* \p{Lu} and the like. */
static bool scan_letters(scanner_t *s, bool in_class)
{
    static const struct {
        const char *text;
        unsigned kind;
    } known[] = {{"\\p{Ll}", 0}, {"\\p{Lu}", KIND_LU}, {"\\p{Lt}", KIND_LT}, {"\\p{Lm}", KIND_LM},
        {"\\p{Lo}", KIND_LO}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!s->ignores_case && starts_with(s, known[i].text) && (in_class || known[i].kind == 0)) {
            s->kinds |= known[i].kind;
            s->at += strlen(known[i].text);
            return true;
        }
    return refuse(s,
        "a property other than \\p{L}, \\p{N}, \\p{M} (where case counts, \\p{Ll}, \\p{Lu} with \\p{Lt} and \\p{Lm} with \\p{Lo} in a class)");
}

static bool scan_property(scanner_t *s, bool in_class)
{
    if (s->end - s->at >= 5 && s->at[2] == '{' && strchr("LNM", s->at[3]) != NULL &&
        s->at[3] != 0 && s->at[4] == '}') {
        s->at += 5;
        return true;
    }
    return scan_letters(s, in_class);
}

static bool scan_escape(scanner_t *s, bool in_class)
{
    if (s->end - s->at < 2)
        return refuse(s, "a backslash at its end");
    unsigned char c = (unsigned char)s->at[1];
    if (c == 'p' || c == 'P')
        return scan_property(s, in_class);
    if (c >= 0x80 || c < 0x20 || (isalnum(c) && strchr("rntsS", c) == NULL))
        return refuse(s, "an escape other than \\r \\n \\t \\s \\S \\p \\P or before punctuation");
    s->at += 2;
    return true;
}

static bool scan_class(scanner_t *s)
{
    s->at += starts_with(s, "[^") ? 2 : 1;
    bool empty = true;
    s->kinds = 0;
    while (s->at < s->end && (*s->at != ']' || empty)) {
        if (*s->at == '[' || starts_with(s, "&&") || (empty && *s->at == ']'))
            return refuse(s, "a nested class");
        empty = false;
        if (*s->at != '\\')
            s->at++;
        else if (!scan_escape(s, true))
            return false;
    }
    if (s->at == s->end)
        return refuse(s, "a class that does not end");
    if (((s->kinds & KIND_LU) != 0) != ((s->kinds & KIND_LT) != 0) ||
        ((s->kinds & KIND_LM) != 0) != ((s->kinds & KIND_LO) != 0))
        return refuse(s, "a class with \\p{Lu} or \\p{Lt} alone, or \\p{Lm} or \\p{Lo} alone");
    s->at++;
    return true;
}

static bool scan_group(scanner_t *s)
{
    static const char *const known[] = {"(?:", "(?i:", "(?=", "(?!"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (starts_with(s, known[i])) {
            s->at += strlen(known[i]);
            return true;
        }
    if (starts_with(s, "(?") || starts_with(s, "(*"))
        return refuse(s, "a group other than ( (?: (?i: (?= (?!");
    s->at++;
    return true;
}

static bool scan_braces(scanner_t *s)
{
    const char *at = s->at + 1;
    const char *digits = at;
    while (at < s->end && isdigit((unsigned char)*at))
        at++;
    bool ok = at > digits;
    if (at < s->end && *at == ',')
        for (at++; at < s->end && isdigit((unsigned char)*at);)
            at++;
    if (!ok || at == s->end || *at != '}')
        return refuse(s, "a brace that is no {n}, {n,} or {n,m}");
    s->at = at + 1;
    if (s->at < s->end && strchr("+*?{", *s->at) != NULL)
        return refuse(s, "a repetition of a repetition");
    return true;
}

static bool scan_repetition(scanner_t *s)
{
    if (*s->at == '{')
        return scan_braces(s);
    s->at++;
    if (s->at < s->end && (*s->at == '?' || *s->at == '+'))
        s->at++;
    if (s->at < s->end && strchr("+*?{", *s->at) != NULL)
        return refuse(s, "a repetition of a repetition");
    return true;
}

static bool scan_literal(scanner_t *s)
{
    static const char *const ligatures[] = {"ss", "st", "ff", "fi", "fl"};
    char c = *s->at;
    if ((unsigned char)c >= 0x80 || (unsigned char)c < 0x20)
        return refuse(s, "a literal outside of printable ASCII");
    if (c == '^' || c == '$' || c == '.')
        return refuse(s, "an anchor or a dot");
    if (c == '}' || c == ']')
        return refuse(s, "a bracket that closes nothing");
    char lower = (char)tolower((unsigned char)c);
    if (s->ignores_case)
        for (size_t i = 0; i < sizeof ligatures / sizeof ligatures[0]; i++)
            if (s->previous_literal == ligatures[i][0] && lower == ligatures[i][1])
                return refuse(s, "letters that one character can stand for where case is ignored");
    s->previous_literal = lower;
    s->at++;
    return true;
}

static bool scan_item(scanner_t *s)
{
    switch (*s->at) {
    case '*':
    case '+':
    case '?':
    case '{':
        return scan_repetition(s);
    case '(':
        return scan_group(s);
    case ')':
        s->at++;
        return true;
    case '|':
        s->previous_literal = 0;
        s->at++;
        return true;
    case '\\':
        s->previous_literal = 0;
        return scan_escape(s, false);
    case '[':
        s->previous_literal = 0;
        return scan_class(s);
    default:
        return scan_literal(s);
    }
}

bool pretokenize_pattern_supported(const char *pattern, size_t bytes, const char **why)
{
    scanner_t s = {.at = pattern,
        .end = pattern + bytes,
        .why = "nothing in it",
        .ignores_case = memmem(pattern, bytes, "(?i:", 4) != NULL};
    bool ok = bytes > 0;
    while (ok && s.at < s.end)
        ok = scan_item(&s);
    *why = s.why;
    return ok;
}
