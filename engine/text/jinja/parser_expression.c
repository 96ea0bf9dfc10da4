/* Expressions, from the loosest to the tightest. */
#include <string.h>

#include "engine/text/jinja/parser_internal.h"

static node_t *parse_unary(parser_t *p, bool with_filter);

static node_t *binary_node(parser_t *p, node_kind_t kind, node_t *left, node_t *right)
{
    node_t *node = jinja_parser_node(p, kind);
    node->line = left->line;
    node->a = left;
    node->b = right;
    return node;
}

node_t *jinja_parse_expression(parser_t *p)
{
    jinja_parser_enter(p);
    node_t *value = jinja_parse_or(p);
    while (jinja_parser_skip_name(p, "if")) {
        node_t *node = binary_node(p, N_CONDITIONAL, value, jinja_parse_or(p));
        if (jinja_parser_skip_name(p, "else"))
            node->c = jinja_parse_expression(p);
        value = node;
    }
    p->nesting--;
    return value;
}

static node_t *parse_not(parser_t *p);

static node_t *parse_and(parser_t *p)
{
    node_t *left = parse_not(p);
    while (jinja_parser_skip_name(p, "and"))
        left = binary_node(p, N_AND, left, parse_not(p));
    return left;
}

node_t *jinja_parse_or(parser_t *p)
{
    node_t *left = parse_and(p);
    while (jinja_parser_skip_name(p, "or"))
        left = binary_node(p, N_OR, left, parse_and(p));
    return left;
}

static node_t *parse_pow(parser_t *p)
{
    node_t *left = parse_unary(p, true);
    while (jinja_parser_skip(p, T_POW)) {
        left = binary_node(p, N_BINARY, left, parse_unary(p, true));
        left->op = T_POW;
    }
    return left;
}

static node_t *parse_product(parser_t *p)
{
    node_t *left = parse_pow(p);
    while (jinja_parser_is(p, T_MUL) || jinja_parser_is(p, T_DIV) ||
           jinja_parser_is(p, T_FLOORDIV) || jinja_parser_is(p, T_MOD)) {
        token_kind_t op = p->at++->kind;
        left = binary_node(p, N_BINARY, left, parse_pow(p));
        left->op = (int)op;
    }
    return left;
}

static node_t *parse_concat(parser_t *p)
{
    node_t *first = parse_product(p);
    if (!jinja_parser_is(p, T_TILDE))
        return first;
    node_t *node = jinja_parser_node(p, N_CONCAT);
    jinja_nodes_add(p->run, &node->list, first);
    while (jinja_parser_skip(p, T_TILDE))
        jinja_nodes_add(p->run, &node->list, parse_product(p));
    return node;
}

static node_t *parse_sum(parser_t *p)
{
    node_t *left = parse_concat(p);
    while (jinja_parser_is(p, T_ADD) || jinja_parser_is(p, T_SUB)) {
        token_kind_t op = p->at++->kind;
        left = binary_node(p, N_BINARY, left, parse_concat(p));
        left->op = (int)op;
    }
    return left;
}

static bool comparison(parser_t *p, int *op)
{
    if (p->at->kind >= T_EQ && p->at->kind <= T_GE) {
        *op = (int)p->at++->kind;
        return true;
    }
    if (jinja_parser_skip_name(p, "in")) {
        *op = T_IN;
        return true;
    }
    if (jinja_parser_is_name(p, "not") && p->at[1].kind == T_NAME &&
        jinja_string_is(p->at[1].value.string, "in")) {
        p->at += 2;
        *op = T_NOT_IN;
        return true;
    }
    return false;
}

static node_t *parse_comparison(parser_t *p)
{
    node_t *first = parse_sum(p), *node = NULL;
    int op;
    while (comparison(p, &op)) {
        if (node == NULL) {
            node = jinja_parser_node(p, N_COMPARE);
            node->a = first;
        }
        node_t *operand = jinja_parser_node(p, N_OPERAND);
        operand->op = op;
        operand->a = parse_sum(p);
        jinja_nodes_add(p->run, &node->list, operand);
    }
    return node != NULL ? node : first;
}

static node_t *parse_not(parser_t *p)
{
    if (!jinja_parser_is_name(p, "not"))
        return parse_comparison(p);
    node_t *node = jinja_parser_node(p, N_NOT);
    p->at++;
    jinja_parser_enter(p);
    node->a = parse_not(p);
    p->nesting--;
    return node;
}

