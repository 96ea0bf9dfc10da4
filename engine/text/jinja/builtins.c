/* Functions that every template sees, and the methods of dicts, lists and loops. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "engine/text/jinja/jinja_internal.h"

enum {
    /* functions */
    F_RANGE,
    F_DICT,
    F_NAMESPACE,
    F_CYCLER,
    F_JOINER,
    F_RAISE,
    F_STRFTIME,
    /* methods */
    M_DICT_GET,
    M_DICT_KEYS,
    M_DICT_VALUES,
    M_DICT_ITEMS,
    M_DICT_COPY,
    M_LIST_INDEX,
    M_LIST_COUNT,
    M_LIST_COPY,
    M_LOOP_CYCLE,
    M_LOOP_CHANGED,
    M_CYCLER_NEXT,
    M_CYCLER_RESET,
    M_STRING /* and on: the methods of strings */
};

#define RANGE_MAX 100000 /* the sandbox's own bound */

static const struct {
    const char *name;
    int id;
} functions[] = {{"range", F_RANGE}, {"dict", F_DICT}, {"namespace", F_NAMESPACE},
    {"cycler", F_CYCLER}, {"joiner", F_JOINER}, {"raise_exception", F_RAISE},
    {"strftime_now", F_STRFTIME}};

static const struct {
    kind_t kind;
    const char *name;
    int id;
} methods[] = {{DICT, "get", M_DICT_GET}, {DICT, "keys", M_DICT_KEYS},
    {DICT, "values", M_DICT_VALUES}, {DICT, "items", M_DICT_ITEMS}, {DICT, "copy", M_DICT_COPY},
    {SEQUENCE, "index", M_LIST_INDEX}, {SEQUENCE, "count", M_LIST_COUNT},
    {SEQUENCE, "copy", M_LIST_COPY}, {LOOP, "cycle", M_LOOP_CYCLE},
    {LOOP, "changed", M_LOOP_CHANGED}, {CYCLER, "next", M_CYCLER_NEXT},
    {CYCLER, "reset", M_CYCLER_RESET}};

/* What the immutable sandbox forbids, because it changes the object. */
static const struct {
    kind_t kind;
    const char *name;
} forbidden[] = {{DICT, "clear"}, {DICT, "pop"}, {DICT, "popitem"}, {DICT, "setdefault"},
    {DICT, "update"}, {SEQUENCE, "append"}, {SEQUENCE, "clear"}, {SEQUENCE, "extend"},
    {SEQUENCE, "insert"}, {SEQUENCE, "pop"}, {SEQUENCE, "remove"}, {SEQUENCE, "reverse"},
    {SEQUENCE, "sort"}};

static value_t function_value(run_t *run, int id, const char *name, value_t self)
{
    value_t value = {.kind = FUNCTION, .function = NEW(run, function_t)};
    *value.function = (function_t){id, name, self};
    return value;
}

void jinja_builtins_define(run_t *run)
{
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        jinja_dict_set(run, run->globals, jinja_value_text(run, functions[i].name),
            function_value(run, functions[i].id, functions[i].name, jinja_value_none()));
}

bool jinja_method_find(
    run_t *run, value_t object, const string_t *name, value_t *method, bool *is_unsafe)
{
    *is_unsafe = false;
    if (object.kind == STRING) {
        int id = jinja_string_method_find(name);
        if (id >= 0)
            *method = function_value(run, M_STRING + id, jinja_string_method_name(id), object);
        return id >= 0;
    }
    if (object.kind == CYCLER && jinja_string_is(name, "current")) {
        *method = object.cycler->items[object.cycler->at];
        return true;
    }
    bool is_list = object.kind == SEQUENCE && object.sequence->kind == LIST;
    if (object.kind == SEQUENCE && object.sequence->kind > RANGE)
        return false;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (methods[i].kind == object.kind && jinja_string_is(name, methods[i].name) &&
            (is_list || methods[i].id != M_LIST_COPY)) {
            *method = function_value(run, methods[i].id, methods[i].name, object);
            return true;
        }
    for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++)
        if (forbidden[i].kind == object.kind && jinja_string_is(name, forbidden[i].name))
            *is_unsafe = object.kind == DICT || is_list;
    return *is_unsafe;
}

