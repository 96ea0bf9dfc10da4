/* Expressions, from the loosest to the tightest. */
#include <string.h>

#include "engine/text/jinja/parser_internal.h"

static node_t *parse_unary(parser_t *p, bool with_filter);

static node_t *binary_node(parser_t *p, node_kind_t kind, node_t *left, node_t *right)
{
    node_t *node = parser_node(p, kind);
    node->line = left->line;
    node->a = left;
    node->b = right;
    return node;
}

node_t *parse_expression(parser_t *p)
{
    parser_enter(p);
    node_t *value = parse_or(p);
    while (parser_skip_name(p, "if")) {
        node_t *node = binary_node(p, N_CONDITIONAL, value, parse_or(p));
        if (parser_skip_name(p, "else"))
            node->c = parse_expression(p);
        value = node;
    }
    p->nesting--;
    return value;
}

static node_t *parse_not(parser_t *p);

static node_t *parse_and(parser_t *p)
{
    node_t *left = parse_not(p);
    while (parser_skip_name(p, "and"))
        left = binary_node(p, N_AND, left, parse_not(p));
    return left;
}

node_t *parse_or(parser_t *p)
{
    node_t *left = parse_and(p);
    while (parser_skip_name(p, "or"))
        left = binary_node(p, N_OR, left, parse_and(p));
    return left;
}

static node_t *parse_pow(parser_t *p)
{
    node_t *left = parse_unary(p, true);
    while (parser_skip(p, T_POW)) {
        left = binary_node(p, N_BINARY, left, parse_unary(p, true));
        left->op = T_POW;
    }
    return left;
}

static node_t *parse_product(parser_t *p)
{
    node_t *left = parse_pow(p);
    while (parser_is(p, T_MUL) || parser_is(p, T_DIV) || parser_is(p, T_FLOORDIV) ||
           parser_is(p, T_MOD)) {
        token_kind_t op = p->at++->kind;
        left = binary_node(p, N_BINARY, left, parse_pow(p));
        left->op = (int)op;
    }
    return left;
}

static node_t *parse_concat(parser_t *p)
{
    node_t *first = parse_product(p);
    if (!parser_is(p, T_TILDE))
        return first;
    node_t *node = parser_node(p, N_CONCAT);
    nodes_add(p->run, &node->list, first);
    while (parser_skip(p, T_TILDE))
        nodes_add(p->run, &node->list, parse_product(p));
    return node;
}

static node_t *parse_sum(parser_t *p)
{
    node_t *left = parse_concat(p);
    while (parser_is(p, T_ADD) || parser_is(p, T_SUB)) {
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
    if (parser_skip_name(p, "in")) {
        *op = T_IN;
        return true;
    }
    if (parser_is_name(p, "not") && p->at[1].kind == T_NAME &&
        string_is(p->at[1].value.string, "in")) {
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
            node = parser_node(p, N_COMPARE);
            node->a = first;
        }
        node_t *operand = parser_node(p, N_OPERAND);
        operand->op = op;
        operand->a = parse_sum(p);
        nodes_add(p->run, &node->list, operand);
    }
    return node != NULL ? node : first;
}

static node_t *parse_not(parser_t *p)
{
    if (!parser_is_name(p, "not"))
        return parse_comparison(p);
    node_t *node = parser_node(p, N_NOT);
    p->at++;
    parser_enter(p);
    node->a = parse_not(p);
    p->nesting--;
    return node;
}

static node_t *parse_list(parser_t *p)
{
    node_t *node = parser_node(p, N_LIST);
    parser_expect(p, T_LBRACKET);
    while (!parser_is(p, T_RBRACKET)) {
        if (node->list.count > 0)
            parser_expect(p, T_COMMA);
        if (parser_is(p, T_RBRACKET))
            break;
        nodes_add(p->run, &node->list, parse_expression(p));
    }
    parser_expect(p, T_RBRACKET);
    return node;
}

/* list: keys and values in turn. */
static node_t *parse_dict(parser_t *p)
{
    node_t *node = parser_node(p, N_DICT);
    parser_expect(p, T_LBRACE);
    while (!parser_is(p, T_RBRACE)) {
        if (node->list.count > 0)
            parser_expect(p, T_COMMA);
        if (parser_is(p, T_RBRACE))
            break;
        nodes_add(p->run, &node->list, parse_expression(p));
        parser_expect(p, T_COLON);
        nodes_add(p->run, &node->list, parse_expression(p));
    }
    parser_expect(p, T_RBRACE);
    return node;
}

static node_t *const_node(parser_t *p, value_t value)
{
    node_t *node = parser_node(p, N_CONST);
    node->value = value;
    return node;
}