static node_t *parse_list(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_LIST);
    jinja_parser_expect(p, T_LBRACKET);
    while (!jinja_parser_is(p, T_RBRACKET)) {
        if (node->list.count > 0)
            jinja_parser_expect(p, T_COMMA);
        if (jinja_parser_is(p, T_RBRACKET))
            break;
        jinja_nodes_add(p->run, &node->list, jinja_parse_expression(p));
    }
    jinja_parser_expect(p, T_RBRACKET);
    return node;
}

/* list: keys and values in turn. */
static node_t *parse_dict(parser_t *p)
{
    node_t *node = jinja_parser_node(p, N_DICT);
    jinja_parser_expect(p, T_LBRACE);
    while (!jinja_parser_is(p, T_RBRACE)) {
        if (node->list.count > 0)
            jinja_parser_expect(p, T_COMMA);
        if (jinja_parser_is(p, T_RBRACE))
            break;
        jinja_nodes_add(p->run, &node->list, jinja_parse_expression(p));
        jinja_parser_expect(p, T_COLON);
        jinja_nodes_add(p->run, &node->list, jinja_parse_expression(p));
    }
    jinja_parser_expect(p, T_RBRACE);
    return node;
}

static node_t *const_node(parser_t *p, value_t value)
{
    node_t *node = jinja_parser_node(p, N_CONST);
    node->value = value;
    return node;
}

static node_t *parse_name(parser_t *p, bool with_namespace)
{
    const string_t *name = p->at->value.string;
    node_t *node;
    if (jinja_string_is(name, "true") || jinja_string_is(name, "True"))
        node = const_node(p, jinja_value_bool(true));
    else if (jinja_string_is(name, "false") || jinja_string_is(name, "False"))
        node = const_node(p, jinja_value_bool(false));
    else if (jinja_string_is(name, "none") || jinja_string_is(name, "None"))
        node = const_node(p, jinja_value_none());
    else {
        node = jinja_parser_node(p, N_NAME);
        node->name = name;
        p->caller |= jinja_string_is(name, "caller");
        p->kwargs |= jinja_string_is(name, "kwargs");
        p->varargs |= jinja_string_is(name, "varargs");
    }
    p->at++;
    if (node->kind == N_NAME && with_namespace && jinja_parser_skip(p, T_DOT)) {
        node->kind = N_NAMESPACE_REF;
        node->value = jinja_parser_expect(p, T_NAME)->value;
    }
    return node;
}

/* Adjoining literals are one. */
static node_t *parse_string(parser_t *p)
{
    node_t *node = const_node(p, p->at->value);
    buffer_t joined = {0};
    for (; jinja_parser_is(p, T_STRING); p->at++)
        jinja_buffer_string(p->run, &joined, p->at->value.string);
    node->value = jinja_buffer_value(p->run, &joined);
    return node;
}

static node_t *parse_primary(parser_t *p, bool with_namespace)
{
    const token_t *token = p->at;
    node_t *node;
    switch (token->kind) {
    case T_NAME:
        return parse_name(p, with_namespace);
    case T_STRING:
        return parse_string(p);
    case T_INTEGER:
    case T_FLOAT:
        node = const_node(p, token->value);
        p->at++;
        return node;
    case T_LPAREN:
        p->at++;
        node = jinja_parse_tuple(p, TUPLE_PARENTHESES);
        jinja_parser_expect(p, T_RPAREN);
        return node;
    case T_LBRACKET:
        return parse_list(p);
    case T_LBRACE:
        return parse_dict(p);
    default:
        jinja_fail(p->run, "unexpected '%s'", jinja_token_text(p, token));
    }
}

static bool tuple_ends(const parser_t *p, int how)
{
    return jinja_parser_is(p, T_VARIABLE_END) || jinja_parser_is(p, T_BLOCK_END) ||
           jinja_parser_is(p, T_RPAREN) ||
           ((how & TUPLE_ENDS_AT_IN) && jinja_parser_is_name(p, "in")) ||
           ((how & TUPLE_ENDS_AT_RECURSIVE) && jinja_parser_is_name(p, "recursive"));
}

