/* What the files of the interpreter share: memory, values, the syntax tree, a rendering.
 *
 * All memory of a template, and all of a rendering, lies in an arena and is released at once.
 * Errors leave by longjmp to the entry point (jinja_fail); no function below an entry point owns
 * anything but arena memory, so nothing is lost on the way. */
#ifndef CHOIR_TEXT_JINJA_INTERNAL_H
#define CHOIR_TEXT_JINJA_INTERNAL_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/text/jinja/jinja.h"

#define JINJA_MEMORY_MAX ((size_t)256 << 20) /* of a rendering, its variables included */
#define JINJA_SOURCE_MAX ((size_t)4 << 20)   /* bytes of a template */
#define JINJA_OUTPUT_MAX ((size_t)64 << 20)  /* bytes of a text */
#define JINJA_STEPS_MAX ((size_t)100 << 20)  /* nodes, iterations of loops, and bytes / 16 */
#define JINJA_DEPTH_MAX 1200                 /* of evaluation: nodes above a node, calls included */
#define JINJA_NESTING_MAX 180                /* of the source: parentheses and blocks */
#define JINJA_VALUE_DEPTH_MAX 900            /* of lists and objects inside each other */

typedef struct jinja_run run_t;
typedef struct node node_t;

/* ---- memory ---------------------------------------------------------------------------------- */

typedef struct arena {
    struct arena_chunk *chunks;
    size_t bytes;
} arena_t;

void *jinja_arena_alloc(run_t *run, size_t bytes); /* zeroed, aligned to 16; fails by jinja_fail */
/* A copy of a full array of *capacity items, with room for twice as many, 4 at first. */
void *jinja_arena_grow(run_t *run, const void *items, size_t *capacity, size_t item_bytes);
void jinja_arena_free(arena_t *arena);

#define NEW(run, type) ((type *)jinja_arena_alloc(run, sizeof(type)))

/* ---- values ---------------------------------------------------------------------------------- */

typedef enum kind {
    MISSING, /* no value: an argument that was not given */
    UNDEFINED,
    NONE,
    BOOL,
    INT,
    BIG, /* an integer beyond 64 bits, as its digits */
    FLOAT,
    STRING,
    SEQUENCE,
    DICT,
    NAMESPACE,
    MACRO,
    FUNCTION,
    LOOP,
    CYCLER,
    JOINER
} kind_t;

/* UTF-8, where lone surrogates are allowed; chars counts code points. */
typedef struct string {
    const char *text;
    size_t bytes, chars;
} string_t;

typedef enum sequence_kind { LIST, TUPLE, RANGE, KEYS, VALUES, ITEMS, ITERATOR } sequence_kind_t;

typedef struct value {
    kind_t kind;
    union {
        bool boolean;
        int64_t integer;
        double number;
        const string_t *string; /* STRING, BIG */
        struct sequence *sequence;
        struct dict *dict; /* DICT, NAMESPACE */
        struct undefined *undefined;
        struct macro *macro;
        struct function *function;
        struct loop *loop;
        struct cycler *cycler; /* CYCLER, JOINER */
    };
} value_t;

typedef struct sequence {
    sequence_kind_t kind;
    const char *type; /* Python's name for it */
    value_t *items;
    size_t count, capacity;
    size_t next;               /* ITERATOR: what was taken already */
    int64_t start, stop, step; /* RANGE */
} sequence_t;

typedef struct entry {
    value_t key, value;
    uint64_t hash;
} entry_t;

typedef struct dict {
    entry_t *entries; /* in the order of insertion */
    size_t count, capacity;
    uint32_t *slots; /* entry + 1, from 16 entries on */
    size_t n_slots;
} dict_t;

typedef struct undefined {
    const char *hint; /* the message, or NULL: made of object and name */
    value_t object;   /* MISSING: a variable */
    value_t name;
} undefined_t;

typedef struct macro {
    const node_t *node;
    struct scope *scope;
} macro_t;

/* A function of the template's surroundings, or a method with its object. */
typedef struct function {
    int id;
    const char *name;
    value_t self;
} function_t;

typedef struct cycler {
    value_t *items;
    size_t count, at;
} cycler_t;

typedef struct keyword {
    const string_t *name;
    value_t value;
} keyword_t;

typedef struct args {
    value_t *items;
    size_t count;
    keyword_t *keywords;
    size_t n_keywords;
} args_t;

/* ---- the syntax tree ------------------------------------------------------------------------- */