static node_t *parse_name(parser_t *p, bool with_namespace)
{
    const string_t *name = p->at->value.string;
    node_t *node;
    if (string_is(name, "true") || string_is(name, "True"))
        node = const_node(p, value_bool(true));
    else if (string_is(name, "false") || string_is(name, "False"))
        node = const_node(p, value_bool(false));
    else if (string_is(name, "none") || string_is(name, "None"))
        node = const_node(p, value_none());
    else {
        node = parser_node(p, N_NAME);
        node->name = name;
        p->caller |= string_is(name, "caller");
        p->kwargs |= string_is(name, "kwargs");
        p->varargs |= string_is(name, "varargs");
    }
    p->at++;
    if (node->kind == N_NAME && with_namespace && parser_skip(p, T_DOT)) {
        node->kind = N_NAMESPACE_REF;
        node->value = parser_expect(p, T_NAME)->value;
    }
    return node;
}

/* Adjoining literals are one. */
static node_t *parse_string(parser_t *p)
{
    node_t *node = const_node(p, p->at->value);
    buffer_t joined = {0};
    for (; parser_is(p, T_STRING); p->at++)
        buffer_string(p->run, &joined, p->at->value.string);
    node->value = buffer_value(p->run, &joined);
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
        node = parse_tuple(p, TUPLE_PARENTHESES);
        parser_expect(p, T_RPAREN);
        return node;
    case T_LBRACKET:
        return parse_list(p);
    case T_LBRACE:
        return parse_dict(p);
    default:
        jinja_fail(p->run, "unexpected '%s'", token_text(p, token));
    }
}

static bool tuple_ends(const parser_t *p, int how)
{
    return parser_is(p, T_VARIABLE_END) || parser_is(p, T_BLOCK_END) || parser_is(p, T_RPAREN) ||
           ((how & TUPLE_ENDS_AT_IN) && parser_is_name(p, "in")) ||
           ((how & TUPLE_ENDS_AT_RECURSIVE) && parser_is_name(p, "recursive"));
}

node_t *parse_tuple(parser_t *p, int how)
{
    node_t *node = parser_node(p, N_TUPLE);
    bool is_tuple = false;
    parser_enter(p);
    for (;;) {
        if (node->list.count > 0)
            parser_expect(p, T_COMMA);
        if (tuple_ends(p, how))
            break;
        nodes_add(p->run, &node->list,
            how & TUPLE_SIMPLE           ? parse_primary(p, how & TUPLE_NAMESPACES)
            : how & TUPLE_NO_CONDITIONAL ? parse_or(p)
                                         : parse_expression(p));
        if (!parser_is(p, T_COMMA))
            break;
        is_tuple = true;
    }
    p->nesting--;
    if (!is_tuple && node->list.count > 0)
        return node->list.at[0];
    if (!is_tuple && !(how & TUPLE_PARENTHESES))
        jinja_fail(p->run, "Expected an expression, got '%s'", token_text(p, p->at));
    return node;
}

/* One index, or a slice. */
static node_t *parse_subscribed(parser_t *p)
{
    node_t *first = NULL;
    if (!parser_is(p, T_COLON)) {
        first = parse_expression(p);
        if (!parser_is(p, T_COLON))
            return first;
    }
    node_t *node = parser_node(p, N_SLICE);
    node->a = first;
    p->at++;
    if (!parser_is(p, T_COLON) && !parser_is(p, T_RBRACKET) && !parser_is(p, T_COMMA))
        node->b = parse_expression(p);
    if (parser_skip(p, T_COLON) && !parser_is(p, T_RBRACKET) && !parser_is(p, T_COMMA))
        node->c = parse_expression(p);
    return node;
}

