/* Statements, and what both halves of the parser use. */
#include <string.h>

#include "engine/text/jinja/parser_internal.h"

node_t *jinja_parser_node(parser_t *p, node_kind_t kind)
{
    node_t *node = NEW(p->run, node_t);
    node->kind = kind;
    node->line = p->at->line;
    return node;
}

void jinja_nodes_add(run_t *run, nodes_t *nodes, node_t *node)
{
    if (nodes->count == nodes->capacity)
        nodes->at = jinja_arena_grow(run, nodes->at, &nodes->capacity, sizeof(node_t *));
    nodes->at[nodes->count++] = node;
}

const char *jinja_token_text(const parser_t *p, const token_t *token)
{
    (void)p;
    return token->kind == T_NAME ? token->value.string->text : jinja_token_name(token->kind);
}

bool jinja_parser_is(const parser_t *p, token_kind_t kind)
{
    p->run->line = p->at->line;
    return p->at->kind == kind;
}

bool jinja_parser_is_name(const parser_t *p, const char *name)
{
    return jinja_parser_is(p, T_NAME) && jinja_string_is(p->at->value.string, name);
}

bool jinja_parser_skip(parser_t *p, token_kind_t kind)
{
    bool is = jinja_parser_is(p, kind);
    p->at += is;
    return is;
}

bool jinja_parser_skip_name(parser_t *p, const char *name)
{
    bool is = jinja_parser_is_name(p, name);
    p->at += is;
    return is;
}

const token_t *jinja_parser_expect(parser_t *p, token_kind_t kind)
{
    if (!jinja_parser_is(p, kind)) {
        if (jinja_parser_is(p, T_EOF))
            jinja_fail(
                p->run, "unexpected end of template, expected '%s'.", jinja_token_name(kind));
        jinja_fail(p->run, "expected token '%s', got '%.100s'", jinja_token_name(kind),
            jinja_token_text(p, p->at));
    }
    return p->at++;
}

static void jinja_parser_expect_name(parser_t *p, const char *name)
{
    if (!jinja_parser_skip_name(p, name))
        jinja_fail(p->run, "expected token '%s', got '%.100s'", name, jinja_token_text(p, p->at));
}

void jinja_parser_enter(parser_t *p)
{
    if (++p->nesting > JINJA_NESTING_MAX)
        jinja_fail(
            p->run, "more than %d expressions or blocks inside each other", JINJA_NESTING_MAX);
}

static void parse_body(parser_t *p, nodes_t *body, const char *ends);
static node_t *parse_statement(parser_t *p);

/* ends: words separated by spaces. */
static bool is_one_of(const parser_t *p, const char *ends)
{
    if (ends == NULL || !jinja_parser_is(p, T_NAME))
        return false;
    const string_t *name = p->at->value.string;
    for (const char *at = ends; *at != 0;) {
        size_t n = strcspn(at, " ");
        if (n == name->bytes && memcmp(at, name->text, n) == 0)
            return true;
        at += n + (at[n] == ' ');
    }
    return false;
}

/* Up to one of the words, which is the current token then. */
static void parse_statements(parser_t *p, nodes_t *body, const char *ends)
{
    jinja_parser_skip(p, T_COLON);
    jinja_parser_expect(p, T_BLOCK_END);
    jinja_parser_enter(p);
    parse_body(p, body, ends);
    p->nesting--;
    if (jinja_parser_is(p, T_EOF))
        jinja_fail(p->run,
            "Unexpected end of template. Jinja was looking for the following tags: "
            "'%s'.",
            ends);
}

static node_t *parse_target(parser_t *p, int how)
{
    node_t *target = jinja_parse_tuple(p, how | TUPLE_SIMPLE);
    for (size_t i = 0; i < (target->kind == N_TUPLE ? target->list.count : 1); i++) {
        const node_t *one = target->kind == N_TUPLE ? target->list.at[i] : target;
        if (one->kind != N_NAME && one->kind != N_NAMESPACE_REF && one->kind != N_TUPLE)
            jinja_fail(p->run, "can't assign to '%s'",
                one->kind == N_CONST  ? "const"
                : one->kind == N_LIST ? "list"
                                      : "dict");
        if (one->kind == N_NAME && (how & TUPLE_ENDS_AT_IN) && jinja_string_is(one->name, "loop"))
            jinja_fail(p->run, "Can't assign to special loop variable in for-loop target");
    }
    return target;
}

static node_t *parse_set(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_SET);
    node->a = parse_target(p, TUPLE_NAMESPACES);
    if (jinja_parser_skip(p, T_ASSIGN)) {
        node->b = jinja_parse_tuple(p, 0);
        return node;
    }
    node->kind = N_SET_BLOCK;
    node->b = jinja_parse_filters(p, NULL, false);
    bool soft = p->soft;
    p->soft = false;
    parse_statements(p, &node->body, "endset");
    p->soft = soft;
    p->at++;
    return node;
}

