/* Expressions, arguments, macros and the loop variable. */
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

static value_t eval_name(run_t *run, const node_t *node, scope_t *scope)
{
    for (; scope != NULL; scope = scope->parent)
        for (binding_t *at = scope->bindings; at != NULL; at = at->next)
            if (at->name == node->name && at->value.kind != MISSING)
                return at->value;
    value_t *global = jinja_dict_find(run, run->globals, jinja_value_string(node->name));
    return global != NULL
               ? *global
               : jinja_value_undefined_name(run, (value_t){0}, jinja_value_string(node->name));
}

static value_t eval_list(run_t *run, const node_t *node, scope_t *scope)
{
    value_t list = jinja_value_sequence(run, node->kind == N_LIST ? LIST : TUPLE, node->list.count);
    for (size_t i = 0; i < node->list.count; i++)
        jinja_sequence_add(run, list, jinja_eval(run, node->list.at[i], scope));
    return list;
}

static value_t eval_dict(run_t *run, const node_t *node, scope_t *scope)
{
    value_t dict = jinja_value_dict(run);
    for (size_t i = 0; i < node->list.count; i += 2) {
        value_t key = jinja_eval(run, node->list.at[i], scope);
        if (!jinja_value_hashable(key))
            jinja_fail(run, "unhashable type: '%s'", jinja_type_name(key));
        jinja_dict_set(run, dict.dict, key, jinja_eval(run, node->list.at[i + 1], scope));
    }
    return dict;
}

static value_t eval_conditional(run_t *run, const node_t *node, scope_t *scope)
{
    if (jinja_value_true(jinja_eval(run, node->b, scope)))
        return jinja_eval(run, node->a, scope);
    if (node->c != NULL)
        return jinja_eval(run, node->c, scope);
    return jinja_value_undefined(run,
        "the inline if-expression on line %u evaluated to false and no else section was defined.",
        node->line);
}

static value_t eval_comparison(run_t *run, const node_t *node, scope_t *scope)
{
    value_t left = jinja_eval(run, node->a, scope);
    for (size_t i = 0; i < node->list.count; i++) {
        value_t right = jinja_eval(run, node->list.at[i]->a, scope);
        if (!jinja_compare(run, node->list.at[i]->op, left, right))
            return jinja_value_bool(false);
        left = right;
    }
    return jinja_value_bool(true);
}

static value_t eval_concat(run_t *run, const node_t *node, scope_t *scope)
{
    buffer_t out = {0};
    for (size_t i = 0; i < node->list.count; i++)
        jinja_value_str(run, &out, jinja_eval(run, node->list.at[i], scope));
    return jinja_buffer_value(run, &out);
}

static value_t eval_item(run_t *run, const node_t *node, scope_t *scope)
{
    value_t object = jinja_eval(run, node->a, scope);
    const node_t *key = node->b;
    if (key->kind != N_SLICE)
        return jinja_get_item(run, object, jinja_eval(run, key, scope));
    value_t start = key->a != NULL ? jinja_eval(run, key->a, scope) : (value_t){0};
    value_t stop = key->b != NULL ? jinja_eval(run, key->b, scope) : (value_t){0};
    value_t step = key->c != NULL ? jinja_eval(run, key->c, scope) : (value_t){0};
    return jinja_get_slice(run, object, start, stop, step);
}

/* ---- arguments ------------------------------------------------------------------------------- */

static void add_keyword(run_t *run, args_t *args, const string_t *name, value_t value)
{
    for (size_t i = 0; i < args->n_keywords; i++)
        if (jinja_value_equal(
                run, jinja_value_string(args->keywords[i].name), jinja_value_string(name)))
            jinja_fail(run, "got multiple values for keyword argument '%.*s'", (int)name->bytes,
                name->text);
    args->keywords[args->n_keywords++] = (keyword_t){name, value};
}