static node_t *parse_subscript(parser_t *p, node_t *object)
{
    node_t *node = parser_node(p, N_ITEM);
    node->a = object;
    if (parser_skip(p, T_DOT)) {
        if (parser_is(p, T_NAME)) {
            node->kind = N_ATTRIBUTE;
            node->name = p->at->value.string;
        } else if (parser_is(p, T_INTEGER)) {
            node->b = const_node(p, p->at->value);
        } else {
            jinja_fail(p->run, "expected name or number");
        }
        p->at++;
        return node;
    }
    node_t *tuple = parser_node(p, N_TUPLE);
    p->at++;
    while (!parser_is(p, T_RBRACKET)) {
        if (tuple->list.count > 0)
            parser_expect(p, T_COMMA);
        nodes_add(p->run, &tuple->list, parse_subscribed(p));
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
    if (parser_skip(p, T_MUL)) {
        call_syntax(p, node->b == NULL && node->c == NULL);
        node->b = parse_expression(p);
    } else if (parser_skip(p, T_POW)) {
        call_syntax(p, node->c == NULL);
        node->c = parse_expression(p);
    } else if (parser_is(p, T_NAME) && p->at[1].kind == T_ASSIGN) {
        call_syntax(p, node->c == NULL);
        node_t *keyword = parser_node(p, N_KEYWORD);
        keyword->name = p->at->value.string;
        p->at += 2;
        for (size_t i = 0; i < node->keywords.count; i++)
            if (node->keywords.at[i]->name == keyword->name)
                jinja_fail(p->run, "keyword argument repeated: %.100s", keyword->name->text);
        keyword->a = parse_expression(p);
        nodes_add(p->run, &node->keywords, keyword);
    } else {
        call_syntax(p, node->b == NULL && node->c == NULL && node->keywords.count == 0);
        nodes_add(p->run, &node->list, parse_expression(p));
    }
}

static void parse_arguments(parser_t *p, node_t *node)
{
    bool comma = false;
    parser_expect(p, T_LPAREN);
    while (!parser_is(p, T_RPAREN)) {
        if (comma)
            parser_expect(p, T_COMMA);
        if (comma && parser_is(p, T_RPAREN))
            break;
        parse_argument(p, node);
        comma = true;
    }
    parser_expect(p, T_RPAREN);
}

static node_t *parse_call(parser_t *p, node_t *callee)
{
    node_t *node = parser_node(p, N_CALL);
    node->a = callee;
    parse_arguments(p, node);
    return node;
}

static node_t *parse_postfix(parser_t *p, node_t *node)
{
    for (;;) {
        if (parser_is(p, T_DOT) || parser_is(p, T_LBRACKET))
            node = parse_subscript(p, node);
        else if (parser_is(p, T_LPAREN))
            node = parse_call(p, node);
        else
            return node;
    }
}

/* A name of a filter or a test, with dots. */
static const string_t *dotted_name(parser_t *p)
{
    const string_t *name = parser_expect(p, T_NAME)->value.string;
    while (parser_skip(p, T_DOT)) {
        buffer_t joined = {0};
        buffer_string(p->run, &joined, name);
        buffer_text(p->run, &joined, ".");
        buffer_string(p->run, &joined, parser_expect(p, T_NAME)->value.string);
        name = string_intern(p->run, joined.text, joined.bytes);
    }
    return name;
}

node_t *parse_filters(parser_t *p, node_t *node, bool started)
{
    while (started || parser_skip(p, T_PIPE)) {
        started = false;
        node_t *filter = parser_node(p, N_FILTER);
        filter->a = node;
        filter->name = dotted_name(p);
        if (!p->soft && !filter_exists(filter->name))
            jinja_fail(p->run, "No filter named '%.100s'.", filter->name->text);
        if (parser_is(p, T_LPAREN))
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
        return !parser_is_name(p, "else") && !parser_is_name(p, "or") && !parser_is_name(p, "and");
    default:
        return false;
    }
}

static node_t *parse_test(parser_t *p, node_t *value)
{
    node_t *node = parser_node(p, N_TEST), *result = node;
    node->a = value;
    p->at++;
    if (parser_skip_name(p, "not")) {
        result = parser_node(p, N_NOT);
        result->a = node;
    }
    node->name = dotted_name(p);
    if (!p->soft && !test_exists(node->name))
        jinja_fail(p->run, "No test named '%.100s'.", node->name->text);
    if (parser_is(p, T_LPAREN)) {
        parse_arguments(p, node);
    } else if (begins_argument(p)) {
        if (parser_is_name(p, "is"))
            jinja_fail(p->run, "You cannot chain multiple tests with is");
        nodes_add(p->run, &node->list, parse_postfix(p, parse_primary(p, false)));
    }
    return result;
}

static node_t *parse_unary(parser_t *p, bool with_filter)
{
    node_t *node;
    if (parser_is(p, T_SUB) || parser_is(p, T_ADD)) {
        node = parser_node(p, parser_is(p, T_SUB) ? N_NEGATE : N_PLUS);
        p->at++;
        parser_enter(p);
        node->a = parse_unary(p, false);
        p->nesting--;
    } else {
        node = parse_primary(p, false);
    }
    node = parse_postfix(p, node);
    while (with_filter) {
        if (parser_is(p, T_PIPE))
            node = parse_filters(p, node, false);
        else if (parser_is_name(p, "is"))
            node = parse_test(p, node);
        else if (parser_is(p, T_LPAREN))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}
