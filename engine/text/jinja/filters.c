/* Filters on single values, and the tests. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

typedef value_t filter_t(run_t *run, value_t value, const args_t *args);

static bool given(value_t value)
{
    return value.kind != MISSING && value.kind != NONE;
}

static value_t do_abs(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "abs", args, "", NULL);
    jinja_require_defined(run, value);
    if (!jinja_is_number(value))
        jinja_fail(run, "bad operand type for abs(): '%s'", jinja_type_name(value));
    if (value.kind == FLOAT)
        return jinja_value_float(fabs(value.number));
    return jinja_integer_of(value) < 0 ? jinja_negate(run, value)
                                       : jinja_value_int(jinja_integer_of(value));
}

static value_t do_attr(run_t *run, value_t value, const args_t *args)
{
    value_t name;
    jinja_args_bind(run, "attr", args, "name", &name);
    const string_t *attribute = jinja_want_string(run, name, "attr");
    value_t method;
    bool is_unsafe;
    if (value.kind != NAMESPACE && value.kind != LOOP && value.kind != UNDEFINED &&
        !jinja_method_find(run, value, attribute, &method, &is_unsafe))
        return jinja_value_undefined_name(run, value, name);
    return jinja_get_attribute(run, value, attribute);
}

static value_t do_capitalize(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "capitalize", args, "", NULL);
    return jinja_string_capitalize(run, jinja_str_of(run, value));
}

static value_t do_center(run_t *run, value_t value, const args_t *args)
{
    value_t width;
    jinja_args_bind(run, "center", args, "[width]", &width);
    return jinja_string_center(
        run, jinja_str_of(run, value), given(width) ? jinja_want_integer(run, width) : 80, NULL, 1);
}

static value_t do_default(run_t *run, value_t value, const args_t *args)
{
    value_t a[2];
    jinja_args_bind(run, "default", args, "[default_value boolean]", a);
    bool replaced = value.kind == UNDEFINED || (jinja_value_true(a[1]) && !jinja_value_true(value));
    if (!replaced)
        return value;
    return a[0].kind != MISSING ? a[0] : jinja_value_text(run, "");
}

static value_t do_escape(run_t *run, value_t value, const args_t *args)
{
    const string_t *text = jinja_str_of(run, value);
    buffer_t out = {0};
    jinja_args_bind(run, "escape", args, "", NULL);
    for (size_t i = 0; i < text->bytes; i++)
        switch (text->text[i]) {
        case '&':
            jinja_buffer_text(run, &out, "&amp;");
            break;
        case '<':
            jinja_buffer_text(run, &out, "&lt;");
            break;
        case '>':
            jinja_buffer_text(run, &out, "&gt;");
            break;
        case '\'':
            jinja_buffer_text(run, &out, "&#39;");
            break;
        case '"':
            jinja_buffer_text(run, &out, "&#34;");
            break;
        default:
            jinja_buffer_add(run, &out, &text->text[i], 1);
        }
    return jinja_buffer_value(run, &out);
}

/* float(text) where Python takes it: white space around, underscores between digits. */
static bool parse_float(run_t *run, const string_t *text, double *number)
{
    const string_t *trimmed = jinja_string_strip(run, text, NULL, true, true).string;
    const char *s = jinja_string_new(run, trimmed->text, trimmed->bytes)->text;
    char *end = NULL;
    if (*s == 0 || strlen(s) != trimmed->bytes || strpbrk(s, "xXpP(") != NULL)
        return false;
    *number = strtod(s, &end);
    return *end == 0;
}

static value_t do_float(run_t *run, value_t value, const args_t *args)
{
    value_t absent;
    double number;
    jinja_args_bind(run, "float", args, "[default]", &absent);
    if (jinja_is_number(value))
        return jinja_value_float(jinja_number_of(value));
    jinja_require_defined(run, value);
    if (value.kind == BIG)
        return jinja_value_float(strtod(value.string->text, NULL));
    if (value.kind == STRING && parse_float(run, value.string, &number))
        return jinja_value_float(number);
    return absent.kind != MISSING ? absent : jinja_value_float(0);
}