node_t *jinja_parse_tuple(parser_t *p, int how)
{
    node_t *node = jinja_parser_node(p, N_TUPLE);
    bool is_tuple = false;
    jinja_parser_enter(p);
    for (;;) {
        if (node->list.count > 0)
            jinja_parser_expect(p, T_COMMA);
        if (tuple_ends(p, how))
            break;
        jinja_nodes_add(p->run, &node->list,
            how & TUPLE_SIMPLE           ? parse_primary(p, how & TUPLE_NAMESPACES)
            : how & TUPLE_NO_CONDITIONAL ? jinja_parse_or(p)
                                         : jinja_parse_expression(p));
        if (!jinja_parser_is(p, T_COMMA))
            break;
        is_tuple = true;
    }
    p->nesting--;
    if (!is_tuple && node->list.count > 0)
        return node->list.at[0];
    if (!is_tuple && !(how & TUPLE_PARENTHESES))
        jinja_fail(p->run, "Expected an expression, got '%s'", jinja_token_text(p, p->at));
    return node;
}

/* One index, or a slice. */
static node_t *parse_subscribed(parser_t *p)
{
    node_t *first = NULL;
    if (!jinja_parser_is(p, T_COLON)) {
        first = jinja_parse_expression(p);
        if (!jinja_parser_is(p, T_COLON))
            return first;
    }
    node_t *node = jinja_parser_node(p, N_SLICE);
    node->a = first;
    p->at++;
    if (!jinja_parser_is(p, T_COLON) && !jinja_parser_is(p, T_RBRACKET) &&
        !jinja_parser_is(p, T_COMMA))
        node->b = jinja_parse_expression(p);
    if (jinja_parser_skip(p, T_COLON) && !jinja_parser_is(p, T_RBRACKET) &&
        !jinja_parser_is(p, T_COMMA))
        node->c = jinja_parse_expression(p);
    return node;
}

static node_t *parse_subscript(parser_t *p, node_t *object)
{
    node_t *node = jinja_parser_node(p, N_ITEM);
    node->a = object;
    if (jinja_parser_skip(p, T_DOT)) {
        if (jinja_parser_is(p, T_NAME)) {
            node->kind = N_ATTRIBUTE;
            node->name = p->at->value.string;
        } else if (jinja_parser_is(p, T_INTEGER)) {
            node->b = const_node(p, p->at->value);
        } else {
            jinja_fail(p->run, "expected name or number");
        }
        p->at++;
        return node;
    }
    node_t *tuple = jinja_parser_node(p, N_TUPLE);
    p->at++;
    while (!jinja_parser_is(p, T_RBRACKET)) {
        if (tuple->list.count > 0)
            jinja_parser_expect(p, T_COMMA);
        jinja_nodes_add(p->run, &tuple->list, parse_subscribed(p));
    }
    p->at++;
    node->b = tuple->list.count == 1 ? tuple->list.at[0] : tuple;
    if (node->b == tuple)
        for (size_t i = 0; i < tuple->list.count; i++)
            if (tuple->list.at[i]->kind == N_SLICE)
                jinja_fail(p->run, "slices among several indices are not supported");
    return node;
}

static void call_syntax(parser_t *p, bool ok)
{
    if (!ok)
        jinja_fail(p->run, "invalid syntax for function call expression");
}

static void parse_argument(parser_t *p, node_t *node)
{
    if (jinja_parser_skip(p, T_MUL)) {
        call_syntax(p, node->b == NULL && node->c == NULL);
        node->b = jinja_parse_expression(p);
    } else if (jinja_parser_skip(p, T_POW)) {
        call_syntax(p, node->c == NULL);
        node->c = jinja_parse_expression(p);
    } else if (jinja_parser_is(p, T_NAME) && p->at[1].kind == T_ASSIGN) {
        call_syntax(p, node->c == NULL);
        node_t *keyword = jinja_parser_node(p, N_KEYWORD);
        keyword->name = p->at->value.string;
        p->at += 2;
        for (size_t i = 0; i < node->keywords.count; i++)
            if (node->keywords.at[i]->name == keyword->name)
                jinja_fail(p->run, "keyword argument repeated: %.100s", keyword->name->text);
        keyword->a = jinja_parse_expression(p);
        jinja_nodes_add(p->run, &node->keywords, keyword);
    } else {
        call_syntax(p, node->b == NULL && node->c == NULL && node->keywords.count == 0);
        jinja_nodes_add(p->run, &node->list, jinja_parse_expression(p));
    }
}

