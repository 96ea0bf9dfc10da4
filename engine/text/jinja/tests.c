/* Tests: names after `is`. */
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

typedef enum test_id {
    TEST_ODD,
    TEST_EVEN,
    TEST_DIVISIBLE,
    TEST_DEFINED,
    TEST_UNDEFINED,
    TEST_FILTER,
    TEST_TEST,
    TEST_NONE,
    TEST_BOOLEAN,
    TEST_FALSE,
    TEST_TRUE,
    TEST_INTEGER,
    TEST_FLOAT,
    TEST_LOWER,
    TEST_UPPER,
    TEST_STRING,
    TEST_MAPPING,
    TEST_NUMBER,
    TEST_SEQUENCE,
    TEST_ITERABLE,
    TEST_CALLABLE,
    TEST_SAMEAS,
    TEST_ESCAPED,
    TEST_IN,
    TEST_COMPARE /* and on: the operators */
} test_id_t;

static const struct {
    const char *name;
    test_id_t id;
    int op;
} tests[] = {{"odd", TEST_ODD, 0}, {"even", TEST_EVEN, 0}, {"divisibleby", TEST_DIVISIBLE, 0},
    {"defined", TEST_DEFINED, 0}, {"undefined", TEST_UNDEFINED, 0}, {"filter", TEST_FILTER, 0},
    {"test", TEST_TEST, 0}, {"none", TEST_NONE, 0}, {"boolean", TEST_BOOLEAN, 0},
    {"false", TEST_FALSE, 0}, {"true", TEST_TRUE, 0}, {"integer", TEST_INTEGER, 0},
    {"float", TEST_FLOAT, 0}, {"lower", TEST_LOWER, 0}, {"upper", TEST_UPPER, 0},
    {"string", TEST_STRING, 0}, {"mapping", TEST_MAPPING, 0}, {"number", TEST_NUMBER, 0},
    {"sequence", TEST_SEQUENCE, 0}, {"iterable", TEST_ITERABLE, 0}, {"callable", TEST_CALLABLE, 0},
    {"sameas", TEST_SAMEAS, 0}, {"escaped", TEST_ESCAPED, 0}, {"in", TEST_IN, 0},
    {"==", TEST_COMPARE, T_EQ}, {"eq", TEST_COMPARE, T_EQ}, {"equalto", TEST_COMPARE, T_EQ},
    {"!=", TEST_COMPARE, T_NE}, {"ne", TEST_COMPARE, T_NE}, {">", TEST_COMPARE, T_GT},
    {"gt", TEST_COMPARE, T_GT}, {"greaterthan", TEST_COMPARE, T_GT}, {"ge", TEST_COMPARE, T_GE},
    {">=", TEST_COMPARE, T_GE}, {"<", TEST_COMPARE, T_LT}, {"lt", TEST_COMPARE, T_LT},
    {"lessthan", TEST_COMPARE, T_LT}, {"<=", TEST_COMPARE, T_LE}, {"le", TEST_COMPARE, T_LE}};

#define N_TESTS (sizeof tests / sizeof tests[0])

static size_t find_test(const string_t *name)
{
    size_t i = 0;
    while (i < N_TESTS && !jinja_string_is(name, tests[i].name))
        i++;
    return i;
}

bool jinja_test_exists(const string_t *name)
{
    return find_test(name) < N_TESTS;
}

static bool is_case(run_t *run, value_t value, const char *method)
{
    string_t name = {method, strlen(method), 0};
    return jinja_string_method(
        run, jinja_string_method_find(&name), jinja_str_of(run, value), &(args_t){0})
        .boolean;
}

static bool same(value_t a, value_t b)
{
    if (a.kind != b.kind)
        return false;
    if (a.kind == BOOL)
        return a.boolean == b.boolean;
    if (a.kind == INT)
        return a.integer == b.integer;
    if (a.kind == FLOAT)
        return a.number == b.number;
    if (a.kind == STRING)
        return a.string == b.string ||
               (a.string->text == b.string->text && a.string->bytes == b.string->bytes);
    return a.kind == NONE || a.dict == b.dict;
}

static bool modulo_is(run_t *run, value_t value, value_t by, int64_t rest)
{
    return jinja_value_equal(run, jinja_binary(run, T_MOD, value, by), jinja_value_int(rest));
}

static bool of_kind(test_id_t id, value_t value)
{
    switch (id) {
    case TEST_DEFINED:
        return value.kind != UNDEFINED;
    case TEST_UNDEFINED:
        return value.kind == UNDEFINED;
    case TEST_NONE:
        return value.kind == NONE;
    case TEST_BOOLEAN:
        return value.kind == BOOL;
    case TEST_FALSE:
        return value.kind == BOOL && !value.boolean;
    case TEST_TRUE:
        return value.kind == BOOL && value.boolean;
    case TEST_INTEGER:
        return value.kind == INT || value.kind == BIG;
    case TEST_FLOAT:
        return value.kind == FLOAT;
    case TEST_STRING:
        return value.kind == STRING;
    case TEST_MAPPING:
        return value.kind == DICT;
    case TEST_NUMBER:
        return jinja_is_number(value) || value.kind == BIG;
    case TEST_SEQUENCE:
        return value.kind == UNDEFINED || value.kind == STRING || value.kind == DICT ||
               (value.kind == SEQUENCE && value.sequence->kind <= RANGE);
    case TEST_ITERABLE:
        return jinja_value_iterable(value) || value.kind == LOOP;
    case TEST_CALLABLE: /* an undefined value has the method, and fails only when it is called */
        return value.kind == MACRO || value.kind == FUNCTION || value.kind == LOOP ||
               value.kind == JOINER || value.kind == UNDEFINED;
    default:
        return false;
    }
}

bool jinja_call_test(run_t *run, const string_t *name, value_t value, const args_t *args)
{
    size_t i = find_test(name);
    value_t other = {0};
    if (i == N_TESTS)
        jinja_fail(run, "No test named '%.*s'.", (int)name->bytes, name->text);
    test_id_t id = tests[i].id;
    bool takes = id == TEST_DIVISIBLE || id == TEST_SAMEAS || id == TEST_IN || id == TEST_COMPARE;
    jinja_args_bind(run, tests[i].name, args, takes ? "other" : "", &other);
    switch (id) {
    case TEST_ODD:
        return modulo_is(run, value, jinja_value_int(2), 1);
    case TEST_EVEN:
        return modulo_is(run, value, jinja_value_int(2), 0);
    case TEST_DIVISIBLE:
        return modulo_is(run, value, other, 0);
    case TEST_FILTER:
        return value.kind == STRING && jinja_filter_exists(value.string);
    case TEST_TEST:
        return value.kind == STRING && jinja_test_exists(value.string);
    case TEST_LOWER:
        return is_case(run, value, "islower");
    case TEST_UPPER:
        return is_case(run, value, "isupper");
    case TEST_SAMEAS:
        return same(value, other);
    case TEST_IN:
        return jinja_value_contains(run, other, value);
    case TEST_COMPARE:
        return jinja_compare(run, tests[i].op, value, other);
    default:
        return of_kind(id, value);
    }
}
