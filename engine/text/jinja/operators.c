/* Operators, attributes, items and slices. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

_Noreturn static void unsupported(run_t *run, const char *op, value_t a, value_t b)
{
    jinja_require_defined(run, a);
    jinja_require_defined(run, b);
    if (op[0] == '+' && a.kind == STRING)
        jinja_fail(run, "can only concatenate str (not \"%s\") to str", jinja_type_name(b));
    if (op[0] == '+' && a.kind == SEQUENCE && a.sequence->kind <= TUPLE)
        jinja_fail(run, "can only concatenate %s (not \"%s\") to %s", jinja_type_name(a),
            jinja_type_name(b), jinja_type_name(a));
    jinja_fail(run, "unsupported operand type(s) for %s: '%s' and '%s'", op, jinja_type_name(a),
        jinja_type_name(b));
}

_Noreturn static void overflow(run_t *run)
{
    jinja_fail(run, "an integer beyond 64 bits");
}

static value_t add(run_t *run, value_t a, value_t b)
{
    if (a.kind == STRING && b.kind == STRING) {
        buffer_t out = {0};
        jinja_buffer_string(run, &out, a.string);
        jinja_buffer_string(run, &out, b.string);
        return jinja_buffer_value(run, &out);
    }
    if (a.kind == SEQUENCE && b.kind == SEQUENCE && a.sequence->kind == b.sequence->kind &&
        a.sequence->kind <= TUPLE) {
        value_t sum =
            jinja_value_sequence(run, a.sequence->kind, a.sequence->count + b.sequence->count);
        for (size_t i = 0; i < a.sequence->count; i++)
            jinja_sequence_add(run, sum, a.sequence->items[i]);
        for (size_t i = 0; i < b.sequence->count; i++)
            jinja_sequence_add(run, sum, b.sequence->items[i]);
        jinja_run_step(run, sum.sequence->count);
        return sum;
    }
    unsupported(run, "+", a, b);
}

static value_t repeat(run_t *run, value_t value, int64_t times)
{
    if (times < 0)
        times = 0;
    if (value.kind == STRING) {
        buffer_t out = {0};
        for (int64_t i = 0; i < times && value.string->bytes > 0; i++)
            jinja_buffer_string(run, &out, value.string);
        return jinja_buffer_value(run, &out);
    }
    value_t list = jinja_value_sequence(run, value.sequence->kind, 0);
    for (int64_t i = 0; i < times && value.sequence->count > 0; i++)
        for (size_t k = 0; k < value.sequence->count; k++) {
            jinja_run_step(run, 1);
            jinja_sequence_add(run, list, value.sequence->items[k]);
        }
    return list;
}

static value_t multiply(run_t *run, value_t a, value_t b)
{
    bool a_repeats = a.kind == STRING || (a.kind == SEQUENCE && a.sequence->kind <= TUPLE);
    bool b_repeats = b.kind == STRING || (b.kind == SEQUENCE && b.sequence->kind <= TUPLE);
    if (a_repeats && jinja_is_integer(b))
        return repeat(run, a, jinja_integer_of(b));
    if (b_repeats && jinja_is_integer(a))
        return repeat(run, b, jinja_integer_of(a));
    jinja_require_defined(run, a);
    jinja_require_defined(run, b);
    if (a_repeats || b_repeats)
        jinja_fail(run, "can't multiply sequence by non-int of type '%s'",
            jinja_type_name(a_repeats ? b : a));
    unsupported(run, "*", a, b);
}

static int64_t floor_divide(run_t *run, int64_t a, int64_t b)
{
    if (a == INT64_MIN && b == -1)
        overflow(run);
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static value_t integer_power(run_t *run, int64_t base, int64_t exponent)
{
    if (exponent < 0) {
        if (base == 0)
            jinja_fail(run, "0.0 cannot be raised to a negative power");
        return jinja_value_float(pow((double)base, (double)exponent));
    }
    int64_t result = 1;
    if (base == 0 || base == 1 || base == -1)
        exponent = exponent > 1 ? 2 - (exponent & 1) : exponent;
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(result, base, &result))
            overflow(run);
    return jinja_value_int(result);
}

static value_t integers(run_t *run, int op, int64_t a, int64_t b)
{
    int64_t result;
    switch (op) {
    case T_ADD:
        if (__builtin_add_overflow(a, b, &result))
            overflow(run);
        return jinja_value_int(result);
    case T_SUB:
        if (__builtin_sub_overflow(a, b, &result))
            overflow(run);
        return jinja_value_int(result);
    case T_MUL:
        if (__builtin_mul_overflow(a, b, &result))
            overflow(run);
        return jinja_value_int(result);
    case T_DIV:
        if (b == 0)
            jinja_fail(run, "division by zero");
        return jinja_value_float((double)a / (double)b);
    case T_FLOORDIV:
        if (b == 0)
            jinja_fail(run, "integer division or modulo by zero");
        return jinja_value_int(floor_divide(run, a, b));
    case T_MOD:
        if (b == 0)
            jinja_fail(run, "integer modulo by zero");
        return jinja_value_int(b == -1 ? 0 : a - floor_divide(run, a, b) * b);
    default:
        return integer_power(run, a, b);
    }
}

static double float_modulo(double a, double b)
{
    double rest = fmod(a, b);
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest == 0 ? copysign(0, b) : rest;
}

static value_t floats(run_t *run, int op, double a, double b)
{
    switch (op) {
    case T_ADD:
        return jinja_value_float(a + b);
    case T_SUB:
        return jinja_value_float(a - b);
    case T_MUL:
        return jinja_value_float(a * b);
    case T_POW:
        if (a == 0 && b < 0)
            jinja_fail(run, "0.0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b))
            jinja_fail(run, "complex numbers are not supported");
        return jinja_value_float(pow(a, b));
    default:
        break;
    }
    if (b == 0)
        jinja_fail(run, op == T_DIV   ? "float division by zero"
                        : op == T_MOD ? "float modulo"
                                      : "float floor division by zero");
    if (op == T_DIV)
        return jinja_value_float(a / b);
    double rest = float_modulo(a, b);
    return jinja_value_float(op == T_MOD ? rest : round((a - rest) / b));
}

value_t jinja_binary(run_t *run, int op, value_t a, value_t b)
{
    if (jinja_is_integer(a) && jinja_is_integer(b))
        return integers(run, op, jinja_integer_of(a), jinja_integer_of(b));
    if (jinja_is_number(a) && jinja_is_number(b))
        return floats(run, op, jinja_number_of(a), jinja_number_of(b));
    if (a.kind == BIG || b.kind == BIG)
        if ((a.kind == BIG || jinja_is_number(a)) && (b.kind == BIG || jinja_is_number(b)))
            overflow(run);
    switch (op) {
    case T_ADD:
        return add(run, a, b);
    case T_MUL:
        return multiply(run, a, b);
    case T_MOD:
        if (a.kind == STRING)
            return jinja_string_format_percent(run, a.string, b);
        unsupported(run, "%", a, b);
    case T_SUB:
        unsupported(run, "-", a, b);
    case T_DIV:
        unsupported(run, "/", a, b);
    case T_FLOORDIV:
        unsupported(run, "//", a, b);
    default:
        unsupported(run, "** or pow()", a, b);
    }
}

value_t jinja_negate(run_t *run, value_t a)
{
    if (a.kind == FLOAT)
        return jinja_value_float(-a.number);
    if (jinja_is_integer(a))
        return integers(run, T_SUB, 0, jinja_integer_of(a));
    jinja_require_defined(run, a);
    jinja_fail(run, "bad operand type for unary -: '%s'", jinja_type_name(a));
}

bool jinja_compare(run_t *run, int op, value_t a, value_t b)
{
    static const char *const names[] = {[T_LT] = "<", [T_LE] = "<=", [T_GT] = ">", [T_GE] = ">="};
    switch (op) {
    case T_EQ:
        return jinja_value_equal(run, a, b);
    case T_NE:
        return !jinja_value_equal(run, a, b);
    case T_IN:
        return jinja_value_contains(run, b, a);
    case T_NOT_IN:
        return !jinja_value_contains(run, b, a);
    default:
        break;
    }
    if (jinja_is_number(a) && jinja_is_number(b) &&
        (isnan(jinja_number_of(a)) || isnan(jinja_number_of(b))))
        return false;
    int result = jinja_value_compare(run, a, b, names[op]);
    return op == T_LT   ? result < 0
           : op == T_LE ? result <= 0
           : op == T_GT ? result > 0
                        : result >= 0;
}

static value_t unsafe_value(run_t *run, value_t object, const string_t *name)
{
    return jinja_value_undefined(run, "access to attribute '%.200s' of '%s' object is unsafe.",
        name->text, jinja_type_name(object));
}

/* A method or another attribute that Python's getattr finds; false: none. */
static bool attribute_find(run_t *run, value_t object, const string_t *name, value_t *found)
{
    bool is_unsafe = false;
    if (object.kind == UNDEFINED)
        jinja_fail_undefined(run, object);
    if (name->bytes >= 2 && name->text[0] == '_' && name->text[1] == '_' &&
        (jinja_string_is(name, "__class__") || jinja_string_is(name, "__init__") ||
            jinja_string_is(name, "__doc__"))) {
        *found = unsafe_value(run, object, name);
        return true;
    }
    if (object.kind == LOOP) {
        *found = jinja_loop_attribute(run, object.loop, name);
        return found->kind != MISSING;
    }
    if (object.kind == NAMESPACE) {
        value_t *value = jinja_dict_find(run, object.dict, jinja_value_string(name));
        if (value != NULL)
            *found = *value;
        return value != NULL;
    }
    if (object.kind == SEQUENCE && strcmp(object.sequence->type, "_GroupTuple") == 0 &&
        (jinja_string_is(name, "grouper") || jinja_string_is(name, "list"))) {
        *found = object.sequence->items[jinja_string_is(name, "list")];
        return true;
    }
    if (object.kind == MACRO && jinja_string_is(name, "name") && object.macro->node->name != NULL) {
        *found = jinja_value_string(object.macro->node->name);
        return true;
    }
    if (!jinja_method_find(run, object, name, found, &is_unsafe))
        return false;
    if (is_unsafe)
        *found = unsafe_value(run, object, name);
    return true;
}

