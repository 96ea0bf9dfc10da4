/* str % values and str.format. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

#define PRECISION_MAX 400
#define WIDTH_MAX 1000000

/* One conversion of either kind. */
typedef struct spec {
    bool minus, plus, space, zero, alternate, comma;
    char align; /* 0, <, >, ^, = */
    const string_t *fill;
    int64_t width, precision; /* precision -1: not given */
    char type;
} spec_t;

/* Text into its field: sign and prefix first, then padding where zeros go. */
static void pad(run_t *run, buffer_t *out, const spec_t *spec, const char *sign,
    const string_t *body, char align)
{
    int64_t length = (int64_t)strlen(sign) + (int64_t)body->chars;
    int64_t room = spec->width > length ? spec->width - length : 0;
    int64_t left = align == '>' ? room : align == '^' ? room / 2 : 0;
    int64_t inner = align == '=' ? room : 0;
    const char *fill = spec->fill != NULL ? spec->fill->text : spec->zero ? "0" : " ";
    size_t fill_bytes = spec->fill != NULL ? spec->fill->bytes : 1;
    if (room > WIDTH_MAX)
        jinja_fail(run, "a field of %" PRId64 " characters is too wide", spec->width);
    for (int64_t i = 0; i < left; i++)
        jinja_buffer_add(run, out, fill, fill_bytes);
    jinja_buffer_text(run, out, sign);
    for (int64_t i = 0; i < inner; i++)
        jinja_buffer_add(run, out, fill, fill_bytes);
    jinja_buffer_string(run, out, body);
    for (int64_t i = left + inner; i < room; i++)
        jinja_buffer_add(run, out, fill, fill_bytes);
}

static const char *sign_of(const spec_t *spec, bool negative)
{
    return negative ? "-" : spec->plus ? "+" : spec->space ? " " : "";
}

/* Commas between groups of three digits before the point. */
static const string_t *grouped(run_t *run, const char *digits)
{
    size_t whole = strspn(digits, "0123456789");
    buffer_t out = {0};
    for (size_t i = 0; i < whole; i++) {
        if (i > 0 && (whole - i) % 3 == 0)
            jinja_buffer_text(run, &out, ",");
        jinja_buffer_add(run, &out, &digits[i], 1);
    }
    jinja_buffer_text(run, &out, digits + whole);
    return jinja_buffer_value(run, &out).string;
}

static void add_integer(run_t *run, buffer_t *out, const spec_t *spec, int64_t number)
{
    char digits[80], prefix[4];
    uint64_t magnitude = number < 0 ? -(uint64_t)number : (uint64_t)number;
    int minimum = spec->precision > 0 && spec->precision < 70 ? (int)spec->precision : 1;
    size_t n = 0;
    if (spec->type == 'b') {
        for (int bit = 63; bit >= 0; bit--)
            if (magnitude >> bit & 1 || n > 0 || bit == 0)
                digits[n++] = (char)('0' + (magnitude >> bit & 1));
        digits[n] = 0;
    } else {
        const char *format = spec->type == 'x'   ? "%.*" PRIx64
                             : spec->type == 'X' ? "%.*" PRIX64
                             : spec->type == 'o' ? "%.*" PRIo64
                                                 : "%.*" PRIu64;
        snprintf(digits, sizeof digits, format, minimum, magnitude);
    }
    snprintf(prefix, sizeof prefix, "%s", sign_of(spec, number < 0));
    if (spec->alternate && strchr("xXob", spec->type) != NULL) {
        size_t at = strlen(prefix);
        prefix[at] = '0';
        prefix[at + 1] = spec->type;
        prefix[at + 2] = 0;
    }
    const string_t *body =
        spec->comma ? grouped(run, digits) : jinja_string_new(run, digits, strlen(digits));
    pad(run, out, spec, prefix, body, spec->align != 0 ? spec->align : spec->zero ? '=' : '>');
}

