/* JSON into values: from jansson's tree, or from text as Python's json.loads reads it. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

typedef struct reader {
    run_t *run;
    const char *at, *begin, *end;
    int depth;
} reader_t;

_Noreturn static void malformed(const reader_t *r, const char *expected)
{
    jinja_fail(r->run, "malformed JSON at byte %zu: expected %s", (size_t)(r->at - r->begin) + 1,
        expected);
}

static void skip_space(reader_t *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
        r->at++;
}

static bool take(reader_t *r, const char *text)
{
    size_t n = strlen(text);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, text, n) != 0)
        return false;
    r->at += n;
    return true;
}

static uint32_t hex4(reader_t *r)
{
    uint32_t point = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        char c = r->at < r->end ? *r->at : 'x';
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            malformed(r, "four hexadecimal digits");
        point = point << 4 | (uint32_t)digit;
    }
    return point;
}

static void read_escape(reader_t *r, buffer_t *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *plain = r->at < r->end && *r->at != 0 ? strchr(from, *r->at) : NULL;
    if (plain != NULL) {
        jinja_buffer_add(r->run, out, &to[plain - from], 1);
        r->at++;
        return;
    }
    if (!take(r, "u"))
        malformed(r, "an escape");
    uint32_t point = hex4(r);
    if (point >= 0xD800 && point < 0xDC00 && r->end - r->at >= 6 && r->at[0] == '\\' &&
        r->at[1] == 'u') {
        const char *before = r->at;
        r->at += 2;
        uint32_t low = hex4(r);
        if (low >= 0xDC00 && low < 0xE000)
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
        else
            r->at = before;
    }
    jinja_buffer_point(r->run, out, point);
}

static value_t read_string(reader_t *r)
{
    buffer_t out = {0};
    if (!take(r, "\""))
        malformed(r, "a string");
    for (;;) {
        const char *plain = r->at;
        while (r->at < r->end && *r->at != '"' && *r->at != '\\' && (unsigned char)*r->at >= 0x20)
            r->at++;
        jinja_buffer_add(r->run, &out, plain, (size_t)(r->at - plain));
        if (take(r, "\""))
            return jinja_buffer_value(r->run, &out);
        if (!take(r, "\\"))
            malformed(
                r, r->at < r->end ? "no control character in a string" : "the end of a string");
        read_escape(r, &out);
    }
}

static bool digits(reader_t *r)
{
    const char *begin = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9')
        r->at++;
    return r->at > begin;
}

static value_t read_number(reader_t *r)
{
    const char *begin = r->at;
    bool is_float = false;
    take(r, "-");
    if (!take(r, "0") && !digits(r))
        malformed(r, "a value");
    const char *whole = r->at;
    if (take(r, ".") && !(is_float = digits(r)))
        r->at = whole;
    const char *mantissa = r->at;
    if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-'))
            r->at++;
        if (digits(r))
            is_float = true;
        else
            r->at = mantissa;
    }
    const string_t *text = jinja_string_new(r->run, begin, (size_t)(r->at - begin));
    if (is_float)
        return jinja_value_float(strtod(text->text, NULL));
    if (text->bytes > 4300)
        malformed(r, "an integer of at most 4300 digits");
    if (text->bytes < 19)
        return jinja_value_int(strtoll(text->text, NULL, 10));
    long long number = strtoll(text->text, NULL, 10);
    buffer_t again = {0};
    jinja_buffer_format(r->run, &again, "%lld", number);
    if (again.bytes == text->bytes && memcmp(again.text, text->text, again.bytes) == 0)
        return jinja_value_int(number);
    return (value_t){.kind = BIG, .string = text};
}

static value_t read_value(reader_t *r);

static value_t read_array(reader_t *r)
{
    value_t list = jinja_value_sequence(r->run, LIST, 0);
    skip_space(r);
    if (take(r, "]"))
        return list;
    do {
        jinja_sequence_add(r->run, list, read_value(r));
        skip_space(r);
    } while (take(r, ","));
    if (!take(r, "]"))
        malformed(r, "',' or ']'");
    return list;
}

static value_t read_object(reader_t *r)
{
    value_t dict = jinja_value_dict(r->run);
    skip_space(r);
    if (take(r, "}"))
        return dict;
    do {
        skip_space(r);
        value_t key = read_string(r);
        skip_space(r);
        if (!take(r, ":"))
            malformed(r, "':'");
        jinja_dict_set(r->run, dict.dict, key, read_value(r));
        skip_space(r);
    } while (take(r, ","));
    if (!take(r, "}"))
        malformed(r, "',' or '}'");
    return dict;
}

static value_t read_value(reader_t *r)
{
    value_t value;
    skip_space(r);
    if (++r->depth > JINJA_VALUE_DEPTH_MAX)
        jinja_fail(r->run, "malformed JSON: more than %d arrays or objects inside each other",
            JINJA_VALUE_DEPTH_MAX);
    if (take(r, "{"))
        value = read_object(r);
    else if (take(r, "["))
        value = read_array(r);
    else if (r->at < r->end && *r->at == '"')
        value = read_string(r);
    else if (take(r, "null"))
        value = jinja_value_none();
    else if (take(r, "true"))
        value = jinja_value_bool(true);
    else if (take(r, "false"))
        value = jinja_value_bool(false);
    else if (take(r, "NaN"))
        value = jinja_value_float(NAN);
    else if (take(r, "Infinity"))
        value = jinja_value_float(INFINITY);
    else if (take(r, "-Infinity"))
        value = jinja_value_float(-INFINITY);
    else
        value = read_number(r);
    r->depth--;
    return value;
}

value_t jinja_json_read(run_t *run, const char *text, size_t bytes)
{
    reader_t r = {.run = run, .at = text, .begin = text, .end = text + bytes};
    value_t value = read_value(&r);
    skip_space(&r);
    if (r.at < r.end)
        malformed(&r, "nothing behind the value");
    return value;
}

value_t jinja_json_value(run_t *run, const json_t *json)
{
    value_t value = jinja_value_none();
    size_t i;
    const char *key;
    json_t *member;
    jinja_run_enter(run);
    if (json_is_string(json)) {
        value = jinja_value_bytes(run, json_string_value(json), json_string_length(json));
    } else if (json_is_integer(json)) {
        value = jinja_value_int(json_integer_value(json));
    } else if (json_is_real(json)) {
        value = jinja_value_float(json_real_value(json));
    } else if (json_is_boolean(json)) {
        value = jinja_value_bool(json_is_true(json));
    } else if (json_is_array(json)) {
        value = jinja_value_sequence(run, LIST, json_array_size(json));
        json_array_foreach (json, i, member)
            jinja_sequence_add(run, value, jinja_json_value(run, member));
    } else if (json_is_object(json)) {
        value = jinja_value_dict(run);
        json_object_foreach ((json_t *)json, key, member)
            jinja_dict_set(
                run, value.dict, jinja_value_text(run, key), jinja_json_value(run, member));
    }
    run_leave(run);
    return value;
}
