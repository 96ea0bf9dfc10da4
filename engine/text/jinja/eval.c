/* Statements. A block that is a frame of its own in jinja2 gets a scope here: names are looked up
 * outwards and assigned in the innermost scope, so that a loop's body cannot change what is around
 * it. */
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"

scope_t *jinja_scope_new(run_t *run, scope_t *parent)
{
    scope_t *scope = NEW(run, scope_t);
    scope->parent = parent;
    return scope;
}

void jinja_bind(run_t *run, scope_t *scope, const string_t *name, value_t value)
{
    for (binding_t *at = scope->bindings; at != NULL; at = at->next)
        if (at->name == name) {
            at->value = value;
            return;
        }
    binding_t *binding = NEW(run, binding_t);
    *binding = (binding_t){name, value, scope->bindings};
    scope->bindings = binding;
}

static void assign_attribute(run_t *run, const node_t *target, value_t value, scope_t *scope)
{
    node_t name = {.kind = N_NAME, .name = target->name, .line = target->line};
    value_t object = jinja_eval(run, &name, scope);
    const string_t *attribute = target->value.string;
    if (object.kind != NAMESPACE)
        jinja_fail(run, "cannot assign attribute on non-namespace object");
    if (attribute->text[0] == '_')
        jinja_fail(run,
            "Chat templates cannot store underscore-prefixed attributes on a namespace, "
            "but got '%.200s'. Please rename the attribute.",
            attribute->text);
    jinja_dict_set(run, object.dict, target->value, value);
}

static void jinja_assign(run_t *run, const node_t *target, value_t value, scope_t *scope)
{
    if (target->kind == N_NAME) {
        jinja_bind(run, scope, target->name, value);
        return;
    }
    if (target->kind == N_NAMESPACE_REF) {
        assign_attribute(run, target, value, scope);
        return;
    }
    if (!jinja_value_iterable(value))
        jinja_fail(run, "cannot unpack non-iterable %s object", jinja_type_name(value));
    const sequence_t *items = jinja_value_items(run, value);
    size_t n = target->list.count;
    if (items->count > n)
        jinja_fail(run, "too many values to unpack (expected %zu)", n);
    if (items->count < n)
        jinja_fail(run, "not enough values to unpack (expected %zu, got %zu)", n, items->count);
    jinja_run_enter(run);
    for (size_t i = 0; i < n; i++)
        jinja_assign(run, target->list.at[i], items->items[i], scope);
    run_leave(run);
}

/* Renders into a text of its own. */
static value_t captured(run_t *run, const nodes_t *body, scope_t *scope, flow_t *flow)
{
    buffer_t *outer = run->out, inner = {0};
    run->out = &inner;
    flow_t left = jinja_eval_body(run, body, scope);
    run->out = outer;
    if (flow != NULL)
        *flow = left;
    return jinja_buffer_value(run, &inner);
}

/* A chain of filters whose innermost has no operand: that is `value`. */
static value_t filtered(run_t *run, const node_t *filter, value_t value, scope_t *scope)
{
    if (filter == NULL)
        return value;
    jinja_run_enter(run);
    node_t text = {.kind = N_CONST, .line = filter->line}, outer = *filter;
    text.value = filtered(run, filter->a, value, scope);
    outer.a = &text;
    value_t result = jinja_eval(run, &outer, scope);
    run_leave(run);
    return result;
}

static flow_t eval_set(run_t *run, const node_t *node, scope_t *scope)
{
    if (node->kind == N_SET) {
        value_t value = jinja_eval(run, node->b, scope);
        jinja_assign(run, node->a, value, scope);
        return FLOW_ON;
    }
    flow_t flow;
    scope_t *inner = jinja_scope_new(run, scope);
    value_t text = captured(run, &node->body, inner, &flow);
    if (flow == FLOW_ON)
        jinja_assign(run, node->a, filtered(run, node->b, text, inner), scope);
    return flow;
}