static void add_float(run_t *run, buffer_t *out, const spec_t *spec, double number)
{
    char text[800], format[16];
    int precision = spec->precision < 0 ? 6 : (int)spec->precision;
    if (precision > PRECISION_MAX)
        jinja_fail(run, "a precision of more than %d digits", PRECISION_MAX);
    bool negative = signbit(number) && !isnan(number);
    double magnitude = negative ? -number : number;
    if (spec->type == 0) {
        jinja_float_repr(magnitude, text);
    } else if (!isfinite(number)) {
        snprintf(text, sizeof text, "%s", isnan(number) ? "nan" : "inf");
    } else {
        bool percent = spec->type == '%';
        snprintf(format, sizeof format, "%%%s.*%c", spec->alternate ? "#" : "",
            percent ? 'f' : spec->type);
        snprintf(text, sizeof text - 2, format, precision, percent ? magnitude * 100 : magnitude);
        if (percent)
            strcat(text, "%");
    }
    const string_t *body =
        spec->comma ? grouped(run, text) : jinja_string_new(run, text, strlen(text));
    pad(run, out, spec, sign_of(spec, negative), body,
        spec->align != 0 ? spec->align
        : spec->zero     ? '='
                         : '>');
}

static void add_string(
    run_t *run, buffer_t *out, const spec_t *spec, const string_t *string, char align)
{
    if (spec->precision >= 0 && spec->precision < (int64_t)string->chars)
        string = jinja_string_slice(run, string, 0, (size_t)spec->precision).string;
    pad(run, out, spec, "", string, spec->align != 0 ? spec->align : align);
}

/* ---- str % values ---------------------------------------------------------------------------- */

typedef struct percent {
    run_t *run;
    const char *at, *end;
    value_t values;
    bool is_tuple;
    size_t next;
    bool mapped; /* a value was taken by name */
} percent_t;

static value_t next_value(percent_t *p)
{
    size_t count = p->is_tuple ? p->values.sequence->count : 1;
    if (p->next >= count)
        jinja_fail(p->run, "not enough arguments for format string");
    p->next++;
    return p->is_tuple ? p->values.sequence->items[p->next - 1] : p->values;
}

static value_t named_value(percent_t *p)
{
    const char *begin = p->at;
    int depth = 1;
    while (p->at < p->end && depth > 0) {
        depth += *p->at == '(' ? 1 : *p->at == ')' ? -1 : 0;
        p->at++;
    }
    if (depth > 0)
        jinja_fail(p->run, "incomplete format key");
    if (p->values.kind != DICT)
        jinja_fail(p->run, "format requires a mapping");
    value_t key = jinja_value_bytes(p->run, begin, (size_t)(p->at - 1 - begin));
    value_t *found = jinja_dict_find(p->run, p->values.dict, key);
    p->mapped = true;
    if (found == NULL) {
        buffer_t message = {0};
        jinja_value_repr(p->run, &message, key);
        jinja_fail_string(p->run, jinja_buffer_value(p->run, &message).string);
    }
    return *found;
}

static int64_t percent_number(percent_t *p, int64_t absent)
{
    int64_t number = 0;
    if (p->at < p->end && *p->at == '*') {
        p->at++;
        return jinja_want_integer(p->run, next_value(p));
    }
    if (p->at == p->end || *p->at < '0' || *p->at > '9')
        return absent;
    for (; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++)
        if ((number = number * 10 + (*p->at - '0')) > WIDTH_MAX)
            jinja_fail(p->run, "width or precision too big");
    return number;
}

static void percent_flags(percent_t *p, spec_t *spec)
{
    for (; p->at < p->end; p->at++)
        switch (*p->at) {
        case '-':
            spec->minus = true;
            break;
        case '+':
            spec->plus = true;
            break;
        case ' ':
            spec->space = true;
            break;
        case '0':
            spec->zero = true;
            break;
        case '#':
            spec->alternate = true;
            break;
        default:
            return;
        }
}

static void percent_integer(percent_t *p, buffer_t *out, spec_t *spec, value_t value)
{
    bool decimal = spec->type == 'd' || spec->type == 'i' || spec->type == 'u';
    if (value.kind == BIG && decimal) {
        pad(p->run, out, spec, "", value.string, spec->align != 0 ? spec->align : '>');
        return;
    }
    if (value.kind == FLOAT && decimal && fabs(value.number) < 9e18)
        value = jinja_value_int((int64_t)value.number);
    jinja_require_defined(p->run, value);
    if (!jinja_is_integer(value))
        jinja_fail(p->run, "%%%c format: %s is required, not %s", spec->type,
            decimal ? "a real number" : "an integer", jinja_type_name(value));
    if (decimal)
        spec->type = 'd';
    add_integer(p->run, out, spec, jinja_integer_of(value));
}