static node_t *parse_for(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_FOR);
    node->a = parse_target(p, TUPLE_ENDS_AT_IN);
    jinja_parser_expect_name(p, "in");
    node->b = jinja_parse_tuple(p, TUPLE_NO_CONDITIONAL | TUPLE_ENDS_AT_RECURSIVE);
    if (jinja_parser_skip_name(p, "if"))
        node->c = jinja_parse_expression(p);
    node->flag = jinja_parser_skip_name(p, "recursive");
    bool soft = p->soft;
    p->soft = false;
    p->loops++;
    parse_statements(p, &node->body, "endfor else");
    p->loops--;
    if (jinja_parser_skip_name(p, "else"))
        parse_statements(p, &node->otherwise, "endfor");
    p->at++;
    p->soft = soft;
    return node;
}

static node_t *parse_if(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_IF);
    bool soft = p->soft, more = true;
    size_t capacity = 0;
    p->soft = true;
    while (more) {
        if (node->list.count == capacity)
            node->bodies = jinja_arena_grow(p->run, node->bodies, &capacity, sizeof *node->bodies);
        jinja_nodes_add(p->run, &node->list, jinja_parse_tuple(p, TUPLE_NO_CONDITIONAL));
        parse_statements(p, &node->bodies[node->list.count - 1], "elif else endif");
        more = jinja_parser_skip_name(p, "elif");
    }
    if (jinja_parser_skip_name(p, "else"))
        parse_statements(p, &node->otherwise, "endif");
    p->at++;
    p->soft = soft;
    return node;
}

/* list: parameters; keywords: the defaults of the last of them. */
static void parse_signature(parser_t *p, node_t *node)
{
    jinja_parser_expect(p, T_LPAREN);
    while (!jinja_parser_is(p, T_RPAREN)) {
        if (node->list.count > 0)
            jinja_parser_expect(p, T_COMMA);
        node_t *parameter = jinja_parser_node(p, N_NAME);
        parameter->name = jinja_parser_expect(p, T_NAME)->value.string;
        for (size_t i = 0; i < node->list.count; i++)
            if (node->list.at[i]->name == parameter->name)
                jinja_fail(p->run, "duplicate argument '%.100s'", parameter->name->text);
        if (jinja_parser_skip(p, T_ASSIGN))
            jinja_nodes_add(p->run, &node->keywords, jinja_parse_expression(p));
        else if (node->keywords.count > 0)
            jinja_fail(p->run, "non-default argument follows default argument");
        jinja_nodes_add(p->run, &node->list, parameter);
    }
    jinja_parser_expect(p, T_RPAREN);
}

static bool has_parameter(const node_t *node, const char *name)
{
    for (size_t i = 0; i < node->list.count; i++)
        if (jinja_string_is(node->list.at[i]->name, name))
            return true;
    return false;
}

/* A body that is a function of its own: loops around it cannot be left from inside. */
static void parse_function(parser_t *p, node_t *node, const char *end)
{
    parser_t outer = *p;
    p->caller = p->kwargs = p->varargs = p->soft = false;
    p->loops = 0;
    parse_statements(p, &node->body, end);
    p->at++;
    if (p->caller && has_parameter(node, "caller")) {
        bool has_default = false;
        for (size_t i = 0; i < node->keywords.count; i++)
            has_default |= jinja_string_is(node->list.at[node->list.count - 1 - i]->name, "caller");
        if (!has_default)
            jinja_fail(p->run,
                "When defining macros or call blocks the special \"caller\" argument "
                "must be omitted or be given a default.");
    }
    node->caller = p->caller && !has_parameter(node, "caller");
    node->kwargs = p->kwargs && !has_parameter(node, "kwargs");
    node->varargs = p->varargs && !has_parameter(node, "varargs");
    p->caller |= outer.caller;
    p->kwargs |= outer.kwargs;
    p->varargs |= outer.varargs;
    p->soft = outer.soft;
    p->loops = outer.loops;
}

static node_t *parse_macro(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_MACRO);
    node->name = jinja_parser_expect(p, T_NAME)->value.string;
    parse_signature(p, node);
    parse_function(p, node, "endmacro");
    return node;
}

/* a: the call; b: the block as a macro. */
static node_t *parse_call_block(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_CALL_BLOCK), *macro = jinja_parser_node(p, N_MACRO);
    if (jinja_parser_is(p, T_LPAREN))
        parse_signature(p, macro);
    node->a = jinja_parse_expression(p);
    if (node->a->kind != N_CALL)
        jinja_fail(p->run, "expected call");
    node->b = macro;
    parse_function(p, macro, "endcall");
    return node;
}

