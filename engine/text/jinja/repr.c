/* Values as text: Python's str and repr, and json.dumps. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

/* The shortest digits that read back as the number; an exponent below 1e-4 and from 1e16 on. */
void jinja_float_repr(double number, char text[40])
{
    char digits[40];
    if (isnan(number) || isinf(number)) {
        strcpy(text, isnan(number) ? "nan" : number < 0 ? "-inf" : "inf");
        return;
    }
    int precision = 1;
    do
        snprintf(digits, sizeof digits, "%.*e", precision - 1, number);
    while (strtod(digits, NULL) != number && precision++ < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int decimals = precision - 1 - exponent;
        snprintf(text, 40, "%.*f", decimals > 0 ? decimals : 0, number);
        if (decimals <= 0)
            strcat(text, ".0");
    } else {
        *strchr(digits, 'e') = 0;
        snprintf(text, 40, "%.24se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent) % 1000);
    }
}

static void string_repr(run_t *run, buffer_t *out, const string_t *string)
{
    bool single = string->bytes > 0 && memchr(string->text, '\'', string->bytes) != NULL;
    bool twice = string->bytes > 0 && memchr(string->text, '"', string->bytes) != NULL;
    char quote = single && !twice ? '"' : '\'';
    jinja_buffer_add(run, out, &quote, 1);
    for (size_t at = 0, length; at < string->bytes; at += length) {
        uint32_t point = jinja_point_at(string->text + at, &length);
        if (point == (unsigned char)quote || point == '\\')
            jinja_buffer_format(run, out, "\\%c", (int)point);
        else if (point == '\n' || point == '\r' || point == '\t')
            jinja_buffer_text(run, out, point == '\n' ? "\\n" : point == '\r' ? "\\r" : "\\t");
        else if (jinja_point_printable(point))
            jinja_buffer_add(run, out, string->text + at, length);
        else
            jinja_buffer_format(run, out,
                point < 0x100     ? "\\x%02x"
                : point < 0x10000 ? "\\u%04x"
                                  : "\\U%08x",
                point);
    }
    jinja_buffer_add(run, out, &quote, 1);
}

static void items_repr(run_t *run, buffer_t *out, const sequence_t *sequence)
{
    for (size_t i = 0; i < sequence->count; i++) {
        if (i > 0)
            jinja_buffer_text(run, out, ", ");
        jinja_value_repr(run, out, sequence->items[i]);
    }
}

static void sequence_repr(run_t *run, buffer_t *out, const sequence_t *sequence)
{
    switch (sequence->kind) {
    case LIST:
        jinja_buffer_text(run, out, "[");
        items_repr(run, out, sequence);
        jinja_buffer_text(run, out, "]");
        break;
    case TUPLE:
        jinja_buffer_text(run, out, "(");
        items_repr(run, out, sequence);
        jinja_buffer_text(run, out, sequence->count == 1 ? ",)" : ")");
        break;
    case RANGE:
        jinja_buffer_format(
            run, out, "range(%" PRId64 ", %" PRId64, sequence->start, sequence->stop);
        if (sequence->step != 1)
            jinja_buffer_format(run, out, ", %" PRId64, sequence->step);
        jinja_buffer_text(run, out, ")");
        break;
    case ITERATOR:
        jinja_buffer_format(run, out, "<%s object>", sequence->type);
        break;
    default:
        jinja_buffer_format(run, out, "%s([", sequence->type);
        items_repr(run, out, sequence);
        jinja_buffer_text(run, out, "])");
    }
}

static void dict_repr(run_t *run, buffer_t *out, const dict_t *dict)
{
    jinja_buffer_text(run, out, "{");
    for (size_t i = 0; i < dict->count; i++) {
        if (i > 0)
            jinja_buffer_text(run, out, ", ");
        jinja_value_repr(run, out, dict->entries[i].key);
        jinja_buffer_text(run, out, ": ");
        jinja_value_repr(run, out, dict->entries[i].value);
    }
    jinja_buffer_text(run, out, "}");
}

static void plain_repr(run_t *run, buffer_t *out, value_t value)
{
    char text[40];
    switch (value.kind) {
    case NONE:
        jinja_buffer_text(run, out, "None");
        break;
    case BOOL:
        jinja_buffer_text(run, out, value.boolean ? "True" : "False");
        break;
    case INT:
        jinja_buffer_format(run, out, "%" PRId64, value.integer);
        break;
    case BIG:
        jinja_buffer_string(run, out, value.string);
        break;
    case FLOAT:
        jinja_float_repr(value.number, text);
        jinja_buffer_text(run, out, text);
        break;
    case UNDEFINED:
        jinja_buffer_text(run, out, "Undefined");
        break;
    case MACRO:
        if (value.macro->node->name == NULL)
            jinja_buffer_text(run, out, "<Macro anonymous>");
        else
            jinja_buffer_format(run, out, "<Macro '%.200s'>", value.macro->node->name->text);
        break;
    case LOOP:
        jinja_buffer_format(run, out, "<LoopContext %" PRId64 "/%" PRId64 ">",
            value.loop->index0 + 1, jinja_loop_length(value.loop));
        break;
    default:
        jinja_buffer_format(run, out, "<%s object>", jinja_type_name(value));
    }
}

void jinja_value_repr(run_t *run, buffer_t *out, value_t value)
{
    jinja_run_enter(run);
    switch (value.kind) {
    case STRING:
        string_repr(run, out, value.string);
        break;
    case SEQUENCE:
        sequence_repr(run, out, value.sequence);
        break;
    case DICT:
        dict_repr(run, out, value.dict);
        break;
    case NAMESPACE:
        jinja_buffer_text(run, out, "<TemplateNamespace ");
        dict_repr(run, out, value.dict);
        jinja_buffer_text(run, out, ">");
        break;
    default:
        plain_repr(run, out, value);
    }
    run_leave(run);
}

void jinja_value_str(run_t *run, buffer_t *out, value_t value)
{
    if (value.kind == STRING)
        jinja_buffer_string(run, out, value.string);
    else if (value.kind != UNDEFINED)
        jinja_value_repr(run, out, value);
}

const string_t *jinja_str_of(run_t *run, value_t value)
{
    if (value.kind == STRING)
        return value.string;
    buffer_t out = {0};
    jinja_value_str(run, &out, value);
    return jinja_buffer_value(run, &out).string;
}

/* ---- json.dumps ------------------------------------------------------------------------------ */

typedef struct json_style {
    const string_t *item, *key; /* separators */
    const string_t *indent;     /* of one level, or NULL: all in one line */
    bool ascii, sort;
    size_t level;
} json_style_t;

static void dump_item(run_t *run, buffer_t *out, json_style_t *style, value_t value);

static void dump_escape(run_t *run, buffer_t *out, uint32_t point)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *plain = point < 0x80 && point != 0 ? strchr(from, (int)point) : NULL;
    if (plain != NULL)
        jinja_buffer_format(run, out, "\\%c", to[plain - from]);
    else if (point < 0x10000)
        jinja_buffer_format(run, out, "\\u%04x", point);
    else
        jinja_buffer_format(run, out, "\\u%04x\\u%04x", 0xD800 + ((point - 0x10000) >> 10),
            0xDC00 + ((point - 0x10000) & 0x3FF));
}