static value_t make_range(run_t *run, const args_t *args)
{
    int64_t ends[3] = {0, 0, 1};
    if (args->n_keywords > 0)
        jinja_fail(run, "range() takes no keyword arguments");
    if (args->count == 0 || args->count > 3)
        jinja_fail(run, "range expected %s, got %zu",
            args->count == 0 ? "at least 1 argument" : "at most 3 arguments", args->count);
    for (size_t i = 0; i < args->count; i++)
        ends[args->count == 1 ? 1 : i] = jinja_want_integer(run, args->items[i]);
    if (ends[2] == 0)
        jinja_fail(run, "range() arg 3 must not be zero");
    value_t range = jinja_value_sequence(run, RANGE, 0);
    range.sequence->start = ends[0];
    range.sequence->stop = ends[1];
    range.sequence->step = ends[2];
    for (int64_t at = ends[0]; ends[2] > 0 ? at < ends[1] : at > ends[1];) {
        if (range.sequence->count == RANGE_MAX)
            jinja_fail(run, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                RANGE_MAX);
        jinja_sequence_add(run, range, jinja_value_int(at));
        if (__builtin_add_overflow(at, ends[2], &at))
            break;
    }
    jinja_run_step(run, range.sequence->count / 4);
    return range;
}

static void add_pairs(run_t *run, dict_t *dict, value_t from)
{
    if (from.kind == DICT || from.kind == NAMESPACE) {
        for (size_t i = 0; i < from.dict->count; i++)
            jinja_dict_set(run, dict, from.dict->entries[i].key, from.dict->entries[i].value);
        return;
    }
    if (!jinja_value_iterable(from))
        jinja_fail(run, "'%s' object is not iterable", jinja_type_name(from));
    const sequence_t *items = jinja_value_items(run, from);
    for (size_t i = 0; i < items->count; i++) {
        const sequence_t *pair =
            jinja_value_iterable(items->items[i]) ? jinja_value_items(run, items->items[i]) : NULL;
        if (pair == NULL)
            jinja_fail(
                run, "cannot convert dictionary update sequence element #%zu to a sequence", i);
        if (pair->count != 2)
            jinja_fail(run, "dictionary update sequence element #%zu has length %zu; 2 is required",
                i, pair->count);
        if (!jinja_value_hashable(pair->items[0]))
            jinja_fail(run, "unhashable type: '%s'", jinja_type_name(pair->items[0]));
        jinja_dict_set(run, dict, pair->items[0], pair->items[1]);
    }
}

static value_t make_dict(run_t *run, const args_t *args, kind_t kind)
{
    value_t dict = jinja_value_dict(run);
    if (args->count > 1)
        jinja_fail(run, "dict expected at most 1 argument, got %zu", args->count);
    if (args->count == 1)
        add_pairs(run, dict.dict, args->items[0]);
    for (size_t i = 0; i < args->n_keywords; i++)
        jinja_dict_set(
            run, dict.dict, jinja_value_string(args->keywords[i].name), args->keywords[i].value);
    dict.kind = kind;
    for (size_t i = 0; kind == NAMESPACE && i < dict.dict->count; i++) {
        value_t key = dict.dict->entries[i].key;
        if (key.kind == STRING && key.string->bytes > 0 && key.string->text[0] == '_')
            jinja_fail(run,
                "Chat templates cannot store underscore-prefixed attributes on a namespace, but "
                "got "
                "'%.*s'. Please rename the attribute.",
                (int)key.string->bytes, key.string->text);
    }
    return dict;
}

static value_t make_cycler(run_t *run, const args_t *args, kind_t kind)
{
    value_t value = {.kind = kind, .cycler = NEW(run, cycler_t)};
    if (kind == CYCLER && args->count == 0)
        jinja_fail(run, "at least one item has to be provided");
    *value.cycler = (cycler_t){args->items, args->count, 0};
    if (kind == JOINER) {
        value.cycler->items = NEW(run, value_t);
        jinja_args_bind(run, "joiner", args, "[sep]", value.cycler->items);
        if (value.cycler->items->kind == MISSING)
            value.cycler->items[0] = jinja_value_text(run, ", ");
    }
    return value;
}

static value_t time_text(run_t *run, const args_t *args)
{
    value_t format;
    char text[1024];
    struct tm parts;
    jinja_args_bind(run, "strftime_now", args, "format", &format);
    const string_t *wanted = jinja_want_string(run, format, "strftime_now");
    buffer_t zero = {0};
    jinja_buffer_string(run, &zero, wanted);
    jinja_buffer_add(run, &zero, "", 1);
    time_t now = run->has_time ? (time_t)run->time : time(NULL);
    if (localtime_r(&now, &parts) == NULL)
        jinja_fail(run, "strftime_now: the clock says %lld", (long long)now);
    size_t n = wanted->bytes > 0 ? strftime(text, sizeof text, zero.text, &parts) : 0;
    return jinja_value_bytes(run, text, n);
}

