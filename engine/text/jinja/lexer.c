/* From the template's text to tokens, with the white space that trim_blocks, lstrip_blocks and the
 * signs - and + of tags take away or keep. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"
#include "engine/text/unicode.h"

typedef struct lexer {
    run_t *run;
    const char *text;
    size_t at, end;
    uint32_t line;
    bool line_start; /* what was read last ended with a newline */
    tokens_t *tokens;
    char brackets[JINJA_NESTING_MAX]; /* that are open, by what closes them */
    size_t n_brackets;
} lexer_t;

static const struct {
    const char *text;
    token_kind_t kind;
} operators[] = {{"//", T_FLOORDIV}, {"**", T_POW}, {"==", T_EQ}, {"!=", T_NE}, {">=", T_GE},
    {"<=", T_LE}, {"+", T_ADD}, {"-", T_SUB}, {"/", T_DIV}, {"*", T_MUL}, {"%", T_MOD},
    {"~", T_TILDE}, {"[", T_LBRACKET}, {"]", T_RBRACKET}, {"(", T_LPAREN}, {")", T_RPAREN},
    {"{", T_LBRACE}, {"}", T_RBRACE}, {">", T_GT}, {"<", T_LT}, {"=", T_ASSIGN}, {".", T_DOT},
    {":", T_COLON}, {"|", T_PIPE}, {",", T_COMMA}, {";", T_SEMICOLON}};

const char *jinja_token_name(token_kind_t kind)
{
    static const char *const names[] = {[T_EOF] = "end of template",
        [T_DATA] = "template data",
        [T_BLOCK_BEGIN] = "begin of statement block",
        [T_BLOCK_END] = "end of statement block",
        [T_VARIABLE_BEGIN] = "begin of print statement",
        [T_VARIABLE_END] = "end of print statement",
        [T_NAME] = "name",
        [T_STRING] = "string",
        [T_INTEGER] = "integer",
        [T_FLOAT] = "float"};
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++)
        if (operators[i].kind == kind)
            return operators[i].text;
    return names[kind];
}

static token_t *add_token(lexer_t *l, token_kind_t kind)
{
    tokens_t *tokens = l->tokens;
    if (tokens->count == tokens->capacity)
        tokens->at = jinja_arena_grow(l->run, tokens->at, &tokens->capacity, sizeof *tokens->at);
    token_t *token = &tokens->at[tokens->count++];
    *token = (token_t){.kind = kind, .line = l->line};
    l->run->line = l->line;
    return token;
}

static size_t space_at(const lexer_t *l, size_t at)
{
    if (at >= l->end)
        return 0;
    size_t bytes;
    uint32_t point = jinja_point_at(l->text + at, &bytes);
    return jinja_point_space(point) ? bytes : 0;
}

static void skip_space(lexer_t *l)
{
    for (size_t bytes; (bytes = space_at(l, l->at)) > 0; l->at += bytes)
        ;
}

/* Moves on to `to`, counting lines. */
static void advance(lexer_t *l, size_t to)
{
    for (size_t i = l->at; i < to; i++)
        l->line += l->text[i] == '\n';
    l->line_start = to > l->at ? l->text[to - 1] == '\n' : l->line_start;
    l->at = to;
}

static bool looking_at(const lexer_t *l, size_t at, const char *text)
{
    size_t n = strlen(text);
    return l->end - at >= n && memcmp(l->text + at, text, n) == 0;
}

/* The end of text before a tag with this sign, after what the tag takes away. */
static size_t text_end(const lexer_t *l, size_t begin, size_t end, char sign, bool is_variable)
{
    size_t newline = end;
    if (sign == '-') {
        while (end > begin) {
            size_t at = end - 1, bytes;
            while (at > begin && ((unsigned char)l->text[at] & 0xC0) == 0x80)
                at--;
            if (!jinja_point_space(jinja_point_at(l->text + at, &bytes)))
                break;
            end = at;
        }
        return end;
    }
    if (sign == '+' || is_variable)
        return end;
    while (newline > begin && l->text[newline - 1] != '\n')
        newline--;
    if (newline == begin && !l->line_start)
        return end;
    for (size_t at = newline, bytes; at < end; at += bytes)
        if ((bytes = space_at(l, at)) == 0)
            return end;
    return newline;
}