static void dump_string(run_t *run, buffer_t *out, const string_t *string, bool ascii)
{
    size_t plain = 0, length;
    jinja_buffer_text(run, out, "\"");
    for (size_t at = 0; at < string->bytes; at += length) {
        uint32_t point = jinja_point_at(string->text + at, &length);
        if (point >= 0x20 && point != '"' && point != '\\' && !(ascii && point > 0x7E))
            continue;
        jinja_buffer_add(run, out, string->text + plain, at - plain);
        dump_escape(run, out, point);
        plain = at + length;
    }
    jinja_buffer_add(run, out, string->text + plain, string->bytes - plain);
    jinja_buffer_text(run, out, "\"");
}

static void dump_line(run_t *run, buffer_t *out, const json_style_t *style)
{
    if (style->indent == NULL)
        return;
    jinja_buffer_text(run, out, "\n");
    for (size_t i = 0; i < style->level; i++)
        jinja_buffer_string(run, out, style->indent);
}

static void dump_array(run_t *run, buffer_t *out, json_style_t *style, const sequence_t *list)
{
    jinja_buffer_text(run, out, "[");
    style->level++;
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0)
            jinja_buffer_string(run, out, style->item);
        dump_line(run, out, style);
        dump_item(run, out, style, list->items[i]);
    }
    style->level--;
    if (list->count > 0)
        dump_line(run, out, style);
    jinja_buffer_text(run, out, "]");
}