/* int(text, base); white space around and single underscores between digits. */
static bool parse_integer(run_t *run, const string_t *text, int64_t base, value_t *number)
{
    const string_t *s = jinja_string_strip(run, text, NULL, true, true).string;
    char digits[64];
    size_t n = 0;
    for (size_t i = 0; i < s->bytes; i++) {
        if (s->text[i] == '_' && i > 0 && i + 1 < s->bytes && s->text[i - 1] != '_')
            continue;
        if (n + 1 == sizeof digits || s->text[i] == '_' || s->text[i] == ' ' || s->text[i] == 0)
            return false;
        digits[n++] = s->text[i];
    }
    digits[n] = 0;
    char *end = NULL, *start = digits;
    bool sign = digits[0] == '-' || digits[0] == '+';
    if ((base == 2 || base == 8) && digits[sign] == '0' &&
        (digits[sign + 1] | 32) == (base == 2 ? 'b' : 'o')) {
        start = digits + 2;
        start[0] = sign ? digits[0] : '0';
    }
    long long parsed = strtoll(start, &end, (int)base);
    if (n == 0 || end == start || *end != 0)
        return false;
    if (parsed == INT64_MAX || parsed == INT64_MIN)
        jinja_fail(run, "an integer beyond 64 bits: %.60s", digits);
    *number = jinja_value_int(parsed);
    return true;
}

static value_t do_int(run_t *run, value_t value, const args_t *args)
{
    value_t a[2], number;
    double real = 0;
    jinja_args_bind(run, "int", args, "[default base]", a);
    int64_t base = given(a[1]) ? jinja_want_integer(run, a[1]) : 10;
    value_t absent = a[0].kind != MISSING ? a[0] : jinja_value_int(0);
    if (base != 0 && (base < 2 || base > 36))
        return absent;
    jinja_require_defined(run, value);
    if (value.kind == BIG)
        return value;
    if (jinja_is_integer(value))
        return jinja_value_int(jinja_integer_of(value));
    if (value.kind == STRING && parse_integer(run, value.string, base, &number))
        return number;
    if (value.kind == STRING && !parse_float(run, value.string, &real))
        return absent;
    if (value.kind == FLOAT)
        real = value.number;
    else if (value.kind != STRING)
        return absent;
    if (!isfinite(real))
        return absent;
    if (fabs(real) >= 9.2e18)
        jinja_fail(run, "an integer beyond 64 bits: %g", real);
    return jinja_value_int((int64_t)real);
}

static value_t do_filesizeformat(run_t *run, value_t value, const args_t *args)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
    value_t binary, number = do_float(run, value, &(args_t){0});
    buffer_t out = {0};
    jinja_args_bind(run, "filesizeformat", args, "[binary]", &binary);
    double bytes = number.number, base = jinja_value_true(binary) ? 1024 : 1000, unit = base * base;
    if (bytes == 1 || bytes < base) {
        jinja_buffer_format(run, &out, bytes == 1 ? "%.0f Byte" : "%.0f Bytes", trunc(bytes));
        return jinja_buffer_value(run, &out);
    }
    size_t i = 0;
    for (; i < 7 && bytes >= unit; i++)
        unit *= base;
    jinja_buffer_format(run, &out, "%.1f %c%s", base * bytes / unit,
        jinja_value_true(binary) && i == 0 ? 'K' : units[i][0],
        jinja_value_true(binary) ? "iB" : "B");
    return jinja_buffer_value(run, &out);
}