/* obj[key] where that does not raise. */
static bool item_find(run_t *run, value_t object, value_t key, value_t *found)
{
    if (object.kind == UNDEFINED)
        jinja_fail_undefined(run, object);
    if (object.kind == DICT) {
        value_t *value = jinja_value_hashable(key) ? jinja_dict_find(run, object.dict, key) : NULL;
        if (value != NULL)
            *found = *value;
        return value != NULL;
    }
    bool is_list = object.kind == SEQUENCE && object.sequence->kind <= RANGE;
    if (!jinja_is_integer(key) || (!is_list && object.kind != STRING))
        return false;
    int64_t index = jinja_integer_of(key), count = (int64_t)jinja_value_length(run, object);
    if (index < 0)
        index += count;
    if (index < 0 || index >= count)
        return false;
    *found = is_list ? object.sequence->items[index]
                     : jinja_string_slice(run, object.string, (size_t)index, (size_t)index + 1);
    return true;
}

value_t jinja_get_attribute(run_t *run, value_t object, const string_t *name)
{
    value_t found;
    if (attribute_find(run, object, name, &found) ||
        item_find(run, object, jinja_value_string(name), &found))
        return found;
    return jinja_value_undefined_name(run, object, jinja_value_string(name));
}

value_t jinja_get_item(run_t *run, value_t object, value_t key)
{
    value_t found;
    if (item_find(run, object, key, &found) ||
        (key.kind == STRING && attribute_find(run, object, key.string, &found)))
        return found;
    return jinja_value_undefined_name(run, object, key);
}