static void percent_char(percent_t *p, buffer_t *out, const spec_t *spec, value_t value)
{
    buffer_t one = {0};
    if (value.kind == STRING && value.string->chars == 1)
        jinja_buffer_string(p->run, &one, value.string);
    else if (jinja_is_integer(value) && jinja_integer_of(value) >= 0 &&
             jinja_integer_of(value) < 0x110000)
        jinja_buffer_point(p->run, &one, (uint32_t)jinja_integer_of(value));
    else
        jinja_fail(p->run, "%%c requires int or char");
    add_string(p->run, out, spec, jinja_buffer_value(p->run, &one).string, '>');
}

static void percent_value(percent_t *p, buffer_t *out, spec_t *spec, value_t value)
{
    buffer_t repr = {0};
    spec->align = spec->minus ? '<' : 0;
    if (spec->minus)
        spec->zero = false;
    if (spec->type == 's') {
        spec->zero = false;
        add_string(p->run, out, spec, jinja_str_of(p->run, value), '>');
    } else if (spec->type == 'r' || spec->type == 'a') {
        spec->zero = false;
        jinja_value_repr(p->run, &repr, value);
        add_string(p->run, out, spec, jinja_buffer_value(p->run, &repr).string, '>');
    } else if (spec->type == 'c') {
        percent_char(p, out, spec, value);
    } else if (spec->type != 0 && strchr("diuxXo", spec->type) != NULL) {
        percent_integer(p, out, spec, value);
    } else if (spec->type != 0 && strchr("eEfFgG", spec->type) != NULL) {
        jinja_require_defined(p->run, value);
        if (!jinja_is_number(value))
            jinja_fail(p->run, "must be real number, not %s", jinja_type_name(value));
        add_float(p->run, out, spec, jinja_number_of(value));
    } else {
        jinja_fail(p->run, "unsupported format character '%c' (0x%x)", spec->type, spec->type);
    }
}

static void percent_conversion(percent_t *p, buffer_t *out)
{
    spec_t spec = {.precision = -1};
    value_t value = {0};
    if (p->at < p->end && *p->at == '(') {
        p->at++;
        value = named_value(p);
    }
    percent_flags(p, &spec);
    spec.width = percent_number(p, 0);
    if (spec.width < 0) {
        spec.minus = true;
        spec.width = spec.width < -WIDTH_MAX ? WIDTH_MAX + 1 : -spec.width;
    }
    if (p->at < p->end && *p->at == '.') {
        p->at++;
        spec.precision = percent_number(p, 0);
        spec.precision = spec.precision < 0 ? 0 : spec.precision;
    }
    while (p->at < p->end && (*p->at == 'l' || *p->at == 'h' || *p->at == 'L'))
        p->at++;
    if (p->at == p->end)
        jinja_fail(p->run, "incomplete format");
    spec.type = *p->at++;
    if (spec.type == '%') {
        jinja_buffer_text(p->run, out, "%");
        return;
    }
    percent_value(p, out, &spec, value.kind != MISSING ? value : next_value(p));
}

value_t jinja_string_format_percent(run_t *run, const string_t *format, value_t args)
{
    percent_t p = {
        .run = run, .at = format->text, .end = format->text + format->bytes, .values = args};
    buffer_t out = {0};
    p.is_tuple = args.kind == SEQUENCE && args.sequence->kind == TUPLE;
    while (p.at < p.end) {
        const char *plain = p.at;
        while (p.at < p.end && *p.at != '%')
            p.at++;
        jinja_buffer_add(run, &out, plain, (size_t)(p.at - plain));
        if (p.at == p.end)
            break;
        p.at++;
        percent_conversion(&p, &out);
    }
    bool spare = p.is_tuple
                     ? p.next < args.sequence->count
                     : p.next == 0 && !p.mapped && args.kind != DICT && args.kind != SEQUENCE;
    if (spare)
        jinja_fail(run, "not all arguments converted during string formatting");
    return jinja_buffer_value(run, &out);
}