static value_t do_format(run_t *run, value_t value, const args_t *args)
{
    value_t values = jinja_value_sequence(run, TUPLE, 0);
    if (args->count > 0 && args->n_keywords > 0)
        jinja_fail(run, "can't handle positional and keyword arguments at the same time");
    for (size_t i = 0; i < args->count; i++)
        jinja_sequence_add(run, values, args->items[i]);
    if (args->n_keywords > 0)
        values = jinja_value_dict(run);
    for (size_t i = 0; i < args->n_keywords; i++)
        jinja_dict_set(
            run, values.dict, jinja_value_string(args->keywords[i].name), args->keywords[i].value);
    return jinja_string_format_percent(run, jinja_str_of(run, value), values);
}

static const string_t *indentation(run_t *run, value_t width)
{
    if (width.kind == STRING)
        return width.string;
    buffer_t spaces = {0};
    for (int64_t i = 0, n = given(width) ? jinja_want_integer(run, width) : 4; i < n; i++)
        jinja_buffer_text(run, &spaces, " ");
    return jinja_buffer_value(run, &spaces).string;
}

static value_t do_indent(run_t *run, value_t value, const args_t *args)
{
    value_t a[3];
    buffer_t ended = {0}, out = {0};
    jinja_args_bind(run, "indent", args, "[width first blank]", a);
    const string_t *indent = indentation(run, a[0]);
    jinja_buffer_string(run, &ended, jinja_want_string(run, value, "indent"));
    jinja_buffer_text(run, &ended, "\n"); /* so that an empty last line is one */
    const sequence_t *lines =
        jinja_string_lines(run, jinja_buffer_value(run, &ended).string, false).sequence;
    for (size_t i = 0; i < lines->count; i++) {
        const string_t *line = lines->items[i].string;
        if (i > 0)
            jinja_buffer_text(run, &out, "\n");
        if (i == 0 ? jinja_value_true(a[1]) : line->bytes > 0 || jinja_value_true(a[2]))
            jinja_buffer_string(run, &out, indent);
        jinja_buffer_string(run, &out, line);
    }
    return jinja_buffer_value(run, &out);
}

static value_t do_length(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "length", args, "", NULL);
    return jinja_value_int((int64_t)jinja_value_length(run, value));
}

static value_t do_lower(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "lower", args, "", NULL);
    return jinja_string_case(run, jinja_str_of(run, value), CASE_LOWER);
}

static value_t do_replace(run_t *run, value_t value, const args_t *args)
{
    value_t a[3];
    jinja_args_bind(run, "replace", args, "old new [count]", a);
    return jinja_string_replace(run, jinja_str_of(run, value), jinja_str_of(run, a[0]),
        jinja_str_of(run, a[1]), given(a[2]) ? jinja_want_integer(run, a[2]) : -1);
}

/* Python's round: exact decimal digits, halves to even. */
static double round_to(run_t *run, double number, int64_t digits)
{
    char text[512];
    if (!isfinite(number) || digits > 300)
        return number;
    if (digits >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)(digits < 100 ? digits : 100), number);
        return strtod(text, NULL);
    }
    jinja_run_step(run, 1);
    double unit = pow(10, (double)-digits);
    return isfinite(unit) ? nearbyint(number / unit) * unit : 0;
}

static value_t do_round(run_t *run, value_t value, const args_t *args)
{
    value_t a[2];
    jinja_args_bind(run, "round", args, "[precision method]", a);
    int64_t digits = given(a[0]) ? jinja_want_integer(run, a[0]) : 0;
    const char *method =
        given(a[1])
            ? jinja_string_new(run, jinja_want_string(run, a[1], "round")->text, a[1].string->bytes)
                  ->text
            : "common";
    bool common = strcmp(method, "common") == 0, up = strcmp(method, "ceil") == 0;
    if (!common && !up && strcmp(method, "floor") != 0)
        jinja_fail(run, "method must be common, ceil or floor");
    jinja_require_defined(run, value);
    if (!jinja_is_number(value))
        jinja_fail(run, "type %s doesn't define __round__ method", jinja_type_name(value));
    if (common && jinja_is_integer(value))
        return digits >= 0
                   ? jinja_value_int(jinja_integer_of(value))
                   : jinja_value_int((int64_t)round_to(run, jinja_number_of(value), digits));
    if (common)
        return jinja_value_float(round_to(run, value.number, digits));
    double unit = pow(10, (double)digits), scaled = jinja_number_of(value) * unit;
    return jinja_value_float((up ? ceil(scaled) : floor(scaled)) / unit);
}

