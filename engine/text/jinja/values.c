/* Strings, lists and dicts of a template, and their equality, order, truth and length as in Python.
 */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/digest.h"
#include "engine/text/jinja/jinja_internal.h"
#include "engine/text/unicode.h"

#define HASHED_FROM 16

/* Like utf8_decode, for text that may hold surrogates, and never past a zero byte. */
uint32_t jinja_point_at(const char *text, size_t *bytes)
{
    return utf8_decode(text, bytes);
}

static size_t count_chars(const char *text, size_t bytes)
{
    size_t chars = 0;
    for (size_t i = 0; i < bytes; i++)
        chars += ((unsigned char)text[i] & 0xC0) != 0x80;
    return chars;
}

const string_t *jinja_string_wrap(run_t *run, const char *text, size_t bytes)
{
    string_t *string = NEW(run, string_t);
    *string = (string_t){text, bytes, count_chars(text, bytes)};
    jinja_run_step(run, bytes / 16);
    return string;
}

/* With a zero behind it, for messages. */
const string_t *jinja_string_new(run_t *run, const char *text, size_t bytes)
{
    char *copy = jinja_arena_alloc(run, bytes + 1);
    if (bytes > 0)
        memcpy(copy, text, bytes);
    return jinja_string_wrap(run, copy, bytes);
}

const string_t *jinja_string_intern(run_t *run, const char *text, size_t bytes)
{
    value_t name = jinja_value_string(jinja_string_new(run, text, bytes));
    value_t *known = jinja_dict_find(run, run->names, name);
    if (known != NULL)
        return known->string;
    jinja_dict_set(run, run->names, name, name);
    return name.string;
}

bool jinja_string_is(const string_t *string, const char *text)
{
    size_t bytes = strlen(text);
    return string->bytes == bytes && memcmp(string->text, text, bytes) == 0;
}

/* The byte where the code point with this number begins; the end for one behind it. */
size_t jinja_string_offset(const string_t *string, size_t chars)
{
    if (chars >= string->chars)
        return string->bytes;
    if (string->chars == string->bytes)
        return chars;
    size_t at = 0, length;
    for (; chars > 0; chars--, at += length)
        jinja_point_at(string->text + at, &length);
    return at;
}

value_t jinja_value_none(void)
{
    return (value_t){.kind = NONE};
}

value_t jinja_value_bool(bool boolean)
{
    return (value_t){.kind = BOOL, .boolean = boolean};
}

value_t jinja_value_int(int64_t integer)
{
    return (value_t){.kind = INT, .integer = integer};
}

value_t jinja_value_float(double number)
{
    return (value_t){.kind = FLOAT, .number = number};
}

value_t jinja_value_string(const string_t *string)
{
    return (value_t){.kind = STRING, .string = string};
}

value_t jinja_value_bytes(run_t *run, const char *text, size_t bytes)
{
    return jinja_value_string(jinja_string_new(run, text, bytes));
}

value_t jinja_value_text(run_t *run, const char *text)
{
    return jinja_value_bytes(run, text, strlen(text));
}

value_t jinja_value_sequence(run_t *run, sequence_kind_t kind, size_t capacity)
{
    static const char *const types[] = {[LIST] = "list",
        [TUPLE] = "tuple",
        [RANGE] = "range",
        [KEYS] = "dict_keys",
        [VALUES] = "dict_values",
        [ITEMS] = "dict_items",
        [ITERATOR] = "generator"};
    sequence_t *sequence = NEW(run, sequence_t);
    sequence->kind = kind;
    sequence->type = types[kind];
    sequence->capacity = capacity;
    if (capacity > JINJA_MEMORY_MAX / sizeof(value_t))
        jinja_fail(run, "a list of %zu items is too long", capacity);
    if (capacity > 0)
        sequence->items = jinja_arena_alloc(run, capacity * sizeof(value_t));
    return (value_t){.kind = SEQUENCE, .sequence = sequence};
}