static flow_t eval_if(run_t *run, const node_t *node, scope_t *scope)
{
    for (size_t i = 0; i < node->list.count; i++)
        if (jinja_value_true(jinja_eval(run, node->list.at[i], scope)))
            return jinja_eval_body(run, &node->bodies[i], scope);
    return jinja_eval_body(run, &node->otherwise, scope);
}

/* ---- loops ----------------------------------------------------------------------------------- */

static bool passes(loop_t *loop, value_t item)
{
    run_t *run = loop->run;
    scope_t *scope = jinja_scope_new(run, loop->scope);
    jinja_assign(run, loop->node->a, item, scope);
    return jinja_value_true(jinja_eval(run, loop->node->c, scope));
}

/* The next item that passes, or MISSING. */
static value_t loop_pull(loop_t *loop)
{
    while (loop->next < loop->count) {
        value_t item = loop->items[loop->next++];
        jinja_run_step(loop->run, 1);
        if (!loop->filters || passes(loop, item))
            return item;
    }
    return (value_t){0};
}

void jinja_loop_look(loop_t *loop)
{
    if (loop->after.kind == MISSING)
        loop->after = loop_pull(loop);
}

/* Of a filtered loop by going through what is left. */
int64_t jinja_loop_length(loop_t *loop)
{
    if (loop->filters) {
        value_t rest = jinja_value_sequence(loop->run, LIST, 0);
        for (value_t item; (item = loop_pull(loop)).kind != MISSING;)
            jinja_sequence_add(loop->run, rest, item);
        int64_t seen = loop->index0 + 1 + (loop->after.kind != MISSING);
        loop->filters = false;
        loop->items = rest.sequence->items;
        loop->next = 0;
        loop->count = rest.sequence->count;
        loop->length = seen + (int64_t)loop->count;
    }
    return loop->length;
}

static void loop_rounds(run_t *run, loop_t *loop)
{
    const node_t *node = loop->node;
    value_t self = {.kind = LOOP, .loop = loop};
    const string_t *name = loop->name;
    for (;;) {
        value_t item = loop->after.kind != MISSING ? loop->after : loop_pull(loop);
        loop->after = (value_t){0};
        if (item.kind == MISSING)
            return;
        loop->index0++;
        loop->before = loop->current;
        loop->current = item;
        scope_t *scope = jinja_scope_new(run, loop->scope);
        jinja_bind(run, scope, name, self);
        jinja_assign(run, node->a, item, scope);
        flow_t flow = jinja_eval_body(run, &node->body, scope);
        loop->completed |= flow == FLOW_ON;
        if (flow == FLOW_BREAK)
            return;
    }
}

void jinja_loop_run(
    run_t *run, const node_t *node, scope_t *scope, value_t iterable, int64_t depth0, flow_t *flow)
{
    const sequence_t *items = jinja_value_items(run, iterable);
    loop_t *loop = NEW(run, loop_t);
    *loop = (loop_t){.run = run,
        .node = node,
        .scope = scope,
        .items = items->items,
        .count = items->count,
        .filters = node->c != NULL,
        .index0 = -1,
        .depth0 = depth0,
        .length = (int64_t)items->count,
        .name = run->loop_name};
    jinja_run_enter(run);
    loop_rounds(run, loop);
    /* As in jinja2, the else branch is for loops of which no round came to its end. */
    *flow = loop->completed ? FLOW_ON
                            : jinja_eval_body(run, &node->otherwise, jinja_scope_new(run, scope));
    run_leave(run);
}