static args_t eval_args(run_t *run, const node_t *node, scope_t *scope)
{
    args_t args = {0};
    value_t list = jinja_value_sequence(run, LIST, node->list.count);
    for (size_t i = 0; i < node->list.count; i++)
        jinja_sequence_add(run, list, jinja_eval(run, node->list.at[i], scope));
    if (node->b != NULL) {
        value_t more = jinja_eval(run, node->b, scope);
        const sequence_t *items = jinja_value_items(run, more);
        for (size_t i = 0; i < items->count; i++)
            jinja_sequence_add(run, list, items->items[i]);
    }
    value_t spread = node->c != NULL ? jinja_eval(run, node->c, scope) : (value_t){0};
    if (node->c != NULL && spread.kind != DICT)
        jinja_fail(run, "argument after ** must be a mapping, not %s", jinja_type_name(spread));
    size_t n = node->keywords.count + (node->c != NULL ? spread.dict->count : 0);
    args.keywords = jinja_arena_alloc(run, n * sizeof *args.keywords);
    for (size_t i = 0; i < node->keywords.count; i++)
        add_keyword(run, &args, node->keywords.at[i]->name,
            jinja_eval(run, node->keywords.at[i]->a, scope));
    for (size_t i = 0; node->c != NULL && i < spread.dict->count; i++) {
        if (spread.dict->entries[i].key.kind != STRING)
            jinja_fail(run, "keywords must be strings");
        add_keyword(run, &args, spread.dict->entries[i].key.string, spread.dict->entries[i].value);
    }
    args.items = list.sequence->items;
    args.count = list.sequence->count;
    return args;
}

/* The next word of a list of names, without brackets; NULL at the end. */
static const char *next_name(const char **names, size_t *bytes, bool *optional)
{
    while (**names == ' ' || **names == '[' || **names == ']') {
        *optional |= **names == '[';
        ++*names;
    }
    const char *name = *names;
    *bytes = strcspn(name, " []");
    *names += *bytes;
    return *bytes > 0 ? name : NULL;
}

void jinja_args_bind(
    run_t *run, const char *function, const args_t *args, const char *names, value_t *out)
{
    size_t n = 0, used = 0, bytes;
    bool optional = false;
    for (const char *name; (name = next_name(&names, &bytes, &optional)) != NULL; n++) {
        out[n] = n < args->count ? args->items[n] : (value_t){0};
        for (size_t k = 0; k < args->n_keywords; k++) {
            const string_t *keyword = args->keywords[k].name;
            if (keyword->bytes != bytes || memcmp(keyword->text, name, bytes) != 0)
                continue;
            if (n < args->count)
                jinja_fail(run, "%s() got multiple values for argument '%.*s'", function,
                    (int)bytes, name);
            out[n] = args->keywords[k].value;
            used++;
        }
        if (out[n].kind == MISSING && !optional)
            jinja_fail(run, "%s() missing 1 required positional argument: '%.*s'", function,
                (int)bytes, name);
    }
    if (args->count > n)
        jinja_fail(run, "%s() takes at most %zu arguments (%zu given)", function, n, args->count);
    if (used < args->n_keywords)
        jinja_fail(run, "%s() got an unexpected keyword argument", function);
}

int64_t jinja_want_integer(run_t *run, value_t value)
{
    jinja_require_defined(run, value);
    if (!jinja_is_integer(value))
        jinja_fail(run, "'%s' object cannot be interpreted as an integer", jinja_type_name(value));
    return jinja_integer_of(value);
}