typedef enum node_kind {
    /* statements */
    N_TEXT,
    N_OUTPUT,
    N_IF,
    N_FOR,
    N_SET,
    N_SET_BLOCK,
    N_MACRO,
    N_CALL_BLOCK,
    N_FILTER_BLOCK,
    N_WITH,
    N_SCOPE,
    N_GENERATION,
    N_BREAK,
    N_CONTINUE,
    N_AUTOESCAPE,
    N_NO_LOADER,
    /* expressions */
    N_CONST,
    N_NAME,
    N_NAMESPACE_REF,
    N_TUPLE,
    N_LIST,
    N_DICT,
    N_CONDITIONAL,
    N_OR,
    N_AND,
    N_NOT,
    N_COMPARE,
    N_OPERAND,
    N_BINARY,
    N_CONCAT,
    N_NEGATE,
    N_PLUS,
    N_ATTRIBUTE,
    N_ITEM,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    N_KEYWORD
} node_kind_t;

typedef struct nodes {
    node_t **at;
    size_t count, capacity;
} nodes_t;

struct node {
    node_kind_t kind;
    int op; /* a token kind: of N_BINARY, N_OPERAND */
    uint32_t line;
    bool flag; /* N_FOR: recursive; N_MACRO: uses caller, kwargs, varargs below */
    bool caller, kwargs, varargs;
    const string_t *name; /* interned: equal names are equal pointers */
    value_t value;
    /* Operands: left, right; a target, filter or callee in a; of N_CALL, N_FILTER and N_TEST *args
     * in b and **kwargs in c; of N_FOR target, iterable and test; of N_SLICE start, stop, step. */
    node_t *a, *b, *c;
    nodes_t list;     /* items, arguments, parameters, operands, targets; N_IF: branches' tests */
    nodes_t keywords; /* keyword arguments, defaults, values */
    nodes_t body, otherwise;
    nodes_t *bodies; /* N_IF: one per test */
};

struct jinja_template {
    arena_t arena;
    char *name;
    nodes_t body;
    dict_t *names; /* interned */
};

/* ---- lexer ----------------------------------------------------------------------------------- */

typedef enum token_kind {
    T_EOF,
    T_DATA,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_VARIABLE_BEGIN,
    T_VARIABLE_END,
    T_NAME,
    T_STRING,
    T_INTEGER,
    T_FLOAT,
    T_ADD,
    T_SUB,
    T_MUL,
    T_DIV,
    T_FLOORDIV,
    T_MOD,
    T_POW,
    T_TILDE,
    T_EQ,
    T_NE,
    T_LT,
    T_LE,
    T_GT,
    T_GE,
    T_ASSIGN,
    T_DOT,
    T_COLON,
    T_COMMA,
    T_SEMICOLON,
    T_PIPE,
    T_LPAREN,
    T_RPAREN,
    T_LBRACKET,
    T_RBRACKET,
    T_LBRACE,
    T_RBRACE,
    T_IN,    /* of N_OPERAND only */
    T_NOT_IN /* of N_OPERAND only */
} token_kind_t;

typedef struct token {
    token_kind_t kind;
    uint32_t line;
    value_t value; /* of names (interned), strings, numbers, data */
} token_t;

typedef struct tokens {
    token_t *at;
    size_t count, capacity;
} tokens_t;

void jinja_lexer_run(run_t *run, const char *text, size_t bytes, tokens_t *tokens);
const char *jinja_token_name(token_kind_t kind);
void jinja_parser_run(run_t *run, const tokens_t *tokens, nodes_t *body);

/* ---- a rendering, or a parsing --------------------------------------------------------------- */

typedef struct binding {
    const string_t *name;
    value_t value;
    struct binding *next;
} binding_t;

typedef struct scope {
    struct scope *parent;
    binding_t *bindings;
} scope_t;

typedef struct loop {
    run_t *run;
    const node_t *node;
    scope_t *scope; /* around the loop */
    value_t *items;
    size_t count, next; /* next: of the items, the first not looked at */
    bool filters;       /* items from next on still have to pass the loop's test */
    bool completed;     /* an iteration has ended */
    int64_t length;
    const string_t *name;           /* "loop" */
    value_t before, current, after; /* after: looked at ahead, or MISSING */
    int64_t index0, depth0;
    value_t changed; /* the last arguments of changed(), or MISSING */
} loop_t;

typedef struct buffer {
    char *text;
    size_t bytes, capacity;
} buffer_t;

struct jinja_run {
    arena_t arena;
    jmp_buf escape;
    buffer_t error;
    int status;
    size_t steps;
    int depth;
    uint32_t line;
    dict_t *names; /* interned names, while parsing */
    dict_t *globals;
    /* Names that the template's own table has, so that they are found by their pointers. */
    const string_t *loop_name, *caller_name, *kwargs_name, *varargs_name;
    buffer_t *out;
    bool has_time;
    int64_t time;
};