static value_t do_string(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "string", args, "", NULL);
    return jinja_value_string(jinja_str_of(run, value));
}

/* Tags and comments go, entities are not touched, white space is one space. */
static value_t do_striptags(run_t *run, value_t value, const args_t *args)
{
    const string_t *text = jinja_str_of(run, value);
    buffer_t out = {0};
    jinja_args_bind(run, "striptags", args, "", NULL);
    bool gap = false;
    for (size_t at = 0, length; at < text->bytes; at += length) {
        uint32_t point = jinja_point_at(text->text + at, &length);
        if (point == '<') {
            bool comment = text->bytes - at >= 4 && memcmp(text->text + at, "<!--", 4) == 0;
            const char *end = comment ? memmem(text->text + at, text->bytes - at, "-->", 3)
                                      : memchr(text->text + at, '>', text->bytes - at);
            if (end != NULL) {
                length = (size_t)(end - (text->text + at)) + (comment ? 3 : 1);
                continue;
            }
        }
        if (jinja_point_space(point)) {
            gap = true;
            continue;
        }
        if (gap && out.bytes > 0)
            jinja_buffer_text(run, &out, " ");
        gap = false;
        jinja_buffer_add(run, &out, text->text + at, length);
    }
    return jinja_buffer_value(run, &out);
}

static value_t do_title(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "title", args, "", NULL);
    return jinja_string_title(run, jinja_str_of(run, value), true);
}

static value_t do_tojson(run_t *run, value_t value, const args_t *args)
{
    buffer_t out = {0};
    jinja_json_write(run, &out, args, value);
    return jinja_buffer_value(run, &out);
}

static value_t do_trim(run_t *run, value_t value, const args_t *args)
{
    value_t chars;
    jinja_args_bind(run, "trim", args, "[chars]", &chars);
    return jinja_string_strip(run, jinja_str_of(run, value),
        given(chars) ? jinja_want_string(run, chars, "trim") : NULL, true, true);
}

static value_t do_truncate(run_t *run, value_t value, const args_t *args)
{
    value_t a[4];
    buffer_t out = {0};
    jinja_args_bind(run, "truncate", args, "[length killwords end leeway]", a);
    int64_t length = given(a[0]) ? jinja_want_integer(run, a[0]) : 255;
    int64_t leeway = given(a[3]) ? jinja_want_integer(run, a[3]) : 5;
    const string_t *end = given(a[2]) ? jinja_want_string(run, a[2], "truncate")
                                      : jinja_value_text(run, "...").string;
    const string_t *text = jinja_want_string(run, value, "truncate");
    if (length < (int64_t)end->chars)
        jinja_fail(run, "expected length >= %zu, got %lld", end->chars, (long long)length);
    if (leeway < 0)
        jinja_fail(run, "expected leeway >= 0, got %lld", (long long)leeway);
    if ((int64_t)text->chars <= length || (int64_t)text->chars - length <= leeway)
        return value;
    const string_t *kept = jinja_string_slice(run, text, 0, (size_t)length - end->chars).string;
    size_t bytes = kept->bytes;
    if (!jinja_value_true(a[1]))
        for (size_t at = kept->bytes; at-- > 0;)
            if (kept->text[at] == ' ') {
                bytes = at;
                break;
            }
    jinja_buffer_add(run, &out, kept->text, bytes);
    jinja_buffer_string(run, &out, end);
    return jinja_buffer_value(run, &out);
}

static value_t do_upper(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "upper", args, "", NULL);
    return jinja_string_case(run, jinja_str_of(run, value), CASE_UPPER);
}