value_t jinja_value_iterator(run_t *run, const char *type)
{
    value_t value = jinja_value_sequence(run, ITERATOR, 0);
    value.sequence->type = type;
    return value;
}

value_t jinja_value_dict(run_t *run)
{
    return (value_t){.kind = DICT, .dict = NEW(run, dict_t)};
}

value_t jinja_value_undefined(run_t *run, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    value_t value = {.kind = UNDEFINED, .undefined = NEW(run, undefined_t)};
    value.undefined->hint = jinja_string_new(run, text, strlen(text))->text;
    return value;
}

value_t jinja_value_undefined_name(run_t *run, value_t object, value_t name)
{
    value_t value = {.kind = UNDEFINED, .undefined = NEW(run, undefined_t)};
    value.undefined->object = object;
    value.undefined->name = name;
    return value;
}

/* How jinja2 calls an object in a message about what it lacks. */
static void object_name(run_t *run, buffer_t *out, value_t object)
{
    if (object.kind == NONE) {
        jinja_buffer_text(run, out, "None");
        return;
    }
    if (object.kind == NAMESPACE)
        jinja_buffer_text(run, out, "transformers.utils.chat_template_utils.");
    jinja_buffer_text(run, out, jinja_type_name(object));
    jinja_buffer_text(run, out, " object");
}

void jinja_fail_undefined(run_t *run, value_t value)
{
    const undefined_t *undefined = value.undefined;
    buffer_t out = {0};
    if (undefined->hint != NULL)
        jinja_fail(run, "%s", undefined->hint);
    if (undefined->object.kind == MISSING) {
        jinja_value_repr(run, &out, undefined->name);
        jinja_buffer_text(run, &out, " is undefined");
    } else if (undefined->name.kind != STRING) {
        object_name(run, &out, undefined->object);
        jinja_buffer_text(run, &out, " has no element ");
        jinja_value_repr(run, &out, undefined->name);
    } else {
        jinja_buffer_text(run, &out, "'");
        object_name(run, &out, undefined->object);
        jinja_buffer_text(run, &out, "' has no attribute ");
        jinja_value_repr(run, &out, undefined->name);
    }
    jinja_fail_string(run, jinja_buffer_value(run, &out).string);
}

void jinja_require_defined(run_t *run, value_t value)
{
    if (value.kind == UNDEFINED)
        jinja_fail_undefined(run, value);
}

void jinja_sequence_add(run_t *run, value_t value, value_t item)
{
    sequence_t *sequence = value.sequence;
    if (sequence->count == sequence->capacity)
        sequence->items =
            jinja_arena_grow(run, sequence->items, &sequence->capacity, sizeof *sequence->items);
    sequence->items[sequence->count++] = item;
}

bool jinja_value_hashable(value_t value)
{
    if (value.kind == SEQUENCE && value.sequence->kind == TUPLE) {
        for (size_t i = 0; i < value.sequence->count; i++)
            if (value.sequence->items[i].kind == SEQUENCE ||
                !jinja_value_hashable(value.sequence->items[i]))
                return false;
        return true;
    }
    return value.kind != DICT && (value.kind != SEQUENCE || value.sequence->kind >= RANGE);
}

/* Equal keys have equal hashes: numbers of all kinds by their value as double. */
static uint64_t hash_of(run_t *run, value_t key)
{
    if (key.kind == STRING || key.kind == BIG) {
        jinja_run_step(run, key.string->bytes / 16);
        return digest_bytes(DIGEST_START, key.string->text, key.string->bytes);
    }
    if (jinja_is_number(key)) {
        return digest_f64(DIGEST_START, jinja_number_of(key) + 0.0);
    }
    return (uint64_t)key.kind;
}

/* Puts an entry's number into the first free slot. */
static void dict_note(dict_t *dict, size_t i)
{
    size_t slot = digest_slot(dict->entries[i].hash, dict->n_slots);
    while (dict->slots[slot] != 0)
        slot = (slot + 1) & (dict->n_slots - 1);
    dict->slots[slot] = (uint32_t)i + 1;
}

