/* Filters on lists, dicts and other things with items. Those that are generators in Python are
 * computed at once here; the value can be gone through once as there. */
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

typedef value_t filter_t(run_t *run, value_t value, const args_t *args);

static bool given(value_t value)
{
    return value.kind != MISSING && value.kind != NONE;
}

static const sequence_t *items_of(run_t *run, value_t value)
{
    const sequence_t *items = jinja_value_items(run, value);
    jinja_run_step(run, items->count);
    return items;
}

static value_t ignore_case(run_t *run, value_t value)
{
    return value.kind == STRING ? jinja_string_case(run, value.string, CASE_LOWER) : value;
}

/* ---- sorting --------------------------------------------------------------------------------- */

typedef struct keyed {
    value_t key, item;
} keyed_t;

static void merge_sort(run_t *run, keyed_t *at, size_t n, keyed_t *spare, bool reverse)
{
    if (n < 2)
        return;
    size_t half = n / 2, a = 0, b = half;
    merge_sort(run, at, half, spare, reverse);
    merge_sort(run, at + half, n - half, spare, reverse);
    memcpy(spare, at, n * sizeof *spare);
    for (size_t i = 0; i < n; i++) {
        bool second = a == half;
        jinja_run_step(run, 1);
        if (a < half && b < n)
            second = reverse ? jinja_value_compare(run, spare[a].key, spare[b].key, "<") < 0
                             : jinja_value_compare(run, spare[b].key, spare[a].key, "<") < 0;
        at[i] = second ? spare[b++] : spare[a++];
    }
}

static value_t sorted(run_t *run, keyed_t *keyed, size_t n, bool reverse)
{
    value_t list = jinja_value_sequence(run, LIST, n);
    merge_sort(run, keyed, n, jinja_arena_alloc(run, (n + 1) * sizeof *keyed), reverse);
    for (size_t i = 0; i < n; i++)
        jinja_sequence_add(run, list, keyed[i].item);
    return list;
}

/* "a,b.c": a list of the values of these paths; otherwise the one value. */
static value_t sort_key(run_t *run, value_t item, value_t attribute, bool case_sensitive)
{
    value_t key = jinja_value_sequence(run, LIST, 1);
    const char *text = attribute.kind == STRING ? attribute.string->text : "";
    const char *end = attribute.kind == STRING ? text + attribute.string->bytes : text;
    for (;;) {
        const char *comma = text < end ? memchr(text, ',', (size_t)(end - text)) : NULL;
        value_t path = attribute;
        if (attribute.kind == STRING)
            path = jinja_value_bytes(run, text, (size_t)((comma != NULL ? comma : end) - text));
        value_t value = jinja_get_path(run, item, path);
        jinja_sequence_add(run, key, case_sensitive ? value : ignore_case(run, value));
        if (comma == NULL)
            return key;
        text = comma + 1;
    }
}

static value_t do_sort(run_t *run, value_t value, const args_t *args)
{
    value_t a[3];
    jinja_args_bind(run, "sort", args, "[reverse case_sensitive attribute]", a);
    const sequence_t *items = items_of(run, value);
    keyed_t *keyed = jinja_arena_alloc(run, (items->count + 1) * sizeof *keyed);
    for (size_t i = 0; i < items->count; i++)
        keyed[i] = (keyed_t){
            sort_key(run, items->items[i], a[2], jinja_value_true(a[1])), items->items[i]};
    return sorted(run, keyed, items->count, jinja_value_true(a[0]));
}

static value_t pair(run_t *run, value_t first, value_t second)
{
    value_t tuple = jinja_value_sequence(run, TUPLE, 2);
    jinja_sequence_add(run, tuple, first);
    jinja_sequence_add(run, tuple, second);
    return tuple;
}

static value_t do_dictsort(run_t *run, value_t value, const args_t *args)
{
    value_t a[3];
    jinja_args_bind(run, "dictsort", args, "[case_sensitive by reverse]", a);
    const string_t *by = given(a[1]) ? jinja_want_string(run, a[1], "dictsort") : NULL;
    bool by_value = by != NULL && jinja_string_is(by, "value");
    if (by != NULL && !by_value && !jinja_string_is(by, "key"))
        jinja_fail(run, "You can only sort by either \"key\" or \"value\"");
    jinja_require_defined(run, value);
    if (value.kind != DICT)
        jinja_fail(run, "'%s' object has no attribute 'items'", jinja_type_name(value));
    keyed_t *keyed = jinja_arena_alloc(run, (value.dict->count + 1) * sizeof *keyed);
    for (size_t i = 0; i < value.dict->count; i++) {
        const entry_t *entry = &value.dict->entries[i];
        value_t key = by_value ? entry->value : entry->key;
        keyed[i] = (keyed_t){jinja_value_true(a[0]) ? key : ignore_case(run, key),
            pair(run, entry->key, entry->value)};
    }
    return sorted(run, keyed, value.dict->count, jinja_value_true(a[2]));
}