static void add_data(lexer_t *l, size_t begin, size_t end)
{
    if (end > begin)
        add_token(l, T_DATA)->value =
            jinja_value_string(jinja_string_new(l->run, l->text + begin, end - begin));
}

/* {% raw %} at `at`: where its tag ends, and the sign; 0 when it is another tag. */
static size_t word_tag(const lexer_t *l, size_t at, const char *word, char *sign)
{
    lexer_t probe = *l;
    if (!looking_at(l, at, "{%"))
        return 0;
    probe.at = at + 2;
    *sign = 0;
    if (probe.at < l->end && (l->text[probe.at] == '-' || l->text[probe.at] == '+'))
        *sign = l->text[probe.at++];
    skip_space(&probe);
    if (!looking_at(l, probe.at, word))
        return 0;
    probe.at += strlen(word);
    skip_space(&probe);
    return probe.at;
}

/* The end of a tag at `at`, which may strip what follows; 0: it does not end here. */
static size_t tag_end(const lexer_t *l, size_t at, const char *closing, bool plus, bool trims)
{
    lexer_t probe = *l;
    bool minus = looking_at(l, at, "-");
    if (minus || (plus && looking_at(l, at, "+"))) {
        if (!looking_at(l, at + 1, closing))
            return 0;
        probe.at = at + 1 + strlen(closing);
        if (minus)
            skip_space(&probe);
        return probe.at;
    }
    if (!looking_at(l, at, closing))
        return 0;
    at += strlen(closing);
    return trims && at < l->end && l->text[at] == '\n' ? at + 1 : at;
}

static void read_raw(lexer_t *l, size_t after)
{
    advance(l, after);
    size_t begin = l->at;
    for (size_t at = begin; at < l->end; at++) {
        char sign;
        size_t word = l->text[at] == '{' ? word_tag(l, at, "endraw", &sign) : 0;
        size_t end = word > 0 ? tag_end(l, word, "%}", true, true) : 0;
        if (end > 0) {
            add_data(l, begin, text_end(l, begin, at, sign, false));
            advance(l, end);
            return;
        }
    }
    jinja_fail(l->run, "Missing end of raw directive");
}