const string_t *jinja_want_string(run_t *run, value_t value, const char *what)
{
    jinja_require_defined(run, value);
    if (value.kind != STRING)
        jinja_fail(run, "%s: expected str, found %s", what, jinja_type_name(value));
    return value.string;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void macro_parameter(
    run_t *run, const macro_t *macro, const args_t *args, size_t i, bool *used, scope_t *scope)
{
    const nodes_t *parameters = &macro->node->list, *defaults = &macro->node->keywords;
    const string_t *name = parameters->at[i]->name;
    value_t value = i < args->count ? args->items[i] : (value_t){0};
    for (size_t k = 0; i >= args->count && k < args->n_keywords; k++)
        if (jinja_value_equal(
                run, jinja_value_string(args->keywords[k].name), jinja_value_string(name))) {
            value = args->keywords[k].value;
            used[k] = true;
        }
    if (value.kind == MISSING) {
        size_t without = parameters->count - defaults->count;
        value = i >= without
                    ? jinja_eval(run, defaults->at[i - without], scope)
                    : jinja_value_undefined(run, "parameter '%.200s' was not provided", name->text);
    }
    jinja_bind(run, scope, name, value);
}

static void macro_extras(
    run_t *run, const macro_t *macro, const args_t *args, bool *used, scope_t *scope)
{
    const node_t *node = macro->node;
    value_t caller = jinja_value_undefined(run, "No caller defined");
    value_t kwargs = jinja_value_dict(run), varargs = jinja_value_sequence(run, TUPLE, 0);
    const char *name = node->name != NULL ? node->name->text : "None";
    for (size_t k = 0; k < args->n_keywords; k++) {
        const keyword_t *keyword = &args->keywords[k];
        if (used[k])
            continue;
        if (node->caller && jinja_string_is(keyword->name, "caller")) {
            caller = keyword->value;
            continue;
        }
        if (!node->kwargs && jinja_string_is(keyword->name, "caller"))
            jinja_fail(run,
                "macro '%.200s' was invoked with two values for the special caller "
                "argument. This is most likely a bug.",
                name);
        if (!node->kwargs)
            jinja_fail(run, "macro '%.200s' takes no keyword argument '%.*s'", name,
                (int)keyword->name->bytes, keyword->name->text);
        jinja_dict_set(run, kwargs.dict, jinja_value_string(keyword->name), keyword->value);
    }
    for (size_t i = node->list.count; i < args->count; i++)
        jinja_sequence_add(run, varargs, args->items[i]);
    if (!node->varargs && varargs.sequence->count > 0)
        jinja_fail(
            run, "macro '%.200s' takes not more than %zu argument(s)", name, node->list.count);
    if (node->caller)
        jinja_bind(run, scope, run->caller_name, caller);
    if (node->kwargs)
        jinja_bind(run, scope, run->kwargs_name, kwargs);
    if (node->varargs)
        jinja_bind(run, scope, run->varargs_name, varargs);
}

static value_t jinja_call_macro(run_t *run, const macro_t *macro, const args_t *args)
{
    scope_t *scope = jinja_scope_new(run, macro->scope);
    bool *used = jinja_arena_alloc(run, args->n_keywords + 1);
    buffer_t *outer = run->out, inner = {0};
    jinja_run_enter(run);
    for (size_t i = 0; i < macro->node->list.count; i++)
        macro_parameter(run, macro, args, i, used, scope);
    macro_extras(run, macro, args, used, scope);
    run->out = &inner;
    jinja_eval_body(run, &macro->node->body, scope);
    run->out = outer;
    run_leave(run);
    return jinja_buffer_value(run, &inner);
}

static value_t call_loop(run_t *run, loop_t *loop, const args_t *args)
{
    value_t iterable;
    flow_t flow;
    buffer_t *outer = run->out, inner = {0};
    if (!loop->node->flag)
        jinja_fail(run, "The loop must have the 'recursive' marker to be called recursively.");
    jinja_args_bind(run, "loop", args, "iterable", &iterable);
    jinja_run_enter(run);
    run->out = &inner;
    jinja_loop_run(run, loop->node, loop->scope, iterable, loop->depth0 + 1, &flow);
    run->out = outer;
    run_leave(run);
    return jinja_buffer_value(run, &inner);
}

static value_t jinja_call_value(run_t *run, value_t callee, const args_t *args)
{
    switch (callee.kind) {
    case MACRO:
        return jinja_call_macro(run, callee.macro, args);
    case FUNCTION:
        return jinja_call_function(run, callee.function, args);
    case LOOP:
        return call_loop(run, callee.loop, args);
    case JOINER:
        return callee.cycler->at++ == 0 ? jinja_value_text(run, "") : callee.cycler->items[0];
    default:
        jinja_require_defined(run, callee);
        jinja_fail(run, "'%s' object is not callable", jinja_type_name(callee));
    }
}

value_t jinja_loop_attribute(run_t *run, loop_t *loop, const string_t *name)
{
    int64_t index = loop->index0 + 1;
    if (jinja_string_is(name, "index") || jinja_string_is(name, "index0"))
        return jinja_value_int(jinja_string_is(name, "index") ? index : loop->index0);
    if (jinja_string_is(name, "first"))
        return jinja_value_bool(loop->index0 == 0);
    if (jinja_string_is(name, "length"))
        return jinja_value_int(jinja_loop_length(loop));
    if (jinja_string_is(name, "revindex") || jinja_string_is(name, "revindex0"))
        return jinja_value_int(
            jinja_loop_length(loop) - (jinja_string_is(name, "revindex") ? loop->index0 : index));
    if (jinja_string_is(name, "depth") || jinja_string_is(name, "depth0"))
        return jinja_value_int(loop->depth0 + jinja_string_is(name, "depth"));
    if (jinja_string_is(name, "last") || jinja_string_is(name, "nextitem")) {
        jinja_loop_look(loop);
        if (jinja_string_is(name, "last"))
            return jinja_value_bool(loop->after.kind == MISSING);
        return loop->after.kind != MISSING ? loop->after
                                           : jinja_value_undefined(run, "there is no next item");
    }
    if (jinja_string_is(name, "previtem"))
        return loop->index0 > 0 ? loop->before
                                : jinja_value_undefined(run, "there is no previous item");
    value_t method = {0};
    bool is_unsafe;
    value_t self = {.kind = LOOP, .loop = loop};
    jinja_method_find(run, self, name, &method, &is_unsafe);
    return method;
}

/* ---- all kinds ------------------------------------------------------------------------------- */

static value_t eval_call(run_t *run, const node_t *node, scope_t *scope)
{
    value_t subject = jinja_eval(run, node->a, scope);
    args_t args = eval_args(run, node, scope);
    run->line = node->line;
    if (node->kind == N_FILTER && !jinja_filter_exists(node->name))
        jinja_fail(run, "No filter named '%.200s' found.", node->name->text);
    if (node->kind == N_TEST && !jinja_test_exists(node->name))
        jinja_fail(run, "No test named '%.200s' found.", node->name->text);
    if (node->kind == N_FILTER)
        return jinja_call_filter(run, node->name, subject, &args);
    if (node->kind == N_TEST)
        return jinja_value_bool(jinja_call_test(run, node->name, subject, &args));
    return jinja_call_value(run, subject, &args);
}

static value_t eval_logic(run_t *run, const node_t *node, scope_t *scope)
{
    value_t left = jinja_eval(run, node->a, scope);
    if (jinja_value_true(left) == (node->kind == N_OR))
        return left;
    return jinja_eval(run, node->b, scope);
}

static value_t eval_plus(run_t *run, value_t value)
{
    jinja_require_defined(run, value);
    if (!jinja_is_number(value) && value.kind != BIG)
        jinja_fail(run, "bad operand type for unary +: '%s'", jinja_type_name(value));
    return value.kind == BOOL ? jinja_value_int(value.boolean) : value;
}

static value_t eval_node(run_t *run, const node_t *node, scope_t *scope)
{
    value_t left;
    switch (node->kind) {
    case N_CONST:
        return node->value;
    case N_NAME:
        return eval_name(run, node, scope);
    case N_TUPLE:
    case N_LIST:
        return eval_list(run, node, scope);
    case N_DICT:
        return eval_dict(run, node, scope);
    case N_CONDITIONAL:
        return eval_conditional(run, node, scope);
    case N_OR:
    case N_AND:
        return eval_logic(run, node, scope);
    case N_NOT:
        return jinja_value_bool(!jinja_value_true(jinja_eval(run, node->a, scope)));
    case N_COMPARE:
        return eval_comparison(run, node, scope);
    case N_BINARY:
        left = jinja_eval(run, node->a, scope);
        return jinja_binary(run, node->op, left, jinja_eval(run, node->b, scope));
    case N_CONCAT:
        return eval_concat(run, node, scope);
    case N_NEGATE:
        return jinja_negate(run, jinja_eval(run, node->a, scope));
    case N_PLUS:
        return eval_plus(run, jinja_eval(run, node->a, scope));
    case N_ATTRIBUTE:
        return jinja_get_attribute(run, jinja_eval(run, node->a, scope), node->name);
    case N_ITEM:
        return eval_item(run, node, scope);
    default:
        return eval_call(run, node, scope);
    }
}

value_t jinja_eval(run_t *run, const node_t *node, scope_t *scope)
{
    jinja_run_enter(run);
    value_t value = eval_node(run, node, scope);
    run_leave(run);
    return value;
}