value_t jinja_get_path(run_t *run, value_t object, value_t path)
{
    if (path.kind == NONE || path.kind == MISSING)
        return object;
    if (path.kind != STRING)
        return jinja_get_item(run, object, path);
    const char *text = path.string->text, *end = text + path.string->bytes;
    for (;;) {
        const char *dot = text < end ? memchr(text, '.', (size_t)(end - text)) : NULL;
        size_t n = (size_t)((dot != NULL ? dot : end) - text);
        int64_t number = 0;
        bool is_number_part = n > 0 && n < 18;
        for (size_t i = 0; i < n && is_number_part; i++) {
            is_number_part = text[i] >= '0' && text[i] <= '9';
            number = number * 10 + (text[i] - '0');
        }
        object = jinja_get_item(run, object,
            is_number_part ? jinja_value_int(number) : jinja_value_bytes(run, text, n));
        if (dot == NULL)
            return object;
        text = dot + 1;
    }
}

/* An end of a slice as Python clips it. */
static int64_t slice_end(run_t *run, value_t value, int64_t absent, int64_t count, int64_t step)
{
    if (value.kind == MISSING || value.kind == NONE)
        return absent;
    if (!jinja_is_integer(value))
        jinja_fail(run, "slice indices must be integers or None or have an __index__ method");
    int64_t index = jinja_integer_of(value), low = step < 0 ? -1 : 0,
            high = step < 0 ? count - 1 : count;
    if (index < 0)
        index += count;
    return index < low ? low : index > high ? high : index;
}