static void read_comment(lexer_t *l, size_t after)
{
    for (size_t at = after; at < l->end; at++) {
        size_t end = tag_end(l, at, "#}", true, true);
        if (end > 0) {
            advance(l, end);
            return;
        }
    }
    jinja_fail(l->run, "Missing end of comment tag");
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int digit_value(char c)
{
    return is_digit(c)            ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : 99;
}

/* Digits of a base with single underscores between them, from at; the end. */
static size_t digits_end(const lexer_t *l, size_t at, int base)
{
    while (at < l->end) {
        if (digit_value(l->text[at]) < base)
            at++;
        else if (l->text[at] == '_' && at + 1 < l->end && digit_value(l->text[at + 1]) < base)
            at += 2;
        else
            break;
    }
    return at;
}

/* The end of a float at l->at, or 0. */
static size_t float_end(const lexer_t *l)
{
    if (l->at > 0 && l->text[l->at - 1] == '.')
        return 0;
    size_t at = digits_end(l, l->at, 10), whole = at;
    if (at < l->end && l->text[at] == '.' && at + 1 < l->end && is_digit(l->text[at + 1]))
        at = digits_end(l, at + 1, 10);
    if (at < l->end && (l->text[at] == 'e' || l->text[at] == 'E')) {
        size_t exponent = at + 1;
        if (exponent < l->end && (l->text[exponent] == '+' || l->text[exponent] == '-'))
            exponent++;
        if (exponent < l->end && is_digit(l->text[exponent]))
            return digits_end(l, exponent, 10);
    }
    return at > whole ? at : 0;
}

static void read_number(lexer_t *l)
{
    size_t end = float_end(l), from = l->at;
    bool is_float = end > 0;
    int base = 10;
    if (!is_float) {
        static const char prefixes[] = "bBoOxX";
        const char *prefix = l->text[l->at] == '0' && l->at + 1 < l->end && l->text[l->at + 1] != 0
                                 ? strchr(prefixes, l->text[l->at + 1])
                                 : NULL;
        if (prefix != NULL) {
            base = prefix - prefixes < 2 ? 2 : prefix - prefixes < 4 ? 8 : 16;
            end = digits_end(l, l->at + 2, base);
            from = l->at + 2;
        }
        if (prefix == NULL || end == from) {
            base = 10;
            from = l->at;
            /* Zeros in front of other digits are a number of their own. */
            end = l->text[from] == '0' ? digits_end(l, from, 1) : digits_end(l, from, 10);
        }
    }
    buffer_t digits = {0};
    for (size_t i = from; i < end; i++)
        if (l->text[i] != '_')
            jinja_buffer_add(l->run, &digits, &l->text[i], 1);
    jinja_buffer_add(l->run, &digits, "", 1);
    token_t *token = add_token(l, is_float ? T_FLOAT : T_INTEGER);
    if (is_float) {
        token->value = jinja_value_float(strtod(digits.text, NULL));
    } else {
        unsigned long long number = strtoull(digits.text, NULL, base);
        if (number > INT64_MAX)
            jinja_fail(l->run, "an integer beyond 64 bits: %.100s", digits.text);
        token->value = jinja_value_int((int64_t)number);
    }
    advance(l, end);
}

/* \xhh, \uhhhh, \Uhhhhhhhh behind the backslash at `at`; returns the end. */
static size_t hex_escape(lexer_t *l, size_t at, size_t end, size_t digits, buffer_t *out)
{
    uint32_t point = 0;
    for (size_t i = 0; i < digits; i++) {
        int digit = at + i < end ? digit_value(l->text[at + i]) : 99;
        if (digit > 15)
            jinja_fail(l->run, "truncated \\%cXX escape", l->text[at - 1]);
        point = point << 4 | (uint32_t)digit;
    }
    if (point >= UNICODE_SIZE)
        jinja_fail(l->run, "illegal Unicode character");
    jinja_buffer_point(l->run, out, point);
    return at + digits;
}

static size_t read_escape(lexer_t *l, size_t at, size_t end, buffer_t *out)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = l->text[at];
    const char *plain = strchr(from, c);
    size_t bytes;
    if (c == '\n')
        return at + 1;
    if (plain != NULL && c != 0) {
        jinja_buffer_add(l->run, out, &to[plain - from], 1);
        return at + 1;
    }
    if (c == 'x' || c == 'u' || c == 'U')
        return hex_escape(l, at + 1, end, c == 'x' ? 2 : c == 'u' ? 4 : 8, out);
    if (c >= '0' && c <= '7') {
        uint32_t point = 0;
        for (int i = 0; i < 3 && at < end && l->text[at] >= '0' && l->text[at] <= '7'; i++)
            point = point * 8 + (uint32_t)(l->text[at++] - '0');
        jinja_buffer_point(l->run, out, point);
        return at;
    }
    if (c == 'N')
        jinja_fail(l->run, "characters by name (\\N) are not supported");
    jinja_buffer_add(l->run, out, "\\", 1);
    if ((unsigned char)c < 0x80)
        return at;
    /* jinja2 writes what is not ASCII as an escape first, and this backslash then escapes that one.
     */
    uint32_t point = jinja_point_at(l->text + at, &bytes);
    jinja_buffer_format(l->run, out,
        point < 0x100     ? "x%02x"
        : point < 0x10000 ? "u%04x"
                          : "U%08x",
        point);
    return at + bytes;
}

static void read_string(lexer_t *l)
{
    char quote = l->text[l->at];
    size_t end = l->at + 1;
    while (end < l->end && l->text[end] != quote)
        end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->end)
        jinja_fail(l->run, "unexpected char %s at %zu", quote == '\'' ? "\"'\"" : "'\"'", l->at);
    buffer_t out = {0};
    for (size_t at = l->at + 1; at < end;) {
        if (l->text[at] == '\\')
            at = read_escape(l, at + 1, end, &out);
        else
            jinja_buffer_add(l->run, &out, &l->text[at++], 1);
    }
    token_t *token = add_token(l, T_STRING);
    token->value = jinja_buffer_value(l->run, &out);
    advance(l, end + 1);
}

static size_t name_end(const lexer_t *l)
{
    size_t at = l->at;
    while (at < l->end) {
        size_t bytes;
        uint32_t point = jinja_point_at(l->text + at, &bytes);
        if (point != '_' && !jinja_point_alpha(point) && !jinja_point_numeric(point))
            break;
        at += bytes;
    }
    return at;
}