static void url_quote(run_t *run, buffer_t *out, const string_t *text, bool for_query)
{
    for (size_t i = 0; i < text->bytes; i++) {
        char c = text->text[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     (c != 0 && strchr("_.-~", c) != NULL) || (c == '/' && !for_query);
        if (plain)
            jinja_buffer_add(run, out, &c, 1);
        else if (c == ' ' && for_query)
            jinja_buffer_text(run, out, "+");
        else
            jinja_buffer_format(run, out, "%%%02X", (unsigned char)c);
    }
}

static value_t do_urlencode(run_t *run, value_t value, const args_t *args)
{
    buffer_t out = {0};
    jinja_args_bind(run, "urlencode", args, "", NULL);
    if (value.kind == STRING || !jinja_value_iterable(value)) {
        url_quote(run, &out, jinja_str_of(run, value), false);
        return jinja_buffer_value(run, &out);
    }
    for (size_t i = 0; value.kind == DICT && i < value.dict->count; i++) {
        jinja_buffer_text(run, &out, i > 0 ? "&" : "");
        url_quote(run, &out, jinja_str_of(run, value.dict->entries[i].key), true);
        jinja_buffer_text(run, &out, "=");
        url_quote(run, &out, jinja_str_of(run, value.dict->entries[i].value), true);
    }
    if (value.kind != DICT)
        jinja_fail(run, "urlencode: expected str or dict, found %s", jinja_type_name(value));
    return jinja_buffer_value(run, &out);
}

static value_t do_wordcount(run_t *run, value_t value, const args_t *args)
{
    const string_t *text = jinja_str_of(run, value);
    int64_t words = 0;
    jinja_run_step(run, text->bytes / 16);
    bool inside = false;
    jinja_args_bind(run, "wordcount", args, "", NULL);
    for (size_t at = 0, length; at < text->bytes; at += length) {
        uint32_t point = jinja_point_at(text->text + at, &length);
        bool word = point == '_' || jinja_point_alpha(point) || jinja_point_numeric(point);
        words += word && !inside;
        inside = word;
    }
    return jinja_value_int(words);
}

static const struct {
    const char *name;
    filter_t *filter;
} filters[] = {{"abs", do_abs}, {"attr", do_attr}, {"capitalize", do_capitalize},
    {"center", do_center}, {"count", do_length}, {"d", do_default}, {"default", do_default},
    {"e", do_escape}, {"escape", do_escape}, {"forceescape", do_escape},
    {"filesizeformat", do_filesizeformat}, {"float", do_float}, {"format", do_format},
    {"indent", do_indent}, {"int", do_int}, {"length", do_length}, {"lower", do_lower},
    {"replace", do_replace}, {"round", do_round}, {"safe", do_string}, {"string", do_string},
    {"striptags", do_striptags}, {"title", do_title}, {"tojson", do_tojson}, {"trim", do_trim},
    {"truncate", do_truncate}, {"upper", do_upper}, {"urlencode", do_urlencode},
    {"wordcount", do_wordcount}};

#define N_FILTERS (sizeof filters / sizeof filters[0])

bool jinja_filter_exists(const string_t *name)
{
    for (size_t i = 0; i < N_FILTERS; i++)
        if (jinja_string_is(name, filters[i].name))
            return true;
    return jinja_sequence_filter_exists(name);
}

value_t jinja_call_filter(run_t *run, const string_t *name, value_t value, const args_t *args)
{
    value_t result;
    jinja_run_enter(run);
    size_t i = 0;
    while (i < N_FILTERS && !jinja_string_is(name, filters[i].name))
        i++;
    if (i < N_FILTERS)
        result = filters[i].filter(run, value, args);
    else if (!jinja_sequence_filter(run, name, value, args, &result))
        jinja_fail(run, "No filter named '%.*s'.", (int)name->bytes, name->text);
    run_leave(run);
    return result;
}