static void parse_arguments(parser_t *p, node_t *node)
{
    bool comma = false;
    jinja_parser_expect(p, T_LPAREN);
    while (!jinja_parser_is(p, T_RPAREN)) {
        if (comma)
            jinja_parser_expect(p, T_COMMA);
        if (comma && jinja_parser_is(p, T_RPAREN))
            break;
        parse_argument(p, node);
        comma = true;
    }
    jinja_parser_expect(p, T_RPAREN);
}

static node_t *parse_call(parser_t *p, node_t *callee)
{
    node_t *node = jinja_parser_node(p, N_CALL);
    node->a = callee;
    parse_arguments(p, node);
    return node;
}

static node_t *parse_postfix(parser_t *p, node_t *node)
{
    for (;;) {
        if (jinja_parser_is(p, T_DOT) || jinja_parser_is(p, T_LBRACKET))
            node = parse_subscript(p, node);
        else if (jinja_parser_is(p, T_LPAREN))
            node = parse_call(p, node);
        else
            return node;
    }
}

/* A name of a filter or a test, with dots. */
static const string_t *dotted_name(parser_t *p)
{
    const string_t *name = jinja_parser_expect(p, T_NAME)->value.string;
    while (jinja_parser_skip(p, T_DOT)) {
        buffer_t joined = {0};
        jinja_buffer_string(p->run, &joined, name);
        jinja_buffer_text(p->run, &joined, ".");
        jinja_buffer_string(p->run, &joined, jinja_parser_expect(p, T_NAME)->value.string);
        name = jinja_string_intern(p->run, joined.text, joined.bytes);
    }
    return name;
}

node_t *jinja_parse_filters(parser_t *p, node_t *node, bool started)
{
    while (started || jinja_parser_skip(p, T_PIPE)) {
        started = false;
        node_t *filter = jinja_parser_node(p, N_FILTER);
        filter->a = node;
        filter->name = dotted_name(p);
        if (!p->soft && !jinja_filter_exists(filter->name))
            jinja_fail(p->run, "No filter named '%.100s'.", filter->name->text);
        if (jinja_parser_is(p, T_LPAREN))
            parse_arguments(p, filter);
        node = filter;
    }
    return node;
}

static bool begins_argument(const parser_t *p)
{
    switch (p->at->kind) {
    case T_STRING:
    case T_INTEGER:
    case T_FLOAT:
    case T_LBRACKET:
    case T_LBRACE:
        return true;
    case T_NAME:
        return !jinja_parser_is_name(p, "else") && !jinja_parser_is_name(p, "or") &&
               !jinja_parser_is_name(p, "and");
    default:
        return false;
    }
}

static node_t *parse_test(parser_t *p, node_t *value)
{
    node_t *node = jinja_parser_node(p, N_TEST), *result = node;
    node->a = value;
    p->at++;
    if (jinja_parser_skip_name(p, "not")) {
        result = jinja_parser_node(p, N_NOT);
        result->a = node;
    }
    node->name = dotted_name(p);
    if (!p->soft && !jinja_test_exists(node->name))
        jinja_fail(p->run, "No test named '%.100s'.", node->name->text);
    if (jinja_parser_is(p, T_LPAREN)) {
        parse_arguments(p, node);
    } else if (begins_argument(p)) {
        if (jinja_parser_is_name(p, "is"))
            jinja_fail(p->run, "You cannot chain multiple tests with is");
        jinja_nodes_add(p->run, &node->list, parse_postfix(p, parse_primary(p, false)));
    }
    return result;
}

static node_t *parse_unary(parser_t *p, bool with_filter)
{
    node_t *node;
    if (jinja_parser_is(p, T_SUB) || jinja_parser_is(p, T_ADD)) {
        node = jinja_parser_node(p, jinja_parser_is(p, T_SUB) ? N_NEGATE : N_PLUS);
        p->at++;
        jinja_parser_enter(p);
        node->a = parse_unary(p, false);
        p->nesting--;
    } else {
        node = parse_primary(p, false);
    }
    node = parse_postfix(p, node);
    while (with_filter) {
        if (jinja_parser_is(p, T_PIPE))
            node = jinja_parse_filters(p, node, false);
        else if (jinja_parser_is_name(p, "is"))
            node = parse_test(p, node);
        else if (jinja_parser_is(p, T_LPAREN))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}