static void dict_index(run_t *run, dict_t *dict)
{
    dict->n_slots = dict->capacity * 2;
    dict->slots = jinja_arena_alloc(run, dict->n_slots * sizeof *dict->slots);
    for (size_t i = 0; i < dict->count; i++)
        dict_note(dict, i);
}

static entry_t *entry_find(run_t *run, const dict_t *dict, value_t key, uint64_t hash)
{
    if (dict->slots == NULL) {
        for (size_t i = 0; i < dict->count; i++)
            if (dict->entries[i].hash == hash && jinja_value_equal(run, dict->entries[i].key, key))
                return &dict->entries[i];
        return NULL;
    }
    for (size_t slot = digest_slot(hash, dict->n_slots); dict->slots[slot] != 0;
         slot = (slot + 1) & (dict->n_slots - 1)) {
        entry_t *entry = &dict->entries[dict->slots[slot] - 1];
        jinja_run_step(run, 1);
        if (entry->hash == hash && jinja_value_equal(run, entry->key, key))
            return entry;
    }
    return NULL;
}

value_t *jinja_dict_find(run_t *run, const dict_t *dict, value_t key)
{
    entry_t *entry = entry_find(run, dict, key, hash_of(run, key));
    return entry != NULL ? &entry->value : NULL;
}

value_t *jinja_dict_text(run_t *run, const dict_t *dict, const char *key)
{
    string_t string = {key, strlen(key), 0};
    return jinja_dict_find(run, dict, jinja_value_string(&string));
}

void jinja_dict_set(run_t *run, dict_t *dict, value_t key, value_t value)
{
    uint64_t hash = hash_of(run, key);
    entry_t *known = entry_find(run, dict, key, hash);
    if (known != NULL) {
        known->value = value;
        return;
    }
    if (dict->count == dict->capacity) {
        dict->entries =
            jinja_arena_grow(run, dict->entries, &dict->capacity, sizeof *dict->entries);
        if (dict->capacity >= HASHED_FROM)
            dict_index(run, dict);
    }
    dict->entries[dict->count++] = (entry_t){key, value, hash};
    if (dict->slots != NULL)
        dict_note(dict, dict->count - 1);
}

bool jinja_is_integer(value_t value)
{
    return value.kind == INT || value.kind == BOOL;
}

bool jinja_is_number(value_t value)
{
    return jinja_is_integer(value) || value.kind == FLOAT;
}

int64_t jinja_integer_of(value_t value)
{
    return value.kind == BOOL ? value.boolean : value.integer;
}

double jinja_number_of(value_t value)
{
    return value.kind == FLOAT ? value.number : (double)jinja_integer_of(value);
}

const char *jinja_type_name(value_t value)
{
    static const char *const names[] = {[MISSING] = "missing",
        [UNDEFINED] = "Undefined",
        [NONE] = "NoneType",
        [BOOL] = "bool",
        [INT] = "int",
        [BIG] = "int",
        [FLOAT] = "float",
        [STRING] = "str",
        [DICT] = "dict",
        [NAMESPACE] = "TemplateNamespace",
        [MACRO] = "Macro",
        [FUNCTION] = "function",
        [LOOP] = "LoopContext",
        [CYCLER] = "Cycler",
        [JOINER] = "Joiner"};
    return value.kind == SEQUENCE ? value.sequence->type : names[value.kind];
}

bool jinja_value_true(value_t value)
{
    switch (value.kind) {
    case BOOL:
        return value.boolean;
    case INT:
        return value.integer != 0;
    case FLOAT:
        return value.number != 0;
    case STRING:
        return value.string->bytes > 0;
    case SEQUENCE:
        return value.sequence->kind == ITERATOR || value.sequence->count > 0;
    case DICT:
        return value.dict->count > 0;
    case LOOP:
        return jinja_loop_length(value.loop) > 0;
    default:
        return value.kind > NONE;
    }
}

