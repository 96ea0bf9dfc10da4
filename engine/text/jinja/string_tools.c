/* What methods and filters on strings share. */
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

value_t jinja_string_slice(run_t *run, const string_t *string, size_t from, size_t to)
{
    jinja_run_step(run, string->chars == string->bytes ? 0 : string->bytes / 16);
    size_t begin = jinja_string_offset(string, from),
           end = to > from ? jinja_string_offset(string, to) : begin;
    return jinja_value_string(jinja_string_wrap(run, string->text + begin, end - begin));
}

static bool strips(const string_t *chars, const char *text, size_t length)
{
    size_t ignored;
    if (chars == NULL)
        return jinja_point_space(jinja_point_at(text, &ignored));
    for (size_t at = 0, n; at < chars->bytes; at += n) {
        jinja_point_at(chars->text + at, &n);
        if (n == length && memcmp(chars->text + at, text, n) == 0)
            return true;
    }
    return false;
}

value_t jinja_string_strip(
    run_t *run, const string_t *string, const string_t *chars, bool left, bool right)
{
    size_t begin = 0, end = string->bytes, length;
    while (left && begin < end) {
        jinja_point_at(string->text + begin, &length);
        jinja_run_step(run, chars != NULL ? chars->bytes / 16 : 0);
        if (!strips(chars, string->text + begin, length))
            break;
        begin += length;
    }
    while (right && end > begin) {
        size_t at = end - 1;
        while (at > begin && ((unsigned char)string->text[at] & 0xC0) == 0x80)
            at--;
        jinja_run_step(run, chars != NULL ? chars->bytes / 16 : 0);
        if (!strips(chars, string->text + at, end - at))
            break;
        end = at;
    }
    jinja_run_step(run, (string->bytes - (end - begin)) / 4);
    return jinja_value_string(jinja_string_wrap(run, string->text + begin, end - begin));
}

value_t jinja_string_replace(
    run_t *run, const string_t *s, const string_t *from, const string_t *to, int64_t count)
{
    buffer_t out = {0};
    size_t at = 0, length;
    while (count != 0 && at <= s->bytes) {
        const char *found = from->bytes == 0 ? s->text + at
                            : at < s->bytes
                                ? memmem(s->text + at, s->bytes - at, from->text, from->bytes)
                                : NULL;
        if (found == NULL)
            break;
        jinja_buffer_add(run, &out, s->text + at, (size_t)(found - s->text) - at);
        jinja_buffer_string(run, &out, to);
        at = (size_t)(found - s->text) + from->bytes;
        count--;
        jinja_run_step(run, 1);
        if (from->bytes == 0) {
            if (at == s->bytes)
                return jinja_buffer_value(run, &out);
            jinja_point_at(s->text + at, &length);
            jinja_buffer_add(run, &out, s->text + at, length);
            at += length;
        }
    }
    if (at < s->bytes)
        jinja_buffer_add(run, &out, s->text + at, s->bytes - at);
    return jinja_buffer_value(run, &out);
}

value_t jinja_string_center(
    run_t *run, const string_t *string, int64_t width, const string_t *fill, int left_share)
{
    if (fill != NULL && fill->chars != 1)
        jinja_fail(run, "The fill character must be exactly one character long");
    if (width <= (int64_t)string->chars)
        return jinja_value_string(string);
    size_t pad = (size_t)width - string->chars, left = left_share == 2 ? pad : 0;
    if (left_share == 1) /* Python's own rounding */
        left = pad / 2 + (pad & (size_t)width & 1);
    buffer_t out = {0};
    for (size_t i = 0; i <= pad; i++) {
        if (i == left)
            jinja_buffer_string(run, &out, string);
        if (i < pad)
            jinja_buffer_add(
                run, &out, fill != NULL ? fill->text : " ", fill != NULL ? fill->bytes : 1);
    }
    return jinja_buffer_value(run, &out);
}

static bool ends_line(uint32_t point)
{
    return (point >= 0x0A && point <= 0x0D) || (point >= 0x1C && point <= 0x1E) || point == 0x85 ||
           point == 0x2028 || point == 0x2029;
}

value_t jinja_string_lines(run_t *run, const string_t *string, bool keep_ends)
{
    value_t lines = jinja_value_sequence(run, LIST, 0);
    size_t begin = 0, length;
    for (size_t at = 0; at < string->bytes; at += length) {
        uint32_t point = jinja_point_at(string->text + at, &length);
        if (!ends_line(point))
            continue;
        size_t end = at;
        if (point == '\r' && at + 1 < string->bytes && string->text[at + 1] == '\n')
            length = 2;
        jinja_sequence_add(run, lines,
            jinja_value_string(jinja_string_wrap(
                run, string->text + begin, (keep_ends ? at + length : end) - begin)));
        begin = at + length;
    }
    if (begin < string->bytes)
        jinja_sequence_add(run, lines,
            jinja_value_string(
                jinja_string_wrap(run, string->text + begin, string->bytes - begin)));
    return lines;
}