/* ---- str.format ------------------------------------------------------------------------------ */

typedef struct field {
    run_t *run;
    const args_t *args;
    size_t next; /* the number of the next {} */
    bool automatic, manual;
} field_t;

static int64_t spec_number(const char **at, const char *end)
{
    int64_t number = 0;
    for (; *at < end && **at >= '0' && **at <= '9'; ++*at)
        number = number <= WIDTH_MAX ? number * 10 + (**at - '0') : number;
    return number;
}

static bool is_align(char c)
{
    return c == '<' || c == '>' || c == '^' || c == '=';
}

static spec_t read_spec(run_t *run, const string_t *text)
{
    spec_t spec = {.precision = -1};
    const char *at = text->text, *end = at + text->bytes;
    size_t length = 0;
    if (at < end)
        jinja_point_at(at, &length);
    if ((size_t)(end - at) > length && is_align(at[length])) {
        spec.fill = jinja_string_new(run, at, length);
        spec.align = at[length];
        at += length + 1;
    } else if (at < end && is_align(*at)) {
        spec.align = *at++;
    }
    for (; at < end && strchr("+- #", *at) != NULL && *at != 0; at++) {
        spec.plus |= *at == '+';
        spec.space |= *at == ' ';
        spec.alternate |= *at == '#';
    }
    if (at < end && *at == '0') {
        spec.zero = spec.fill == NULL;
        at++;
    }
    spec.width = spec_number(&at, end);
    if (at < end && *at == ',') {
        spec.comma = true;
        at++;
    }
    if (at < end && *at == '.') {
        at++;
        spec.precision = spec_number(&at, end);
    }
    if (at < end)
        spec.type = *at++;
    if (at < end)
        jinja_fail(run, "Invalid format specifier");
    return spec;
}

static void format_value(run_t *run, buffer_t *out, const string_t *text, value_t value)
{
    if (text->bytes == 0) {
        jinja_value_str(run, out, value);
        return;
    }
    spec_t spec = read_spec(run, text);
    bool as_float = spec.type != 0 && strchr("eEfFgG%", spec.type) != NULL;
    if (value.kind == STRING && (spec.type == 0 || spec.type == 's')) {
        spec.zero = false;
        add_string(run, out, &spec, value.string, '<');
    } else if (jinja_is_number(value) && (as_float || (value.kind == FLOAT && spec.type == 0))) {
        if (spec.type == 0 && spec.precision >= 0)
            spec.type = 'g';
        add_float(run, out, &spec, jinja_number_of(value));
    } else if (jinja_is_integer(value) && (spec.type == 0 || strchr("dxXobn", spec.type) != NULL)) {
        spec.type = spec.type == 0 || spec.type == 'n' ? 'd' : spec.type;
        add_integer(run, out, &spec, jinja_integer_of(value));
    } else if (jinja_is_number(value) || value.kind == STRING) {
        jinja_fail(run, "Unknown format code '%c' for object of type '%s'", spec.type,
            jinja_type_name(value));
    } else {
        jinja_fail(
            run, "unsupported format string passed to %s.__format__", jinja_type_name(value));
    }
}

static value_t format_keyword(field_t *f, const char *name, size_t bytes)
{
    for (size_t i = 0; i < f->args->n_keywords; i++)
        if (f->args->keywords[i].name->bytes == bytes &&
            memcmp(f->args->keywords[i].name->text, name, bytes) == 0)
            return f->args->keywords[i].value;
    jinja_fail(f->run, "'%.*s'", (int)bytes, name);
}