static flow_t eval_for(run_t *run, const node_t *node, scope_t *scope)
{
    flow_t flow;
    value_t iterable = jinja_eval(run, node->b, scope);
    jinja_loop_run(run, node, scope, iterable, 0, &flow);
    return flow;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static flow_t eval_call_block(run_t *run, const node_t *node, scope_t *scope)
{
    node_t call = *node->a;
    node_t caller = {.kind = N_KEYWORD, .line = node->line, .name = run->caller_name};
    node_t block = {.kind = N_CONST, .line = node->line};
    block.value = (value_t){.kind = MACRO, .macro = NEW(run, macro_t)};
    *block.value.macro = (macro_t){node->b, scope};
    caller.a = &block;
    node_t **keywords = jinja_arena_alloc(run, (call.keywords.count + 1) * sizeof *keywords);
    for (size_t i = 0; i < call.keywords.count; i++)
        keywords[i] = call.keywords.at[i];
    keywords[call.keywords.count] = &caller;
    call.keywords = (nodes_t){keywords, call.keywords.count + 1, 0};
    jinja_value_str(run, run->out, jinja_eval(run, &call, scope));
    return FLOW_ON;
}

static flow_t eval_filter_block(run_t *run, const node_t *node, scope_t *scope)
{
    flow_t flow;
    scope_t *inner = jinja_scope_new(run, scope);
    value_t text = captured(run, &node->body, inner, &flow);
    if (flow == FLOW_ON)
        jinja_value_str(run, run->out, filtered(run, node->a, text, inner));
    return flow;
}

static flow_t eval_with(run_t *run, const node_t *node, scope_t *scope)
{
    scope_t *inner = jinja_scope_new(run, scope);
    for (size_t i = 0; i < node->list.count; i++)
        jinja_assign(run, node->list.at[i], jinja_eval(run, node->keywords.at[i], scope), inner);
    return jinja_eval_body(run, &node->body, inner);
}

static flow_t eval_macro(run_t *run, const node_t *node, scope_t *scope)
{
    value_t macro = {.kind = MACRO, .macro = NEW(run, macro_t)};
    *macro.macro = (macro_t){node, scope};
    jinja_bind(run, scope, node->name, macro);
    return FLOW_ON;
}

/* {% block %} sees the template's own variables only. */
static scope_t *outermost(scope_t *scope)
{
    while (scope->parent != NULL)
        scope = scope->parent;
    return scope;
}

static flow_t eval_autoescape(run_t *run, const node_t *node, scope_t *scope)
{
    if (jinja_value_true(jinja_eval(run, node->a, scope)))
        jinja_fail(run, "automatic escaping is not supported");
    return jinja_eval_body(run, &node->body, jinja_scope_new(run, scope));
}

static flow_t eval_statement(run_t *run, const node_t *node, scope_t *scope)
{
    run->line = node->line;
    switch (node->kind) {
    case N_TEXT:
        jinja_buffer_string(run, run->out, node->value.string);
        return FLOW_ON;
    case N_OUTPUT:
        for (size_t i = 0; i < node->list.count; i++)
            jinja_value_str(run, run->out, jinja_eval(run, node->list.at[i], scope));
        return FLOW_ON;
    case N_IF:
        return eval_if(run, node, scope);
    case N_FOR:
        return eval_for(run, node, scope);
    case N_SET:
    case N_SET_BLOCK:
        return eval_set(run, node, scope);
    case N_MACRO:
        return eval_macro(run, node, scope);
    case N_CALL_BLOCK:
        return eval_call_block(run, node, scope);
    case N_FILTER_BLOCK:
        return eval_filter_block(run, node, scope);
    case N_WITH:
        return eval_with(run, node, scope);
    case N_SCOPE:
        return jinja_eval_body(run, &node->body, jinja_scope_new(run, outermost(scope)));
    case N_GENERATION:
        return jinja_eval_body(run, &node->body, jinja_scope_new(run, scope));
    case N_AUTOESCAPE:
        return eval_autoescape(run, node, scope);
    case N_BREAK:
        return FLOW_BREAK;
    case N_CONTINUE:
        return FLOW_CONTINUE;
    default:
        jinja_fail(run, "no loader for this environment specified");
    }
}

flow_t jinja_eval_body(run_t *run, const nodes_t *body, scope_t *scope)
{
    flow_t flow = FLOW_ON;
    jinja_run_enter(run);
    for (size_t i = 0; i < body->count && flow == FLOW_ON; i++) {
        jinja_run_step(run, 1);
        flow = eval_statement(run, body->at[i], scope);
    }
    run_leave(run);
    return flow;
}