/* Lists equal lists and tuples tuples; views of keys have no order, but are rarely compared. */
static bool sequences_equal(run_t *run, const sequence_t *a, const sequence_t *b)
{
    if (a == b)
        return true;
    if (a->kind != b->kind || a->kind == ITERATOR || a->kind == VALUES || a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        jinja_run_step(run, 1);
        if (!jinja_value_equal(run, a->items[i], b->items[i]))
            return false;
    }
    return true;
}

static bool dicts_equal(run_t *run, const dict_t *a, const dict_t *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        jinja_run_step(run, 1);
        value_t *other = jinja_dict_find(run, b, a->entries[i].key);
        if (other == NULL || !jinja_value_equal(run, a->entries[i].value, *other))
            return false;
    }
    return true;
}

static bool strings_equal(run_t *run, const string_t *a, const string_t *b)
{
    if (a == b)
        return true;
    if (a->bytes != b->bytes)
        return false;
    jinja_run_step(run, a->bytes / 16);
    return memcmp(a->text, b->text, a->bytes) == 0;
}

bool jinja_value_equal(run_t *run, value_t a, value_t b)
{
    if (jinja_is_number(a) && jinja_is_number(b))
        return jinja_is_integer(a) && jinja_is_integer(b)
                   ? jinja_integer_of(a) == jinja_integer_of(b)
                   : jinja_number_of(a) == jinja_number_of(b);
    if (a.kind != b.kind)
        return false;
    bool equal;
    switch (a.kind) {
    case STRING:
    case BIG:
        return strings_equal(run, a.string, b.string);
    case SEQUENCE:
    case DICT:
        jinja_run_enter(run);
        equal = a.kind == DICT ? dicts_equal(run, a.dict, b.dict)
                               : sequences_equal(run, a.sequence, b.sequence);
        run_leave(run);
        return equal;
    case UNDEFINED:
    case NONE:
        return true;
    case FUNCTION:
        return a.function->id == b.function->id && a.function->self.kind == b.function->self.kind &&
               a.function->self.dict == b.function->self.dict;
    default:
        return a.dict == b.dict;
    }
}

static int order(double a, double b)
{
    return a < b ? -1 : a > b;
}

static int compare_sequences(run_t *run, const sequence_t *a, const sequence_t *b, const char *op)
{
    for (size_t i = 0; i < a->count && i < b->count; i++)
        if (!jinja_value_equal(run, a->items[i], b->items[i]))
            return jinja_value_compare(run, a->items[i], b->items[i], op);
    return order((double)a->count, (double)b->count);
}

/* Integers as decimal digits, with a sign. */
static int compare_digits(const string_t *a, const string_t *b)
{
    bool a_minus = a->text[0] == '-', b_minus = b->text[0] == '-';
    if (a_minus != b_minus)
        return a_minus ? -1 : 1;
    int by_value = a->bytes != b->bytes ? order((double)a->bytes, (double)b->bytes)
                                        : memcmp(a->text, b->text, a->bytes);
    return a_minus ? -by_value : by_value;
}

/* NaN is neither less nor greater: 0 here, and jinja_compare() looks for it first. */
int jinja_value_compare(run_t *run, value_t a, value_t b, const char *op)
{
    if (jinja_is_integer(a) && jinja_is_integer(b))
        return jinja_integer_of(a) < jinja_integer_of(b)
                   ? -1
                   : jinja_integer_of(a) > jinja_integer_of(b);
    if (jinja_is_number(a) && jinja_is_number(b))
        return order(jinja_number_of(a), jinja_number_of(b));
    if (a.kind == BIG && b.kind == BIG)
        return compare_digits(a.string, b.string);
    if (a.kind == BIG && jinja_is_number(b))
        return a.string->text[0] == '-' ? -1 : 1;
    if (b.kind == BIG && jinja_is_number(a))
        return b.string->text[0] == '-' ? 1 : -1;
    if (a.kind == STRING && b.kind == STRING) {
        size_t n = a.string->bytes < b.string->bytes ? a.string->bytes : b.string->bytes;
        jinja_run_step(run, n / 16);
        int by_bytes = n > 0 ? memcmp(a.string->text, b.string->text, n) : 0;
        return by_bytes != 0 ? by_bytes : order((double)a.string->bytes, (double)b.string->bytes);
    }
    if (a.kind == SEQUENCE && b.kind == SEQUENCE && a.sequence->kind == b.sequence->kind &&
        a.sequence->kind <= TUPLE) {
        jinja_run_enter(run);
        int result = compare_sequences(run, a.sequence, b.sequence, op);
        run_leave(run);
        return result;
    }
    jinja_require_defined(run, a);
    jinja_require_defined(run, b);
    jinja_fail(run, "'%s' not supported between instances of '%s' and '%s'", op, jinja_type_name(a),
        jinja_type_name(b));
}