_Noreturn void jinja_fail(run_t *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
_Noreturn void jinja_fail_string(run_t *run, const string_t *message);
_Noreturn void jinja_fail_memory(run_t *run, const char *what);

/* Counts work; fails above the limit. */
void jinja_run_step(run_t *run, size_t steps);
void jinja_run_enter(run_t *run);
static inline void run_leave(run_t *run)
{
    run->depth--;
}

void jinja_buffer_add(run_t *run, buffer_t *buffer, const char *text, size_t bytes);
void jinja_buffer_text(run_t *run, buffer_t *buffer, const char *text);
void jinja_buffer_string(run_t *run, buffer_t *buffer, const string_t *string);
void jinja_buffer_point(run_t *run, buffer_t *buffer, uint32_t point);
void jinja_buffer_format(run_t *run, buffer_t *buffer, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
value_t jinja_buffer_value(run_t *run, const buffer_t *buffer);

/* ---- values.c -------------------------------------------------------------------------------- */

const string_t *jinja_string_new(run_t *run, const char *text, size_t bytes);  /* copies */
const string_t *jinja_string_wrap(run_t *run, const char *text, size_t bytes); /* borrows */
const string_t *jinja_string_intern(run_t *run, const char *text, size_t bytes);
bool jinja_string_is(const string_t *string, const char *text);
uint32_t jinja_point_at(const char *text, size_t *bytes); /* also surrogates */
size_t jinja_string_offset(const string_t *string, size_t chars);

value_t jinja_value_none(void);
value_t jinja_value_bool(bool boolean);
value_t jinja_value_int(int64_t integer);
value_t jinja_value_float(double number);
value_t jinja_value_string(const string_t *string);
value_t jinja_value_text(run_t *run, const char *text);
value_t jinja_value_bytes(run_t *run, const char *text, size_t bytes);
value_t jinja_value_sequence(run_t *run, sequence_kind_t kind, size_t capacity);
value_t jinja_value_iterator(run_t *run, const char *type);
value_t jinja_value_dict(run_t *run);
value_t jinja_value_undefined(run_t *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
value_t jinja_value_undefined_name(run_t *run, value_t object, value_t name);

void jinja_sequence_add(run_t *run, value_t sequence, value_t item);
value_t *jinja_dict_find(run_t *run, const dict_t *dict, value_t key);
value_t *jinja_dict_text(run_t *run, const dict_t *dict, const char *key);
void jinja_dict_set(run_t *run, dict_t *dict, value_t key, value_t value);
bool jinja_value_hashable(value_t value);

bool jinja_is_number(value_t value);  /* BOOL, INT, FLOAT */
bool jinja_is_integer(value_t value); /* BOOL, INT */
int64_t jinja_integer_of(value_t value);
double jinja_number_of(value_t value);
const char *jinja_type_name(value_t value);
bool jinja_value_true(value_t value);
bool jinja_value_equal(run_t *run, value_t a, value_t b);
int jinja_value_compare(run_t *run, value_t a, value_t b, const char *op); /* < 0, 0, > 0 */
bool jinja_value_contains(run_t *run, value_t container, value_t item);
size_t jinja_value_length(run_t *run, value_t value); /* fails where Python's len does */
bool jinja_value_iterable(value_t value);
/* The items that Python's iter gives; takes them from an iterator. */
sequence_t *jinja_value_items(run_t *run, value_t value);
_Noreturn void jinja_fail_undefined(run_t *run, value_t value);
void jinja_require_defined(run_t *run, value_t value);

/* ---- repr.c ---------------------------------------------------------------------------------- */

void jinja_value_str(run_t *run, buffer_t *out, value_t value);
void jinja_value_repr(run_t *run, buffer_t *out, value_t value);
const string_t *jinja_str_of(run_t *run, value_t value);
void jinja_float_repr(double number, char text[40]);
void jinja_json_write(run_t *run, buffer_t *out, const args_t *args, value_t value);

/* ---- jinja_json_read.c ----------------------------------------------------------------------- */

value_t jinja_json_read(run_t *run, const char *text, size_t bytes);
value_t jinja_json_value(run_t *run, const json_t *json);

/* ---- eval.c, eval_expression.c, operators.c, call.c ------------------------------------------ */

typedef enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow_t;

flow_t jinja_eval_body(run_t *run, const nodes_t *body, scope_t *scope);
value_t jinja_eval(run_t *run, const node_t *node, scope_t *scope);
void jinja_bind(run_t *run, scope_t *scope, const string_t *name, value_t value);
scope_t *jinja_scope_new(run_t *run, scope_t *parent);
void jinja_loop_run(
    run_t *run, const node_t *node, scope_t *scope, value_t iterable, int64_t depth0, flow_t *flow);
void jinja_loop_look(loop_t *loop);
int64_t jinja_loop_length(loop_t *loop);
value_t jinja_loop_attribute(run_t *run, loop_t *loop, const string_t *name);

value_t jinja_binary(run_t *run, int op, value_t a, value_t b);
value_t jinja_negate(run_t *run, value_t a);
bool jinja_compare(run_t *run, int op, value_t a, value_t b);
value_t jinja_get_attribute(run_t *run, value_t object, const string_t *name);
value_t jinja_get_item(run_t *run, value_t object, value_t key);
value_t jinja_get_slice(run_t *run, value_t object, value_t start, value_t stop, value_t step);
/* A dotted path of attributes, as the filters take it. */
value_t jinja_get_path(run_t *run, value_t object, value_t path);

/* Assigns arguments to parameters: names is "a b [c d]", those in brackets may be absent
 * (MISSING). */
void jinja_args_bind(
    run_t *run, const char *function, const args_t *args, const char *names, value_t *out);
int64_t jinja_want_integer(run_t *run, value_t value);
const string_t *jinja_want_string(run_t *run, value_t value, const char *what);

/* ---- the library ----------------------------------------------------------------------------- */

bool jinja_filter_exists(const string_t *name);
bool jinja_test_exists(const string_t *name);
value_t jinja_call_filter(run_t *run, const string_t *name, value_t value, const args_t *args);
bool jinja_call_test(run_t *run, const string_t *name, value_t value, const args_t *args);
/* The filters on sequences; false: not one of them. */
bool jinja_sequence_filter(
    run_t *run, const string_t *name, value_t value, const args_t *args, value_t *result);
bool jinja_sequence_filter_exists(const string_t *name);

void jinja_builtins_define(run_t *run);
/* A method of the object as a function; false: it has none of that name. unsafe: the sandbox
 * forbids it. */
bool jinja_method_find(
    run_t *run, value_t object, const string_t *name, value_t *method, bool *is_unsafe);
value_t jinja_call_function(run_t *run, const function_t *function, const args_t *args);

int jinja_string_method_find(const string_t *name); /* -1: none */
const char *jinja_string_method_name(int id);
value_t jinja_string_method(run_t *run, int id, const string_t *self, const args_t *args);
value_t jinja_string_format_percent(run_t *run, const string_t *format, value_t args);
value_t jinja_string_format(run_t *run, const string_t *format, const args_t *args);

/* ---- string_kinds.c: methods ----------------------------------------------------------------- */

value_t jinja_string_isalnum(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_isalpha(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_isascii(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_isdecimal(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_isdigit(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_isnumeric(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_isprintable(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_isspace(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_isidentifier(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_islower(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_isupper(run_t *run, const string_t *self, const args_t *args);
value_t jinja_string_istitle(run_t *run, const string_t *self, const args_t *args);

/* ---- jinja_string_case.c --------------------------------------------------------------------- */

typedef enum letter_case { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_FOLD } letter_case_t;

bool jinja_point_space(uint32_t point);
bool jinja_point_printable(uint32_t point);
bool jinja_point_alpha(uint32_t point);
bool jinja_point_decimal(uint32_t point);
bool jinja_point_numeric(uint32_t point);
bool jinja_point_upper(uint32_t point);
bool jinja_point_lower(uint32_t point);
bool jinja_point_title(uint32_t point);
bool jinja_point_cased(uint32_t point);
void jinja_buffer_case(run_t *run, buffer_t *out, uint32_t point, letter_case_t to);
value_t jinja_string_case(run_t *run, const string_t *string, letter_case_t to);
/* Without white space, or the characters of chars, at the start (left) and end (right). */
value_t jinja_string_strip(
    run_t *run, const string_t *string, const string_t *chars, bool left, bool right);
value_t jinja_string_replace(
    run_t *run, const string_t *s, const string_t *from, const string_t *to, int64_t count);
value_t jinja_string_title(run_t *run, const string_t *string, bool as_filter);
value_t jinja_string_capitalize(run_t *run, const string_t *string);
value_t jinja_string_center(run_t *run, const string_t *string, int64_t width, const string_t *fill,
    int left_share); /* of the padding: 0 none on the left, 1 half, 2 all */
value_t jinja_string_lines(run_t *run, const string_t *string, bool keep_ends);
value_t jinja_string_slice(
    run_t *run, const string_t *string, size_t from, size_t to); /* code points */

#endif