static value_t extreme(run_t *run, value_t value, const args_t *args, bool largest)
{
    value_t a[2], best = {0}, best_key = {0};
    jinja_args_bind(run, largest ? "max" : "min", args, "[case_sensitive attribute]", a);
    const sequence_t *items = items_of(run, value);
    for (size_t i = 0; i < items->count; i++) {
        value_t key = jinja_get_path(run, items->items[i], a[1]);
        if (!jinja_value_true(a[0]))
            key = ignore_case(run, key);
        bool better = i == 0 || (largest ? jinja_value_compare(run, key, best_key, ">") > 0
                                         : jinja_value_compare(run, key, best_key, "<") < 0);
        if (better) {
            best = items->items[i];
            best_key = key;
        }
    }
    return items->count > 0 ? best
                            : jinja_value_undefined(run, "No aggregated item, sequence was empty.");
}

static value_t do_max(run_t *run, value_t value, const args_t *args)
{
    return extreme(run, value, args, true);
}

static value_t do_min(run_t *run, value_t value, const args_t *args)
{
    return extreme(run, value, args, false);
}

static value_t do_groupby(run_t *run, value_t value, const args_t *args)
{
    value_t a[3], groups = jinja_value_sequence(run, LIST, 0), last_key = {0}, members = {0};
    jinja_args_bind(run, "groupby", args, "attribute [default case_sensitive]", a);
    const sequence_t *items = items_of(run, value);
    keyed_t *keyed = jinja_arena_alloc(run, (items->count + 1) * sizeof *keyed);
    for (size_t i = 0; i < items->count; i++) {
        value_t key = jinja_get_path(run, items->items[i], a[0]);
        if (key.kind == UNDEFINED && given(a[1]))
            key = a[1];
        keyed[i] = (keyed_t){
            jinja_value_true(a[2]) ? key : ignore_case(run, key), pair(run, key, items->items[i])};
    }
    const sequence_t *ordered = sorted(run, keyed, items->count, false).sequence;
    for (size_t i = 0; i < ordered->count; i++) {
        const value_t *both = ordered->items[i].sequence->items;
        if (i == 0 || !jinja_value_equal(run, keyed[i].key, last_key)) {
            members = jinja_value_sequence(run, LIST, 0);
            value_t group = pair(run, both[0], members);
            group.sequence->type = "_GroupTuple"; /* which also has names: grouper and list */
            jinja_sequence_add(run, groups, group);
        }
        last_key = keyed[i].key;
        jinja_sequence_add(run, members, both[1]);
    }
    return groups;
}

static value_t do_unique(run_t *run, value_t value, const args_t *args)
{
    value_t a[2], result = jinja_value_iterator(run, "generator"), seen = jinja_value_dict(run);
    jinja_args_bind(run, "unique", args, "[case_sensitive attribute]", a);
    const sequence_t *items = items_of(run, value);
    for (size_t i = 0; i < items->count; i++) {
        value_t key = jinja_get_path(run, items->items[i], a[1]);
        if (!jinja_value_true(a[0]))
            key = ignore_case(run, key);
        if (!jinja_value_hashable(key))
            jinja_fail(run, "unhashable type: '%s'", jinja_type_name(key));
        if (jinja_dict_find(run, seen.dict, key) == NULL)
            jinja_sequence_add(run, result, items->items[i]);
        jinja_dict_set(run, seen.dict, key, jinja_value_none());
    }
    return result;
}

/* ---- map, select and reject ------------------------------------------------------------------ */

static args_t rest_of(const args_t *args, size_t from)
{
    args_t rest = *args;
    rest.items += from;
    rest.count -= from;
    return rest;
}

static value_t map_attribute(run_t *run, const sequence_t *items, const args_t *args)
{
    value_t a[2], result = jinja_value_iterator(run, "generator");
    jinja_args_bind(run, "map", args, "attribute [default]", a);
    for (size_t i = 0; i < items->count; i++) {
        value_t value = jinja_get_path(run, items->items[i], a[0]);
        jinja_sequence_add(run, result, value.kind == UNDEFINED && given(a[1]) ? a[1] : value);
    }
    return result;
}