static node_t *parse_filter_block(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_FILTER_BLOCK);
    node->a = jinja_parse_filters(p, NULL, true);
    parse_statements(p, &node->body, "endfilter");
    p->at++;
    return node;
}

static node_t *parse_with(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_WITH);
    while (!jinja_parser_is(p, T_BLOCK_END)) {
        if (node->list.count > 0)
            jinja_parser_expect(p, T_COMMA);
        jinja_nodes_add(p->run, &node->list, parse_target(p, 0));
        jinja_parser_expect(p, T_ASSIGN);
        jinja_nodes_add(p->run, &node->keywords, jinja_parse_expression(p));
    }
    parse_statements(p, &node->body, "endwith");
    p->at++;
    return node;
}

static node_t *parse_print(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_OUTPUT);
    while (!jinja_parser_is(p, T_BLOCK_END)) {
        if (node->list.count > 0)
            jinja_parser_expect(p, T_COMMA);
        jinja_nodes_add(p->run, &node->list, jinja_parse_expression(p));
    }
    return node;
}

static node_t *parse_block(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_SCOPE);
    const string_t *name = jinja_parser_expect(p, T_NAME)->value.string;
    jinja_parser_skip_name(p, "scoped");
    jinja_parser_skip_name(p, "required");
    parse_function(p, node, "endblock");
    jinja_parser_skip_name(p, name->text);
    return node;
}

static node_t *parse_generation(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_GENERATION);
    parse_function(p, node, "endgeneration");
    return node;
}

static node_t *parse_autoescape(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_AUTOESCAPE);
    node->a = jinja_parse_expression(p);
    parse_statements(p, &node->body, "endautoescape");
    p->at++;
    return node;
}

static node_t *parse_jump(parser_t *p, node_kind_t kind)
{
    if (p->loops == 0)
        jinja_fail(p->run, "'%s' outside loop", kind == N_BREAK ? "break" : "continue");
    return jinja_parser_node(p, kind);
}

/* Inheritance and imports parse, and say that there is nowhere to load from when they are reached.
 */
static node_t *parse_loading(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_NO_LOADER);
    while (!jinja_parser_is(p, T_BLOCK_END) && !jinja_parser_is(p, T_EOF))
        p->at++;
    return node;
}

static node_t *parse_statement(parser_t *p)
{
    static const struct {
        const char *name;
        node_t *(*parse)(parser_t *p);
    } statements[] = {{"for", parse_for}, {"if", parse_if}, {"set", parse_set},
        {"macro", parse_macro}, {"call", parse_call_block}, {"filter", parse_filter_block},
        {"with", parse_with}, {"print", parse_print}, {"block", parse_block},
        {"generation", parse_generation}, {"autoescape", parse_autoescape},
        {"extends", parse_loading}, {"include", parse_loading}, {"import", parse_loading},
        {"from", parse_loading}};
    if (!jinja_parser_is(p, T_NAME))
        jinja_fail(p->run, "tag name expected");
    const string_t *name = p->at->value.string;
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++)
        if (jinja_string_is(name, statements[i].name)) {
            p->at++;
            return statements[i].parse(p);
        }
    if (jinja_string_is(name, "break") || jinja_string_is(name, "continue")) {
        p->at++;
        return parse_jump(p, jinja_string_is(name, "break") ? N_BREAK : N_CONTINUE);
    }
    jinja_fail(p->run, "Encountered unknown tag '%.100s'.", name->text);
}

static void parse_body(parser_t *p, nodes_t *body, const char *ends)
{
    while (!jinja_parser_is(p, T_EOF)) {
        node_t *node;
        if (jinja_parser_is(p, T_DATA)) {
            node = jinja_parser_node(p, N_TEXT);
            node->value = p->at++->value;
        } else if (jinja_parser_skip(p, T_VARIABLE_BEGIN)) {
            node = jinja_parser_node(p, N_OUTPUT);
            jinja_nodes_add(p->run, &node->list, jinja_parse_tuple(p, 0));
            jinja_parser_expect(p, T_VARIABLE_END);
        } else {
            jinja_parser_expect(p, T_BLOCK_BEGIN);
            if (is_one_of(p, ends))
                return;
            node = parse_statement(p);
            jinja_parser_expect(p, T_BLOCK_END);
        }
        jinja_nodes_add(p->run, body, node);
    }
}

void jinja_parser_run(run_t *run, const tokens_t *tokens, nodes_t *body)
{
    parser_t p = {.run = run, .at = tokens->at};
    parse_body(&p, body, NULL);
}