bool jinja_value_contains(run_t *run, value_t container, value_t item)
{
    if (container.kind == STRING) {
        if (item.kind != STRING)
            jinja_fail(run, "'in <string>' requires string as left operand, not %s",
                jinja_type_name(item));
        jinja_run_step(run, container.string->bytes / 16);
        return item.string->bytes == 0 || memmem(container.string->text, container.string->bytes,
                                              item.string->text, item.string->bytes) != NULL;
    }
    if (container.kind == DICT) {
        if (!jinja_value_hashable(item))
            jinja_fail(run, "unhashable type: '%s'", jinja_type_name(item));
        return jinja_dict_find(run, container.dict, item) != NULL;
    }
    if (!jinja_value_iterable(container))
        jinja_fail(run, "argument of type '%s' is not iterable", jinja_type_name(container));
    const sequence_t *items = jinja_value_items(run, container);
    for (size_t i = 0; i < items->count; i++) {
        jinja_run_step(run, 1);
        if (jinja_value_equal(run, items->items[i], item))
            return true;
    }
    return false;
}

size_t jinja_value_length(run_t *run, value_t value)
{
    switch (value.kind) {
    case UNDEFINED:
        return 0;
    case STRING:
        return value.string->chars;
    case SEQUENCE:
        if (value.sequence->kind != ITERATOR)
            return value.sequence->count;
        break;
    case DICT:
        return value.dict->count;
    case LOOP:
        return (size_t)jinja_loop_length(value.loop);
    default:
        break;
    }
    jinja_fail(run, "object of type '%s' has no len()", jinja_type_name(value));
}

bool jinja_value_iterable(value_t value)
{
    return value.kind == UNDEFINED || value.kind == STRING || value.kind == SEQUENCE ||
           value.kind == DICT;
}

static sequence_t *string_items(run_t *run, const string_t *string)
{
    value_t chars = jinja_value_sequence(run, LIST, string->chars);
    for (size_t at = 0, length; at < string->bytes; at += length) {
        jinja_point_at(string->text + at, &length);
        jinja_sequence_add(
            run, chars, jinja_value_string(jinja_string_wrap(run, string->text + at, length)));
    }
    return chars.sequence;
}

sequence_t *jinja_value_items(run_t *run, value_t value)
{
    if (value.kind == SEQUENCE && value.sequence->kind != ITERATOR)
        return value.sequence;
    if (value.kind == SEQUENCE) {
        sequence_t *rest = jinja_value_sequence(run, LIST, 0).sequence, *from = value.sequence;
        rest->items = from->items + from->next;
        rest->count = rest->capacity = from->count - from->next;
        from->next = from->count;
        return rest;
    }
    if (value.kind == STRING)
        return string_items(run, value.string);
    if (value.kind == UNDEFINED)
        return jinja_value_sequence(run, LIST, 0).sequence;
    if (value.kind != DICT)
        jinja_fail(run, "'%s' object is not iterable", jinja_type_name(value));
    value_t keys = jinja_value_sequence(run, LIST, value.dict->count);
    for (size_t i = 0; i < value.dict->count; i++)
        jinja_sequence_add(run, keys, value.dict->entries[i].key);
    return keys.sequence;
}