static bool has_keyword(const args_t *args, const char *name)
{
    for (size_t i = 0; i < args->n_keywords; i++)
        if (jinja_string_is(args->keywords[i].name, name))
            return true;
    return false;
}

static value_t do_map(run_t *run, value_t value, const args_t *args)
{
    value_t result = jinja_value_iterator(run, "generator");
    if (!jinja_value_true(value))
        return result;
    const sequence_t *items = items_of(run, value);
    if (args->count == 0 && has_keyword(args, "attribute"))
        return map_attribute(run, items, args);
    if (args->count == 0)
        jinja_fail(run, "map requires a filter argument");
    const string_t *name = jinja_want_string(run, args->items[0], "map");
    args_t rest = rest_of(args, 1);
    for (size_t i = 0; i < items->count; i++)
        jinja_sequence_add(run, result, jinja_call_filter(run, name, items->items[i], &rest));
    return result;
}

static value_t choose(run_t *run, value_t value, const args_t *args, bool keep, bool by_attribute)
{
    value_t result = jinja_value_iterator(run, "generator");
    if (!jinja_value_true(value))
        return result;
    if (by_attribute && args->count == 0)
        jinja_fail(run, "Missing parameter for attribute name");
    const sequence_t *items = items_of(run, value);
    bool tests = args->count > by_attribute;
    const string_t *name =
        tests ? jinja_want_string(run, args->items[by_attribute], "select") : NULL;
    args_t rest = tests ? rest_of(args, (size_t)by_attribute + 1) : (args_t){0};
    for (size_t i = 0; i < items->count; i++) {
        value_t subject = items->items[i];
        if (by_attribute)
            subject = jinja_get_path(run, subject, args->items[0]);
        bool passes =
            tests ? jinja_call_test(run, name, subject, &rest) : jinja_value_true(subject);
        if (passes == keep)
            jinja_sequence_add(run, result, items->items[i]);
    }
    return result;
}

static value_t do_select(run_t *run, value_t value, const args_t *args)
{
    return choose(run, value, args, true, false);
}

static value_t do_reject(run_t *run, value_t value, const args_t *args)
{
    return choose(run, value, args, false, false);
}

static value_t do_selectattr(run_t *run, value_t value, const args_t *args)
{
    return choose(run, value, args, true, true);
}

static value_t do_rejectattr(run_t *run, value_t value, const args_t *args)
{
    return choose(run, value, args, false, true);
}

/* ---- the others ------------------------------------------------------------------------------ */

static value_t do_join(run_t *run, value_t value, const args_t *args)
{
    value_t a[2];
    buffer_t out = {0};
    jinja_args_bind(run, "join", args, "[d attribute]", a);
    const sequence_t *items = items_of(run, value);
    for (size_t i = 0; i < items->count; i++) {
        if (i > 0 && a[0].kind != MISSING)
            jinja_value_str(run, &out, a[0]);
        jinja_value_str(
            run, &out, given(a[1]) ? jinja_get_path(run, items->items[i], a[1]) : items->items[i]);
    }
    return jinja_buffer_value(run, &out);
}

static value_t do_first(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "first", args, "", NULL);
    if (value.kind == SEQUENCE && value.sequence->kind == ITERATOR) {
        sequence_t *from = value.sequence;
        if (from->next < from->count)
            return from->items[from->next++];
    } else {
        const sequence_t *items = items_of(run, value);
        if (items->count > 0)
            return items->items[0];
    }
    return jinja_value_undefined(run, "No first item, sequence was empty.");
}

static value_t do_last(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "last", args, "", NULL);
    jinja_require_defined(run, value);
    if (value.kind == SEQUENCE && value.sequence->kind == ITERATOR)
        jinja_fail(run, "'%s' object is not reversible", jinja_type_name(value));
    const sequence_t *items = items_of(run, value);
    return items->count > 0 ? items->items[items->count - 1]
                            : jinja_value_undefined(run, "No last item, sequence was empty.");
}

static value_t copy_items(run_t *run, value_t to, const sequence_t *items)
{
    for (size_t i = 0; i < items->count; i++)
        jinja_sequence_add(run, to, items->items[i]);
    return to;
}

static value_t do_list(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "list", args, "", NULL);
    const sequence_t *items = items_of(run, value);
    return copy_items(run, jinja_value_sequence(run, LIST, items->count), items);
}

static value_t do_items(run_t *run, value_t value, const args_t *args)
{
    value_t result = jinja_value_iterator(run, "generator");
    jinja_args_bind(run, "items", args, "", NULL);
    if (value.kind == UNDEFINED)
        return result;
    if (value.kind != DICT)
        jinja_fail(run, "Can only get item pairs from a mapping.");
    for (size_t i = 0; i < value.dict->count; i++)
        jinja_sequence_add(
            run, result, pair(run, value.dict->entries[i].key, value.dict->entries[i].value));
    return result;
}