static value_t slice_items(
    run_t *run, value_t object, int64_t start, int64_t stop, int64_t step, bool is_list)
{
    value_t list = jinja_value_sequence(run, is_list ? object.sequence->kind : LIST, 0);
    const sequence_t *items = jinja_value_items(run, object);
    buffer_t text = {0};
    for (int64_t at = start; step > 0 ? at < stop : at > stop;) {
        jinja_run_step(run, 1);
        if (is_list)
            jinja_sequence_add(run, list, items->items[at]);
        else
            jinja_buffer_string(run, &text, items->items[at].string);
        if (__builtin_add_overflow(at, step, &at))
            break;
    }
    if (is_list && list.sequence->kind == RANGE)
        list.sequence->kind = LIST;
    return is_list ? list : jinja_buffer_value(run, &text);
}

value_t jinja_get_slice(run_t *run, value_t object, value_t start, value_t stop, value_t step)
{
    jinja_require_defined(run, object);
    bool is_list = object.kind == SEQUENCE && object.sequence->kind <= RANGE;
    if (object.kind == DICT)
        jinja_fail(run, "unhashable type: 'slice'");
    if (!is_list && object.kind != STRING)
        jinja_fail(run, "'%s' object is not subscriptable", jinja_type_name(object));
    int64_t count = (int64_t)jinja_value_length(run, object), by = 1;
    if (step.kind != MISSING && step.kind != NONE) {
        if (!jinja_is_integer(step))
            jinja_fail(run, "slice indices must be integers or None or have an __index__ method");
        by = jinja_integer_of(step);
        if (by == 0)
            jinja_fail(run, "slice step cannot be zero");
    }
    int64_t from = slice_end(run, start, by < 0 ? count - 1 : 0, count, by);
    int64_t to = slice_end(run, stop, by < 0 ? -1 : count, count, by);
    if (object.kind == STRING && by == 1)
        return jinja_string_slice(
            run, object.string, (size_t)from, (size_t)(to > from ? to : from));
    return slice_items(run, object, from, to, by, is_list);
}