static const string_t *dump_key(run_t *run, value_t key)
{
    buffer_t out = {0};
    if (key.kind == STRING)
        return key.string;
    if (key.kind != NONE && key.kind != BIG && !jinja_is_number(key))
        jinja_fail(run, "keys must be str, int, float, bool or None, not %s", jinja_type_name(key));
    json_style_t style = {0};
    dump_item(run, &out, &style, key);
    return jinja_buffer_value(run, &out).string;
}

/* Stable, by the keys themselves. */
static entry_t *dump_entries(run_t *run, const json_style_t *style, const dict_t *dict)
{
    if (!style->sort || dict->count < 2)
        return dict->entries;
    entry_t *sorted = jinja_arena_alloc(run, dict->count * sizeof *sorted);
    for (size_t i = 0; i < dict->count; i++) {
        size_t at = i;
        for (;
             at > 0 && jinja_value_compare(run, dict->entries[i].key, sorted[at - 1].key, "<") < 0;
             at--) {
            sorted[at] = sorted[at - 1];
            jinja_run_step(run, 1);
        }
        sorted[at] = dict->entries[i];
    }
    return sorted;
}

static void dump_object(run_t *run, buffer_t *out, json_style_t *style, const dict_t *dict)
{
    const entry_t *entries = dump_entries(run, style, dict);
    jinja_buffer_text(run, out, "{");
    style->level++;
    for (size_t i = 0; i < dict->count; i++) {
        if (i > 0)
            jinja_buffer_string(run, out, style->item);
        dump_line(run, out, style);
        dump_string(run, out, dump_key(run, entries[i].key), style->ascii);
        jinja_buffer_string(run, out, style->key);
        dump_item(run, out, style, entries[i].value);
    }
    style->level--;
    if (dict->count > 0)
        dump_line(run, out, style);
    jinja_buffer_text(run, out, "}");
}

static void dump_item(run_t *run, buffer_t *out, json_style_t *style, value_t value)
{
    jinja_run_enter(run);
    if (value.kind == STRING)
        dump_string(run, out, value.string, style->ascii);
    else if (value.kind == NONE)
        jinja_buffer_text(run, out, "null");
    else if (value.kind == BOOL)
        jinja_buffer_text(run, out, value.boolean ? "true" : "false");
    else if (value.kind == FLOAT && !isfinite(value.number))
        jinja_buffer_text(run, out,
            isnan(value.number) ? "NaN"
            : value.number < 0  ? "-Infinity"
                                : "Infinity");
    else if (value.kind == BIG || jinja_is_number(value))
        jinja_value_repr(run, out, value);
    else if (value.kind == SEQUENCE && value.sequence->kind <= TUPLE)
        dump_array(run, out, style, value.sequence);
    else if (value.kind == DICT)
        dump_object(run, out, style, value.dict);
    else
        jinja_fail(run, "Object of type %s is not JSON serializable", jinja_type_name(value));
    run_leave(run);
}

static const string_t *dump_indent(run_t *run, value_t indent)
{
    if (indent.kind == MISSING || indent.kind == NONE)
        return NULL;
    if (indent.kind == STRING)
        return indent.string;
    buffer_t spaces = {0};
    int64_t n = jinja_want_integer(run, indent);
    for (int64_t i = 0; i < n; i++)
        jinja_buffer_text(run, &spaces, " ");
    return jinja_buffer_value(run, &spaces).string;
}

void jinja_json_write(run_t *run, buffer_t *out, const args_t *args, value_t value)
{
    value_t given[4];
    jinja_args_bind(run, "tojson", args, "[ensure_ascii indent separators sort_keys]", given);
    json_style_t style = {.ascii = jinja_value_true(given[0]), .sort = jinja_value_true(given[3])};
    style.indent = dump_indent(run, given[1]);
    style.item = jinja_value_text(run, style.indent != NULL ? "," : ", ").string;
    style.key = jinja_value_text(run, ": ").string;
    if (given[2].kind != MISSING && given[2].kind != NONE) {
        const sequence_t *pair = jinja_value_items(run, given[2]);
        if (pair->count != 2)
            jinja_fail(run, "tojson: separators: expected two strings");
        style.item = jinja_want_string(run, pair->items[0], "tojson: separators");
        style.key = jinja_want_string(run, pair->items[1], "tojson: separators");
    }
    dump_item(run, out, &style, value);
}
