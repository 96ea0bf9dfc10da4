/* The methods of Python's str that say what kind of text it is. */
#include "engine/text/jinja/jinja_internal.h"

static bool alnum(uint32_t point)
{
    return jinja_point_alpha(point) || jinja_point_numeric(point);
}

static bool digit(uint32_t point)
{
    return jinja_point_decimal(point) ||
           (point >= 0x2070 && point <= 0x2089 && point != 0x2071 && point != 0x207A) ||
           point == 0xB2 || point == 0xB3 || point == 0xB9;
}

static value_t all_are(
    run_t *run, const string_t *self, const args_t *args, bool (*is)(uint32_t), bool if_empty)
{
    jinja_args_bind(run, "is", args, "", NULL);
    for (size_t at = 0, length; at < self->bytes; at += length)
        if (!is(jinja_point_at(self->text + at, &length)))
            return jinja_value_bool(false);
    return jinja_value_bool(self->bytes > 0 || if_empty);
}

value_t jinja_string_isalnum(run_t *run, const string_t *self, const args_t *args)
{
    return all_are(run, self, args, alnum, false);
}

value_t jinja_string_isalpha(run_t *run, const string_t *self, const args_t *args)
{
    return all_are(run, self, args, jinja_point_alpha, false);
}

static bool ascii(uint32_t point)
{
    return point < 0x80;
}

value_t jinja_string_isascii(run_t *run, const string_t *self, const args_t *args)
{
    return all_are(run, self, args, ascii, true);
}

value_t jinja_string_isdecimal(run_t *run, const string_t *self, const args_t *args)
{
    return all_are(run, self, args, jinja_point_decimal, false);
}

value_t jinja_string_isdigit(run_t *run, const string_t *self, const args_t *args)
{
    return all_are(run, self, args, digit, false);
}

value_t jinja_string_isnumeric(run_t *run, const string_t *self, const args_t *args)
{
    return all_are(run, self, args, jinja_point_numeric, false);
}

value_t jinja_string_isprintable(run_t *run, const string_t *self, const args_t *args)
{
    return all_are(run, self, args, jinja_point_printable, true);
}

value_t jinja_string_isspace(run_t *run, const string_t *self, const args_t *args)
{
    return all_are(run, self, args, jinja_point_space, false);
}

static bool word(uint32_t point)
{
    return alnum(point) || point == '_';
}

value_t jinja_string_isidentifier(run_t *run, const string_t *self, const args_t *args)
{
    if (self->bytes > 0 && self->text[0] >= '0' && self->text[0] <= '9')
        return jinja_value_bool(false);
    return all_are(run, self, args, word, false);
}

/* At least one cased letter, and none of the other case. */
static value_t one_case(run_t *run, const string_t *self, const args_t *args, bool lower_case)
{
    bool seen = false;
    jinja_args_bind(run, "is", args, "", NULL);
    for (size_t at = 0, length; at < self->bytes; at += length) {
        uint32_t point = jinja_point_at(self->text + at, &length);
        if (lower_case ? jinja_point_upper(point) || jinja_point_title(point)
                       : jinja_point_lower(point) || jinja_point_title(point))
            return jinja_value_bool(false);
        seen |= jinja_point_cased(point);
    }
    return jinja_value_bool(seen);
}

value_t jinja_string_islower(run_t *run, const string_t *self, const args_t *args)
{
    return one_case(run, self, args, true);
}

value_t jinja_string_isupper(run_t *run, const string_t *self, const args_t *args)
{
    return one_case(run, self, args, false);
}

value_t jinja_string_istitle(run_t *run, const string_t *self, const args_t *args)
{
    bool inside = false, seen = false;
    jinja_args_bind(run, "istitle", args, "", NULL);
    for (size_t at = 0, length; at < self->bytes; at += length) {
        uint32_t point = jinja_point_at(self->text + at, &length);
        if (jinja_point_lower(point) ? !inside : jinja_point_cased(point) && inside)
            return jinja_value_bool(false);
        inside = jinja_point_cased(point);
        seen |= inside;
    }
    return jinja_value_bool(seen);
}