static value_t do_reverse(run_t *run, value_t value, const args_t *args)
{
    jinja_args_bind(run, "reverse", args, "", NULL);
    if (value.kind == STRING)
        return jinja_get_slice(
            run, value, jinja_value_none(), jinja_value_none(), jinja_value_int(-1));
    if (!jinja_value_iterable(value))
        jinja_fail(run, "argument must be iterable");
    const sequence_t *items = items_of(run, value);
    value_t result = jinja_value_iterator(run, "list_reverseiterator");
    for (size_t i = items->count; i-- > 0;)
        jinja_sequence_add(run, result, items->items[i]);
    return result;
}

static value_t do_sum(run_t *run, value_t value, const args_t *args)
{
    value_t a[2];
    jinja_args_bind(run, "sum", args, "[attribute start]", a);
    value_t sum = a[1].kind != MISSING ? a[1] : jinja_value_int(0);
    const sequence_t *items = items_of(run, value);
    if (sum.kind == STRING)
        jinja_fail(run, "sum() can't sum strings [use ''.join(seq) instead]");
    for (size_t i = 0; i < items->count; i++)
        sum = jinja_binary(run, T_ADD, sum,
            given(a[0]) ? jinja_get_path(run, items->items[i], a[0]) : items->items[i]);
    return sum;
}

static value_t do_batch(run_t *run, value_t value, const args_t *args)
{
    value_t a[2], result = jinja_value_iterator(run, "generator"), row = {0};
    jinja_args_bind(run, "batch", args, "linecount [fill_with]", a);
    int64_t size = jinja_want_integer(run, a[0]);
    const sequence_t *items = items_of(run, value);
    for (size_t i = 0; i < items->count; i++) {
        if (row.kind == MISSING || (int64_t)row.sequence->count == size) {
            row = jinja_value_sequence(run, LIST, 0);
            jinja_sequence_add(run, result, row);
        }
        jinja_sequence_add(run, row, items->items[i]);
    }
    while (row.kind != MISSING && given(a[1]) && (int64_t)row.sequence->count < size) {
        jinja_run_step(run, 1);
        jinja_sequence_add(run, row, a[1]);
    }
    return result;
}

static value_t do_slice(run_t *run, value_t value, const args_t *args)
{
    value_t a[2], result = jinja_value_iterator(run, "generator");
    jinja_args_bind(run, "slice", args, "slices [fill_with]", a);
    int64_t slices = jinja_want_integer(run, a[0]);
    const sequence_t *items = items_of(run, value);
    if (slices == 0)
        jinja_fail(run, "integer division or modulo by zero");
    int64_t each = (int64_t)items->count / slices, more = (int64_t)items->count % slices, at = 0;
    for (int64_t i = 0; i < slices; i++) {
        value_t column = jinja_value_sequence(run, LIST, 0);
        for (int64_t end = at + each + (i < more); at < end; at++)
            jinja_sequence_add(run, column, items->items[at]);
        if (given(a[1]) && i >= more)
            jinja_sequence_add(run, column, a[1]);
        jinja_sequence_add(run, result, column);
        jinja_run_step(run, 1);
    }
    return result;
}

static const struct {
    const char *name;
    filter_t *filter;
} filters[] = {{"batch", do_batch}, {"dictsort", do_dictsort}, {"first", do_first},
    {"groupby", do_groupby}, {"items", do_items}, {"join", do_join}, {"last", do_last},
    {"list", do_list}, {"map", do_map}, {"max", do_max}, {"min", do_min}, {"reject", do_reject},
    {"rejectattr", do_rejectattr}, {"reverse", do_reverse}, {"select", do_select},
    {"selectattr", do_selectattr}, {"slice", do_slice}, {"sort", do_sort}, {"sum", do_sum},
    {"unique", do_unique}};

static size_t find_filter(const string_t *name)
{
    size_t i = 0;
    while (i < sizeof filters / sizeof filters[0] && !jinja_string_is(name, filters[i].name))
        i++;
    return i;
}

bool jinja_sequence_filter_exists(const string_t *name)
{
    return find_filter(name) < sizeof filters / sizeof filters[0];
}

bool jinja_sequence_filter(
    run_t *run, const string_t *name, value_t value, const args_t *args, value_t *result)
{
    size_t i = find_filter(name);
    if (i == sizeof filters / sizeof filters[0])
        return false;
    *result = filters[i].filter(run, value, args);
    return true;
}