static value_t format_first(field_t *f, const char *name, size_t bytes)
{
    int64_t index = 0;
    const char *at = name;
    bool numbered = bytes > 0 && (index = spec_number(&at, name + bytes), at == name + bytes);
    if (bytes > 0 && !numbered)
        return format_keyword(f, name, bytes);
    f->automatic |= bytes == 0;
    f->manual |= bytes > 0;
    if (f->automatic && f->manual)
        jinja_fail(f->run,
            f->next > 0
                ? "cannot switch from automatic field numbering to manual field specification"
                : "cannot switch from manual field specification to automatic field numbering");
    if (bytes == 0)
        index = (int64_t)f->next++;
    if (index >= (int64_t)f->args->count)
        jinja_fail(
            f->run, "Replacement index %" PRId64 " out of range for positional args tuple", index);
    return f->args->items[index];
}

/* name, name.attribute, name[item] */
static value_t format_field(field_t *f, const char *name, size_t bytes)
{
    const char *at = name, *end = name + bytes;
    while (at < end && *at != '.' && *at != '[')
        at++;
    value_t value = format_first(f, name, (size_t)(at - name));
    while (at < end) {
        bool item = *at++ == '[';
        const char *begin = at, *number = at;
        while (at < end && (item ? *at != ']' : *at != '.' && *at != '['))
            at++;
        size_t n = (size_t)(at - begin);
        if (n == 0 || (item && at == end))
            jinja_fail(f->run, "Empty attribute in format string");
        int64_t index = spec_number(&number, at);
        value = item && number == at ? jinja_get_item(f->run, value, jinja_value_int(index))
                : item ? jinja_get_item(f->run, value, jinja_value_bytes(f->run, begin, n))
                       : jinja_get_attribute(f->run, value, jinja_string_new(f->run, begin, n));
        at += item;
    }
    return value;
}

static void format_text(field_t *f, buffer_t *out, const string_t *format, int depth);

/* The inside of { }: name, !conversion, :spec, where the spec may hold fields again. */
static void format_replacement(
    field_t *f, buffer_t *out, const char *begin, const char *end, int depth)
{
    run_t *run = f->run;
    const char *name_end = begin;
    while (name_end < end && *name_end != '!' && *name_end != ':') {
        const char *bracket =
            *name_end == '[' ? memchr(name_end, ']', (size_t)(end - name_end)) : NULL;
        name_end = bracket != NULL ? bracket : name_end + 1;
    }
    value_t value = format_field(f, begin, (size_t)(name_end - begin));
    const char *at = name_end;
    if (at < end && *at == '!') {
        buffer_t text = {0};
        char conversion = at + 1 < end ? at[1] : 0;
        if (conversion != 'r' && conversion != 's' && conversion != 'a')
            jinja_fail(run, "Unknown conversion specifier");
        if (conversion == 's')
            jinja_value_str(run, &text, value);
        else
            jinja_value_repr(run, &text, value);
        value = jinja_buffer_value(run, &text);
        at += 2;
    }
    buffer_t spec = {0};
    if (at < end && *at == ':')
        format_text(f, &spec, jinja_string_new(run, at + 1, (size_t)(end - at - 1)), depth + 1);
    format_value(run, out, jinja_buffer_value(run, &spec).string, value);
}

static void format_text(field_t *f, buffer_t *out, const string_t *format, int depth)
{
    const char *at = format->text, *end = at + format->bytes;
    if (depth > 2)
        jinja_fail(f->run, "Max string recursion exceeded");
    while (at < end) {
        if (*at != '{' && *at != '}') {
            jinja_buffer_add(f->run, out, at++, 1);
            continue;
        }
        if (at + 1 < end && at[1] == *at && depth == 0) {
            jinja_buffer_add(f->run, out, at, 1);
            at += 2;
            continue;
        }
        if (*at == '}')
            jinja_fail(f->run, "Single '}' encountered in format string");
        const char *begin = ++at;
        int open = 1;
        for (; at < end && open > 0; at++)
            open += *at == '{' ? 1 : *at == '}' ? -1 : 0;
        if (open > 0)
            jinja_fail(f->run, begin == end ? "Single '{' encountered in format string"
                                            : "expected '}' before end of string");
        format_replacement(f, out, begin, at - 1, depth);
    }
}

value_t jinja_string_format(run_t *run, const string_t *format, const args_t *args)
{
    field_t f = {.run = run, .args = args};
    buffer_t out = {0};
    format_text(&f, &out, format, 0);
    return jinja_buffer_value(run, &out);
}