static void read_operator(lexer_t *l)
{
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (!looking_at(l, l->at, operators[i].text))
            continue;
        char c = operators[i].text[0];
        const char *open = strchr("{([", c), *close = strchr("})]", c);
        if (open != NULL) {
            if (l->n_brackets == JINJA_NESTING_MAX)
                jinja_fail(l->run, "more than %d brackets inside each other", JINJA_NESTING_MAX);
            l->brackets[l->n_brackets++] = "})]"[open - "{(["];
        } else if (close != NULL) {
            if (l->n_brackets == 0)
                jinja_fail(l->run, "unexpected '%c'", c);
            if (l->brackets[--l->n_brackets] != c)
                jinja_fail(l->run, "unexpected '%c', expected '%c'", c, l->brackets[l->n_brackets]);
        }
        add_token(l, operators[i].kind);
        advance(l, l->at + strlen(operators[i].text));
        return;
    }
    size_t bytes;
    jinja_point_at(l->text + l->at, &bytes);
    jinja_fail(l->run, "unexpected char '%.*s' at %zu", (int)bytes, l->text + l->at, l->at);
}

/* The inside of a tag up to its end. */
static void read_tag(lexer_t *l, bool is_variable)
{
    l->n_brackets = 0;
    for (;;) {
        l->run->line = l->line;
        if (l->at >= l->end)
            return;
        size_t end = l->n_brackets > 0 ? 0
                     : is_variable     ? tag_end(l, l->at, "}}", false, false)
                                       : tag_end(l, l->at, "%}", true, true);
        char c = l->text[l->at];
        if (end > 0) {
            add_token(l, is_variable ? T_VARIABLE_END : T_BLOCK_END);
            advance(l, end);
            return;
        }
        size_t space = space_at(l, l->at), name;
        if (space > 0)
            advance(l, l->at + space);
        else if (is_digit(c))
            read_number(l);
        else if ((name = name_end(l)) > l->at) {
            add_token(l, T_NAME)->value =
                jinja_value_string(jinja_string_intern(l->run, l->text + l->at, name - l->at));
            advance(l, name);
        } else if (c == '\'' || c == '"')
            read_string(l);
        else
            read_operator(l);
    }
}

/* Text, and the tag behind it. */
static void read_root(lexer_t *l)
{
    size_t at = l->at;
    while (at < l->end && !(l->text[at] == '{' && at + 1 < l->end && l->text[at + 1] != 0 &&
                              strchr("{%#", l->text[at + 1]) != NULL))
        at++;
    if (at == l->end) {
        add_data(l, l->at, at);
        advance(l, at);
        return;
    }
    char kind = l->text[at + 1], sign = 0, raw_sign;
    if (at + 2 < l->end && (l->text[at + 2] == '-' || l->text[at + 2] == '+'))
        sign = l->text[at + 2];
    add_data(l, l->at, text_end(l, l->at, at, sign, kind == '{'));
    advance(l, at + 2 + (sign != 0));
    size_t word = kind == '%' ? word_tag(l, at, "raw", &raw_sign) : 0;
    size_t raw = word > 0 ? tag_end(l, word, "%}", false, false) : 0;
    if (raw > 0) {
        read_raw(l, raw);
    } else if (kind == '#') {
        read_comment(l, l->at);
    } else {
        add_token(l, kind == '%' ? T_BLOCK_BEGIN : T_VARIABLE_BEGIN);
        read_tag(l, kind == '{');
    }
}

/* \r\n and \r are newlines; one at the very end is dropped. */
static const char *normal_lines(run_t *run, const char *text, size_t *bytes)
{
    buffer_t out = {0};
    for (size_t i = 0; i < *bytes; i++) {
        if (text[i] == '\r' && i + 1 < *bytes && text[i + 1] == '\n')
            continue;
        jinja_buffer_add(run, &out, text[i] == '\r' ? "\n" : &text[i], 1);
    }
    if (out.bytes > 0 && out.text[out.bytes - 1] == '\n')
        out.bytes--;
    *bytes = out.bytes;
    return out.text == NULL ? "" : out.text;
}

void jinja_lexer_run(run_t *run, const char *text, size_t bytes, tokens_t *tokens)
{
    lexer_t l = {.run = run, .line = 1, .line_start = true, .tokens = tokens, .end = bytes};
    l.text = normal_lines(run, text, &l.end);
    while (l.at < l.end)
        read_root(&l);
    add_token(&l, T_EOF);
}