static value_t dict_get(run_t *run, const dict_t *dict, const args_t *args)
{
    value_t given[2];
    if (args->n_keywords > 0)
        jinja_fail(run, "dict.get() takes no keyword arguments");
    if (args->count == 0)
        jinja_fail(run, "get expected at least 1 argument, got 0");
    jinja_args_bind(run, "get", args, "key [default]", given);
    if (!jinja_value_hashable(given[0]))
        jinja_fail(run, "unhashable type: '%s'", jinja_type_name(given[0]));
    value_t *found = jinja_dict_find(run, dict, given[0]);
    return found != NULL ? *found : given[1].kind != MISSING ? given[1] : jinja_value_none();
}

static value_t dict_view(run_t *run, const dict_t *dict, sequence_kind_t kind)
{
    value_t view = jinja_value_sequence(run, kind, dict->count);
    for (size_t i = 0; i < dict->count; i++) {
        value_t item = kind == KEYS ? dict->entries[i].key : dict->entries[i].value;
        if (kind == ITEMS) {
            item = jinja_value_sequence(run, TUPLE, 2);
            jinja_sequence_add(run, item, dict->entries[i].key);
            jinja_sequence_add(run, item, dict->entries[i].value);
        }
        jinja_sequence_add(run, view, item);
    }
    jinja_run_step(run, dict->count);
    return view;
}

static value_t list_search(run_t *run, const sequence_t *list, const args_t *args, bool counts)
{
    value_t given;
    jinja_args_bind(run, counts ? "count" : "index", args, "value", &given);
    int64_t count = 0;
    for (size_t i = 0; i < list->count; i++) {
        jinja_run_step(run, 1);
        if (!jinja_value_equal(run, list->items[i], given))
            continue;
        if (!counts)
            return jinja_value_int((int64_t)i);
        count++;
    }
    if (!counts) {
        buffer_t message = {0};
        jinja_value_repr(run, &message, given);
        jinja_buffer_text(run, &message, " is not in list");
        jinja_fail_string(run, jinja_buffer_value(run, &message).string);
    }
    return jinja_value_int(count);
}

static value_t loop_changed(run_t *run, loop_t *loop, const args_t *args)
{
    value_t now = jinja_value_sequence(run, TUPLE, args->count);
    for (size_t i = 0; i < args->count; i++)
        jinja_sequence_add(run, now, args->items[i]);
    bool same = loop->changed.kind != MISSING && jinja_value_equal(run, loop->changed, now);
    loop->changed = now;
    return jinja_value_bool(!same);
}

static value_t loop_cycle(run_t *run, const loop_t *loop, const args_t *args)
{
    if (args->count == 0)
        jinja_fail(run, "no items for cycling given");
    return args->items[(size_t)loop->index0 % args->count];
}

static value_t call_method(run_t *run, const function_t *function, const args_t *args)
{
    value_t self = function->self;
    switch (function->id) {
    case M_DICT_GET:
        return dict_get(run, self.dict, args);
    case M_LIST_INDEX:
    case M_LIST_COUNT:
        return list_search(run, self.sequence, args, function->id == M_LIST_COUNT);
    case M_LOOP_CYCLE:
        return loop_cycle(run, self.loop, args);
    case M_LOOP_CHANGED:
        return loop_changed(run, self.loop, args);
    default:
        break;
    }
    jinja_args_bind(run, function->name, args, "", NULL);
    cycler_t *cycler = self.cycler;
    value_t result = jinja_value_none();
    switch (function->id) {
    case M_DICT_KEYS:
        return dict_view(run, self.dict, KEYS);
    case M_DICT_VALUES:
        return dict_view(run, self.dict, VALUES);
    case M_DICT_ITEMS:
        return dict_view(run, self.dict, ITEMS);
    case M_DICT_COPY:
    case M_LIST_COPY:
        return self; /* nothing can change it */
    case M_CYCLER_NEXT:
        result = cycler->items[cycler->at];
        cycler->at = (cycler->at + 1) % cycler->count;
        return result;
    default:
        cycler->at = 0;
        return result;
    }
}

value_t jinja_call_function(run_t *run, const function_t *function, const args_t *args)
{
    value_t given;
    if (function->id >= M_STRING)
        return jinja_string_method(run, function->id - M_STRING, function->self.string, args);
    switch (function->id) {
    case F_RANGE:
        return make_range(run, args);
    case F_DICT:
        return make_dict(run, args, DICT);
    case F_NAMESPACE:
        return make_dict(run, args, NAMESPACE);
    case F_CYCLER:
        return make_cycler(run, args, CYCLER);
    case F_JOINER:
        return make_cycler(run, args, JOINER);
    case F_RAISE:
        jinja_args_bind(run, "raise_exception", args, "message", &given);
        jinja_fail_string(run, jinja_str_of(run, given));
    case F_STRFTIME:
        return time_text(run, args);
    default:
        return call_method(run, function, args);
    }
}
